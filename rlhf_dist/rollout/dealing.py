"""Which engine draws which samples."""

from __future__ import annotations

import torch
from torch import Tensor

# Each end of a share may lie so much of it beside its even place, for a prompt to stay whole.
_SLACK = 1 / 16


def deal_samples(rows: Tensor, engines: int) -> list[Tensor]:
    """Deals B samples out to the engines: neighbours together, and of each prompt all samples to one engine.

    An engine computes a prompt once for all of its samples there (vLLM's prefix cache). Where that would make the
    shares uneven, as with fewer prompts than engines, a prompt is divided: computing it once more costs little then,
    as each part has many samples.

    Args:
        rows: ``[B]`` int64, the prompt of each sample; samples of one prompt stand together.
        engines: how many.

    Returns:
        for each engine its samples' numbers, int64, ascending; every sample in exactly one.
    """
    count, share = rows.numel(), rows.numel() / engines
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), torch.nonzero(torch.diff(rows)).flatten() + 1])
    borders = [*starts.tolist(), count]  # between two prompts, and at the ends
    cuts = [0]
    for number in range(1, engines):
        even = share * number
        border = min(borders, key=lambda at, even=even: abs(at - even))  # type: ignore[misc]
        cuts.append(border if abs(border - even) <= share * _SLACK else round(even))
    return [torch.arange(start, end) for start, end in zip(cuts, [*cuts[1:], count], strict=True)]
