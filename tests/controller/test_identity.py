"""A run that goes on: what may differ from what it was begun with, and what is said where it may not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_dist.config import diff
from rlhf_dist.config.keys import schema_keys
from rlhf_dist.config.load import load_config
from rlhf_dist.config.schema import DPOConfig, PPOConfig, RewardModelConfig, SFTConfig
from rlhf_dist.controller.identity import IDENTITY_FILE, Identity, check_same_run, differences, identity_of
from rlhf_dist.errors import UserError
from rlhf_dist.types import Demonstrations

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"ppo": PPOConfig, "sft": SFTConfig, "reward": RewardModelConfig, "dpo": DPOConfig}


@dataclass(frozen=True)
class Data:
    train: Demonstrations


def rows(*tokens: int) -> Data:
    count = torch.tensor([1] * (len(tokens) // 2))
    return Data(Demonstrations(torch.tensor(tokens), count, count))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, heads in (("model", 2), ("other", 4)):
        Path(name).mkdir()
        Path(f"{name}/config.json").write_text(json.dumps({"heads": heads}))
    Path("score.py").write_text("def short(prompts, responses):\n    return []\n")


def configured(*settings: str, kind: str = "ppo") -> Any:
    """The configuration with its models in this test's folder."""
    models = {"ppo": ["actor.model.path=model", "reward.model.path=model"], "sft": ["actor.model.path=model"]}
    return load_config(KINDS[kind], [*models[kind], *settings], ROOT / f"configs/{kind}_llama.yaml")


def said(*settings: str, kind: str = "ppo", was: tuple[str, ...] = (), data: Data | None = None) -> list[str]:
    """What differs between a run and the same run with other settings."""
    before = json.loads(json.dumps(identity_of(configured(*was, kind=kind), rows(1, 2), "cpu").to_json()))
    now = identity_of(configured(*settings, kind=kind), data or rows(1, 2), "cpu")
    return differences(Identity(before["values"], before["content"]), now, KINDS[kind])


def test_nothing_differs_from_itself() -> None:
    assert said() == []


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("run.seed=7", "run.seed: was 1, is 7"),
        ("ppo.kl.coef=0.5", "ppo.kl.coef: was 0.02, is 0.5"),
        ("actor.optim.lr=3e-5", "actor.optim.lr: was 1e-05, is 3e-05"),
        ("actor.optim.betas=[0.9, 0.99]", "actor.optim.betas: was [0.9, 0.95], is [0.9, 0.99]"),
        ("ppo.whiten_rewards=true", "ppo.whiten_rewards: was false, is true"),
        ("rollout.top_k=5", "rollout.top_k: was 0, is 5"),
        ("rollout.backend=hf", "rollout.backend: was vllm, is hf"),
        ("rollout.environment=score.py:short", "rollout.environment: was null, is score.py:short"),
    ],
)
def test_what_shapes_the_result_is_said_with_what_it_was_and_is(setting: str, line: str) -> None:
    assert line in said(setting)


def test_how_the_work_is_laid_out_and_looked_at_may_change() -> None:
    assert (
        said(
            "run.name=other",
            "run.dir=elsewhere",
            "run.save_every=3",
            "run.save_every_minutes=1",
            "run.keep_best=reward/score_mean",
            "run.eval_every=5",
            "actor.num_workers=4",
            "actor.zero_stage=3",
            "actor.train_engine=zero",
            "actor.micro_batch_tokens=100",
            "actor.layout=packed",
            "rollout.num_engines=3",
            "placement=colocated",
            "cluster.call_timeout_s=9",
            "weights.transport=host",
            "judge=score.py:short",
        )
        == []
    )


def test_a_run_may_get_longer_unless_its_learning_rate_falls_towards_the_end() -> None:
    assert said("ppo.steps=1000") == []
    falls = "actor.optim.schedule=cosine"
    assert said("ppo.steps=1000", falls, was=(falls,)) == ["ppo.steps: was 100, is 1000"]
    assert said("sft.epochs=3", kind="sft") == []


