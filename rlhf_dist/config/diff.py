"""Which keys may change when a run goes on, because the result does not depend on them.

What stands in none of the lists matters: a new key does until somebody puts it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

#: Where a run lives, what it says of itself, when it saves and looks at itself, and who looks.
_OF_THE_RUN = (
    "run.name",
    "run.dir",
    "run.resume",
    "run.resume_changed",
    "run.overwrite",
    "run.save_every",
    "run.save_every_minutes",
    "run.keep_checkpoints",
    "run.keep_best",
    "run.eval_every",
    "run.samples_every",
    "run.samples_count",
    "run.tensorboard",
    "run.wandb",
    "run.mlflow",
    "run.trackio",
    "run.project",
    "judge",
)

#: How the work is laid out: neither a gradient nor a sample depends on it (docs/correctness.md).
_OF_THE_LAYOUT = (
    "cluster.*",
    "placement",
    "*.num_workers",
    "*.zero_stage",
    "*.train_engine",
    "*.micro_batch_tokens",
    "*.micro_batch_sequences",
    "*.layout",
    "*.cpus_per_worker",
    "*.threads_per_worker",
    "*.strategy",
    "*.model.attention",
    "*.model.gradient_checkpointing",
    "*.model.trust_remote_code",
    "rollout.num_engines",
    "rollout.tensor_parallel",
    "rollout.memory_gib",
    "rollout.memory_utilization",
    "rollout.block_size",
    "rollout.enforce_eager",
    "rollout.max_batch",
    "weights.*",
    "*.function_timeout_s",
    "*.endpoint_timeout_s",
    "*.endpoint_retries",
    "*.endpoint_token_env",
)

#: What is compared by content, wherever it lies: models, and the rows that the jobs read with these keys.
_BY_CONTENT = ("*.model.path", "data.*", "pretrain.*")

#: How long a run is: it may get longer, but a learning rate that falls towards the end falls otherwise then.
_LENGTH = (
    "ppo.steps",
    "sft.epochs",
    "sft.max_steps",
    "training.epochs",
    "training.max_steps",
    "dpo.epochs",
    "dpo.max_steps",
)

FREE = _OF_THE_RUN + _OF_THE_LAYOUT + _BY_CONTENT
_TO_THE_END = "cosine"


def comparable(values: Mapping[str, object]) -> dict[str, object]:
    """The values, by dotted key, without those that never change the result. A checkpoint keeps them."""
    return _without(FREE, values)


def shaping(values: Mapping[str, object]) -> dict[str, object]:
    """The values, by dotted key, that must be the same for a run to go on: those that shape its result.

    The number of steps is one of them only where the learning rate falls towards the last step.
    """
    falls = any(name.endswith(".optim.schedule") and value == _TO_THE_END for name, value in values.items())
    return _without(FREE if falls else FREE + _LENGTH, values)


def is_by_content(name: str) -> bool:
    """Whether the value of a key only says where something lies: the result depends on what is there."""
    return any(fnmatchcase(name, key) for key in _BY_CONTENT)


def _without(patterns: tuple[str, ...], values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if not any(fnmatchcase(name, key) for key in patterns)}


def flat(node: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """The leaves of nested mappings, as of a config.yaml, by dotted name; ``prefix`` stands before each."""
    found: dict[str, object] = {}
    for name, child in node.items():
        found |= flat(child, f"{prefix}{name}.") if isinstance(child, dict) else {prefix + name: child}
    return found
