"""Advantages and returns over ragged batches."""

from __future__ import annotations

import torch
from torch import Tensor


def pad_rows(flat: Tensor, lengths: Tensor) -> Tensor:
    """``[N]`` values of B rows, one after another, as ``[B, max(lengths)]``, zeros behind each row's end."""
    return torch.nn.utils.rnn.pad_sequence(list(torch.split(flat, lengths.tolist())), batch_first=True)


def unpad_rows(padded: Tensor, lengths: Tensor) -> Tensor:
    """The inverse of :func:`pad_rows`: ``[B, L]`` to ``[sum(lengths)]``."""
    mask = torch.arange(padded.shape[1]) < lengths[:, None]
    return padded[mask]


def gae(rewards: Tensor, values: Tensor, lengths: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation (Schulman et al., arXiv 1506.02438, eq. 16), an episode a row.

    The value behind a row's last token is 0: the episode ends there, truncated or not.

    Args:
        rewards: ``[R]`` float32, reward after each response token.
        values: ``[R]`` float32, value of the state before each response token.
        lengths: ``[B]`` int64, response tokens of each row; sums to R.
        gamma: discount.
        lam: lambda of the estimator.

    Returns:
        advantages ``[R]`` and returns ``[R]`` (advantages + values), float32.
    """
    if lengths.numel() == 0:
        return rewards.clone(), values.clone()
    r, v = pad_rows(rewards, lengths), pad_rows(values, lengths)
    # Behind its end a row is all zeros, so its deltas are zero there and the recursion starts from zero by itself.
    following = torch.cat([v[:, 1:], torch.zeros_like(v[:, :1])], dim=1)
    deltas = r + gamma * following - v
    advantages = torch.zeros_like(deltas)
    carried = torch.zeros_like(deltas[:, 0])
    for t in range(deltas.shape[1] - 1, -1, -1):
        carried = deltas[:, t] + gamma * lam * carried
        advantages[:, t] = carried
    flat = unpad_rows(advantages, lengths)
    return flat, flat + values


def whiten(values: Tensor, shift_mean: bool = True) -> Tensor:
    """``[R]`` scaled to variance 1 and, with ``shift_mean``, mean 0 (arXiv 2403.17031, detail 3.6.4).

    One value, or all equal ones, have no variance to scale by; they come back shifted only.
    """
    if values.numel() < 2:
        return values - values.mean() if shift_mean and values.numel() else values.clone()
    mean, variance = values.mean(), values.var(unbiased=False)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return whitened if shift_mean else whitened + mean


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - var(returns - values) / var(returns), over ``[R]``; 0 where the returns do not vary."""
    if returns.numel() < 2:
        return 0.0
    variance = returns.var(unbiased=False)
    if variance <= 1e-12:
        return 0.0
    return float(1.0 - (returns - values).var(unbiased=False) / variance)
