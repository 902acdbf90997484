"""Policies, scalar models and the head on the device against the CPU: every layout, attention and dtype."""

from __future__ import annotations

import importlib.util
from functools import cache

import pytest
import torch

from rlhf_dist.config.algorithms import LAYOUTS
from rlhf_dist.config.schema import ModelConfig
from rlhf_dist.device import CPU
from rlhf_dist.models.heads import CHUNK_ROWS, LMHead
from rlhf_dist.models.language import load_policy, load_scalar
from rlhf_dist.models.layout import lay_out, predicting_positions
from tests.tiny import VOCABULARY, write_model

PROMPTS, RESPONSES = torch.tensor([3, 1, 2, 7, 1, 30]), torch.tensor([4, 1, 6, 2, 9, 61])
LENGTHS = PROMPTS + RESPONSES
# Nats. In float32 the two differ by the order of their sums; in bfloat16 by its rounding, over two layers.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.08}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), tied=False)


def tokens():
    return torch.randint(3, VOCABULARY, (int(LENGTHS.sum()),), generator=torch.Generator().manual_seed(1))


def weights(count):
    return torch.randn(count, generator=torch.Generator().manual_seed(2))


def policy_run(folder, device, dtype, layout, attention):
    """Log-probabilities, entropies, and the gradient of a weighted sum of the first, by parameter, all on the CPU."""
    config = ModelConfig(path=str(folder), dtype=dtype, attention=attention)
    policy = load_policy(config, device).to(device.torch_device())
    flat = tokens()
    laid = lay_out(flat, LENGTHS, layout, device.torch_device())
    by = weights(int(RESPONSES.sum())).to(device.torch_device())
    loss, logprobs, entropy = policy(laid, flat, RESPONSES, 0.8, lambda given, rows: given * by[rows])
    loss.backward()
    gradients = {name: parameter.grad.float().cpu() for name, parameter in policy.lm.named_parameters()}
    return logprobs.detach().cpu(), entropy.detach().cpu(), gradients


@cache
def wanted(folder):
    """On the CPU, in float32, padded, by the plainest attention."""
    return policy_run(folder, CPU, "float32", "right", "eager")


def needs(device, attention, dtype):
    """Skips where the attention is not installed, or does not know the dtype."""
    if attention != "flash_attention_2":
        return
    if not any(importlib.util.find_spec(package) is not None for package in device.flash_packages):
        pytest.skip("needs flash attention, of the package kernels or flash-attn")
    if dtype == "float32":
        pytest.skip("flash attention knows no float32")


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_policy_computes_what_the_cpu_does(device, folder, layout, dtype, attention) -> None:
    needs(device, attention, dtype)
    logprobs, entropy, gradients = policy_run(folder, device, dtype, layout, attention)
    for got, should in ((logprobs, wanted(folder)[0]), (entropy, wanted(folder)[1])):
        assert float((got - should).abs().mean()) < TOLERANCE[dtype]
        assert float((got - should).abs().max()) < 5 * TOLERANCE[dtype]
    for name, should in wanted(folder)[2].items():
        error = float((gradients[name] - should).norm() / should.norm())
        assert error < (1e-3 if dtype == "float32" else 0.15), f"{name}: {error:.3g}"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_critic_computes_what_the_cpu_does(device, folder, layout) -> None:
    torch.manual_seed(3)
    model = load_scalar(ModelConfig(path=str(folder), dtype="float32"), device)
    flat, (rows, positions) = tokens(), predicting_positions(LENGTHS, RESPONSES)
    should = model(lay_out(flat, LENGTHS, "right", torch.device("cpu")), rows, positions)
    model.to(device.torch_device())
    got = model(lay_out(flat, LENGTHS, layout, device.torch_device()), rows, positions)
    torch.testing.assert_close(got.cpu(), should, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rows", [1, CHUNK_ROWS, 2 * CHUNK_ROWS + 3])
def test_the_head_and_its_gradient_are_the_cpus(device, rows) -> None:
    torch.manual_seed(0)
    head = LMHead(torch.nn.Linear(32, 1000, bias=False))
    hidden, targets = torch.randn(rows, 32), torch.randint(0, 1000, (rows,))
    results = []
    for place in (torch.device("cpu"), device.torch_device()):
        moved, states = head.to(place), hidden.to(place, copy=True).requires_grad_()
        moved.zero_grad()
        logprobs = moved(states, targets.to(place), 0.7)
        by = weights(rows).to(place)
        (logprobs * by).sum().backward()
        gradients = [states.grad.clone(), moved.weight.grad.clone()]
        states.grad = moved.weight.grad = None
        losses, _, entropy = moved(states, targets.to(place), 0.7, lambda given, part, by=by: given * by[part])
        losses.backward()
        found = (logprobs, entropy, *gradients, states.grad, moved.weight.grad)
        results.append([tensor.detach().cpu() for tensor in found])
    for got, should in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, should, rtol=1e-3, atol=1e-4)
