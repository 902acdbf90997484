"""The fenced blocks of the pages, their commands, and what the comments before them say. CONTRIBUTING.md has the rules.

A comment directly before a fence says what becomes of its commands in the tests:

    <!-- checked: trains for minutes -->               read and validated as before a start, but not run
    <!-- not run: needs a Slurm cluster -->            neither; the options must still exist
    <!-- run by tests/a/test_b.py::test_c -->          that test runs it
    <!-- exit code 1 -->                               how it ends
    <!-- other numbers -->                             numbers of the output shown are not compared
    <!-- file: my/rewards.py -->                       the block is this file, for the commands of the page

One that begins with a command's first words in backquotes is about these commands of the block alone:

    <!-- `rlhf-dist label` not run: waits for people -->
"""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")))

CHECKED, NOT_RUN, RUN_BY = "checked", "not run", "run by"
EXIT_CODE, OTHER_NUMBERS, FILE = "exit code", "other numbers", "file"
FATES = (CHECKED, NOT_RUN, RUN_BY)
SHELL = ("", "bash", "console", "sh", "shell")
NAMED = ("rlhf-dist ", "make ", "ray ", "python ", ".venv/bin/python ", "launch/")
FEWEST_WORDS = 2  # of a reason

_FENCE = re.compile(r"(?P<indent> *)(?P<marks>```+|~~~+)(?P<language>[^\s`]*)[^`]*")
_COMMENT = re.compile(r"<!--\s*(.*?)\s*-->", re.DOTALL)
_STATEMENT = re.compile(rf"(?:`([^`]+)` )?({'|'.join((*FATES, EXIT_CODE, OTHER_NUMBERS, FILE))})\b:?\s*(.*)", re.DOTALL)
_PROMPT = re.compile(r"[\w@.~:/-]*\$ ")


@dataclass(frozen=True)
class Statement:
    """What a comment says of the block after it.

    Attributes:
        kind: of :data:`FATES`, or EXIT_CODE, OTHER_NUMBERS, FILE.
        detail: the reason, the test, the number or the file's name.
        start: how the commands begin that it is about; empty: all of the block that no other is about.
    """

    kind: str
    detail: str
    start: str = ""

    def problem(self) -> str | None:
        """What is wrong with it, apart from its block."""
        if self.kind in (CHECKED, NOT_RUN) and len(self.detail.split()) < FEWEST_WORDS:
            return f"'{self.kind}' needs a reason of {FEWEST_WORDS} words or more: <!-- {self.kind}: why -->"
        if self.kind == RUN_BY:
            missing = [name for name in self.detail.split() if not is_test(name)]
            if missing or not self.detail:
                return f"there is no test {' '.join(missing) or '(none is named)'}"
        if self.kind == EXIT_CODE and not self.detail.isdigit():
            return f"exit code {self.detail}: expected a number"
        return None


