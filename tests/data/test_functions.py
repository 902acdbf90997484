"""Functions that a configuration names."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_dist.data.functions import DeadlinePassed, call_with_deadline, describe_error, load_function
from rlhf_dist.errors import UserError


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    path = tmp_path / "judge.py"
    path.write_text("CALLS = []\nLIMIT = 3\ndef score(prompts, responses):\n    return [1.0 for _ in responses]\n")
    return path


def refusal(spec: str) -> str:
    with pytest.raises(UserError) as caught:
        load_function(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_function_of_a_module_is_found() -> None:
    from rlhf_dist.data.samplers import EpochSampler

    assert load_function("rlhf_dist.data.samplers:EpochSampler") is EpochSampler


def test_a_function_of_a_file_is_found_from_the_current_directory(judge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(judge.parent)
    assert load_function("judge.py:score")(["a", "b"], ["c", "d"]) == [1.0, 1.0]


def test_a_file_is_run_once(judge: Path) -> None:
    assert load_function(f"{judge}:score") is load_function(f"{judge}:score")


def test_files_of_one_name_are_different_modules(judge: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "judge.py"
    other.parent.mkdir()
    other.write_text("def score(prompts, responses):\n    return [2.0]\n")
    assert load_function(f"{judge}:score")(["a"], ["b"]) == [1.0]
    assert load_function(f"{other}:score")(["a"], ["b"]) == [2.0]


def test_a_misspelt_function_gets_a_suggestion(judge: Path) -> None:
    assert refusal(f"{judge}:scores").endswith("has no function scores (did you mean score?)")


def test_what_is_no_function_is_refused(judge: Path) -> None:
    assert refusal(f"{judge}:LIMIT").endswith("LIMIT is int, expected a function")


def test_a_missing_file_names_a_near_one(judge: Path) -> None:
    assert f"did you mean {judge}?" in refusal(f"{judge.parent / 'juge.py'}:score")


def test_a_missing_module_is_named() -> None:
    assert refusal("no_such_package.module:f") == "no_such_package.module:f: there is no module no_such_package"


def test_a_file_named_as_a_module_gets_a_suggestion(judge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(judge.parent)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(judge.parent))])
    assert refusal("judge:score").endswith("there is no module judge (a file is named by its path: judge.py:score)")


@pytest.mark.parametrize("text", ["import no_such_module_here", "1 / 0", "def f(:"])
def test_a_file_that_fails_says_how(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    before = set(sys.modules)
    assert "fails while it is imported: " in refusal(f"{path}:f")
    assert not {name for name in set(sys.modules) - before if name.startswith("broken")}


@pytest.mark.parametrize("spec", ["score", ":score", "judge.py:", "judge.py"])
def test_a_spec_of_another_shape_is_refused(spec: str) -> None:
    assert 'expected "package.module:function" or "path/file.py:function"' in refusal(spec)


def test_a_call_gives_what_the_function_gives_or_raises() -> None:
    assert call_with_deadline(lambda: [1, 2], 60) == [1, 2]
    with pytest.raises(ZeroDivisionError):
        call_with_deadline(lambda: 1 / 0, 60)
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        call_with_deadline(lambda: sys.exit(3), 60)


def test_a_call_that_hangs_is_left_behind_and_the_process_ends() -> None:
    with pytest.raises(DeadlinePassed):
        call_with_deadline(lambda: time.sleep(5), 0.1)
    program = (
        "import time\nfrom rlhf_dist.data.functions import DeadlinePassed, call_with_deadline\n"
        "try:\n    call_with_deadline(lambda: time.sleep(3600), 0.1)\nexcept DeadlinePassed:\n    print('passed')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "passed\n")


def test_an_error_is_told_in_one_line_with_its_place(judge: Path) -> None:
    judge.write_text("def score(prompts, responses):\n    raise ValueError('no such\\nword')\n")
    with pytest.raises(ValueError) as caught:
        load_function(f"{judge}:score")([], [])
    assert describe_error(caught.value) == "ValueError: no such (judge.py, line 2)"
