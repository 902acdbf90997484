"""What commands write beside what they print: checked before the work, and in one line where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rlhf_dist.errors import UserError

_WIDTH = 120  # columns of a plain text, where there is no terminal


def console_for() -> Console:
    """Where tables go: the terminal as wide as it is, or plain text of a width of its own."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)


def check_outputs(outputs: Sequence[Path], inputs: Iterable[str]) -> None:
    """Passes where each output can be written and is neither an input nor another output. UserError otherwise."""
    read = {Path(file).resolve() for file in inputs}
    for place, path in enumerate(outputs):
        if path.resolve() in read:
            raise UserError(f"{path} is read here, and would be overwritten: choose another file")
        if path.resolve() in {other.resolve() for other in outputs[:place]}:
            raise UserError(f"{path} is named for two outputs: choose another file for one")
        if path.is_dir():
            raise UserError(f"{path} is a directory, expected a file to write")


def guarded(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file. UserError where that fails."""
    try:
        write(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def written(path: Path, write: Callable[[Path], None], console: Console) -> None:
    """Writes a file, and says where it is."""
    guarded(path, write)
    console.print(Text(str(path)), soft_wrap=True)