@dataclass(frozen=True)
class Command:
    """One command of a block.

    Attributes:
        text: as a shell reads it, its lines joined, without comments.
        line: of the page, on which it begins.
        output: the lines that the block shows below it; None: the block shows no output.
    """

    text: str
    line: int
    output: tuple[str, ...] | None = None

    @cached_property
    def environment(self) -> dict[str, str]:
        """The variables that are set before its first word."""
        pairs = itertools.takewhile(lambda word: re.match(r"[A-Za-z_]\w*=", word), shlex.split(self.text))
        return dict(pair.split("=", 1) for pair in pairs)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: relative to the repository.
        line: of its fence.
        language: of its fence, lower case.
        text: what it holds, without its indentation.
        comments: those directly before it, without their marks.
    """

    page: str
    line: int
    language: str
    text: str
    comments: tuple[str, ...] = ()

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """What the comments say."""
        found = [_STATEMENT.fullmatch(comment) for comment in self.comments]
        return tuple(Statement(match[2], match[3].strip(), match[1] or "") for match in found if match)

    @cached_property
    def is_readable(self) -> bool:
        """Whether a shell can take it apart."""
        try:
            return self.commands is not None
        except ValueError:
            return False

    @cached_property
    def commands(self) -> tuple[Command, ...]:
        """Its commands, if it is one of a shell. ValueError where it is none that a shell can take apart."""
        return tuple(_commands(self.text.splitlines(), self.line + 1)) if self.language in SHELL else ()

    @property
    def file(self) -> str | None:
        """The name of the file that it shows."""
        return next((one.detail for one in self.statements if one.kind == FILE), None)

    def fate(self, command: Command | None = None) -> Statement | None:
        """What is said to become of a command, or of the whole block; None: it runs."""
        return self._about(FATES, command)

    def exit_code(self, command: Command) -> int:
        """With which a command of it ends."""
        said = self._about((EXIT_CODE,), command)
        return int(said.detail) if said else 0

    def other_numbers(self, command: Command) -> bool:
        """Whether the numbers of the output shown are those of another run."""
        return self._about((OTHER_NUMBERS,), command) is not None

    def _about(self, kinds: Sequence[str], command: Command | None) -> Statement | None:
        text = " ".join(command.text.split()) if command else ""
        fitting = [one for one in self.statements if one.kind in kinds and text.startswith(one.start)]
        return max(fitting, key=lambda one: len(one.start), default=None)

    def problems(self) -> Iterator[str]:
        """What is wrong with the comments."""
        for comment in self.comments:
            if not _STATEMENT.fullmatch(comment):
                yield f"<!-- {comment} --> is none of the comments that CONTRIBUTING.md names"
        said = [(one.start, FATES if one.kind in FATES else one.kind) for one in self.statements]
        if len(set(said)) < len(said):
            yield "two comments say something of the same commands"
        for one in self.statements:
            if problem := one.problem():
                yield problem
            if one.start and not any(" ".join(c.text.split()).startswith(one.start) for c in self.commands):
                yield f"no command begins with `{one.start}`"


def blocks_of(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page, from its Markdown."""
    lines = text.splitlines()
    found, at = [], 0
    while at < len(lines):
        fence = _FENCE.fullmatch(lines[at])
        if fence is None:
            at += 1
            continue
        closing = re.compile(rf" *{fence['marks'][0]}{{{len(fence['marks'])},}}\s*")
        end = next((i for i in range(at + 1, len(lines)) if closing.fullmatch(lines[i])), len(lines))
        inside = textwrap.dedent("\n".join([*lines[at + 1 : end], ""]))
        found.append(Block(page, at + 1, fence["language"].lower(), inside, _comments_before(lines, at)))
        at = end + 1
    return found


def commands_in_text(text: str) -> list[Command]:
    """The commands that a page names in its sentences, as code of one line or two: those of :data:`NAMED`."""
    lines = text.splitlines()
    for block in blocks_of("", text):
        for number in range(block.line - 1, block.line + block.text.count("\n")):
            lines[number] = ""
    whole = "\n".join(lines)
    found = []
    for span in re.finditer(r"(?<!`)`([^`]+)`(?!`)", whole):
        words = " ".join(span[1].split())
        if words.startswith(NAMED):
            found.append(Command(words, whole.count("\n", 0, span.start()) + 1))
    return found


def _comments_before(lines: Sequence[str], at: int) -> tuple[str, ...]:
    """The comments that end on the lines directly before line ``at``."""
    first = at
    while first and lines[first - 1].rstrip().endswith("-->"):
        first -= 1
        while first and "<!--" not in lines[first]:
            first -= 1
    return tuple(" ".join(text.split()) for text in _COMMENT.findall("\n".join(lines[first:at])))


def _commands(lines: Sequence[str], first: int) -> Iterator[Command]:
    """The commands of a shell block whose first line is line ``first`` of the page.

    Where a line has a prompt, those with one are commands and the others what these print; else each is a command.
    """
    prompts = any(_PROMPT.match(line) for line in lines)
    at = 0
    while at < len(lines):
        begin = at
        text = _without_comment(_PROMPT.sub("", lines[at], count=1) if prompts else lines[at])
        at += 1
        while at < len(lines) and _is_unfinished(text):
            text = text.removesuffix("\\") + ("" if text.endswith("\\") else "\n") + _without_comment(lines[at])
            at += 1
        output = []
        while prompts and at < len(lines) and not _PROMPT.match(lines[at]):
            output.append(lines[at].rstrip())
            at += 1
        if text.strip():
            shlex.split(text)
            yield Command(text.strip(), first + begin, tuple(output) or None)


def _without_comment(line: str) -> str:
    return re.sub(r"(?:^|\s)#(?:\s.*|$)", "", line).rstrip()


def _is_unfinished(text: str) -> bool:
    if text.endswith("\\"):
        return True
    try:
        shlex.split(text)
    except ValueError:  # a quotation goes on
        return True
    return False


def is_test(name: str) -> bool:
    """Whether ``name`` is a test of this repository: `tests/a/test_b.py::test_c`."""
    file, _, function = name.partition("::")
    path = ROOT / file
    if not function or not path.is_file() or not path.is_relative_to(ROOT / "tests"):
        return False
    names = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    return function.partition("[")[0] in names
