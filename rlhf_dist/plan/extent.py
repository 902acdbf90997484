"""What a job can put before a worker at most, whatever its limits would allow."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from rlhf_dist.config.schema import DPOConfig, ModelRoleConfig, PPOConfig, RewardModelConfig, RolloutConfig, SFTConfig
from rlhf_dist.plan.batches import ppo_batches

# A cache that is full to its last block makes an engine wait; the first block is one that vLLM keeps for itself.
_SPARE = 1.1
_LEAST_CACHE = 64 * 2**20


@dataclass(frozen=True)
class Reach:
    """The largest batches of a job.

    Attributes:
        longest: tokens of the longest sequence.
        learned: sequences of one optimizer step; None where a row of it is no single sequence.
        scored: sequences of one forward pass over a batch; None likewise.
        generated: sequences that one engine has at a time; 0 without engines.
        answer: tokens of a response at most; None: all of a sequence may be one.
    """

    longest: int
    learned: int | None = None
    scored: int | None = None
    generated: int = 0
    answer: int | None = None

    @property
    def predicted(self) -> int:
        """Tokens of a sequence that the policy's head predicts at most."""
        return self.longest if self.answer is None else self.answer

    def tokens(self, role: ModelRoleConfig, rows: int | None) -> int:
        """Tokens of the largest micro-batch of a role, if all of ``rows`` sequences are of full length.

        Args:
            role: its section.
            rows: sequences of the whole batch, over all workers: :attr:`learned` or :attr:`scored`.
        """
        tokens = max(role.micro_batch_tokens // self.longest, 1) * self.longest
        if role.micro_batch_sequences:
            tokens = min(tokens, role.micro_batch_sequences * self.longest)
        return tokens if rows is None else min(tokens, max(ceil(rows / role.num_workers), 1) * self.longest)

    def cache_bytes(self, rollout: RolloutConfig, bytes_per_token: int) -> int:
        """Bytes of an engine's cache that the job's sequences can fill, all at once and at full length."""
        blocks = ceil(self.longest / rollout.block_size)
        needed = self.generated * blocks * rollout.block_size * bytes_per_token
        return max(int(needed * _SPARE), _LEAST_CACHE)


def reach_of(config: PPOConfig | DPOConfig | SFTConfig | RewardModelConfig) -> Reach:
    """The largest batches of a resolved configuration."""
    if isinstance(config, PPOConfig):
        batches = ppo_batches(config)
        learned = batches.minibatch
        if config.ppo.pretrain_coef:
            learned += ceil(batches.samples * config.ppo.pretrain_per_sample / batches.optimizer_steps)
        scored = max(batches.samples, config.data.eval_count)
        each = min(ceil(scored / config.rollout.num_engines), config.rollout.max_batch)
        return Reach(batches.longest, learned, scored, each, config.rollout.max_response_tokens)
    if isinstance(config, SFTConfig):
        return Reach(config.data.max_tokens, config.sft.batch_size, max(config.sft.batch_size, config.data.eval_count))
    return Reach(config.data.max_tokens)  # a row is a prompt with all its answers
