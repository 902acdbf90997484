"""From the command line to a job: what is wrong is said before anything heavy is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_dist import device
from rlhf_dist.__main__ import _commands, _parser
from rlhf_dist.__main__ import main as command
from rlhf_dist.main import JOBS

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import sys
from rlhf_dist.main import launch
code = launch({job!r}, sys.argv[1:])
print([name for name in ("torch", "ray", "transformers", "numpy") if name in sys.modules])
sys.exit(code)
"""


@pytest.mark.parametrize("job", JOBS)
def test_a_mistake_is_said_without_loading_torch_or_starting_anything(job: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CODE.format(job=job), "run.name=x", "run.seed=-1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "present", "sure"),
    [
        ("cpu", ("/dev/nvidiactl",), True),
        ("auto", (), True),
        ("auto", ("/dev/nvidiactl",), False),
        ("auto", ("/dev/davinci_manager",), False),
        ("cuda", (), False),
        ("npu", (), False),
    ],
)
def test_a_run_is_known_to_be_on_a_cpu_only_where_no_accelerator_can_be(
    monkeypatch: pytest.MonkeyPatch, name: str, present: tuple[str, ...], sure: bool
) -> None:
    monkeypatch.setattr(device.os.path, "exists", lambda path: path in present)
    assert device.is_surely_cpu(name) is sure


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("lable candidates.jsonl", "invalid choice: 'lable'"),
        ("label candidates.jsonl --out out.jsonl --labelers ann", "unrecognized arguments: --labelers ann"),
        ("label candidates.jsonl --out out.jsonl --labelers=ann", "unrecognized arguments: --labelers=ann"),
        ("label candidates.jsonl --labelers ann", "are required: --out; unrecognized arguments: --labelers"),
    ],
)
def test_a_misspelt_command_or_option_is_one_line_with_what_was_meant(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert f"(did you mean {'label' if words.startswith('lable') else '--labellers'}?)" in line


@pytest.mark.parametrize("name", _commands(_parser()))
def test_every_option_of_every_command_is_explained(name: str) -> None:
    parser = _commands(_parser())[name]
    assert name in JOBS or parser.description
    words = {action.dest: len((action.help or "").split()) for action in parser._actions if action.dest != "config"}
    assert not [option for option, count in words.items() if count < 3]
