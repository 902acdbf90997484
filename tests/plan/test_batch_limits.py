"""What a job can reach bounds its plan: tokens of a micro-batch, sequences of an engine. And what processes take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_dist.config.resolve import train_engine_of, unsharded_alone
from rlhf_dist.config.schema import ModelConfig, PPOConfig, SFTConfig, TrainedRoleConfig
from rlhf_dist.device import CPU, CUDA
from rlhf_dist.jobs.engines import with_reachable_cache
from rlhf_dist.plan.batch_limits import BatchLimits, batch_limits
from rlhf_dist.plan.check import make_plan
from rlhf_dist.plan.facts import policy_facts
from rlhf_dist.plan.footprint import trained_footprint
from rlhf_dist.plan.job import load_job
from rlhf_dist.plan.loads import Hardware
from rlhf_dist.plan.process import DRIVER_BYTES, ENGINE_BYTES, RAY_BYTES, TEXT_REWARD_BYTES, TRAINER_BYTES, ZERO_BYTES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("settings", "rows", "tokens"),
    [
        ({}, None, 4032),  # 42 sequences of 96 tokens fit into 4096 tokens, not 42 and two thirds
        ({}, 4, 4 * 96),
        ({"num_workers": 2}, 4, 2 * 96),
        ({"num_workers": 3}, 4, 2 * 96),  # one worker has two of the four
        ({"num_workers": 8}, 4, 96),
        ({"micro_batch_sequences": 3}, 100, 3 * 96),
        ({"micro_batch_tokens": 50}, 100, 96),  # a micro-batch holds at least one sequence
    ],
)
def test_a_micro_batch_is_no_larger_than_the_batch(settings: dict[str, int], rows: int | None, tokens: int) -> None:
    assert BatchLimits(96).micro_batch_tokens(TrainedRoleConfig(**settings), rows) == tokens


def ppo(**settings: int) -> PPOConfig:
    config = PPOConfig()
    config.rollout.max_prompt_tokens, config.rollout.max_response_tokens = 64, 32
    config.ppo.prompts_per_step, config.ppo.minibatch_size, config.ppo.epochs = 6, 3, 2
    config.rollout.samples_per_prompt, config.rollout.num_engines, config.data.eval_count = 2, 5, 10
    config.ppo.use_critic = True
    for key, value in settings.items():
        setattr(config.rollout if hasattr(config.rollout, key) else config.ppo, key, value)
    return config


def test_the_reach_of_a_job_is_that_of_its_batches() -> None:
    # 12 samples in minibatches of 3; 12 is more than the 10 of an evaluation; 3 of 12 to each of 5 engines.
    assert batch_limits(ppo()) == BatchLimits(
        96, train_sequences=3, score_sequences=12, engine_sequences=3, response_tokens=32
    )
    assert batch_limits(ppo(max_batch=2)).engine_sequences == 2
    # 12 pretraining examples over the 8 optimizer steps of 2 epochs: 2 more in each.
    assert batch_limits(ppo(pretrain_coef=1)).train_sequences == 5
    assert batch_limits(SFTConfig()).train_sequences == SFTConfig().sft.batch_size


def test_an_engines_cache_is_no_larger_than_its_sequences_can_fill() -> None:
    rollout = ppo().rollout
    needed = BatchLimits(100, engine_sequences=200).cache_bytes(rollout, 46_080)
    assert needed == int(200 * 128 * 46_080 * 1.1)  # whole blocks of 32 tokens
    assert (
        BatchLimits(100, engine_sequences=1).cache_bytes(rollout, 46_080) == 64 * 2**20
    )  # and never a handful of blocks


def test_only_float32_weights_of_a_single_worker_are_left_unsharded() -> None:
    def stage(**settings: object) -> int:
        role = TrainedRoleConfig(zero_stage=3)
        role.num_workers = int(settings.get("workers", 1))  # type: ignore[call-overload]
        role.model.dtype = str(settings.get("dtype", "auto"))
        changed = unsharded_alone(role, CUDA if settings.get("accelerator") else CPU)
        assert role.zero_stage == 3  # a copy
        return changed.zero_stage

    assert stage() == 0
    assert stage(workers=2) == 3
    assert stage(dtype="bfloat16") == 3
    assert stage(accelerator=True) == 3  # where auto is bfloat16
    assert stage(accelerator=True, dtype="float32") == 0


@pytest.mark.parametrize(
    "settings,engine",
    [
        ({}, "torch"),
        ({"train_engine": "zero"}, "zero"),
        ({"num_workers": 2}, "zero"),
        ({"dtype": "bfloat16"}, "zero"),
        ({"dtype": "bfloat16", "zero_stage": 3, "train_engine": "torch"}, "torch"),
    ],
)
def test_who_trains_is_known_to_the_plan(smollm2: str, settings: dict, engine: str) -> None:
    dtype = settings.pop("dtype", "float32")
    role = replace(TrainedRoleConfig(), model=ModelConfig(path=smollm2, dtype=dtype), **settings)
    role = unsharded_alone(role, CPU)
    assert train_engine_of(role, CPU) == engine
    assert engine == "zero" or role.zero_stage == 0
    facts = policy_facts(role.model, CPU.dtype(dtype))
    footprint = trained_footprint(facts, role, BatchLimits(100), CPU)
    assert footprint.process == TRAINER_BYTES + (ZERO_BYTES if engine == "zero" and role.zero_stage else 0)
    if engine == "torch":  # float32 gradients, two moments, and masters where the weights are not float32 themselves
        masters = 0 if dtype == "float32" else 1
        assert footprint.gradients + footprint.optimizer == 4 * facts.parameters * (3 + masters)


@pytest.fixture
def smollm2(architectures: dict[str, str]) -> str:
    return architectures["demo/smollm2"]


def test_the_plan_of_a_small_job_of_135m_by_hand(smollm2: str) -> None:
    """Two actor workers under ZeRO-3, critic, reference, a function as reward, two engines; 4 samples of 96 tokens."""
    job = load_job(
        [
            f"actor.model.path={smollm2}",
            "actor.num_workers=2",
            "actor.zero_stage=3",
            "critic.zero_stage=3",
            "rollout.num_engines=2",
            "ppo.prompts_per_step=4",
            "ppo.minibatch_size=4",
            "data.eval_count=4",
        ],
        ROOT / "configs/demo/smollm2.yaml",
    )
    plan = make_plan(job, CPU, Hardware(1, 0, None))
    model, head = 134_515_008 * 4, 49152 * 576 * 4
    actor, critic, engine = plan.footprints["actor"], plan.footprints["critic"], plan.footprints["rollout"]
    assert (actor.weights, actor.gradients, actor.optimizer) == (model // 2, model // 2, 2 * model // 2)
    assert critic.weights == model + 576 * 4  # a head of one row beside the embedding, which no head is tied to
    assert critic.optimizer == 2 * critic.weights
    assert engine.weights == model + head  # vLLM packs a second copy of the tied embedding for the head
    assert engine.cache == 64 * 2**20
    assert (actor.process, critic.process) == (TRAINER_BYTES + ZERO_BYTES, TRAINER_BYTES)
    assert engine.process == ENGINE_BYTES
    # 2 samples of 96 tokens on each actor worker, 1.34 MB kept for each token; nothing like the 4096 tokens allowed.
    assert 192 * 1.34e6 < actor.activations < 192 * 1.34e6 + 2 * head + 2 * 64 * 49152 * 4
    assert critic.resting == critic.total - critic.freed - critic.activations - critic.buffers - critic.fragmentation
    assert (actor.freed, critic.freed) == (0, critic.weights)  # ZeRO-3 keeps its gradients between steps
    arguments = job.rollout, job.actor.model, batch_limits(job)
    assert with_reachable_cache(*arguments, CPU).memory_gib == 64 / 1024  # as the engines are started
    assert with_reachable_cache(*arguments, CUDA) is job.rollout
    at_rest = 2 * actor.resting + critic.resting + plan.footprints["reference"].resting + 2 * engine.resting
    at_work = max(2 * (actor.total - actor.resting), critic.total - critic.resting)
    assert plan.loads[0].total == at_rest + at_work + TEXT_REWARD_BYTES + DRIVER_BYTES + RAY_BYTES
