"""Every command in every page runs, is checked, or says why not; the other blocks are what their language says."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from rlhf_dist.config.load import load_config
from rlhf_dist.errors import UserError
from rlhf_dist.main import JOBS, default_recipe
from tests.docs.pages import CHECKED, NOT_RUN, PAGES, ROOT, SHELL, Block, Command, blocks_of, commands_in_text
from tests.docs.programs import NotSo, OurCommand, program
from tests.docs.scratch import POLICIES

BLOCKS = {page: blocks_of(page, (ROOT / page).read_text(encoding="utf-8")) for page in PAGES}


def has_class(block: Block, command: Command) -> bool:
    """Whether it runs, or the page says what else becomes of it."""
    return block.fate(command) is not None or program(command).runs


def first_long(blocks: list[Block]) -> int | None:
    """The line of a page's first command that starts workers: from it on, what runs of the page runs in the slow tests.

    A job that is to end with exit code 2 is none: a mistake is found before anything starts.
    """
    return next(
        (
            command.line
            for block in blocks
            for command in block.commands
            if block.fate(command) is None and not program(command).quick and block.exit_code(command) != 2
        ),
        None,
    )


EXAMPLES = ("python", "yaml", "json", "jsonl")  # languages whose blocks are held to something, beside a shell's
RUN_PAGES = [page for page, blocks in BLOCKS.items() if any(one.language in (*SHELL, *EXAMPLES) for one in blocks)]
LONG_PAGES = [page for page, blocks in BLOCKS.items() if first_long([one for one in blocks if one.is_readable])]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_a_class_and_options_that_exist(page: str) -> None:
    none_of(static_problems(BLOCKS[page]))


def test_commands_named_in_sentences_have_options_that_exist() -> None:
    none_of(problem for page in PAGES for problem in text_problems(page, (ROOT / page).read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", RUN_PAGES)
def test_commands_and_examples_of_a_page_do_what_the_page_says(page: str, scratch: Path) -> None:
    none_of(problems(BLOCKS[page]))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", LONG_PAGES)
def test_a_page_whose_commands_start_workers_does_what_it_says(page: str, scratch: Path) -> None:
    none_of(problems(BLOCKS[page], long=True))


def none_of(problems: Iterator[str]) -> None:
    """Fails with all problems, one a line."""
    if found := list(problems):
        pytest.fail("\n".join(found), pytrace=False)


def static_problems(blocks: list[Block]) -> Iterator[str]:
    """What can be seen of a page's blocks without running anything."""
    for block in blocks:
        if not block.is_readable:
            yield f"{block.page}:{block.line}: no shell reads this: fence what is none of its commands as ```text"
            continue
        yield from (f"{block.page}:{block.line}: {problem}" for problem in block.problems())
        for command in block.commands:
            where = f"{block.page}:{command.line}: {command.text.splitlines()[0]}"
            try:
                program(command).lint()
                if not has_class(block, command):
                    yield (
                        f"{where}: say what becomes of it, before the fence: <!-- not run: why -->, "
                        "<!-- checked: why --> or <!-- run by tests/... -->; fence output as ```text"
                    )
            except NotSo as error:
                yield f"{where}: {error}"


def text_problems(page: str, text: str) -> Iterator[str]:
    """What is wrong with the commands that a page's sentences name."""
    for command in commands_in_text(text):
        try:
            program(command).lint()
        except (NotSo, ValueError) as error:
            yield f"{page}:{command.line}: {command.text}: {error}"


def problems(blocks: list[Block], long: bool = False) -> Iterator[str]:
    """What a page says that is not so, in the current directory, which is changed as its commands do.

    Args:
        blocks: of the page.
        long: run all that runs of it; else check what is to be checked, and run what comes before :func:`first_long`.
    """
    readable = [block for block in blocks if block.is_readable]
    end = None if long else first_long(readable)
    names: dict[str, Any] = {"__name__": "example"}  # a page's blocks of Python go on from one another
    for block in readable:
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text, encoding="utf-8")
        if end is None or block.line < end:
            for problem in example_problems(block, names):
                yield f"{block.page}:{block.line}: {problem}"
        for command in block.commands:
            late = end is not None and command.line >= end and block.fate(command) is None
            if has_class(block, command) and not late:
                for problem in command_problems(block, command):
                    yield f"{block.page}:{command.line}: {command.text.splitlines()[0]}: {problem}"


