"""The chunked head: the same numbers for any number of rows, none included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rlhf_dist.models import heads


@pytest.mark.parametrize("rows", [0, 1, 511, 512, 1100])
@pytest.mark.parametrize("bias", [True, False])
def test_chunked_logprobs_and_gradients_equal_a_plain_log_softmax(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(16, 40, bias=bias)
    hidden = torch.randn(rows, 16, requires_grad=True)
    targets = torch.randint(0, 40, (rows,))
    weights = torch.randn(rows)
    logprobs, _ = heads.LMHead(linear)(hidden, targets, 0.8)
    (logprobs * weights).sum().backward()
    got = [hidden.grad, *(p.grad for p in linear.parameters())]

    hidden.grad = None
    linear.zero_grad()
    plain = (linear(hidden) / 0.8).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    (plain * weights).sum().backward()
    wanted = [hidden.grad, *(p.grad for p in linear.parameters())]
    torch.testing.assert_close(logprobs, plain)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_token_of_probability_zero_leaves_the_entropy_finite() -> None:
    linear = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.0], [1e6], [-float("inf")]]))
    _, entropy = heads.LMHead(linear)(torch.ones(1, 1), torch.tensor([1]), 1.0)
    assert torch.isfinite(entropy).all()
