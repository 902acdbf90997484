"""Sections of what samples responses, and of how it gets the actor's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from rlhf_dist.config.schema.define import FUNCTION, key
from rlhf_dist.config.schema.roles import DTYPES, WorkerConfig


@dataclass
class RolloutConfig(WorkerConfig):
    """The engines that sample, and how they do."""

    backend: str = key("vllm", "inference engine", choices={"vllm": "", "hf": "plain transformers"})
    num_engines: int = key(
        1, "number of engines; each has tensor_parallel devices, or shares the cores of a CPU machine", least=1
    )
    tensor_parallel: int = key(1, "devices that each engine splits its model over (tensor parallelism)", least=1)
    dtype: str = key("auto", "data type of the computation", choices=DTYPES)
    temperature: float = key(
        1.0, "sampling temperature; the actor's log-probabilities are taken at the same temperature", above=0
    )
    top_p: float = key(
        1.0, "sample from the most likely tokens that together have this probability; 1: from all", above=0, most=1
    )
    top_k: int = key(0, "sample from this many most likely tokens; 0: from all", least=0)
    max_response_tokens: int = key(256, "length at which a response is cut off", least=1)
    max_prompt_tokens: int = key(256, "longest prompt; a longer one is an error", least=1)
    samples_per_prompt: int = key(1, "responses sampled per prompt", least=1)
    staleness: int = key(
        0,
        "sample ahead, while the actor trains: batches by weights that lack up to so many steps; 0: each batch by the "
        "newest weights",
        least=0,
    )
    environment: Optional[str] = key(
        None, "function that replies to each turn of a response (docs/algorithms.md)", form=FUNCTION
    )
    max_turns: int = key(4, "most turns of a response, with an environment", least=1)
    max_turn_tokens: int = key(128, "most tokens of a turn, with an environment", least=1)
    memory_gib: float = key(
        1.0, "GiB of an engine's KV cache on CPU; less is taken where the job's sequences cannot fill it", above=0
    )
    memory_utilization: Optional[float] = key(
        None,
        "share of an accelerator's memory that an engine may take; null: 0.9, or less where roles share the device",
        above=0,
        most=1,
    )
    block_size: int = key(32, "tokens per block of vLLM's KV cache; on CPU a multiple of 32", least=1)
    enforce_eager: Optional[bool] = key(
        None, "run vLLM without compiled graphs; null: true on CPU, false on accelerators"
    )
    max_batch: int = key(256, "most sequences that an engine generates at once", least=1)
    seed_per_request: bool = key(
        True,
        "seed each sample by itself, so that runs are repeatable; false: seed only the engine, which is faster on "
        "Ascend, but not repeatable",
    )


@dataclass
class WeightsConfig:
    """How the actor's weights reach the engines, and how that is checked."""

    transport: str = key(
        "auto",
        "way of the weights from actor to engines (docs/placement.md)",
        choices={
            "auto": "shared if both have the same devices, host if they share some, else collective",
            "collective": "broadcast from device to device",
            "shared": "memory that two processes share",
            "host": "broadcast through host memory",
        },
    )
    bucket_mb: int = key(64, "MiB of weights that are sent at once", least=1)
    verify_every: int = key(
        50,
        "steps between checks of the engines' log-probabilities against the actor's; 0: only after the first transfer "
        "and at evaluations, when they are always checked",
        least=0,
    )
    tolerance: Optional[float] = key(
        None,
        "largest mean difference of a sequence's log-probabilities that passes this check, in nats; null: 1e-3 in "
        "float32, 0.15 in bfloat16",
        above=0,
    )
    timeout_s: float = key(300.0, "seconds that one transfer may take", above=0)
