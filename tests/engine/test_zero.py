"""Training on real gloo ranks: plain torch and every stage of ZeRO learn the same, however the batch is cut up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from rlhf_dist.types import Comparisons, Demonstrations, PolicyBatch, PreferenceBatch, Sequences, ValueBatch
from tests.engine.ranks import Ranks
from tests.tiny import VOCABULARY, write_model

PROMPTS, RESPONSES = torch.tensor([3, 1, 2, 7, 1]), torch.tensor([4, 1, 6, 2, 9])


def sequences() -> Sequences:
    generator = torch.Generator().manual_seed(2)
    size, rows = int(RESPONSES.sum()), torch.arange(5)
    tokens = torch.randint(3, VOCABULARY, (int((PROMPTS + RESPONSES).sum()),), generator=generator)
    mask = torch.rand(size, generator=generator) < 0.8
    return Sequences(tokens, PROMPTS, RESPONSES, torch.zeros(size), mask, rows > 1, rows * 0, rows, rows)


def policy_batch() -> PolicyBatch:
    generator = torch.Generator().manual_seed(3)
    batch = sequences()
    old, advantages = (
        torch.full((batch.loss_mask.numel(),), -5.0),
        torch.randn(batch.loss_mask.numel(), generator=generator),
    )
    return PolicyBatch(batch, old, old - 0.1, advantages, batch.loss_mask.float())


def value_batch() -> ValueBatch:
    batch = sequences()
    returns = torch.randn(batch.loss_mask.numel(), generator=torch.Generator().manual_seed(5))
    return ValueBatch(batch, torch.zeros_like(returns), returns)


def text() -> Demonstrations:
    lengths = torch.tensor([3, 8, 5, 2])
    tokens = torch.randint(3, VOCABULARY, (int(lengths.sum()),), generator=torch.Generator().manual_seed(6))
    return Demonstrations(tokens, lengths * 0 + 1, lengths - 1)


def comparisons() -> Comparisons:
    generator = torch.Generator().manual_seed(4)
    counts, answers = torch.tensor([4, 5, 3, 6, 2, 7, 3]), torch.tensor([2, 3, 2])
    tokens = torch.randint(3, VOCABULARY, (int(counts.sum()),), generator=generator)
    prompts, ranks = torch.tensor([2, 2, 1, 1, 1, 1, 1]), torch.tensor([1, 2, 2, 1, 3, 1, 2])
    return Comparisons(tokens, counts, prompts, ranks, answers, torch.tensor([9, 11, 10]))


def work(rank: int, folder: str, case: dict, device_name: str = "cpu") -> None:
    """One rank: trains an actor, a critic and a reward model, and writes down what it saw."""
    from rlhf_dist.algo.losses import PolicyObjective
    from rlhf_dist.config.schema import ModelConfig, OptimConfig, TrainedRoleConfig
    from rlhf_dist.device import DEVICES
    from rlhf_dist.engine.policy import ActorEngine
    from rlhf_dist.engine.scalar import CriticEngine, TrainedRewardEngine

    device, stage, dtype = DEVICES[device_name], case["stage"], case["dtype"]
    role = TrainedRoleConfig(
        num_workers=case["world"],
        model=ModelConfig(path=f"{folder}/model", dtype=dtype),
        zero_stage=stage,
        micro_batch_tokens=case["budget"],
        train_engine=case["engine"],
        optim=OptimConfig(lr=case["lr"], eps=case["eps"], grad_clip=0.5),
        ema_decay=0.6,
    )
    torch.manual_seed(0)
    objective = PolicyObjective(0.2, 0.3, "token-mean", horizon=1, kl_coef=0.1, kl_estimator="k2", pretrain_coef=0.5)
    batch, plan = policy_batch(), [torch.tensor([0, 1, 2]), torch.tensor([4]), torch.tensor([3, 1, 4, 0, 2])]
    actor, critic = ActorEngine(role, device, 0.8, 10), CriticEngine(role, device, 10)
    reward = TrainedRewardEngine(role, device, 10)
    if stage == 3 and dtype == "float32":  # weights that are float32 have no second copy as masters
        sharded = actor.runner.optimizer
        for flat, master in zip(
            sharded.fp16_partitioned_groups_flat, sharded.fp32_partitioned_groups_flat, strict=True
        ):
            assert flat.data_ptr() == master.data_ptr()
    assert type(actor.runner).__name__ == {"torch": "TorchTrainEngine", "zero": "ZeroTrainEngine"}[case["engine"]]
    first = actor.logprobs(batch.sequences)
    mine = actor.runner.my_rows(batch.sequences.lengths).tolist()
    seen = {
        "before": by_row(mine, first),
        "actor": vars(actor.train(batch, plan, objective, text())),
        "critic": vars(critic.train(value_batch(), plan, 0.2)),
        "reward": [vars(reward.fit(comparisons())) for _ in range(2)],
        "sft": vars(actor.fit(Demonstrations(batch.sequences.tokens, PROMPTS, RESPONSES), text())),
    }
    preferences = PreferenceBatch(comparisons(), torch.linspace(-9.0, -5.0, 7))
    seen["dpo"] = [vars(actor.dpo_step(preferences, beta=0.3, label_smoothing=0.1)) for _ in range(2)]

    def logprobs() -> dict[int, list[float]]:
        return by_row(mine, actor.logprobs(batch.sequences))

    seen["logprobs"] = logprobs()
    with actor.runner.average.applied():
        seen["averaged"] = logprobs()
    assert logprobs() == seen["logprobs"]  # the weights themselves are back
    actor.save_checkpoint(Path(folder, "checkpoint"))
    again = ActorEngine(role, device, 0.8, 10)
    again.load_checkpoint(Path(folder, "checkpoint"))
    for ours, theirs in zip(again.runner.average.parts(), actor.runner.average.parts(), strict=True):
        assert ours[:2] == theirs[:2] and torch.equal(ours[2], theirs[2])
    scores = reward.sequence_scores(text())
    reward.shift(0.75)
    torch.testing.assert_close(reward.sequence_scores(text()), scores + 0.75)
    Path(folder, f"rank{rank}.json").write_text(json.dumps(seen))
    actor.save_model(Path(folder, "saved"), f"{folder}/model")


def by_row(rows: list[int], values: torch.Tensor) -> dict[int, list[float]]:
    """The values of each response token, by the row of the batch."""
    parts = torch.split(values, RESPONSES[rows].tolist())
    return {row: part.tolist() for row, part in zip(rows, parts, strict=True)}


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        world: number of ranks.
        stage: of ZeRO.
        budget: tokens of a micro-batch.
        dtype: of the weights.
        lr, eps: of Adam.
        engine: the role's train_engine.
    """

    world: int
    stage: int
    budget: int
    dtype: str = "float32"
    lr: float = 1e-2
    eps: float = 1e-8
    engine: str = "zero"


