"""The contract of docs/correctness.md: whatever the way to it, a batch has one gradient, and a step one result.

The yardstick knows nothing of this package's engines: plain transformers on each sequence alone, and losses written out
token by token. Against it stand 1 to 4 real gloo ranks under DeepSpeed ZeRO 0 to 3, with micro-batches by count and by
tokens, padded on either side and packed, shards of any size (down to none), gradient checkpointing, and any order of
the sequences.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_dist.algo.losses import PolicyObjective
from rlhf_dist.types import Demonstrations, PolicyBatch, Sequences, ValueBatch
from tests.processes import process
from tests.tiny import VOCABULARY, write_model, write_reward_model

TOLERANCE = 1e-5  # relative, of the norm of all gradients (of all weights) together, in float32
TEMPERATURE = 0.8
OBJECTIVE = PolicyObjective(0.2, 0.3, "token-mean", horizon=1, kl_coef=0.1, kl_estimator="k2", pretrain_coef=0.5)
VALUE_CLIP = 0.2
LEARNING_RATE, EPSILON = 1e-3, 1e-3  # an epsilon of Adam's that keeps tiny gradients from deciding a sign
PROMPTS, RESPONSES = [3, 1, 2, 7, 1, 4, 2], [4, 1, 6, 2, 11, 1, 5]


@dataclass(frozen=True)
class Way:
    """One way to a gradient.

    Attributes:
        stage: of ZeRO.
        tokens, sequences: most of a micro-batch; 0 sequences: no limit.
        layout: of a micro-batch.
        checkpointing: of activations.
        rows: of the batch, in this order.
        seed: shuffles them.
    """

    stage: int = 0
    tokens: int = 10_000
    sequences: int = 0
    layout: str = "right"
    checkpointing: bool = False
    rows: int = 7
    seed: int = 0


def batch_of(prompts: list[int], responses: list[int], seed: int = 3) -> tuple[PolicyBatch, ValueBatch]:
    """Random tokens, log-probabilities, advantages, values and returns; about a fifth of the tokens are masked."""
    generator = torch.Generator().manual_seed(seed)
    p, r = torch.tensor(prompts), torch.tensor(responses)
    size, rows = sum(responses), torch.arange(len(prompts))
    tokens = torch.randint(3, VOCABULARY, (sum(prompts) + size,), generator=generator)
    mask = torch.rand(size, generator=generator) < 0.8
    mask[0] = True
    sequences = Sequences(tokens, p, r, torch.zeros(size), mask, rows > 1, rows * 0, rows, rows)
    old, reference = -5.0 + torch.randn(2, size, generator=generator)
    advantages, values, returns = torch.randn(3, size, generator=generator)
    policy = PolicyBatch(sequences, old, reference, advantages, mask.float())
    return policy, ValueBatch(sequences, values, returns)


def text() -> Demonstrations:
    lengths = torch.tensor([3, 8, 5])
    tokens = torch.randint(3, VOCABULARY, (16,), generator=torch.Generator().manual_seed(6))
    return Demonstrations(tokens, lengths * 0 + 1, lengths - 1)


# --- the yardstick ------------------------------------------------------------------------------------------------


def plain_logprobs(lm: Any, row: Tensor, prompt: int, temperature: float) -> Tensor:
    distribution = (lm(row[None]).logits[0] / temperature).log_softmax(-1)[prompt - 1 : -1]
    return distribution.gather(1, row[prompt:, None])[:, 0]


def plain_policy_loss(lm: Any, batch: PolicyBatch) -> Tensor:
    """PPO's clipped surrogate with a k2 penalty, and the pretraining loss, one sequence at a time."""
    total, count, start = torch.zeros(()), float(batch.weights.sum()), 0
    sequences = batch.sequences
    rows = torch.split(sequences.tokens, sequences.lengths.tolist())
    for row, prompt in zip(rows, sequences.prompt_lengths.tolist(), strict=True):
        for logprob in plain_logprobs(lm, row, prompt, TEMPERATURE):
            ratio = torch.exp(logprob - batch.logprobs[start])
            advantage = batch.advantages[start]
            clipped = ratio.clamp(1 - OBJECTIVE.clip_low, 1 + OBJECTIVE.clip_high)
            kl = 0.5 * (logprob - batch.ref_logprobs[start]) ** 2
            loss = -torch.minimum(ratio * advantage, clipped * advantage) + OBJECTIVE.kl_coef * kl
            total = total + batch.weights[start] * loss / count
            start += 1
    pieces = torch.split(text().tokens, text().lengths.tolist())
    learned = sum(len(piece) - 1 for piece in pieces)
    return total - OBJECTIVE.pretrain_coef / learned * sum(plain_logprobs(lm, piece, 1, 1.0).sum() for piece in pieces)


