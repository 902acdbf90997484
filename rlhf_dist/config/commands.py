"""The command line of `rlhf-dist`, apart from its commands: each of them adds its own options."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

from rlhf_dist.config.did_you_mean import suggest
from rlhf_dist.errors import UserError

_REQUIRED = "the following arguments are required"
_NO_CHOICE = re.compile(r"invalid choice: '(?P<word>.*?)' \(choose from (?P<choices>.*)\)$")


class CommandParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it, and what may have been meant."""

    _words: Sequence[str] = ()

    def _get_formatter(self) -> argparse.HelpFormatter:
        """Room for names as long as `--micro-batch-tokens N`, and for those of all commands, beside their meaning."""
        formatter = _Lines(self.prog, max_help_position=28)
        if self._subparsers is not None:
            formatter._action_max_length = 16  # argparse forgets how far the names of commands are indented
        return formatter

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuses what it does not know, a subcommand too, whose options alone can tell what was meant."""
        self._words = sys.argv[1:] if args is None else args
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant(unknown)}")
        return found, unknown

    def _meant(self, words: Sequence[str]) -> str:
        """What the first option among the words may have been meant to be."""
        option = next((word.partition("=")[0] for word in words if word.startswith("-")), "")
        return suggest(option, self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        """Refuses the command line: UserError."""
        if message.startswith(_REQUIRED) and (unknown := self._unknown_options()):
            message += f"; unrecognized arguments: {' '.join(unknown)}{self._meant(unknown)}"
        wrong = _NO_CHOICE.search(message)
        meant = suggest(wrong["word"], re.findall(r"[\w-]+", wrong["choices"])) if wrong else ""
        raise UserError(f"{self.prog}: {message}{meant} (see --help)")

    def _unknown_options(self) -> list[str]:
        """The words that look like options, and are not even the beginning of one."""
        known = tuple(self._option_string_actions)
        options = [word for word in self._words if word.startswith("--") and word != "--"]
        return [word for word in options if not any(name.startswith(word.partition("=")[0]) for name in known)]


class _Lines(argparse.HelpFormatter):
    """Keeps the lines of a text apart."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(super(_Lines, self)._fill_text(line, width, indent) for line in text.splitlines())


Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"
"""What a command is added to."""
