"""What a role that learns writes and takes up again, on real gloo ranks: to the bit, and by others than wrote it."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from rlhf_dist.config.schema import AdapterConfig, ModelConfig, OptimConfig, TrainedRoleConfig
from rlhf_dist.device import CPU
from rlhf_dist.engine.fragments import Fragments
from rlhf_dist.engine.policy import ActorEngine
from rlhf_dist.engine.random_state import mixed_seed
from rlhf_dist.engine.role_state import AVERAGE, MOMENTS, STEP, WEIGHTS, RoleState
from rlhf_dist.engine.scalar import CriticEngine, TrainedRewardEngine
from rlhf_dist.errors import UserError
from rlhf_dist.types import Demonstrations
from tests.engine.test_zero import comparisons, value_batch
from tests.processes import process
from tests.tiny import VOCABULARY, write_model

LAYOUTS = [(stage, dtype) for stage in (0, 1, 2, 3) for dtype in ("float32", "bfloat16")]
SOME = [(0, "float32"), (1, "bfloat16"), (2, "float32"), (3, "bfloat16")]
# The role, the rank of its adapter (0: none), and how it is laid out.
CASES = [
    *(("actor", 2, stage, dtype) for stage, dtype in LAYOUTS),
    *(("actor", 0, stage, dtype) for stage, dtype in SOME),
    *(("critic", 2, stage, dtype) for stage, dtype in SOME[::3]),
]
KINDS = (WEIGHTS, *MOMENTS, STEP, AVERAGE)


def text() -> Demonstrations:
    lengths = torch.tensor([9, 8, 5, 12, 7])
    tokens = torch.randint(3, VOCABULARY, (int(lengths.sum()),), generator=torch.Generator().manual_seed(6))
    return Demonstrations(tokens, lengths * 0 + 1, lengths - 1)


def role(folder: Path, stage: int, dtype: str, rank: int = 2) -> TrainedRoleConfig:
    """A role whose adapter (none with rank 0) drops half of its input."""
    return TrainedRoleConfig(
        num_workers=dist.get_world_size(),
        model=ModelConfig(path=str(folder / "model"), dtype=dtype),
        zero_stage=stage,
        micro_batch_tokens=20,
        optim=OptimConfig(lr=1e-2, warmup_steps=5, schedule="cosine", weight_decay=0.1),
        lora=AdapterConfig(rank=rank, dropout=0.5),
        ema_decay=0.6,
    )


def learn(engine: Any, steps: int) -> list[float]:
    """The losses of so many steps."""
    if isinstance(engine, CriticEngine):
        return [engine.train(value_batch(), [torch.arange(5)], 0.2).loss for _ in range(steps)]
    if isinstance(engine, TrainedRewardEngine):
        return [engine.fit(comparisons()).loss for _ in range(steps)]
    return [engine.fit(text(), None).loss for _ in range(steps)]


def make(kind: str, config: TrainedRoleConfig) -> Any:
    return ActorEngine(config, CPU, 1.0, 20) if kind == "actor" else CriticEngine(config, CPU, 20)


def go_on(folder: Path, rank: int, world: int) -> None:
    """Interrupted after two steps of four, and not interrupted, in every layout."""
    for kind, lora, stage, dtype in CASES:
        where = folder / f"{kind}-{lora}-{stage}-{dtype}"
        torch.manual_seed(0)
        engine = make(kind, role(folder, stage, dtype, lora))
        torch.manual_seed(mixed_seed(1, rank))
        learn(engine, 2)
        engine.save_checkpoint(where / "half")
        seen = {"whole": learn(engine, 2)}
        engine.save_checkpoint(where / "whole")
        torch.manual_seed(99)
        engine = make(kind, role(folder, stage, dtype, lora))
        engine.load_checkpoint(where / "half")
        seen["resumed"] = learn(engine, 2)
        engine.save_checkpoint(where / "resumed")
        if lora:  # and with other random numbers than those that are to be gone on with
            engine.load_checkpoint(where / "half")
            torch.manual_seed(98 + rank)
            seen["other dropout"] = learn(engine, 2)
        (where / f"losses-{rank}.json").write_text(json.dumps(seen))


def take_up(folder: Path, rank: int, world: int) -> None:
    """Takes up what two ranks wrote in some layouts, in another of these, writes it down again, and goes on.

    Three ranks take up what one wrote of it, in one layout as plain torch.
    """
    for number, (stage, dtype) in enumerate(SOME):
        source = folder / f"actor-0-{stage}-{dtype}"
        new_stage, new_dtype = SOME[(number + (2 if world == 1 else 1)) % len(SOME)]
        engine = make("actor", role(folder, new_stage, new_dtype, 0))
        engine.load_checkpoint(source / ("half" if world == 1 else "by-1"))
        engine.save_checkpoint(source / f"by-{world}")
        losses = learn(engine, 2)
        if rank == 0:
            (source / f"losses-by-{world}.json").write_text(json.dumps([new_dtype, losses]))


def one_rank(rank: int, world: int, port: int, folder: str, what: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0"
    )
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    what(Path(folder), rank, world)
    dist.destroy_process_group()


def on_ranks(world: int, folder: Path, what: Any) -> None:
    """Runs ``what(folder, rank, world)`` on so many ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [process(one_rank, rank, world, port, str(folder), what) for rank in range(world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(600)
        assert rank.exitcode == 0


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_model(folder / "model")
    on_ranks(2, folder, go_on)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind,lora,stage,dtype", CASES)
def test_a_resumed_role_is_the_uninterrupted_one_to_the_bit(
    written: Path, kind: str, lora: int, stage: int, dtype: str
) -> None:
    folder = written / f"{kind}-{lora}-{stage}-{dtype}"
    files = sorted(file.relative_to(folder / "whole") for file in (folder / "whole").rglob("*") if file.is_file())
    assert sum(file.name.startswith("random-") for file in files) == 2
    for file in files:
        assert (folder / "resumed" / file).read_bytes() == (folder / "whole" / file).read_bytes(), file
    for rank in range(2):
        losses = json.loads((folder / f"losses-{rank}.json").read_text())
        assert losses["resumed"] == losses["whole"]
        if lora:  # it draws, so equality means that the random states are back
            assert losses["other dropout"] != losses["whole"]
    first, second = (torch.frombuffer(file.read_bytes(), dtype=torch.uint8) for file in _random(folder / "half"))
    assert not torch.equal(first, second)


def _random(folder: Path) -> list[Path]:
    return sorted(folder.glob("random-*"))


@pytest.mark.slow
def test_other_workers_and_stages_take_up_the_same(written: Path) -> None:
    worlds = (1, 3)
    for world in worlds:
        on_ranks(world, written, take_up)
    for stage, dtype in SOME:
        folder = written / f"actor-0-{stage}-{dtype}"
        whole = json.loads((folder / "losses-0.json").read_text())["whole"]
        for world in worlds:
            new_dtype, losses = json.loads((folder / f"losses-by-{world}.json").read_text())
            exact = dtype == new_dtype == "float32"
            assert losses == pytest.approx(whole, rel=1e-4 if exact else 0.03)
            state = RoleState.read(folder / "half")
            assert state.steps_taken == RoleState.read(folder / f"by-{world}").steps_taken == 2
            for kind in KINDS:
                before, after = (Fragments(folder / name, kind) for name in ("half", f"by-{world}"))
                for name, numel in state.numels.items():
                    count = 1 if kind == STEP else numel
                    assert torch.equal(before.read(name, 0, count), after.read(name, 0, count)), (kind, name)


@pytest.fixture(scope="module")
def small(alone: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a role with an adapter."""
    folder = tmp_path_factory.mktemp("small")
    write_model(folder / "model")
    engine = make("actor", role(folder, 0, "float32"))
    learn(engine, 1)
    engine.save_checkpoint(folder / "checkpoint")
    return folder


def refusal(folder: Path, config: TrainedRoleConfig, kind: str = "actor") -> str:
    """What is said where a checkpoint cannot be taken up; nothing has changed then."""
    engine = make(kind, config)
    before = [parameter.detach().clone() for parameter in engine.runner.model.parameters()]
    with pytest.raises(UserError) as caught:
        engine.load_checkpoint(folder / "checkpoint")
    assert all(torch.equal(a, b) for a, b in zip(before, engine.runner.model.parameters(), strict=True))
    assert engine.runner.steps_taken == 0 and "\n" not in str(caught.value)
    return str(caught.value)


def test_the_fused_optimizer_learns_the_same_and_goes_on(alone: None, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    config = role(tmp_path, 0, "float32", 0)
    plain = learn(make("actor", config), 4)
    device = replace(CPU, fused_adamw=True)  # a CPU has the kernel too
    whole, resumed = (ActorEngine(config, device, 1.0, 20) for _ in range(2))
    assert whole.runner.adamw.defaults["fused"]
    losses = learn(whole, 2)
    whole.save_checkpoint(tmp_path / "half")
    resumed.load_checkpoint(tmp_path / "half")
    rest = learn(whole, 2)
    assert learn(resumed, 2) == rest
    assert losses + rest == pytest.approx(plain, rel=1e-5)


def test_what_is_of_another_model_is_named(small: Path, tmp_path: Path) -> None:
    mine = role(small, 0, "float32")
    assert "lora.rank=2, but now it is 4" in refusal(small, replace(mine, lora=AdapterConfig(rank=4, dropout=0.5)))
    assert "lora.rank=2, but now it is 0" in refusal(small, replace(mine, lora=AdapterConfig()))
    assert "AutoModelForCausalLM, but this role has AutoModelForSequenceClassification" in refusal(
        small, mine, "critic"
    )
    write_model(tmp_path / "model", seed=5)
    text = refusal(small, replace(mine, model=ModelConfig(path=str(tmp_path / "model"), dtype="float32")))
    assert f"the base model {small / 'model'}, whose weights differ from {tmp_path / 'model'}" in text


def test_a_damaged_or_missing_checkpoint_is_named(small: Path, tmp_path: Path) -> None:
    import shutil

    mine = role(small, 0, "float32")
    assert "not a role's folder of a checkpoint" in refusal(tmp_path, mine)
    for kind in (WEIGHTS, "exp_avg_sq", STEP, AVERAGE):
        shutil.copytree(small / "checkpoint", tmp_path / "checkpoint")
        (file,) = (tmp_path / "checkpoint").glob(f"{kind}-0*")
        file.write_bytes(file.read_bytes()[:-9])
        assert f"{file} is damaged" in refusal(tmp_path, mine)
        file.unlink()
        if kind != STEP:
            assert f"is damaged: {kind} " in refusal(tmp_path, mine)
        shutil.rmtree(tmp_path / "checkpoint")
    shutil.copytree(small / "checkpoint", tmp_path / "checkpoint")
    (tmp_path / "checkpoint/state.json").write_text("{")
    assert "state.json is damaged" in refusal(tmp_path, mine)
