"""What each key by itself may be: ranges and choices, section by section. Every failure is a UserError of one line."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable
from typing import Any

from rlhf_dist import device
from rlhf_dist.config.algorithms import (
    ADVANTAGE_ESTIMATORS,
    AGGREGATIONS,
    CORRECTIONS,
    KL_ESTIMATORS,
    KL_LOSS_ESTIMATORS,
    LAYOUTS,
)
from rlhf_dist.config.did_you_mean import suggest
from rlhf_dist.config.parsing import port_range
from rlhf_dist.config.schema import (
    ClusterConfig,
    ComparisonDataConfig,
    DemonstrationDataConfig,
    DPOTrainingConfig,
    FrozenRoleConfig,
    ModelConfig,
    ModelRoleConfig,
    OptimConfig,
    PPOAlgoConfig,
    RewardSourceConfig,
    RewardTrainingConfig,
    RolloutConfig,
    RunConfig,
    SFTTrainingConfig,
    TextDataConfig,
    TrainedRoleConfig,
    WeightsConfig,
    WorkerConfig,
)
from rlhf_dist.config.secrets import check_environment, environment
from rlhf_dist.errors import UserError

DTYPES = ("auto", "float32", "bfloat16")
SCHEDULES = ("constant", "cosine")
KL_CONTROLLERS = ("fixed", "adaptive")
BACKENDS = ("vllm", "hf")
REWARD_KINDS = ("outcome", "process")
STRATEGIES = ("pack", "spread", "strict_pack", "strict_spread")
TRANSPORTS = ("auto", "collective", "shared", "host")
TRAIN_ENGINES = ("auto", "torch", "zero")
KL_PLACES = {"reward": KL_ESTIMATORS, "loss": KL_LOSS_ESTIMATORS}  # with the estimators that make sense there

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def value_of(config: object, name: str) -> Any:
    """The value of a dotted key."""
    return operator.attrgetter(name)(config)


def check_count(name: str, value: int, least: int = 1) -> None:
    """Passes for an integer of at least ``least``."""
    if value < least:
        raise UserError(f"{name}={value}: expected {least} or more")


def check_run(run: RunConfig) -> None:
    """The section `run`; whether its directory may be used is another question."""
    if _RUN_NAME.fullmatch(run.name) is None:
        raise UserError(f"run.name={run.name}: expected letters, digits, dots, dashes and underscores only")
    _choice("run.device", run.device, ("auto", *device.DEVICES))
    for key in ("seed", "save_every", "eval_every", "samples_every"):
        check_count(f"run.{key}", value_of(run, key), 0)
    check_count("run.keep_checkpoints", run.keep_checkpoints)
    check_count("run.samples_count", run.samples_count)
    _not_negative("run.save_every_minutes", run.save_every_minutes)
    if run.keep_best is not None and run.keep_best.lstrip("-").startswith("eval/") and not run.eval_every:
        raise UserError(f"run.keep_best={run.keep_best}: there are no evaluations on the way: set run.eval_every")
    _choice("run.resume", run.resume, ("false", "true", "auto"))
    if run.resume != "false" and run.overwrite:
        raise UserError(
            f"run.resume={run.resume} and run.overwrite=true contradict each other: set one of them to false"
        )


def check_cluster(cluster: ClusterConfig, here: bool) -> None:
    """The section `cluster`; with ``here`` also the variables that it takes from this process' environment."""
    for key in ("placement_timeout_s", "start_timeout_s", "call_timeout_s", "object_store_gib"):
        _positive(f"cluster.{key}", value_of(cluster, key))
    if cluster.collective_timeout_s is not None:
        _positive("cluster.collective_timeout_s", cluster.collective_timeout_s)
    port_range(cluster.ports)
    check_environment(cluster.env)
    if here:
        environment(cluster.env)


def check_trained(role: str, group: TrainedRoleConfig) -> None:
    """A role that learns, under the name ``role``."""
    _check_role(role, group)
    _choice(f"{role}.zero_stage", group.zero_stage, (0, 1, 2, 3))
    _choice(f"{role}.train_engine", group.train_engine, TRAIN_ENGINES)
    if group.train_engine == "torch" and group.num_workers > 1:
        raise UserError(
            f"{role}.train_engine=torch trains on one worker, and {role}.num_workers is {group.num_workers}: "
            f"set {role}.train_engine to auto"
        )
    _check_optim(f"{role}.optim", group.optim)
    check_count(f"{role}.lora.rank", group.lora.rank, 0)
    check_count(f"{role}.lora.alpha", group.lora.alpha)
    if not 0 <= group.lora.dropout < 1:
        raise UserError(f"{role}.lora.dropout={group.lora.dropout}: expected 0 or more, and below 1")
    if not 0 <= group.ema_decay < 1:
        raise UserError(f"{role}.ema_decay={group.ema_decay}: expected 0 or more, and below 1")


