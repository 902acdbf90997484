"""Training by plain torch: repeatable, needs no DeepSpeed, and goes on from what DeepSpeed wrote, and the other way.

tests/engine/test_zero.py compares what the engines learn.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf_dist.config.schema import TrainedRoleConfig
from rlhf_dist.engine.fragments import Fragments
from rlhf_dist.engine.plain_torch import TorchTrainEngine
from rlhf_dist.engine.role_state import AVERAGE, MOMENTS, STEP, WEIGHTS, RoleState
from rlhf_dist.engine.zero import ZeroTrainEngine
from tests.engine.test_role_state import SOME, learn, make, role
from tests.tiny import write_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(alone: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder / "model")
    return folder


def by_torch(folder: Path, dtype: str, lora: int = 2) -> TrainedRoleConfig:
    """A role with dropout, unless it has no adapter, that plain torch trains."""
    return replace(role(folder, 0, dtype, lora), train_engine="torch")


@pytest.mark.parametrize(
    "kind,lora,dtype", [("actor", 2, "float32"), ("actor", 2, "bfloat16"), ("critic", 0, "float32")], ids=str
)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(
    folder: Path, tmp_path: Path, kind: str, lora: int, dtype: str
) -> None:
    config = by_torch(folder, dtype, lora)
    torch.manual_seed(0)
    whole = make(kind, config)
    assert isinstance(whole.runner, TorchTrainEngine)
    learn(whole, 2)
    whole.save_checkpoint(tmp_path / "half")
    losses = learn(whole, 2)
    whole.save_checkpoint(tmp_path / "whole")
    torch.manual_seed(99)
    resumed = make(kind, config)
    resumed.load_checkpoint(tmp_path / "half")
    assert learn(resumed, 2) == losses
    resumed.save_checkpoint(tmp_path / "resumed")
    for file in sorted((tmp_path / "whole").glob("*.safetensors")):
        assert (tmp_path / "resumed" / file.name).read_bytes() == file.read_bytes(), file.name
    if lora:  # it draws, so equality means that the random states are back
        resumed.load_checkpoint(tmp_path / "half")
        torch.manual_seed(98)
        assert learn(resumed, 2) != losses


@pytest.mark.slow
@pytest.mark.parametrize("stage,dtype", SOME)
def test_a_run_goes_on_under_the_other_engine(folder: Path, tmp_path: Path, stage: int, dtype: str) -> None:
    ours, theirs = by_torch(folder, dtype, 0), replace(role(folder, stage, dtype, 0), train_engine="zero")
    for number, (first, second) in enumerate(((ours, theirs), (theirs, ours))):
        torch.manual_seed(0)
        before, after = make("actor", first), make("actor", second)
        assert {type(before.runner), type(after.runner)} == {TorchTrainEngine, ZeroTrainEngine}
        learn(before, 2)
        left, taken_up = tmp_path / f"left-{number}", tmp_path / f"taken-up-{number}"
        before.save_checkpoint(left)
        after.load_checkpoint(left)
        after.save_checkpoint(taken_up)
        same_state(left, taken_up)
        assert learn(after, 2) == pytest.approx(learn(before, 2), rel=1e-5 if dtype == "float32" else 0.03)


def same_state(one: Path, other: Path) -> None:
    """Checks that two checkpoints hold the same weights, moments, steps and averages, to the bit."""
    state = RoleState.read(one)
    assert state.steps_taken == RoleState.read(other).steps_taken == 2
    for kind in (WEIGHTS, *MOMENTS, STEP, AVERAGE):
        before, after = Fragments(one, kind), Fragments(other, kind)
        for name, numel in state.numels.items():
            count = 1 if kind == STEP else numel
            assert torch.equal(before.read(name, 0, count), after.read(name, 0, count)), (kind, name)


def test_small_updates_of_bfloat16_weights_add_up(folder: Path) -> None:
    """Each is below what bfloat16 can tell from nothing; the float32 masters take them all in."""
    config = by_torch(folder, "bfloat16", 0)
    config.optim.lr, config.optim.warmup_steps, config.optim.weight_decay = 1e-5, 0, 0.0
    engine = make("actor", config)
    name, weights = next(iter(engine.policy.lm.named_parameters()))
    before = weights.detach().float().clone()
    learn(engine, 4)
    moved = engine.runner.optimizer_shards()[name].owner.detach() - before
    assert weights.dtype == torch.bfloat16
    assert 2e-5 < float(moved.abs().max()) < 5e-5  # about 4 steps of 1e-5, where most weights are near 0.08
    assert torch.equal(weights.detach(), (before + moved).bfloat16())


@pytest.mark.slow
def test_one_worker_trains_without_importing_deepspeed(folder: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; import torch.distributed as dist\n"
        "dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)\n"
        "from tests.engine.test_role_state import learn, make, role\n"
        "folder, out = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "engine = make('actor', role(folder, 0, 'float32'))\n"
        "learn(engine, 1)\n"
        "engine.save_checkpoint(out)\n"
        "make('actor', role(folder, 0, 'float32')).load_checkpoint(out)\n"
        "assert 'deepspeed' not in sys.modules\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path / "out")], check=True, env=environment)
