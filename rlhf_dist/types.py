"""The data that flows between the stages of a step, one frozen type a stage.

Nothing here is padded. The tokens of a batch of B sequences are one 1-D tensor with the lengths beside it, so
there is no mask to get wrong and no padding to carry; padding and packing happen inside an engine's forward only.

Sizes used in every docstring of the package:

* ``B``: sequences in the batch,
* ``T``: tokens of all its sequences, prompt and response,
* ``R``: response tokens of all its sequences.

The way of the data is ``Prompts -> Sequences -> Experience -> PolicyBatch`` for the actor and ``ValueBatch`` for the
critic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

# How much of a role is on its devices, where roles share them: all of it, its weights, or nothing.
Residency = Literal["all", "weights", "none"]


def ragged_indices(lengths: Tensor, index: Tensor) -> Tensor:
    """Positions, in the flat tensor that ``lengths`` describe, of the rows that ``index`` picks, in its order.

    Args:
        lengths: ``[B]`` int64, the length of each row.
        index: ``[N]`` int64, the rows wanted; a row may be wanted twice.

    Returns:
        ``[sum(lengths[index])]`` int64.
    """
    starts = torch.cumsum(lengths, 0) - lengths
    picked = lengths[index]
    offsets = torch.cumsum(picked, 0) - picked
    within = torch.arange(int(picked.sum()), dtype=torch.int64) - torch.repeat_interleave(offsets, picked)
    return torch.repeat_interleave(starts[index], picked) + within


class Ragged:
    """What all stage types share: rows may be selected and batches joined, field by field.

    A subclass says in ``_layout`` which of its lengths each tensor field follows: ``"row"`` for one value a
    sequence, else the name of the property that gives ``[B]`` lengths.
    """

    _layout: ClassVar[dict[str, str]]

    def __len__(self) -> int:
        """B, the number of sequences."""
        raise NotImplementedError

    def select(self, index: Tensor | Sequence[int]) -> Self:
        """The batch of the rows in ``index`` ([N] int64), in that order."""
        rows = torch.as_tensor(index, dtype=torch.int64)
        picked: dict[str, object] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is None or isinstance(value, Ragged):
                picked[field.name] = None if value is None else value.select(rows)
                continue
            along = self._layout[field.name]
            where = rows if along == "row" else ragged_indices(getattr(self, along), rows)
            picked[field.name] = value[where]
        return type(self)(**picked)

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """One batch of all rows of ``parts``, in order. ``parts`` must not be empty."""
        joined: dict[str, object] = {}
        for field in fields(cls):  # type: ignore[arg-type]
            values = [getattr(part, field.name) for part in parts]
            first = values[0]
            if first is None:
                joined[field.name] = None
            else:
                joined[field.name] = type(first).cat(values) if isinstance(first, Ragged) else torch.cat(values)
        return cls(**joined)


def _check(name: str, tensor: Tensor, size: int) -> None:
    if tensor.dim() != 1 or tensor.numel() != size:
        raise ValueError(f"{name} has shape {list(tensor.shape)}, expected [{size}]")


@dataclass(frozen=True)
class Prompts(Ragged):
    """Tokenized prompts on their way to the rollout.

    Attributes:
        tokens: ``[T]`` int64, all prompts one after another.
        lengths: ``[B]`` int64, tokens of each.
        ids: ``[B]`` int64, the sample's own number in the run: what its random seed is made from, so a sample
            does not depend on which engine draws it, nor on what else is in the batch.
        rows: ``[B]`` int64, the row of the data set each prompt stands in.
    """

    tokens: Tensor
    lengths: Tensor
    ids: Tensor
    rows: Tensor

    _layout: ClassVar = {"tokens": "lengths", "lengths": "row", "ids": "row", "rows": "row"}

    def __post_init__(self) -> None:
        _check("lengths", self.lengths, self.ids.numel())
        _check("rows", self.rows, self.ids.numel())
        _check("tokens", self.tokens, int(self.lengths.sum()))

    def __len__(self) -> int:
        return self.lengths.numel()

    def token_lists(self) -> list[list[int]]:
        """The prompts as B lists of token ids."""
        return [row.tolist() for row in torch.split(self.tokens, self.lengths.tolist())]


@dataclass(frozen=True)
class Sequences(Ragged):
    """Prompts with their responses, and what the rollout knew when it sampled them.

    Attributes:
        tokens: ``[T]`` int64, prompt then response of each sequence. The end-of-sequence token, where it was
            sampled, is the response's last token.
        prompt_lengths: ``[B]`` int64.
        response_lengths: ``[B]`` int64, at least 1 each.
        rollout_logprobs: ``[R]`` float32, nats, log-probability of each response token at the sampling temperature,
            as the rollout engine computed it: of the whole vocabulary, also where top-k or top-p narrowed the draw.
            0 where ``loss_mask`` is false.
        loss_mask: ``[R]`` bool, true where the policy sampled the token, false where an environment put it there
            (a tool's answer, a user's next turn): such tokens are read, but neither rewarded nor learned.
        finished: ``[B]`` bool, true where the end-of-sequence token was sampled, false where the length limit
            cut the response.
        weight_version: ``[B]`` int64, the version of the weights that sampled the sequence.
        rows: ``[B]`` int64, the row of the data set the prompt stands in.
        ids: ``[B]`` int64, the sample's own number in the run, that of its prompt.
    """

    tokens: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor
    rollout_logprobs: Tensor
    loss_mask: Tensor
    finished: Tensor
    weight_version: Tensor
    rows: Tensor
    ids: Tensor

    _layout: ClassVar = {
        "tokens": "lengths",
        "prompt_lengths": "row",
        "response_lengths": "row",
        "rollout_logprobs": "response_lengths",
        "loss_mask": "response_lengths",
        "finished": "row",
        "weight_version": "row",
        "rows": "row",
        "ids": "row",
    }

    def __post_init__(self) -> None:
        size = self.prompt_lengths.numel()
        for name in ("response_lengths", "finished", "weight_version", "rows", "ids"):
            _check(name, getattr(self, name), size)
        _check("tokens", self.tokens, int(self.lengths.sum()))
        for name in ("rollout_logprobs", "loss_mask"):
            _check(name, getattr(self, name), int(self.response_lengths.sum()))

    def __len__(self) -> int:
        return self.prompt_lengths.numel()

    @property
    def lengths(self) -> Tensor:
        """``[B]`` int64, tokens of each sequence, prompt and response."""
        return self.prompt_lengths + self.response_lengths

    @property
    def response_index(self) -> Tensor:
        """``[R]`` int64, where each response token stands in ``tokens``."""
        ends = torch.cumsum(self.lengths, 0)
        starts = ends - self.response_lengths
        offsets = torch.cumsum(self.response_lengths, 0) - self.response_lengths
        within = torch.arange(int(self.response_lengths.sum()), dtype=torch.int64)
        return within + torch.repeat_interleave(starts - offsets, self.response_lengths)

    def response_lists(self) -> list[list[int]]:
        """The responses as B lists of token ids, end-of-sequence token included."""
        flat = self.tokens[self.response_index]
        return [row.tolist() for row in torch.split(flat, self.response_lengths.tolist())]

    def prompt_lists(self) -> list[list[int]]:
        """The prompts as B lists of token ids."""
        rows = torch.split(self.tokens, self.lengths.tolist())
        return [row[:n].tolist() for row, n in zip(rows, self.prompt_lengths.tolist(), strict=True)]


@dataclass(frozen=True)
class Experience(Ragged):
    """Sequences with what actor, reference, critic and rewards say of them.

    Attributes:
        sequences: the batch.
        logprobs: ``[R]`` float32, nats, the actor's log-probabilities at the weights that sampled (the "old" ones).
        ref_logprobs: ``[R]`` float32, nats, the frozen reference's.
        values: ``[R]`` float32, the critic's value of the state before each response token; None where the
            advantage estimator needs no critic.
        source_scores: ``[B, S]`` float32, the score of each sequence by each of the S reward sources.
        scores: ``[B]`` float32, their weighted sum.
        token_scores: ``[R]`` float32, the same by the response token that it is a score of: a sequence's sum up to its
            score. The score of a whole response stands at its last token.
    """

    sequences: Sequences
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor | None
    source_scores: Tensor
    scores: Tensor
    token_scores: Tensor

    _layout: ClassVar = {
        "logprobs": "response_lengths",
        "ref_logprobs": "response_lengths",
        "values": "response_lengths",
        "source_scores": "row",
        "scores": "row",
        "token_scores": "response_lengths",
    }

    def __post_init__(self) -> None:
        size = int(self.response_lengths.sum())
        for name in ("logprobs", "ref_logprobs", "token_scores"):
            _check(name, getattr(self, name), size)
        if self.values is not None:
            _check("values", self.values, size)
        _check("scores", self.scores, len(self))
        if self.source_scores.dim() != 2 or self.source_scores.shape[0] != len(self):
            raise ValueError(f"source_scores has shape {list(self.source_scores.shape)}, expected [{len(self)}, S]")

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def response_lengths(self) -> Tensor:
        """``[B]`` int64."""
        return self.sequences.response_lengths


class _LearningBatch(Ragged):
    """What both learning batches share: sequences, and float tensors along their response tokens."""

    sequences: Sequences

    def to(self, device: torch.device) -> Self:
        """The same with all tensors along the response tokens on ``device``; the sequences stay where they are."""
        return replace(self, **{name: getattr(self, name).to(device) for name in self._layout})  # type: ignore[type-var]

    def __post_init__(self) -> None:
        size = int(self.response_lengths.sum())
        for name in self._layout:
            _check(name, getattr(self, name), size)

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def response_lengths(self) -> Tensor:
        """``[B]`` int64."""
        return self.sequences.response_lengths


@dataclass(frozen=True)
class PolicyBatch(_LearningBatch):
    """What the actor learns from.

    Attributes:
        sequences: the batch.
        logprobs: ``[R]`` float32, nats, the actor's at sampling time: the ratio's denominator.
        ref_logprobs: ``[R]`` float32, nats, the reference's: for a KL in the loss.
        advantages: ``[R]`` float32.
        weights: ``[R]`` float32, by which each token's loss counts; 0 where it is masked. In a minibatch they are
            divided by its size (see `rlhf_dist.algo.aggregation`), so that the loss is their plain sum.
    """

    sequences: Sequences
    logprobs: Tensor
    ref_logprobs: Tensor
    advantages: Tensor
    weights: Tensor

    _layout: ClassVar = {
        "logprobs": "response_lengths",
        "ref_logprobs": "response_lengths",
        "advantages": "response_lengths",
        "weights": "response_lengths",
    }


@dataclass(frozen=True)
class ValueBatch(_LearningBatch):
    """What the critic learns from: the tokens that the policy sampled.

    Attributes:
        sequences: the batch.
        values: ``[R]`` float32, the critic's at sampling time: the centre of value clipping.
        returns: ``[R]`` float32, what the critic regresses on.
    """

    sequences: Sequences
    values: Tensor
    returns: Tensor

    _layout: ClassVar = {"values": "response_lengths", "returns": "response_lengths"}


@dataclass(frozen=True)
class Demonstrations(Ragged):
    """Tokenized prompts with the answers a model should imitate (step 1).

    Attributes:
        tokens: ``[T]`` int64, prompt then response of each.
        prompt_lengths: ``[B]`` int64.
        response_lengths: ``[B]`` int64.
    """

    tokens: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor

    _layout: ClassVar = {"tokens": "lengths", "prompt_lengths": "row", "response_lengths": "row"}

    def __post_init__(self) -> None:
        _check("response_lengths", self.response_lengths, self.prompt_lengths.numel())
        _check("tokens", self.tokens, int(self.lengths.sum()))

    def __len__(self) -> int:
        return self.prompt_lengths.numel()

    @property
    def lengths(self) -> Tensor:
        """``[B]`` int64, tokens of each sequence, prompt and response."""
        return self.prompt_lengths + self.response_lengths


@dataclass(frozen=True)
class Comparisons(Ragged):
    """K-way rankings (step 2): one row is one prompt with its K answers.

    Attributes:
        tokens: ``[T]`` int64, the sequences (prompt and answer) of all rows one after another.
        token_counts: ``[N]`` int64, tokens of each of the N answers (with its prompt).
        prompt_counts: ``[N]`` int64, how many of them are the prompt's.
        ranks: ``[N]`` int64, 1 is best, equal ranks are a tie.
        answers: ``[B]`` int64, K of each row; sums to N.
        tokens_per_row: ``[B]`` int64, tokens of each row.
    """

    tokens: Tensor
    token_counts: Tensor
    prompt_counts: Tensor
    ranks: Tensor
    answers: Tensor
    tokens_per_row: Tensor

    _layout: ClassVar = {
        "tokens": "tokens_per_row",
        "token_counts": "answers",
        "prompt_counts": "answers",
        "ranks": "answers",
        "answers": "row",
        "tokens_per_row": "row",
    }

    def __post_init__(self) -> None:
        answers = int(self.answers.sum())
        _check("token_counts", self.token_counts, answers)
        _check("prompt_counts", self.prompt_counts, answers)
        _check("ranks", self.ranks, answers)
        _check("tokens_per_row", self.tokens_per_row, self.answers.numel())
        _check("tokens", self.tokens, int(self.token_counts.sum()))

    def __len__(self) -> int:
        return self.answers.numel()


@dataclass(frozen=True)
class PreferenceBatch(Ragged):
    """Rankings with what the reference says of the answers: what DPO learns from.

    Attributes:
        comparisons: the rankings.
        ref_logprobs: ``[N]`` float32, nats, the reference's log-probability of each whole answer.
    """

    comparisons: Comparisons
    ref_logprobs: Tensor

    _layout: ClassVar = {"ref_logprobs": "answers"}

    def __post_init__(self) -> None:
        _check("ref_logprobs", self.ref_logprobs, int(self.answers.sum()))

    def __len__(self) -> int:
        return len(self.comparisons)

    @property
    def answers(self) -> Tensor:
        """``[B]`` int64, K of each row."""
        return self.comparisons.answers
