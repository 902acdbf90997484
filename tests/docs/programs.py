"""The programs that the pages call: do their options exist, would they start, and what do they print when they run."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click

from rlhf_dist.__main__ import _commands, _parser, main
from rlhf_dist.config.did_you_mean import did_you_mean, near_keys, suggest
from rlhf_dist.config.keys import schema_keys
from rlhf_dist.device import planned
from rlhf_dist.errors import UserError
from rlhf_dist.labelling.sample_request import eval_request, sample_request
from rlhf_dist.main import JOBS, configuration
from rlhf_dist.plan.job import load_job
from tests.docs.pages import ROOT, Command

PYTHONS = ("python", "python3", ".venv/bin/python")
LAUNCHERS = {f"launch/{name}_llama.py": name for name in JOBS}
LONG = (*JOBS, "sample", "eval", "export")  # commands of rlhf-dist that start workers, or need what these have left
SERVERS = ("label", "watch", "chat")  # commands that end when somebody ends them
HARMLESS = ("cat", "cp", "echo", "grep", "head", "ls", "mkdir", "mv", "tail", "wc")  # a page may run them unasked
BUILTINS = ("cd", "export", "kill", "source", "wait")  # of a shell: they concern nobody else
DEADLINE_S = 240


class NotSo(Exception):
    """What is wrong with a command of a page."""


@dataclass(frozen=True)
class Result:
    """How a command ended.

    Attributes:
        code: the exit code.
        printed: to stdout and stderr.
    """

    code: int
    printed: str


class Program:
    """What a command calls. Nothing is known of this one: it can be neither run nor checked."""

    quick = True  # whether it runs in the fast tests
    runs = False  # whether it runs where the page says nothing

    def lint(self) -> None:
        """NotSo for an option, key, file or target that does not exist. Passes `OUT`, `[--option X]` and the like."""

    def check(self) -> None:
        """NotSo if it would not start in the current directory."""
        raise NotSo("it cannot be checked here: say <!-- not run: why -->")

    def run(self, command: Command, expected: int = 0) -> Result:
        """Runs it in the current directory.

        Args:
            command: as the page has it.
            expected: the exit code that the page says.
        """
        raise NotSo("say <!-- not run: why --> of it")


@dataclass(frozen=True)
class OurCommand(Program):
    """`rlhf-dist`, and the launchers, which are the same."""

    words: Sequence[str]

    @property
    def runs(self) -> bool:  # type: ignore[override]
        return self.words[:1] not in [[name] for name in SERVERS] or "--help" in self.words

    @property
    def quick(self) -> bool:  # type: ignore[override]
        return self.words[0] not in LONG or "--help" in self.words

    def lint(self) -> None:
        parsers = _parsers()
        if not self.words or self.words[0] in ("-h", "--help"):
            return
        name, *words = self.words
        if name not in parsers:
            raise NotSo(f"there is no command rlhf-dist {name}{suggest(name, parsers)}")
        _lint_options(words, [text for action in parsers[name]._actions for text in action.option_strings])
        schemas = [JOBS[name].schema] if name in JOBS else [job.schema for job in JOBS.values()] * (name == "plan")
        if schemas:
            _lint_keys(words, schemas)

    def check(self) -> None:
        name, *words = self.words
        try:
            if name in JOBS:
                config = configuration(name, words)
                importlib.import_module(JOBS[name].module).prepare(config, planned(config.run.device))  # reads the data
                return
            options = _parser().parse_args(self.words)
            deeper: dict[str, Callable[[], object]] = {
                "sample": lambda: sample_request(options),
                "eval": lambda: eval_request(options),
                "plan": lambda: load_job(options.settings, options.config),
            }
            deeper.get(name, lambda: None)()
        except UserError as error:
            raise NotSo(str(error)) from error

    def run(self, command: Command, expected: int = 0) -> Result:
        if not self.runs:
            return super().run(command, expected)
        if not self.quick and expected != 2:
            return _in_a_process([sys.executable, "-m", "rlhf_dist", *self.words])
        if self.words[0] not in JOBS and "--help" not in self.words:
            _remove_outputs(self.words)
        return _in_this_process(lambda: main(self.words))


@dataclass(frozen=True)
class Script(Program):
    """A Python file of this repository: `python benchmarks/throughput.py ...`, `python -m demo.smollm2`."""

    file: Path
    words: Sequence[str]
    runs = True

    @property
    def quick(self) -> bool:  # type: ignore[override]
        return "--help" in self.words or self.file.is_relative_to("docs/examples")

    def lint(self) -> None:
        if not (ROOT / self.file).is_file():
            raise NotSo(f"there is no {self.file}")
        known = re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", _text(ROOT / self.file))
        hands_on = "rlhf_dist.main import" in _text(ROOT / self.file)
        _lint_options(self.words, [*known, "-h", "--help", *(["--config"] if hands_on else [])])

    def check(self) -> None:
        """Runs it until it has read its words; those that it hands to a launcher are checked as the launcher does."""

        class Read(Exception):
            pass

        def parse(parser: argparse.ArgumentParser, *given: Any) -> None:
            real(parser, *given)
            raise Read

        def launched(name: str, argv: Sequence[str]) -> None:
            OurCommand([name, *argv]).check()
            raise Read

        real = argparse.ArgumentParser.parse_args
        with (
            mock.patch.object(argparse.ArgumentParser, "parse_args", parse),
            mock.patch("rlhf_dist.main.launch", launched),
            contextlib.suppress(Read),
        ):
            result = _in_this_process(self._in_place)
            raise NotSo(f"it ends with exit code {result.code}: {result.printed.strip()}")

    def run(self, command: Command, expected: int = 0) -> Result:
        if "--help" in self.words:
            return _in_this_process(self._in_place)
        return _in_a_process([sys.executable, str(ROOT / self.file), *self.words])

    def _in_place(self) -> int:
        with mock.patch.object(sys, "argv", [str(self.file), *self.words]):
            runpy.run_path(str(ROOT / self.file), run_name="__main__")
        return 0


@dataclass(frozen=True)
class Make(Program):
    """`make TARGET VARIABLE=value`."""

    words: Sequence[str]

    def lint(self) -> None:
        makefile = _text(ROOT / "Makefile")
        targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
        variables = re.findall(r"\$\((?:filter-out 0,\$\()?([A-Z]+)\)|^([A-Z]+) \?=", makefile, re.MULTILINE)
        known = {name for pair in variables for name in pair}
        for word in self.words:
            name, equals, _ = word.partition("=")
            if word != "..." and name not in (known if equals else targets):
                raise NotSo(f"the Makefile has no {'variable' if equals else 'target'} {name}")


@dataclass(frozen=True)
class Ray(Program):
    """Ray's own command line; what `ray job submit` starts is looked at, too."""

    words: Sequence[str]

    @property
    def started(self) -> Program | None:
        """What comes after the --."""
        words = list(self.words)
        return program_of(words[words.index("--") + 1 :]) if "--" in words else None

    def lint(self) -> None:
        command, words = self._command()
        before = words[: words.index("--")] if "--" in words else words
        known = [text for option in command.params for text in (*option.opts, *option.secondary_opts)]
        _lint_options(before, ["--help", *known])
        if self.started is not None:
            self.started.lint()

    def check(self) -> None:
        command, words = self._command()
        try:
            found = command.make_context(command.name, words).params
            json.loads(found.get("runtime_env_json") or "{}")
        except (click.ClickException, ValueError) as error:
            raise NotSo(str(error)) from error
        if self.started is not None:
            self.started.check()

    def _command(self) -> tuple[Any, list[str]]:
        """Click's command, and the words after it."""
        cli = importlib.import_module("ray.scripts.scripts").cli
        command, words = cli, list(self.words)
        while hasattr(command, "commands"):
            if not words or words[0] not in command.commands:
                raise NotSo(f"there is no such command of ray: {' '.join(words[:1])}")
            command = command.commands[words.pop(0)]
        return command, words