# One rank, plain torch, everything in one micro-batch: what all others are compared with.
ALONE = Case(1, 0, 10_000, engine="torch")
# With so large an epsilon Adam's update is a multiple of the gradient, and a small error of the gradient is a small one
# of the weights. With a usual one the update is the gradient's sign, nearly: where the gradient is close to zero, the
# rounding of the processor at hand decides it, and in bfloat16 that moved single log-probabilities by 0.7.
SMOOTH = replace(ALONE, lr=0.1, eps=0.1)
BFLOAT16 = [
    replace(SMOOTH, world=world, stage=stage, budget=30, dtype="bfloat16", engine=engine)
    for world, stage, engine in ((1, 0, "torch"), (1, 0, "zero"), (2, 3, "zero"))
]


def train(folder: Path, ranks: Ranks, case: Case, device: str = "cpu") -> dict:
    """Runs all ranks; gives rank 0's figures, with the log-probabilities of all rows."""
    write_model(folder / "model")
    ranks.run(case.world, str(folder), vars(case), device)
    seen = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(case.world)]
    for key in ("before", "logprobs", "averaged"):
        seen[0][key] = {row: values for one in seen for row, values in one[key].items()}
    return seen[0]


def numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers(value[key])]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    assert isinstance(value, int | float)
    return [float(value)]


