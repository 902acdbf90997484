"""Do the engines sample from the weights that the actor holds? Their log-probabilities tell."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_dist.algo.rewards import sequence_sums
from rlhf_dist.errors import RunError
from rlhf_dist.types import Sequences

# Nats. In bfloat16 engine and trainer round differently; in float32 they agree to 1e-5 or so.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.15}


def check_parity(sequences: Sequences, logprobs: Tensor, tolerance: float) -> None:
    """Compares the engines' log-probabilities of what they sampled with the actor's, sequence by sequence.

    Weights that did not arrive, or arrived in part, show here, whatever the transfer itself believed. Each sequence
    is looked at on its own, so that one wrong engine among many is not averaged away.

    Args:
        sequences: sampled at the actor's present weights.
        logprobs: ``[R]`` float32, the actor's, nats.
        tolerance: largest mean absolute difference of a sequence, nats a token.

    Raises:
        RunError: a sequence is beyond the tolerance, or its log-probabilities are not finite.
    """
    gaps = (sequences.rollout_logprobs - logprobs).abs() * sequences.loss_mask
    counts = sequence_sums(sequences.loss_mask.long(), sequences.response_lengths)
    means = sequence_sums(gaps, sequences.response_lengths) / counts.clamp(min=1)
    wrong = int((~(means <= tolerance)).sum())
    if wrong:
        raise RunError(
            f"the rollout engines do not hold the actor's weights (version {int(sequences.weight_version[0])}): the "
            f"log-probabilities of {wrong} of {len(sequences)} sequences differ by up to {float(means.max()):.3g} nats "
            f"a token, weights.tolerance is {tolerance:g}"
        )
