"""Learning-rate schedules, as pure functions of the optimizer step."""

from __future__ import annotations

import math


def lr_factor(
    step: int, total: int, schedule: str, warmup_steps: int, warmup_from: float, min_lr_ratio: float
) -> float:
    """Share of the learning rate that optimizer step ``step`` (from 0) of ``total`` uses.

    Linear from ``warmup_from`` to 1 over ``warmup_steps``, then ``constant`` or ``cosine`` down to ``min_lr_ratio``
    at the last step (InstructGPT: cosine to 0.1).
    """
    if step < warmup_steps:
        return warmup_from + (1.0 - warmup_from) * (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    span = max(total - 1 - warmup_steps, 1)
    progress = min((step - warmup_steps) / span, 1.0)
    return min_lr_ratio + (1.0 - min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))
