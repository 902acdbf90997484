"""How the losses of tokens become the loss of a minibatch."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_dist.algo.rewards import sequence_sums
from rlhf_dist.config.algorithms import AGGREGATIONS


def normalize_weights(weights: Tensor, lengths: Tensor, aggregation: str, horizon: int) -> Tensor:
    """Weights of tokens, divided so that the weighted sum of a minibatch's losses is its loss.

    A token counts from a weight above 0 on; a sequence counts if one of its tokens does.

    * ``token-mean``: every token alike (DAPO, arXiv 2503.14476, eq. 8).
    * ``sequence-mean``: every sequence alike, whatever its length (GRPO, arXiv 2402.03300, eq. 3).
    * ``constant``: every token alike, over sequences times ``horizon``, so that the step does not depend on how long
      the responses happen to be (Dr. GRPO, arXiv 2503.20783, section 3.2).

    Args:
        weights: ``[R]`` float32, not negative; 0 where a token is masked.
        lengths: ``[B]`` int64, response tokens of each sequence of the whole minibatch.
        aggregation: one of the above.
        horizon: tokens; the longest response there may be.

    Returns:
        ``[R]`` float32. All zeros where no token counts.

    Raises:
        ValueError: there is no such aggregation.
    """
    counts = (weights > 0).to(weights.dtype)
    per_sequence = sequence_sums(counts, lengths)
    sequences = (per_sequence > 0).sum().clamp(min=1)
    match aggregation:
        case "token-mean":
            return weights / counts.sum().clamp(min=1)
        case "sequence-mean":
            return weights / (torch.repeat_interleave(per_sequence.clamp(min=1), lengths) * sequences)
        case "constant":
            return weights / (sequences * horizon)
        case other:
            raise ValueError(f"aggregation {other!r}: expected {', '.join(AGGREGATIONS)}")
