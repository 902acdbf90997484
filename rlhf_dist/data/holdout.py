"""Holds the end of a data set out of training."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from rlhf_dist.errors import UserError
from rlhf_dist.types import Ragged

R = TypeVar("R", bound=Ragged)


def held_out_rows(size: int, count: int, source: str, section: str = "data") -> tuple[Tensor, Tensor]:
    """The rows to train on and the last ``count`` rows, ``[size - count]`` and ``[count]`` int64.

    Raises:
        UserError: nothing would be left to train on; the message names ``source``.
    """
    if not 0 <= count < size:
        raise UserError(
            f"{section}.eval_count={count} leaves none of the {size} rows of {source} to train on: "
            f"lower it, or name a {section}.eval_path"
        )
    return torch.arange(size - count), torch.arange(size - count, size)


def hold_out(rows: R, count: int, source: str, section: str = "data") -> tuple[R, R]:
    """A batch without its last ``count`` rows, and these.

    Raises:
        UserError: nothing would be left to train on; the message names ``source``.
    """
    kept, held_out = held_out_rows(len(rows), count, source, section)
    return rows.select(kept), rows.select(held_out)
