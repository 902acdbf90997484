"""Advantages and returns over ragged batches: one estimator a function.

An estimator takes :class:`Episodes` and gives the advantage of each response token ``[R]``, and what a critic shall
regress on ``[R]``, or None where it has no use for one. `ppo.advantage` names one of :data:`ESTIMATORS`, or a function
of the user's own, `"package.module:function"`.

Tokens that an environment put into a response are no actions: all estimators step over them, so that value and
advantage reach from the token after such a passage to the one before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_dist.algo.rewards import sequence_sums


@dataclass(frozen=True)
class Episodes:
    """B responses as an advantage estimator sees them.

    Attributes:
        rewards: ``[R]`` float32, reward after each response token, KL penalty included where it is in the reward.
        lengths: ``[B]`` int64, response tokens of each; sums to R.
        mask: ``[R]`` bool, true where the policy sampled the token.
        groups: ``[B]`` int64, from 0; responses to the same prompt have the same number.
        values: ``[R]`` float32, a critic's value of the state before each token; None without one.
        gamma: discount.
        lam: GAE's lambda.
    """

    rewards: Tensor
    lengths: Tensor
    mask: Tensor
    groups: Tensor
    values: Tensor | None
    gamma: float
    lam: float


#: What computes advantages: Episodes to advantages ``[R]`` and returns ``[R]`` (None without a critic), float32.
Estimator = Callable[[Episodes], "tuple[Tensor, Tensor | None]"]


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
    if rewards.numel() == 0:
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


def gae_advantages(episodes: Episodes) -> tuple[Tensor, Tensor | None]:
    """GAE (:func:`gae`) along the tokens that the policy sampled; needs a critic.

    Returns:
        advantages ``[R]`` float32, 0 where masked, and returns ``[R]`` float32, the values themselves where masked.
    """
    assert episodes.values is not None, "GAE needs a critic's values"
    mask, values = episodes.mask, episodes.values
    advantages, returns = torch.zeros_like(values), values.clone()
    advantages[mask], returns[mask] = gae(
        episodes.rewards[mask], values[mask], sampled_lengths(episodes), episodes.gamma, episodes.lam
    )
    return advantages, returns


def grpo_advantages(episodes: Episodes) -> tuple[Tensor, Tensor | None]:
    """Group-relative advantage (arXiv 2402.03300, section 4.1.2): the response's reward, less the mean of its group,
    over the group's (sample) standard deviation; the same for all its tokens.

    Returns:
        advantages ``[R]`` float32, masked tokens included, and None: there is nothing for a critic to learn.
    """
    totals = sequence_sums(episodes.rewards, episodes.lengths)
    mean, count = group_means(totals, episodes.groups)
    squares = torch.zeros_like(totals).index_add_(0, episodes.groups, (totals - mean).square())
    std = (squares[episodes.groups] / (count - 1).clamp(min=1)).sqrt()
    return torch.repeat_interleave((totals - mean) / (std + 1e-6), episodes.lengths), None


def dr_grpo_advantages(episodes: Episodes) -> tuple[Tensor, Tensor | None]:
    """Dr. GRPO (arXiv 2503.20783, section 3.2): the response's reward, less the mean of its group.

    It is not divided by the group's standard deviation, which would weigh questions by how easy or hard they are. The
    paper's other half, no division by the response's length, is `ppo.aggregation=constant`.

    Returns:
        as :func:`grpo_advantages`.
    """
    totals = sequence_sums(episodes.rewards, episodes.lengths)
    mean, _ = group_means(totals, episodes.groups)
    return torch.repeat_interleave(totals - mean, episodes.lengths), None


def rloo_advantages(episodes: Episodes) -> tuple[Tensor, Tensor | None]:
    """Leave-one-out (arXiv 2402.14740, eq. 8): the response's reward, less the mean of the others of its group.

    Returns:
        as :func:`grpo_advantages`; 0 for a response that is alone in its group.
    """
    totals = sequence_sums(episodes.rewards, episodes.lengths)
    mean, count = group_means(totals, episodes.groups)
    scale = count / (count - 1).clamp(min=1)  # of one alone nothing is left out, and the difference is 0 anyway
    return torch.repeat_interleave((totals - mean) * scale, episodes.lengths), None


def reinforce_pp_advantages(episodes: Episodes) -> tuple[Tensor, Tensor | None]:
    """REINFORCE++ (arXiv 2501.03262): the discounted rewards from each token on, to be whitened over the batch.

    Returns:
        advantages ``[R]`` float32, not yet whitened, 0 where masked, and None.
    """
    mask = episodes.mask
    rewards = episodes.rewards[mask]
    advantages = torch.zeros_like(episodes.rewards)
    # With lambda 1 and values of 0, GAE is just that sum.
    advantages[mask], _ = gae(rewards, torch.zeros_like(rewards), sampled_lengths(episodes), episodes.gamma, 1.0)
    return advantages, None


#: The built-in estimators by their names. What is special about each (critic, groups, whitening) stands in
#: :data:`rlhf_dist.config.algorithms.ADVANTAGE_ESTIMATORS`.
ESTIMATORS: dict[str, Estimator] = {
    "gae": gae_advantages,
    "grpo": grpo_advantages,
    "dr_grpo": dr_grpo_advantages,
    "rloo": rloo_advantages,
    "reinforce++": reinforce_pp_advantages,
}


def sampled_lengths(episodes: Episodes) -> Tensor:
    """``[B]`` int64: tokens of each response that the policy sampled."""
    return sequence_sums(episodes.mask.long(), episodes.lengths)


def group_means(totals: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """For each of ``[B]`` values the mean of its group, and the group's size, ``[B]`` each."""
    sizes = torch.bincount(groups, minlength=totals.numel())
    sums = torch.zeros_like(totals).index_add_(0, groups, totals)
    return (sums / sizes.clamp(min=1))[groups], sizes[groups]


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
