"""What both rollout engines share: the seed of a sample, and the shape of what they return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_dist.errors import RunError
from rlhf_dist.types import Prompts, Sequences

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Response:
    """One sampled response.

    Attributes:
        tokens: token ids, at least one; the end-of-sequence token, where it was sampled, is the last.
        logprobs: nats, the sampling distribution's log-probability of each.
        finished: an end-of-sequence token was sampled.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float]
    finished: bool


def sample_seed(seed: int, sample: int) -> int:
    """The seed of one sample's generator, in [0, 2^63): it depends on the run's seed and the sample's id alone.

    The finalizer of SplitMix64 (Steele, Lea, Flood 2014) over both, so that neighbouring ids and seeds share nothing.
    """
    return _mix(_mix(seed & _MASK) ^ (sample & _MASK)) >> 1


def engine_seed(seed: int, engine: int) -> int:
    """The seed of what an engine draws for samples without a seed of their own, in [0, 2^31): numpy takes no more."""
    return sample_seed(seed, -1 - engine) >> 32


def to_sequences(prompts: Prompts, responses: Sequence[Response], version: int) -> Sequences:
    """Prompts (B) with their responses (B, in the prompts' order), sampled by weights of ``version``.

    Raises:
        RunError: a log-probability is not finite: the weights that sampled are broken.
    """
    rows = [
        torch.cat([prompt, torch.tensor(response.tokens, dtype=torch.int64)])
        for prompt, response in zip(torch.split(prompts.tokens, prompts.lengths.tolist()), responses, strict=True)
    ]
    logprobs = [torch.tensor(response.logprobs, dtype=torch.float32) for response in responses]
    flat = _cat(logprobs, torch.float32)
    if not bool(torch.isfinite(flat).all()):
        raise RunError(f"the rollout's log-probabilities are not finite at weight version {version}")
    return Sequences(
        tokens=_cat(rows, torch.int64),
        prompt_lengths=prompts.lengths,
        response_lengths=torch.tensor([len(response.tokens) for response in responses], dtype=torch.int64),
        rollout_logprobs=flat,
        loss_mask=torch.ones_like(flat, dtype=torch.bool),
        finished=torch.tensor([response.finished for response in responses], dtype=torch.bool),
        weight_version=torch.full((len(responses),), version, dtype=torch.int64),
        rows=prompts.rows,
        ids=prompts.ids,
    )


def _cat(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=dtype)


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