def command_problems(block: Block, command: Command) -> Iterator[str]:
    """What comes of a command other than the page says."""
    fate = block.fate(command)
    with mock.patch.dict(os.environ, command.environment):
        try:
            if fate is not None and fate.kind == CHECKED:
                program(command).check()
            if fate is not None:
                return
            result = program(command).run(command, block.exit_code(command))
        except NotSo as error:
            yield str(error)
            return
    if result.code != block.exit_code(command):
        yield f"exit code {result.code}, expected {block.exit_code(command)}:\n{result.printed}"
    elif command.output is not None and not is_shown(command.output, result.printed, block.other_numbers(command)):
        yield "prints something else than the page shows:\n" + "\n".join(
            difflib.unified_diff(command.output, [line.rstrip() for line in result.printed.splitlines()], lineterm="")
        )


def is_shown(shown: tuple[str, ...], printed: str, other_numbers: bool) -> bool:
    """Whether ``shown`` is what was printed. A `...` in it stands for anything, lines included."""
    texts = ["\n".join(shown), "\n".join(line.rstrip() for line in printed.splitlines())]
    if other_numbers:
        texts = [re.sub(r"[ ─]+", " ", re.sub(r"\d[\d.,e-]*", "0", text)) for text in texts]
    pattern = re.escape(texts[0].strip()).replace(re.escape("..."), ".*?")
    return re.fullmatch(pattern, texts[1].strip(), re.DOTALL) is not None


def example_problems(block: Block, names: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a block of Python, YAML or JSON. Python runs, with ``names``, unless the page says why not."""
    fate = block.fate()
    try:
        match block.language:
            case "python":
                code = compile(block.text, f"{block.page}, line {block.line}", "exec")
                if fate is None or fate.kind == CHECKED:
                    with jobs_that_are(checked=fate is not None):
                        exec(code, names)
            case "yaml":
                if fate is not None:
                    list(yaml.safe_load_all(block.text))
                else:
                    load_example(block)
            case "json" | "jsonl":
                read_json(block.text)
    except (UserError, NotSo, ValueError, yaml.YAMLError) as error:
        yield str(error)
    except Exception as error:  # an example may raise anything
        yield f"{type(error).__name__}: {error}"


@contextmanager
def jobs_that_are(checked: bool) -> Iterator[None]:
    """What `rlhf_dist.ppo` and its like do within: check the configuration and give a finished run. Else NotSo."""

    def run(name: str, words: list[str]) -> Path:
        if not checked:
            raise NotSo("it starts a job: say <!-- checked: why it is not run -->")
        OurCommand([name, *words]).check()
        return Path("runs", POLICIES[0])

    with mock.patch("rlhf_dist.api.run", run):
        yield


def load_example(block: Block) -> None:
    """Loads a part of a recipe, which stands in configs/ if the page names no file.

    NotSo where no job has these keys, or where a value is none of a key.
    """
    file = Path(block.file or "configs/example.yaml")
    file.write_text(block.text, encoding="utf-8")
    said = []
    for name, job in JOBS.items():
        try:
            load_config(job.schema, ["--config", str(file)], default_recipe(name))
            return
        except UserError as error:
            said.append(f"{name}: {error}")
    raise NotSo(f"the recipe of no job, say <!-- {NOT_RUN}: why --> if it is to be none: " + "; ".join(said))


def read_json(text: str) -> None:
    """Reads one value over several lines, or one a line. ValueError where it is neither."""
    try:
        json.loads(text)
    except ValueError:
        for line in text.splitlines():
            json.loads(line)