def test_data_and_models_are_compared_by_content_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "model").rename(tmp_path / "moved")
    Path("model").symlink_to("moved")
    assert said("actor.model.path=moved", "data.path=elsewhere.jsonl") == []
    (line,) = said("reward.model.path=other")
    assert line.startswith("reward.model.path: was ") and ", is " in line
    (line,) = said(data=rows(1, 2, 3, 4))
    assert line.startswith("data, train: was 1 rows (") and ", is 2 rows (" in line


def test_a_function_that_was_edited_is_another_one(tmp_path: Path) -> None:
    function = ("reward.model.path=null", "reward.function=score.py:short")
    assert said(*function, was=function) == []
    before = identity_of(configured(*function), rows(1, 2), "cpu")
    (tmp_path / "score.py").write_text("def short(prompts, responses):\n    return [0.0]\n")
    now = identity_of(configured(*function), rows(1, 2), "cpu")
    (line,) = differences(before, now, PPOConfig)
    assert line.startswith("the file of reward.function: was ")


def test_further_rewards_that_come_or_go_are_said() -> None:
    polite = ("rewards.polite.function=score.py:short", "rewards.polite.weight=0.5")
    assert "rewards.polite.weight: was not there, is 0.5" in said(*polite)
    assert "rewards.polite.weight: was 0.5, is not there" in said(was=polite)


def test_keys_of_another_version_do_not_count() -> None:
    now = identity_of(configured(), rows(1, 2), "cpu")
    older = {name: value for name, value in now.values.items() if name != "ppo.score_clip"} | {"ppo.gone": 3}
    assert differences(Identity(older, now.content), now, PPOConfig) == []
    assert differences(
        Identity(older, now.content), identity_of(configured("ppo.score_clip=2"), rows(1, 2), "cpu"), PPOConfig
    ) == ["ppo.score_clip: was 0.0, is 2.0"]


def test_another_device_is_said() -> None:
    now = identity_of(configured(), rows(1, 2), "npu")
    assert differences(identity_of(configured(), rows(1, 2), "cpu"), now, PPOConfig) == ["run.device: was cpu, is npu"]


def test_what_cannot_matter_is_not_kept() -> None:
    kept = identity_of(configured("cluster.env=[TOKEN=secret]"), rows(1, 2), "cpu").values
    assert not [name for name in kept if name.startswith("cluster.")] and "ppo.steps" in kept


def test_a_new_key_matters_by_itself() -> None:
    assert diff.shaping({"ppo.a_new_key": 1}) == {"ppo.a_new_key": 1}


def test_every_entry_of_the_list_is_a_key() -> None:
    keys = {name for kind in KINDS.values() for name in schema_keys(kind)}
    for pattern in (*diff.FREE, *diff._LENGTH):
        assert any(fnmatchcase(name, pattern) for name in keys), pattern


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints/step-4"
    folder.mkdir(parents=True)
    (folder / IDENTITY_FILE).write_text(json.dumps(identity_of(configured(), rows(1, 2), "cpu").to_json()))
    return folder


def test_what_differs_is_refused_line_by_line_and_may_be_allowed(checkpoint: Path) -> None:
    config = configured("run.seed=2", "ppo.lam=0.5")
    now = identity_of(config, rows(1, 2), "cpu")
    told: list[str] = []
    with pytest.raises(UserError) as refused:
        check_same_run(checkpoint, now, config, told.append)
    assert str(refused.value).startswith(f"{checkpoint} was made with something else (2 lines above), so resuming")
    assert "run.resume_changed=true" in str(refused.value)
    said = ["changed since step-4: run.seed: was 1, is 2", "changed since step-4: ppo.lam: was 0.95, is 0.5"]
    assert told == said
    config.run.resume_changed = True
    check_same_run(checkpoint, now, config, told.append)
    assert told == said * 2


def test_the_same_run_goes_on_in_silence(checkpoint: Path) -> None:
    config = configured("run.name=renamed")
    check_same_run(checkpoint, identity_of(config, rows(1, 2), "cpu"), config, pytest.fail)


def test_a_checkpoint_without_a_record_is_said_to_have_none(tmp_path: Path) -> None:
    config = configured()
    told: list[str] = []
    check_same_run(tmp_path, identity_of(config, rows(1, 2), "cpu"), config, told.append)
    assert len(told) == 1 and "cannot be checked" in told[0]