def check_frozen(role: str, group: FrozenRoleConfig) -> None:
    """A role that only runs forward, under the name ``role``."""
    _check_role(role, group)
    _choice(f"{role}.zero_stage", group.zero_stage, (0, 3))
    if isinstance(group, RewardSourceConfig):
        _positive(f"{role}.function_timeout_s", group.function_timeout_s)
        _positive(f"{role}.endpoint_timeout_s", group.endpoint_timeout_s)
        check_count(f"{role}.endpoint_retries", group.endpoint_retries, 0)
        if not math.isfinite(group.weight):
            raise UserError(f"{role}.weight={group.weight}: expected a number")
        _choice(f"{role}.kind", group.kind, REWARD_KINDS)
        _check_separator(f"{role}.step_separator", group.step_separator)


def check_rollout(rollout: RolloutConfig) -> None:
    """The section `rollout`."""
    _check_workers("rollout", rollout)
    _choice("rollout.backend", rollout.backend, BACKENDS)
    _choice("rollout.dtype", rollout.dtype, DTYPES)
    check_count("rollout.num_engines", rollout.num_engines)
    check_count("rollout.tensor_parallel", rollout.tensor_parallel)
    for key in (
        "max_response_tokens",
        "max_prompt_tokens",
        "samples_per_prompt",
        "block_size",
        "max_batch",
        "max_turns",
        "max_turn_tokens",
    ):
        check_count(f"rollout.{key}", value_of(rollout, key))
    _positive("rollout.temperature", rollout.temperature)
    _positive("rollout.top_p", rollout.top_p)
    _between("rollout.top_p", rollout.top_p, 0, 1)
    check_count("rollout.top_k", rollout.top_k, 0)
    _positive("rollout.memory_gib", rollout.memory_gib)
    if rollout.memory_utilization is not None:
        _positive("rollout.memory_utilization", rollout.memory_utilization)
        _between("rollout.memory_utilization", rollout.memory_utilization, 0, 1)


def check_weights(weights: WeightsConfig) -> None:
    """The section `weights`."""
    _choice("weights.transport", weights.transport, TRANSPORTS)
    check_count("weights.bucket_mb", weights.bucket_mb)
    check_count("weights.verify_every", weights.verify_every, 0)
    if weights.tolerance is not None:
        _positive("weights.tolerance", weights.tolerance)
    _positive("weights.timeout_s", weights.timeout_s)


def check_ppo(ppo: PPOAlgoConfig) -> None:
    """The section `ppo`."""
    for key in ("steps", "prompts_per_step", "minibatch_size", "epochs"):
        check_count(f"ppo.{key}", value_of(ppo, key))
    check_count("ppo.critic_warmup_steps", ppo.critic_warmup_steps, 0)
    _positive("ppo.clip", ppo.clip)
    _positive("ppo.function_timeout_s", ppo.function_timeout_s)
    if ppo.clip_high is not None:
        _positive("ppo.clip_high", ppo.clip_high)
    for key in ("value_clip", "missing_eos_penalty", "score_clip", "kl.coef", "pretrain_coef", "pretrain_per_sample"):
        _not_negative(f"ppo.{key}", value_of(ppo, key))
    if ":" not in ppo.advantage:
        _choice("ppo.advantage", ppo.advantage, (*ADVANTAGE_ESTIMATORS, '"package.module:function"'))
    _choice("ppo.aggregation", ppo.aggregation, AGGREGATIONS)
    _choice("ppo.rollout_correction", ppo.rollout_correction, CORRECTIONS)
    if not 1 < ppo.rollout_cap < math.inf:
        raise UserError(f"ppo.rollout_cap={ppo.rollout_cap}: expected a number above 1")
    _between("ppo.gamma", ppo.gamma, 0, 1)
    _between("ppo.lam", ppo.lam, 0, 1)
    _choice("ppo.kl.place", ppo.kl.place, KL_PLACES)
    _choice("ppo.kl.estimator", ppo.kl.estimator, KL_ESTIMATORS)
    if ppo.kl.estimator not in KL_PLACES[ppo.kl.place]:
        raise UserError(
            f"ppo.kl.estimator={ppo.kl.estimator} has a gradient of mean zero as a loss (ppo.kl.place=loss): "
            "use k2, whose gradient is the KL's, or k3"
        )
    _choice("ppo.kl.controller", ppo.kl.controller, KL_CONTROLLERS)
    _positive("ppo.kl.target", ppo.kl.target)
    check_count("ppo.kl.horizon", ppo.kl.horizon)


