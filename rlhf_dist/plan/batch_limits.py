"""What a job can put before a worker at most, whatever its limits would allow."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from rlhf_dist.config.roles import JobConfig
from rlhf_dist.config.schema import ModelRoleConfig, PPOConfig, RolloutConfig, SFTConfig
from rlhf_dist.plan.batches import ppo_batches

# A cache that is full to its last block makes an engine wait; the first block is one that vLLM keeps for itself.
_SPARE = 1.1
_LEAST_CACHE = 64 * 2**20


@dataclass(frozen=True)
class BatchLimits:
    """The largest batches of a job.

    Attributes:
        sequence_tokens: tokens of the longest sequence.
        train_sequences: sequences of one optimizer step; None where a row of it is no single sequence.
        score_sequences: sequences of one forward pass over a batch; None likewise.
        engine_sequences: sequences that one engine has at a time; 0 without engines.
        response_tokens: tokens of a response at most; None: all of a sequence may be one.
    """

    sequence_tokens: int
    train_sequences: int | None = None
    score_sequences: int | None = None
    engine_sequences: int = 0
    response_tokens: int | None = None

    @property
    def predicted_tokens(self) -> int:
        """Tokens of a sequence that the policy's head predicts at most."""
        return self.sequence_tokens if self.response_tokens is None else self.response_tokens

    def micro_batch_tokens(self, role: ModelRoleConfig, sequences: int | None) -> int:
        """Tokens of the largest micro-batch of a role, if all of the ``sequences`` are of full length.

        Args:
            role: its section.
            sequences: of the whole batch, over all workers: :attr:`train_sequences` or :attr:`score_sequences`.
        """
        tokens = max(role.micro_batch_tokens // self.sequence_tokens, 1) * self.sequence_tokens
        if role.micro_batch_sequences:
            tokens = min(tokens, role.micro_batch_sequences * self.sequence_tokens)
        return (
            tokens
            if sequences is None
            else min(tokens, max(ceil(sequences / role.num_workers), 1) * self.sequence_tokens)
        )

    def cache_bytes(self, rollout: RolloutConfig, bytes_per_token: int) -> int:
        """Bytes of an engine's cache that the job's sequences can fill, all at once and at full length."""
        blocks = ceil(self.sequence_tokens / rollout.block_size)
        needed = self.engine_sequences * blocks * rollout.block_size * bytes_per_token
        return max(int(needed * _SPARE), _LEAST_CACHE)


def batch_limits(config: JobConfig) -> BatchLimits:
    """The largest batches of a resolved configuration."""
    if isinstance(config, PPOConfig):
        batches = ppo_batches(config)
        learned = batches.minibatch
        if config.ppo.pretrain_coef:
            learned += ceil(batches.samples * config.ppo.pretrain_per_sample / batches.optimizer_steps)
        scored = max(batches.samples, config.data.eval_count)
        each = min(ceil(scored / config.rollout.num_engines), config.rollout.max_batch)
        return BatchLimits(batches.longest, learned, scored, each, config.rollout.max_response_tokens)
    if isinstance(config, SFTConfig):
        return BatchLimits(
            config.data.max_tokens, config.sft.batch_size, max(config.sft.batch_size, config.data.eval_count)
        )
    return BatchLimits(config.data.max_tokens)  # a row is a prompt with all its answers