def check_bfloat16(seen: dict, wanted: dict) -> None:
    """Checks a training in bfloat16 against the same one in float32, both with the optimizer of SMOOTH.

    The log-probabilities may differ by what rounding does to them, and must have moved as those of float32 did: by the
    norm of all of them together, as any single one may be far off.
    """
    for role in ("actor", "critic"):
        for name in ("loss", "grad_norm", "lr"):
            assert seen[role][name] == pytest.approx(wanted[role][name], rel=0.05, abs=0.02), (role, name)
    before, after = torch.tensor(numbers(wanted["before"])), torch.tensor(numbers(wanted["logprobs"]))
    moved = torch.tensor(numbers(seen["logprobs"])) - torch.tensor(numbers(seen["before"]))
    assert (after - before).norm() > 1.0  # nats: else there is nothing to compare
    assert (moved - (after - before)).norm() < 0.05 * (after - before).norm()


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    ranks = Ranks("tests.engine.test_zero:work")
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def alone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def alone(alone_folder: Path, ranks: Ranks) -> dict:
    return train(alone_folder, ranks, ALONE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case(1, 0, 12, engine="torch"),
        *(Case(1, stage, 12) for stage in range(4)),
        *(Case(2, stage, 30 if stage == 1 else 12) for stage in range(4)),
        Case(3, 3, 30),
    ],
    ids=lambda case: f"{case.engine}-{case.world}-{case.stage}",
)
def test_engines_workers_stages_and_micro_batches_do_not_change_losses_gradients_or_weights(
    tmp_path: Path, ranks: Ranks, alone: dict, case: Case
) -> None:
    seen = train(tmp_path, ranks, case)
    assert numbers(seen) == pytest.approx(numbers(alone), rel=1e-4, abs=2e-5)


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> dict:
    return train(tmp_path_factory.mktemp("smooth"), ranks, SMOOTH)


@pytest.mark.slow
@pytest.mark.parametrize("case", BFLOAT16, ids=lambda case: f"{case.engine}-{case.world}-{case.stage}")
def test_bfloat16_learns_what_float32_does_within_its_rounding(
    tmp_path: Path, ranks: Ranks, smooth: dict, case: Case
) -> None:
    check_bfloat16(train(tmp_path, ranks, case), smooth)


@pytest.mark.slow
def test_a_model_trained_under_zero_3_is_saved_whole(tmp_path: Path, ranks: Ranks) -> None:
    from transformers import AutoModelForCausalLM

    seen = train(tmp_path, ranks, Case(2, 3, 30))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    batch = sequences()
    row = batch.tokens[: int(batch.lengths[0])]
    distribution = (model(row[None]).logits[0] / 0.8).log_softmax(-1)[int(PROMPTS[0]) - 1 : -1]
    wanted = distribution.gather(1, row[int(PROMPTS[0]) :, None])[:, 0]
    assert seen["logprobs"]["0"] == pytest.approx(wanted.tolist(), abs=1e-4)


@pytest.mark.slow
def test_the_average_of_the_weights_is_saved_beside_the_model(alone: dict, alone_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(alone_folder / "saved_ema", dtype=torch.float32)
    batch = sequences()
    row = batch.tokens[: int(batch.lengths[0])]
    distribution = (model(row[None]).logits[0] / 0.8).log_softmax(-1)[int(PROMPTS[0]) - 1 : -1]
    wanted = distribution.gather(1, row[int(PROMPTS[0]) :, None])[:, 0]
    assert alone["averaged"]["0"] == pytest.approx(wanted.tolist(), abs=1e-4)
    assert alone["averaged"]["0"] != pytest.approx(alone["logprobs"]["0"], abs=1e-3)