def plain_value_loss(classifier: Any, batch: ValueBatch) -> Tensor:
    """Half the larger of the plain and the clipped squared error, one sequence at a time."""
    total, start = torch.zeros(()), 0
    sequences = batch.sequences
    rows = torch.split(sequences.tokens, sequences.lengths.tolist())
    for row, prompt in zip(rows, sequences.prompt_lengths.tolist(), strict=True):
        states = classifier.model(row[None]).last_hidden_state[0]
        for value in classifier.score(states)[prompt - 1 : -1, 0]:
            old, wanted = batch.values[start], batch.returns[start]
            near = old + (value - old).clamp(-VALUE_CLIP, VALUE_CLIP)
            loss = 0.5 * torch.maximum((value - wanted) ** 2, (near - wanted) ** 2)
            total = total + loss * sequences.loss_mask[start]
            start += 1
    return total / sequences.loss_mask.sum()


def plain(folder: Path, policy: PolicyBatch, value: ValueBatch) -> dict[str, dict[str, Tensor]]:
    """Gradients and, after one AdamW step, weights of plain transformers models: by role and parameter."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    lm = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    critic = AutoModelForSequenceClassification.from_pretrained(folder / "critic", dtype=torch.float32)
    found = {}
    for name, model, loss in (
        ("actor", lm, plain_policy_loss(lm, policy)),
        ("critic", critic, plain_value_loss(critic, value)),
    ):
        loss.backward()
        gradients = {key: p.grad.clone() for key, p in model.named_parameters()}
        torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), eps=EPSILON, weight_decay=0).step()
        weights = {key: p.detach().clone() for key, p in model.named_parameters()}
        found |= {f"{name}/gradient": gradients, f"{name}/weights": weights}
    return found


# --- the ways -----------------------------------------------------------------------------------------------------


def taken(folder: Path, way: Way, policy: PolicyBatch, value: ValueBatch) -> dict[str, dict[str, Tensor]]:
    """The same as :func:`plain`, by the engines. All ranks call it."""
    from rlhf_dist.config.schema import ModelConfig, OptimConfig, TrainedRoleConfig
    from rlhf_dist.device import CPU
    from rlhf_dist.engine.policy import ActorEngine
    from rlhf_dist.engine.scalar import CriticEngine
    from rlhf_dist.weights.source import WeightSource

    found = {}
    rows = torch.arange(len(policy))
    for name, engine_class, extra in (("actor", ActorEngine, (TEMPERATURE, 10)), ("critic", CriticEngine, (10,))):
        model = ModelConfig(
            path=str(folder / ("model" if name == "actor" else "critic")), gradient_checkpointing=way.checkpointing
        )
        role = TrainedRoleConfig(
            model=model,
            num_workers=dist.get_world_size(),
            zero_stage=way.stage,
            micro_batch_tokens=way.tokens,
            micro_batch_sequences=way.sequences,
            layout=way.layout,
            optim=OptimConfig(lr=LEARNING_RATE, eps=EPSILON, grad_clip=0.0),
        )
        engine: Any = engine_class(role, CPU, *extra)
        recorded = record_gradient(engine.runner)
        if name == "actor":
            engine.train(policy, [rows], OBJECTIVE, text())
            whole = engine.policy.lm
        else:
            engine.train(value, [rows], VALUE_CLIP)
            whole = engine.model.classifier
        gradients = {key.partition(".")[2]: value for key, value in recorded.items()}
        found |= {
            f"{name}/gradient": gradients,
            f"{name}/weights": dict(WeightSource(whole, 2**20, engine.runner.sharding)),
        }
    return found


def record_gradient(engine: Any) -> dict[str, Tensor]:
    """Filled, at each step of the engine, with the gradient that its optimizer is about to use."""
    found: dict[str, Tensor] = {}
    update = engine._update

    def record_and_update() -> float:
        import deepspeed.utils

        read = deepspeed.utils.safe_get_full_grad if engine.role.zero_stage else lambda p: p.grad
        found.update({name: read(p).detach().clone() for name, p in engine.model.named_parameters()})
        return update()

    engine._update = record_and_update
    return found


def error(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Norm of the difference over the norm, of all tensors together."""
    assert got.keys() == wanted.keys()
    difference = sum(float((got[key].double() - wanted[key].double()).square().sum()) for key in wanted)
    size = sum(float(tensor.double().square().sum()) for tensor in wanted.values())
    return float((difference / max(size, 1e-30)) ** 0.5)  # clipping may leave no gradient at all