@dataclass(frozen=True)
class Shell(Program):
    """What a shell must run: a pipe of ours, or one of the programs that only look."""

    parts: Sequence[Program | str]

    @property
    def runs(self) -> bool:  # type: ignore[override]
        return all(part in HARMLESS if isinstance(part, str) else part.runs for part in self.parts)

    @property
    def quick(self) -> bool:  # type: ignore[override]
        return all(isinstance(part, str) or part.quick for part in self.parts)

    def lint(self) -> None:
        for part in self.parts:
            if isinstance(part, Program):
                part.lint()

    def check(self) -> None:
        for part in self.parts:
            if isinstance(part, Program):
                part.check()
            elif part not in (*HARMLESS, *BUILTINS):
                super().check()

    def run(self, command: Command, expected: int = 0) -> Result:
        if not self.runs:
            return super().run(command, expected)
        ours = f'rlhf-dist() {{ "{sys.executable}" -m rlhf_dist "$@"; }}; python() {{ "{sys.executable}" "$@"; }}'
        return _in_a_process(["bash", "-c", f"{ours}\n{command.text}"])


def program_of(words: Sequence[str]) -> Program:
    """What a command's words call."""
    first, *rest = words or [""]
    if first == "rlhf-dist":
        return OurCommand(rest)
    if first in LAUNCHERS:
        return OurCommand([LAUNCHERS[first], *rest])
    if first in PYTHONS and rest[:2] == ["-m", "rlhf_dist"]:
        return OurCommand(rest[2:])
    if first in PYTHONS and rest[:1] == ["-m"] and (ROOT / rest[1].replace(".", "/")).with_suffix(".py").is_file():
        return Script(Path(rest[1].replace(".", "/")).with_suffix(".py"), rest[2:])
    if first in PYTHONS and rest and rest[0] in LAUNCHERS:
        return OurCommand([LAUNCHERS[rest[0]], *rest[1:]])
    if first in PYTHONS and rest and not rest[0].startswith("-"):
        return Script(Path(rest[0]), rest[1:])
    if first == "make":
        return Make(rest)
    if first == "ray":
        return Ray(rest)
    return Shell([first])


