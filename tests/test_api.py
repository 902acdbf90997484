"""The jobs from Python, and the one command: what a command line would be told is raised, or said in a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rlhf_dist
from rlhf_dist.__main__ import main
from rlhf_dist.errors import UserError
from rlhf_dist.main import JOBS, default_recipe
from tests.tiny import write_data, write_model

ROOT = Path(__file__).resolve().parents[1]


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import rlhf_dist, sys; print([n for n in sys.modules if n.startswith('rlhf_dist.') or n == 'omegaconf'])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("job", JOBS)
def test_a_mistake_is_an_exception(job: str) -> None:
    with pytest.raises(UserError, match=r"unknown key run\.nmae \(did you mean run\.name\?\)"):
        getattr(rlhf_dist, job)(None, {"run.nmae": "x"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "run.seed=true: expected an integer"),
        (None, "run.seed=null: expected an integer"),
        ([1, 2], "run.seed=.1, 2.: expected an integer"),
        (0.5, "run.seed=0.5: expected an integer"),
        ("many", "run.seed=many: expected an integer"),
    ],
)
def test_values_are_those_of_the_command_line(value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rlhf_dist.ppo(None, {"run.seed": value})  # type: ignore[dict-item]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'grpo'"):
        _ = rlhf_dist.grpo


@pytest.mark.parametrize("job", JOBS)
def test_the_command_runs_the_jobs_of_the_launchers(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([job, "run.name=x", "run.seed=-1"]) == 2
    assert "run.seed=-1" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert f" {job} " in (text := capsys.readouterr().out) and "rlhf-dist COMMAND --help" in text
    assert default_recipe(job).is_file()


@pytest.mark.slow
def test_a_run_from_python_gives_its_directory_metrics_and_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_model(tmp_path / "model")
    write_data(tmp_path / "data")
    settings = {
        "run.name": "python",
        "run.dir": str(tmp_path / "runs"),
        "run.device": "cpu",
        "run.tensorboard": False,
        "actor.model.path": str(tmp_path / "model"),
        "actor.optim.betas": [0.9, 0.99],
        "data.path": str(tmp_path / "data/sft.jsonl"),
        "data.eval_path": None,
        "data.eval_count": 4,
        "data.max_tokens": 64,
        "sft.batch_size": 8,
        "sft.max_steps": 2,
    }
    run = rlhf_dist.sft(settings=settings)

    assert run.directory == tmp_path / "runs/python"
    assert [row["step"] for row in run.metrics] == [1, 2]
    assert run.summary["after"]["loss"] < run.summary["before"]["loss"]