def ways(world: int) -> list[Way]:
    """For each ZeRO stage a few ways, drawn so that over all of them every value meets every other one."""
    rng = random.Random(world)
    layouts = itertools.cycle(("right", "left", "packed"))
    sizes = itertools.cycle(((10_000, 0), (14, 0), (10_000, 1), (30, 2)))
    found = []
    for stage, rows in itertools.product(range(4), (7, 2, 7)):
        tokens, sequences = next(sizes)
        found.append(Way(stage, tokens, sequences, next(layouts), rng.random() < 0.5, rows, rng.randrange(1000)))
    return found


def rank_of_world(rank: int, world: int, port: int, folder: str) -> None:
    """One rank: takes every way, and (the first one) writes down how far each ends from the yardstick."""
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0"
    )
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    policy, value = batch_of(PROMPTS, RESPONSES)
    results = []
    for way in ways(world):
        order = random.Random(way.seed).sample(range(way.rows), way.rows)
        mine = taken(Path(folder), way, policy.select(order), value.select(order))
        if rank == 0:
            wanted = plain(Path(folder), policy.select(range(way.rows)), value.select(range(way.rows)))
            results.append({"way": asdict(way), "errors": {key: error(mine[key], wanted[key]) for key in wanted}})
    if rank == 0:
        Path(folder, f"errors-{world}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, and a critic with a head that is not zero."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "model")
    write_reward_model(folder / "critic", folder / "model")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_gradients_and_weights_do_not_depend_on_the_way_to_them(models: Path, world: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [process(rank_of_world, rank, world, port, str(models)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(280)
        assert rank.exitcode == 0
    results = json.loads((models / f"errors-{world}.json").read_text())
    assert len(results) == len(ways(world))
    worst = {key: max(result["errors"][key] for result in results) for key in results[0]["errors"]}
    print(f"data-parallel {world}: largest relative errors {worst}")
    wrong = [result for result in results if max(result["errors"].values()) > TOLERANCE]
    assert not wrong, wrong


def test_the_ways_cover_every_value() -> None:
    every = [way for world in (1, 2, 3, 4) for way in ways(world)]
    assert {way.stage for way in every} == {0, 1, 2, 3}
    assert {(way.layout, way.checkpointing) for way in every} == set(
        itertools.product(("right", "left", "packed"), (False, True))
    )
    assert {(way.stage, way.layout) for way in every} == set(itertools.product(range(4), ("right", "left", "packed")))
    assert {way.rows for way in ways(4)} == {2, 7}  # with 2 rows some of the 4 ranks have none


sizes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=5)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes,
    st.integers(0, 2**31 - 1),
    st.sampled_from(["right", "left", "packed"]),
    st.integers(2, 40),
    st.integers(0, 3),
    st.booleans(),
)
def test_any_batch_cut_up_in_any_way_has_the_gradient_of_plain_transformers(
    models: Path,
    alone: None,
    shape: list[tuple[int, int]],
    seed: int,
    layout: str,
    tokens: int,
    sequences: int,
    checkpointing: bool,
) -> None:
    policy, value = batch_of([p for p, _ in shape], [r for _, r in shape], seed)
    wanted = plain(models, policy, value)
    got = taken(models, Way(0, tokens, sequences, layout, checkpointing), policy, value)
    for key, tensors in wanted.items():
        assert error(got[key], tensors) < TOLERANCE, key
