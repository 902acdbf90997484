"""Mistakes that show before anything is started: exit 2, one line, what and where.

Launchers hand their words to `launch`, which is called here: a process of its own would import torch for each mistake.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from rlhf_dist.main import launch
from tests.pipeline.conftest import Workspace
from tests.tiny import write_data, write_jsonl, write_model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with model and data, and a reward model's directory that is a copy of the model's."""
    place = Workspace(tmp_path_factory.mktemp("mistakes"))
    write_model(place.root / "model")
    write_model(place.root / "runs/reward/model")
    write_data(place.root / "data")
    return place


LineOf = Callable[..., str]


@pytest.fixture
def line_of(place: Workspace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> LineOf:
    """Starts a job, and gives the one line that is all its output. The exit code must be 2, and no step done."""
    monkeypatch.chdir(place.root)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def line_of(job: str, *settings: str) -> str:
        _, _, *words = place.command(job, "mistake", "cluster.fork_workers=false", *settings)
        started = time.monotonic()
        assert launch(job, words) == 2
        assert time.monotonic() - started < 60
        output, errors = capfd.readouterr()
        (line,) = (line for line in (output + errors).splitlines() if line.strip())
        assert not (place.root / "runs/mistake/metrics.jsonl").exists()
        return line

    return line_of


def test_an_unknown_key_is_named_with_the_nearest_one(line_of: LineOf) -> None:
    line = line_of("ppo", "actor.num_worker=2")
    assert "actor.num_worker" in line
    assert "did you mean actor.num_workers" in line


def test_a_wrong_type_says_what_was_expected(line_of: LineOf) -> None:
    assert "expected an integer" in line_of("ppo", "ppo.steps=many")


def test_malformed_json_names_file_and_line(place: Workspace, line_of: LineOf) -> None:
    (place.root / "data/bad.jsonl").write_text('{"prompt": "a film"}\n{"prompt": \n')
    assert "data/bad.jsonl:2" in line_of("ppo", "data.path=data/bad.jsonl")


def test_a_missing_field_is_named(place: Workspace, line_of: LineOf) -> None:
    write_jsonl(place.root / "data/field.jsonl", [{"prompt": "a film", "respnse": "b"}])
    line = line_of("sft", "data.path=data/field.jsonl")
    assert "response" in line
    assert "data/field.jsonl:1" in line


def test_an_empty_data_set_is_named(place: Workspace, line_of: LineOf) -> None:
    (place.root / "data/empty.jsonl").write_text("")
    assert "data/empty.jsonl" in line_of("sft", "data.path=data/empty.jsonl")


def test_a_ranking_that_is_none_names_its_line(place: Workspace, line_of: LineOf) -> None:
    write_jsonl(place.root / "data/rank.jsonl", [{"prompt": "a", "responses": ["b", "c"], "ranking": [1, 5]}])
    assert "data/rank.jsonl:1" in line_of("reward", "data.path=data/rank.jsonl")


def test_a_model_directory_that_is_none_is_named(place: Workspace, line_of: LineOf) -> None:
    (place.root / "nothing").mkdir(exist_ok=True)
    line = line_of("sft", "actor.model.path=nothing")
    assert "nothing" in line
    assert "actor.model.path" in line


def test_a_prompt_longer_than_its_limit_names_its_line(place: Workspace, line_of: LineOf) -> None:
    write_jsonl(place.root / "data/long.jsonl", [{"prompt": "a"}, {"prompt": "film " * 60}])
    assert "data/long.jsonl:2" in line_of("ppo", "data.path=data/long.jsonl", "data.eval_count=1")


def test_a_reward_function_that_is_not_there_is_named(place: Workspace, line_of: LineOf) -> None:
    (place.root / "score.py").write_text("def scores(p, r):\n    return [0.0] * len(r)\n")
    line = line_of("ppo", "reward.model.path=null", "reward.function=score.py:score")
    assert "did you mean" in line
    assert "scores" in line


def test_a_run_that_exists_is_not_overwritten_unasked(place: Workspace, line_of: LineOf) -> None:
    run = place.root / "runs/mistake"
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text("{}")
    (run / "summary.json").write_text("{}")
    assert "run.overwrite=true" in line_of("sft", "run.overwrite=false")
    assert (run / "summary.json").read_text() == "{}"


def test_help_lists_every_key_and_starts_nothing(place: Workspace) -> None:
    outcome = place.run("ppo", "mistake", "--help")
    for key in ("actor.num_workers", "rollout.num_engines", "ppo.kl.coef", "weights.verify_every"):
        assert key in outcome.output


@pytest.mark.slow
def test_a_launcher_that_has_imported_everything_says_no_more_than_the_mistake(place: Workspace) -> None:
    """Its libraries warn of nothing, either."""
    (place.root / "data/torn.jsonl").write_text('{"prompt": "a film"}\n{"prompt": \n')
    outcome = place.run("ppo", "mistake", "data.path=data/torn.jsonl", expect=2)
    (line,) = (line for line in outcome.output.splitlines() if line.strip())
    assert "data/torn.jsonl:2" in line
    assert not (outcome.run / "metrics.jsonl").exists()
