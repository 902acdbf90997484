"""The PPO run: prompts in, samples and evaluations out, around :class:`rlhf_dist.controller.ppo.PPO`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_dist.algo.rewards import sequence_sums
from rlhf_dist.algo.text import distinct_n
from rlhf_dist.config.roles import ACTOR, CRITIC
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.controller.batches import SampledBatches
from rlhf_dist.controller.parity import check_parity
from rlhf_dist.controller.ppo import PPO, StepResult
from rlhf_dist.controller.trainer import RunContext, Scores, Trainer
from rlhf_dist.data.pretraining import TextSampler
from rlhf_dist.data.prompts import PromptSet
from rlhf_dist.data.samplers import EpochSampler
from rlhf_dist.engine.text_reward import TextScorer, check_scores
from rlhf_dist.types import Demonstrations, Prompts, Sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EVALUATION_IDS = 2**40  # sample numbers of evaluations start here, so they share no random numbers with training


@dataclass(frozen=True)
class PPOData:
    """What the run reads.

    Attributes:
        train: prompts to learn on.
        held_out: prompts to evaluate on.
        tokenizer: turns samples back into text.
        tokenizer_path: where it comes from; saved beside the model.
        pretrain: text to learn beside the samples (PPO-ptx); None without.
        pretrain_held_out: text to measure the pretraining loss on; None without.
        judge: the independent scorer, where the recipe has one.
    """

    train: PromptSet
    held_out: PromptSet
    tokenizer: PreTrainedTokenizerBase
    tokenizer_path: str
    pretrain: TextSampler | None
    pretrain_held_out: Demonstrations | None
    judge: TextScorer | None


class PPOTrainer(Trainer):
    """One PPO run, as the loop runs it.

    Args:
        config: the run's.
        ppo: the algorithm.
        data: prompts, tokenizer, judge.
        context: where results go.
    """

    def __init__(self, config: PPOConfig, ppo: PPO, data: PPOData, context: RunContext) -> None:
        self.config, self.ppo, self.data, self.context = config, ppo, data, context
        self.total_steps = config.ppo.steps
        self.trained = {ACTOR: ppo.roles.actor} | ({} if ppo.roles.critic is None else {CRITIC: ppo.roles.critic})
        self.result, self.tokenizer_path = ppo.roles.actor, data.tokenizer_path
        self._sampler = EpochSampler(len(data.train), config.ppo.prompts_per_step, config.run.seed)
        self._batches = SampledBatches(
            self._prompts, ppo.generate_each, config.rollout.staleness, total=config.ppo.steps
        )
        self._begun = False

    def prepare(self) -> None:
        """Brings the first weights to the engines."""
        self.ppo.publish()

    def step(self, number: int) -> dict[str, float]:
        """One PPO step; samples where they are due."""
        timer = self.context.timer
        if not self._begun:  # after the evaluation before the first step, which has the engines for itself
            self._batches.go_on(number - 1)
            self._begun = True
        with timer("rollout"):
            sequences = self._batches.take(number)
        started = time.monotonic()
        experience = self.ppo.collect(number, sequences)
        pretrain = self.data.pretrain.batch(number - 1) if self.data.pretrain is not None else None
        result = self.ppo.learn(number, experience, pretrain)
        if self.config.rollout.staleness:
            result.metrics["time/overlap_s"] = self._batches.busy_since(started)
        if self._batches.are_due(number):
            with timer("rollout"):
                self._batches.finish()
            self.ppo.publish()
            self._batches.go_on(number)
        every = self.config.run.samples_every
        if every and (number == 1 or number % every == 0):
            self._write_samples(number, result)
        return dict(result.metrics) | {"tokens": float(result.experience.sequences.lengths.sum())}

    def summary(self, before: Scores, after: Scores) -> dict[str, object]:
        """The first and the last evaluation, and the KL of the policy that was learned."""
        kl = "kl_sequence_mean"
        parts = [{name: value for name, value in part.items() if name != kl} for part in (before, after)]
        return super().summary(*parts) | {kl: after[kl]}

    def state(self) -> dict[str, object]:
        """The algorithm's state."""
        return {"ppo": self.ppo.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state` returned."""
        self.ppo.load_state(state["ppo"])

    def save_files(self, folder: Path) -> None:
        """The batches that were sampled ahead."""
        self._batches.save(folder)

    def load_files(self, folder: Path) -> None:
        """Restores what :meth:`save_files` wrote."""
        self._batches.load(folder)

    def _prompts(self, number: int) -> Prompts:
        copies = self.config.rollout.samples_per_prompt
        rows = self._sampler.indices(number - 1).repeat_interleave(copies)
        return self.data.train.select(rows, first_id=(number - 1) * rows.numel())

    def evaluate(self, number: int) -> dict[str, float | None]:
        """Samples the held-out prompts, always with the same random numbers, and scores the samples."""
        with self.context.timer("held-out"):
            self._batches.finish()
            self.ppo.publish()
            rows = torch.arange(len(self.data.held_out))
            sequences = self.ppo.generate(self.data.held_out.select(rows, first_id=EVALUATION_IDS))
            experience = self.ppo.score(sequences, with_values=False)
            check_parity(sequences, experience.logprobs, self.ppo.tolerance)
            pretrain_loss = self._pretrain_loss()
        scores, kl = experience.scores, sequence_sums(self.ppo.token_kl(experience), sequences.response_lengths)
        prompts, responses, judged = self._texts(sequences)
        count = max(self.config.run.samples_count, 1)
        self.context.write_samples(_sample_rows(number, sequences, (prompts, responses), scores, kl, judged)[:count])
        return {
            "score_mean": float(scores.mean()),
            "judge_mean": sum(judged) / len(judged) if judged else None,
            "distinct_2": distinct_n(responses, 2),
            "kl_sequence_mean": float(kl.mean()),
        } | ({} if pretrain_loss is None else {"pretrain_loss": pretrain_loss})

    def _pretrain_loss(self) -> float | None:
        """Nats a token of the held-out pretraining text; None without one."""
        text = self.data.pretrain_held_out
        if text is None:
            return None
        actor = self.ppo.roles.actor
        return float(self.context.run(actor.token_losses(text)).mean())

    def _texts(self, sequences: Sequences) -> tuple[list[str], list[str], list[float] | None]:
        decode = self.data.tokenizer.batch_decode
        prompts = decode(sequences.prompt_lists(), skip_special_tokens=True)
        responses = decode(sequences.response_lists(), skip_special_tokens=True)
        if self.data.judge is None:
            return prompts, responses, None
        return prompts, responses, check_scores(self.data.judge, prompts, responses)

    def _write_samples(self, number: int, result: StepResult) -> None:
        experience = result.experience
        rows = torch.arange(min(self.config.run.samples_count, len(experience)))
        shown = experience.select(rows)
        prompts, responses, judged = self._texts(shown.sequences)
        kl = sequence_sums(result.kl, experience.response_lengths)
        self.context.write_samples(
            _sample_rows(number, shown.sequences, (prompts, responses), shown.scores, kl, judged)
        )


def _sample_rows(
    number: int,
    sequences: Sequences,
    texts: tuple[list[str], list[str]],
    scores: Tensor,
    kl: Tensor,
    judged: list[float] | None,
) -> list[dict[str, Any]]:
    """The lines of samples.jsonl for sequences ``[B]`` with scores ``[B]`` and KL ``[B]`` (nats)."""
    return [
        {
            "step": number,
            "prompt": prompt,
            "response": response,
            "score": float(scores[i]),
            "kl": float(kl[i]),
            "judge": None if judged is None else judged[i],
            "finished": bool(sequences.finished[i]),
        }
        for i, (prompt, response) in enumerate(zip(*texts, strict=True))
    ]
