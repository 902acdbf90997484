"""The command line of `rlhf-dist`, apart from its commands: each of them adds its own options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

from rlhf_dist.config.did_you_mean import suggest
from rlhf_dist.errors import UserError

_NO_CHOICE = re.compile(r"invalid choice: '(?P<word>.*?)' \(choose from (?P<choices>.*)\)$")


class CommandParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it, and what may have been meant."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuses what it does not know, a subcommand too, whose options alone can tell what was meant."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
            meant = suggest(option, self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Refuses the command line: UserError."""
        wrong = _NO_CHOICE.search(message)
        meant = suggest(wrong["word"], re.findall(r"[\w-]+", wrong["choices"])) if wrong else ""
        raise UserError(f"{self.prog}: {message}{meant} (see --help)")


Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"
"""What a command is added to."""
