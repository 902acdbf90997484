"""What the test of the pages' commands finds: made-up pages, each with one thing that is not so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import Block, blocks_of
from tests.docs.test_commands import is_shown, problems, static_problems, text_problems

PLAN = "rlhf-dist plan --config configs/demo/ppo.yaml"


def blocks(text: str) -> list[Block]:
    return blocks_of("page.md", text)


def block(commands: str, before: str = "", language: str = "") -> list[Block]:
    return blocks(f"Text.\n\n{before}\n```{language}\n{commands}\n```\n")


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("make a   # what's that?\n\n# only a comment\nmake b", ["make a", "make b"]),
        ("rlhf-dist ppo \\\n  a=1 \\\n  b=2\nmake c", ["rlhf-dist ppo   a=1   b=2", "make c"]),
        ("$ make a\nwhat it prints\n\nmore\nnode1$ make b", ["make a", "make b"]),
        ("echo 'a # b\nc'", ["echo 'a\nc'"]),
    ],
)
def test_a_command_is_what_a_shell_would_read(text: str, commands: list[str]) -> None:
    assert [command.text for command in block(text)[0].commands] == commands


def test_what_stands_below_a_prompt_is_the_output() -> None:
    first, second = block("$ make a\nwhat it prints\n\nmore\n$ make b")[0].commands
    assert (first.output, second.output) == (("what it prints", "", "more"), None)
    assert (first.line, second.line) == (5, 9)


def test_a_block_in_a_list_is_read_without_its_indentation() -> None:
    found = blocks("1. First:\n\n   <!-- not run: a reason of words -->\n   ```bash\n   make a\n   ```\n")[0]
    assert found.text == "make a\n" and found.statements[0].kind == "not run"


@pytest.mark.parametrize(
    ("before", "commands", "said"),
    [
        ("", "kubectl apply -f x.yaml", "say what becomes of it"),
        ("", "make demo", "say what becomes of it"),
        ("", "rlhf-dist label c.jsonl --out j.jsonl", "say what becomes of it"),
        ("", "unknown key actor.lr", "say what becomes of it"),
        ("", "it's output", "no shell reads this"),
        ("<!-- not run -->", "make demo", "'not run' needs a reason of 2 words or more"),
        ("<!-- not run: slow -->", "make demo", "'not run' needs a reason of 2 words or more"),
        ("<!-- checked: -->", PLAN, "'checked' needs a reason"),
        ("<!-- not-run: needs a whole cluster -->", "make demo", "is none of the comments"),
        (
            "<!-- run by tests/docs/test_pages.py::test_no_such -->",
            "make demo",
            "there is no test tests/docs/test_pages",
        ),
        ("<!-- run by tests/docs/no_such.py::test_x -->", "make demo", "there is no test tests/docs/no_such.py"),
        ("<!-- run by -->", "make demo", "there is no test (none is named)"),
        ("<!-- `make` not run: one two three -->\n<!-- `make` checked: one two three -->", "make demo", "two comments"),
        ("<!-- `sbatch` not run: needs a cluster -->", PLAN, "no command begins with `sbatch`"),
        (
            "<!-- not run: needs a cluster -->",
            "rlhf-dist plan --config F --node 2",
            "no option --node (did you mean --no",
        ),
        (
            "<!-- not run: needs a cluster -->",
            "rlhf-dist plam --config F",
            "no command rlhf-dist plam (did you mean plan",
        ),
        ("<!-- not run: needs a cluster -->", "rlhf-dist ppo actor.num_worker=2", "unknown key actor.num_worker (did"),
        ("<!-- not run: needs a cluster -->", "python launch/ppo_llama.py --conf x", "there is no option --conf"),
        ("<!-- not run: needs a cluster -->", "make tests", "the Makefile has no target tests"),
        ("<!-- not run: needs a cluster -->", "make test LOCK=1", "the Makefile has no variable LOCK"),
        ("<!-- not run: needs a cluster -->", "python benchmarks/throughput.py --step 3", "there is no option --step"),
        ("<!-- not run: needs a cluster -->", "python benchmarks/through.py", "there is no benchmarks/through.py"),
        ("<!-- not run: needs a cluster -->", "ray job submit --adress x -- make", "there is no option --adress"),
        ("<!-- not run: needs a cluster -->", "ray job submit -- python launch/ppo_llama.py -c", "no option -c"),
        ("<!-- not run: needs a cluster -->", "ray strat --head", "there is no such command of ray: strat"),
    ],
)
def test_a_command_without_class_reason_or_real_options_is_found(before: str, commands: str, said: str) -> None:
    assert said in "\n".join(static_problems(block(commands, before)))


def test_a_command_in_a_sentence_is_looked_at_too() -> None:
    text = "`rlhf-dist plan\n--config F` and `rlhf-dist plan --confg F`.\n\n```\nIn `make tests`\n```\n"
    (problem,) = text_problems("page.md", text)
    assert problem.startswith("page.md:2: rlhf-dist plan --confg F: there is no option --confg")


@pytest.mark.parametrize(
    ("before", "commands"),
    [
        ("<!-- not run: the form of the command -->", "rlhf-dist plan --config FILE [key=value ...] [--suggest]"),
        ("<!-- not run: needs a card -->", "make test-gpu PARTS=mfu,transfer LOCKED=1"),
        ("<!-- `make` not run: installs for minutes -->\n<!-- exit code 3 -->", f"make install\n{PLAN}"),
        ("<!-- not run:\n     needs a Slurm cluster -->", "sbatch x"),
        ("<!-- run by tests/docs/test_pages.py::test_a_shown_output_is_compared -->", "make demo"),
        ("", "rlhf-dist ppo --help | head"),
        ("", "source <(rlhf-dist completion)\n".replace("source", "cat")),
    ],
)
def test_what_the_rules_allow_is_no_problem(before: str, commands: str) -> None:
    assert not list(static_problems(block(commands, before)))


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (block("rlhf-dist report runs/no-such"), "exit code 2, expected 0"),
        (block("rlhf-dist report runs/ppo-a", "<!-- exit code 1 -->"), "exit code 0, expected 1"),
        (block("$ rlhf-dist report runs/my-ppo\nsomething"), "prints something else than the page shows"),
        (block("rlhf-dist ppo --config configs/demo/no.yaml", "<!-- checked: a b c -->"), "there is no file configs"),
        (block("rlhf-dist ppo actor.model.path=runs/none/model", "<!-- checked: a b c -->"), "no model directory"),
        (block("rlhf-dist sample --model a --prompts p.jsonl --out o", "<!-- checked: a b c -->"), "p.jsonl"),
        (block("ray start --haed", "<!-- checked: a b c -->"), "--haed"),
        (block("ray job submit -- python launch/ppo_llama.py ppo.steps=x", "<!-- checked: a b c -->"), "ppo.steps=x"),
        (block("python benchmarks/throughput.py ppo.steps=x", "<!-- checked: a b c -->"), "ppo.steps=x"),
        (block("python benchmarks/learning/run.py --only x", "<!-- checked: a b c -->"), "invalid choice: 'x'"),
        (block("ray start --head && kubectl apply", "<!-- checked: a b c -->"), "it cannot be checked here"),
        (block("rlhf-dist sft data.path=prompts.jsonl run.name=x", "<!-- checked: a b c -->"), "'response' is missing"),
        (block("kubectl apply", "<!-- checked: a b c -->"), "it cannot be checked here"),
        (block("x = (", language="python"), "SyntaxError"),
        (block("undefined_name", language="python"), "NameError"),
        (block("import rlhf_dist\nrlhf_dist.ppo()", language="python"), "it starts a job"),
        (block("import rlhf_dist\nrlhf_dist.ppo(None, {'a': 1})", "<!-- checked: a b c -->", "python"), "key a"),
        (block("actor: {num_worker: 2}", language="yaml"), "unknown key actor.num_worker"),
        (block("- a: [", "<!-- not run: of another program -->", "yaml"), "while parsing"),
        (block('{"a": 1}\n{"b": }', language="json"), "Expecting value"),
    ],
)  # fmt: skip
def test_what_does_not_do_as_the_page_says_is_found(page: list[Block], said: str, scratch: Path) -> None:
    assert said in "\n".join(problems(page))


def test_a_file_of_the_page_is_there_for_its_commands(scratch: Path) -> None:
    rows = '{"prompt": "a", "responses": ["b", "c"], "ranking": [1, 2]}'
    page = block(rows, "<!-- file: mine/rows.jsonl -->", "json")
    page += block("rlhf-dist convert mine/rows.jsonl out.jsonl --from comparisons --to pairs")
    assert not list(problems(page))
    assert (scratch / "out.jsonl").is_file()


def test_a_shown_output_is_compared() -> None:
    printed = "step 12   took 3.5 s\n\nall is well  \n"
    assert is_shown(("step 12   took 3.5 s", "", "all is well"), printed, False)
    assert is_shown(("step 12   took ... s", "...", "all is well"), printed, False)
    assert is_shown(("step 7 took 30.25 s", "", "all is well"), printed, True)
    assert not is_shown(("step 7   took 3.5 s", "", "all is well"), printed, False)
    assert not is_shown(("step 12   took 3.5 s",), printed, False)
    assert not is_shown(("step 7 takes 30.25 s", "..."), printed, True)