def program(command: Command) -> Program:
    """What a command calls."""
    parts = _parts(command.text)
    if len(parts) == 1:
        return program_of(parts[0])
    whole = [program_of(part) for part in parts if part]
    return Shell([part.parts[0] if isinstance(part, Shell) else part for part in whole])


def _parts(text: str) -> list[list[str]]:
    """The words of the commands of a pipe, a list or a substitution, without variables and redirections."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    parts: list[list[str]] = [[]]
    is_file = False
    for word in lexer:
        if set(word) <= set("();<>|&\n"):
            is_file = word in (">", ">>", ">&", "<")
            if not is_file:
                parts.append([])
        elif is_file:
            is_file = False
            parts.append([])
        elif parts[-1] or not re.match(r"[A-Za-z_]\w*=", word):
            parts[-1].append(word)
    return parts


@functools.cache
def _parsers() -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each command of rlhf-dist."""
    return _commands(_parser())


@functools.cache
def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _lint_options(words: Sequence[str], known: Sequence[str]) -> None:
    for word in words:
        name = word.strip("[]").partition("=")[0]
        if re.match(r"--?[A-Za-z]", name) and name not in known:
            raise NotSo(f"there is no option {name}{suggest(name, known)}")


def _lint_keys(words: Sequence[str], schemas: Sequence[type]) -> None:
    for word in words:
        name, equals, _ = word.strip("[]").partition("=")
        if not equals or name.startswith("-") or name == "key":
            continue
        keys = [key for schema in schemas for key in schema_keys(schema, [name])]
        if name not in keys:
            raise NotSo(f"unknown key {name}{did_you_mean(near_keys(name, keys))}")


def _remove_outputs(words: Sequence[str]) -> None:
    """Removes the files that a command is to write: a page's earlier command, or the scratch folder, has them."""
    with contextlib.suppress(UserError, SystemExit):
        options = vars(_parser().parse_args(words))
        for name in ("out", "rankings", "demonstrations", "html", "json", "output"):
            path = options.get(name)
            if isinstance(path, Path) and path.is_file():
                path.unlink()


def _in_this_process(call: Callable[[], int]) -> Result:
    """What ``call`` returns, or exits with, and prints. No interpreter is started: torch alone takes seconds."""
    printed = io.StringIO()
    with _no_terminal(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = call()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Result(code, printed.getvalue())


def _in_a_process(words: Sequence[str]) -> Result:
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    with _no_terminal():
        done = subprocess.run(
            words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S, check=False
        )
    return Result(done.returncode, done.stdout)


@contextlib.contextmanager
def _no_terminal() -> Iterator[None]:
    """As rich sees it."""
    names = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    with mock.patch.dict(os.environ):
        for name in names:
            os.environ.pop(name, None)
        yield
