"""The tiled head against plain log-softmax: any number of rows, none included, and of tiles, the last one narrower."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rlhf_dist.models import heads


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and tiles that a small head has several of."""
    monkeypatch.setattr(heads, "CHUNK_ROWS", 5)
    monkeypatch.setitem(heads.HEAD_TILE, "cpu", 7)


def head_of(columns: int, bias: bool = False, hidden: int = 16) -> heads.LMHead:
    torch.manual_seed(0)
    return heads.LMHead(nn.Linear(hidden, columns, bias=bias))


def naive(head: heads.LMHead, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies in float64, one row after another, written out."""
    weight = head.weight.detach().double()
    bias = torch.zeros(weight.shape[0]).double() if head.bias is None else head.bias.detach().double()
    logprobs, entropies = [], []
    for state, target in zip(hidden.detach().double(), targets.tolist(), strict=True):
        logits = (weight @ state + bias) / temperature
        probabilities = torch.exp(logits - logits.max()) / torch.exp(logits - logits.max()).sum()
        logprobs.append(torch.log(probabilities[target]))
        entropies.append(-(probabilities * torch.log(probabilities)).sum())
    return torch.stack(logprobs), torch.stack(entropies)


def gradients(head: heads.LMHead, hidden: Tensor) -> list[Tensor]:
    found = [tensor.grad for tensor in (hidden, *head.parameters())]
    hidden.grad = None
    head.zero_grad()
    assert all(gradient is not None for gradient in found)
    return [gradient for gradient in found if gradient is not None]


def by_autograd(head: heads.LMHead, hidden: Tensor, targets: Tensor, temperature: float) -> Tensor:
    logits = nn.functional.linear(hidden, head.weight, head.bias) / temperature
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("rows", [0, 1, 511, 512, 1100])
@pytest.mark.parametrize("bias", [True, False])
def test_logprobs_losses_and_their_gradients_equal_a_plain_log_softmax(rows: int, bias: bool) -> None:
    head = head_of(40, bias)
    hidden = torch.randn(rows, 16, requires_grad=True)
    targets, weights = torch.randint(0, 40, (rows,)), torch.randn(rows)
    plain = by_autograd(head, hidden, targets, 0.8)
    (plain * weights).sum().backward()
    wanted = gradients(head, hidden)
    logprobs = head(hidden, targets, 0.8)
    (logprobs * weights).sum().backward()
    loss, beside, _ = head(hidden, targets, 0.8, lambda given, part: given * weights[part])
    torch.testing.assert_close(logprobs, plain)
    torch.testing.assert_close(beside, plain)
    got = gradients(head, hidden)
    loss.backward()
    for ours, again, theirs in zip(got, gradients(head, hidden), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again, theirs, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 12), st.integers(1, 25), st.sampled_from([0.3, 1.0, 2.5]), st.booleans(), st.integers(0, 99))
def test_any_shape_of_chunks_and_tiles_gives_what_a_loop_over_tokens_does(
    rows: int, columns: int, temperature: float, bias: bool, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "CHUNK_ROWS", 5)
        patch.setitem(heads.HEAD_TILE, "cpu", 7)
        head = head_of(columns, bias)
        torch.manual_seed(seed)
        hidden, targets = 5 * torch.randn(rows, 16), torch.randint(0, columns, (rows,))
        logprobs, entropy = naive(head, hidden, targets, temperature)
        torch.testing.assert_close(head(hidden, targets, temperature).double(), logprobs, rtol=1e-5, atol=1e-5)
        _, beside, entropies = head(hidden.requires_grad_(), targets, temperature, lambda given, _: given)
    torch.testing.assert_close(beside.double(), logprobs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropies.double(), entropy, rtol=1e-5, atol=1e-5)


def test_a_curved_loss_has_the_gradient_that_autograd_finds(small: None) -> None:
    head = head_of(40)
    hidden, targets = torch.randn(13, 16, requires_grad=True), torch.randint(0, 40, (13,))
    old, advantages = torch.randn(13) - 3.7, torch.randn(13)

    def losses(logprobs: Tensor, part: slice) -> Tensor:
        ratio = torch.exp(logprobs - old[part])
        return torch.maximum(-advantages[part] * ratio, -advantages[part] * ratio.clamp(0.8, 1.2))

    plain = losses(by_autograd(head, hidden, targets, 1.0), slice(None)).sum()
    plain.backward()
    wanted = gradients(head, hidden)
    loss, *_ = head(hidden, targets, 1.0, losses)
    (loss * 3.0).backward()
    torch.testing.assert_close(loss, plain)
    for ours, theirs in zip(gradients(head, hidden), wanted, strict=True):
        torch.testing.assert_close(ours, 3.0 * theirs, rtol=1e-4, atol=1e-6)


def test_gradients_in_place_are_added_to_what_is_there(small: None) -> None:
    head = head_of(40, bias=True)
    hidden, targets = torch.randn(13, 16, requires_grad=True), torch.randint(0, 40, (13,))
    loss, *_ = head(hidden, targets, 1.0, lambda given, _: -given)
    loss.backward()
    states, *wanted = gradients(head, hidden)
    head.in_place = True
    for _ in range(2):
        loss, *_ = head(hidden, targets, 1.0, lambda given, _: -given)
        loss.backward()
    twice, *got = gradients(head, hidden)
    for ours, theirs in zip((twice, *got), (states, *wanted), strict=True):
        torch.testing.assert_close(ours, 2 * theirs)
    loss, *_ = head(hidden, targets, 1.0, lambda given, _: -given)
    with pytest.raises(RuntimeError, match=r"was scaled by 0\.5"):
        (0.5 * loss).backward()


def test_a_frozen_weight_gets_no_gradient(small: None) -> None:
    head = head_of(40)
    head.requires_grad_(False)
    hidden = torch.randn(13, 16, requires_grad=True)
    loss, *_ = head(hidden, torch.randint(0, 40, (13,)), 1.0, lambda given, _: -given)
    loss.backward()
    assert hidden.grad is not None and head.weight.grad is None


def test_logits_of_any_size_neither_overflow_nor_vanish(small: None) -> None:
    """The largest comes last, in a tile of its own: everything before is rescaled to nothing."""
    head = heads.LMHead(nn.Linear(1, 15, bias=False))
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-1e4, 1e4, 15)[:, None])
    hidden = torch.ones(1, 1, requires_grad=True)
    logprobs = head(hidden, torch.tensor([14]), 1.0)
    loss, _, entropy = head(hidden, torch.tensor([0]), 1.0, lambda given, _: given)
    loss.backward()
    assert [logprobs.item(), loss.item(), entropy.item()] == [0.0, -2e4, 0.0]
    assert hidden.grad is not None and hidden.grad.item() == -2e4


def test_a_token_that_cannot_come_leaves_the_entropy_finite() -> None:
    head = head_of(3, bias=True)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.0, 1e6, -float("inf")]))
    _, _, entropy = head(torch.ones(1, 16), torch.tensor([1]), 1.0, lambda given, _: given)
    assert torch.isfinite(entropy).all()


def test_a_large_vocabulary_gets_fewer_rows_at_a_time() -> None:
    kept = heads.HEAD_KEPT["cpu"]
    assert heads.chunk_rows("cpu", 1000) == heads.CHUNK_ROWS
    assert heads.chunk_rows("cpu", kept // 100) == 100
    assert heads.chunk_rows("cpu", kept * 2) == 1


@pytest.mark.parametrize("device", ["cuda", "npu"])
def test_an_accelerator_gets_whole_chunks_of_todays_vocabularies(device: str) -> None:
    assert heads.chunk_rows(device, 262_144) == heads.CHUNK_ROWS
    assert heads.tile_columns(device, 262_144) == 262_144
