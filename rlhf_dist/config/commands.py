"""The command line of `rlhf-dist`, apart from its commands: each of them adds its own options."""

from __future__ import annotations

import argparse
from typing import NoReturn, TypeAlias

from rlhf_dist.errors import UserError


class CommandParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Refuses the command line: UserError."""
        raise UserError(f"{self.prog}: {message} (see --help)")


Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"
"""What a command is added to."""