def check_supervised(section: str, training: SFTTrainingConfig | RewardTrainingConfig | DPOTrainingConfig) -> None:
    """The section `sft`, `training` or `dpo`."""
    _positive(f"{section}.epochs", training.epochs)
    check_count(f"{section}.max_steps", training.max_steps, 0)
    check_count(f"{section}.batch_size", training.batch_size)
    if isinstance(training, SFTTrainingConfig):
        _not_negative(f"{section}.pretrain_share", training.pretrain_share)
    if isinstance(training, DPOTrainingConfig):
        _positive(f"{section}.beta", training.beta)
        _between(f"{section}.label_smoothing", training.label_smoothing, 0, 0.5)


def check_examples(data: DemonstrationDataConfig | ComparisonDataConfig) -> None:
    """The section `data` of SFT and reward training. An example needs a token of prompt and one of answer."""
    check_count("data.eval_count", data.eval_count)
    check_count("data.max_tokens", data.max_tokens, 2)


def check_text(text: TextDataConfig) -> None:
    """The section `pretrain`."""
    check_count("pretrain.max_tokens", text.max_tokens, 2)
    check_count("pretrain.eval_count", text.eval_count)


def _check_role(role: str, group: ModelRoleConfig) -> None:
    check_count(f"{role}.num_workers", group.num_workers)
    _check_workers(role, group)
    _check_model(f"{role}.model", group.model)
    check_count(f"{role}.micro_batch_tokens", group.micro_batch_tokens)
    check_count(f"{role}.micro_batch_sequences", group.micro_batch_sequences, 0)
    _choice(f"{role}.layout", group.layout, ("auto", *LAYOUTS))


def _check_separator(name: str, separator: str) -> None:
    if not separator:
        raise UserError(f"{name} is empty: expected the text that ends a step")
    if "\\n" in separator:
        raise UserError(
            f"{name} holds a backslash and an n, where a line break is meant: write $'\\n' in a shell, "
            '"\\n" in a recipe'
        )


def _check_workers(role: str, group: WorkerConfig) -> None:
    if group.cpus_per_worker is not None:
        _not_negative(f"{role}.cpus_per_worker", group.cpus_per_worker)
    if group.threads_per_worker is not None:
        check_count(f"{role}.threads_per_worker", group.threads_per_worker)
    _choice(f"{role}.strategy", group.strategy, STRATEGIES)


def _check_model(name: str, model: ModelConfig) -> None:
    _choice(f"{name}.dtype", model.dtype, DTYPES)


def _check_optim(name: str, optim: OptimConfig) -> None:
    _positive(f"{name}.lr", optim.lr)
    _positive(f"{name}.eps", optim.eps)
    _not_negative(f"{name}.weight_decay", optim.weight_decay)
    _not_negative(f"{name}.grad_clip", optim.grad_clip)
    _choice(f"{name}.schedule", optim.schedule, SCHEDULES)
    check_count(f"{name}.warmup_steps", optim.warmup_steps, 0)
    _between(f"{name}.warmup_from", optim.warmup_from, 0, 1)
    _between(f"{name}.min_lr_ratio", optim.min_lr_ratio, 0, 1)
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        raise UserError(f"{name}.betas={optim.betas}: expected two numbers, each 0 or more and below 1")


def _choice(name: str, value: object, choices: Iterable[object]) -> None:
    allowed = [str(choice) for choice in choices]
    if str(value) not in allowed:
        raise UserError(f"{name}={value}: expected {', '.join(allowed)}{suggest(str(value), allowed)}")


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{name}={value}: expected a number above 0")


def _not_negative(name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise UserError(f"{name}={value}: expected 0 or more")


def _between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UserError(f"{name}={value}: expected a number from {least} to {most}")
