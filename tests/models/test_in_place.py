"""Gradients that are added up in place: those that autograd makes, over several micro-batches, tied or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rlhf_dist.config.schema import AdapterConfig, ModelConfig
from rlhf_dist.device import CPU
from rlhf_dist.models.in_place import InPlaceEmbedding, add_gradients_in_place
from rlhf_dist.models.language import PolicyModel, ScalarModel, load_policy, load_scalar
from rlhf_dist.models.layout import lay_out, predicting_positions
from tests.tiny import VOCABULARY, write_model

PROMPTS, RESPONSES = torch.tensor([3, 1, 2]), torch.tensor([4, 1, 6])
LENGTHS = PROMPTS + RESPONSES


def accumulated(model: PolicyModel | ScalarModel) -> dict[str, Tensor]:
    """The gradients of two micro-batches' losses together, by parameter."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        tokens = torch.randint(0, VOCABULARY, (int(LENGTHS.sum()),), generator=generator)
        laid = lay_out(tokens, LENGTHS, "right", torch.device("cpu"))
        if isinstance(model, PolicyModel):
            loss, *_ = model(laid, tokens, RESPONSES, 1.0, lambda given, _: -given)
        else:
            loss = model(laid, *predicting_positions(LENGTHS, RESPONSES)).square().sum()
        loss.backward()
    return {name: value.grad for name, value in model.pretrained.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("load", [load_policy, load_scalar])
def test_they_equal_autograds(tmp_path: Path, load: type, tied: bool) -> None:
    config = ModelConfig(path=str(write_model(tmp_path / "model", tied=tied)))
    torch.manual_seed(0)
    plain = load(config, CPU)
    torch.manual_seed(0)
    ours = load(config, CPU)
    add_gradients_in_place(ours.pretrained)
    assert type(ours.pretrained.get_input_embeddings()) is InPlaceEmbedding
    wanted, got = accumulated(plain), accumulated(ours)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_a_padding_token_has_none() -> None:
    embedding = nn.Embedding(5, 2, padding_idx=1)
    ours = InPlaceEmbedding(embedding)
    assert ours.weight is embedding.weight
    ids = torch.tensor([[0, 1], [1, 0]])
    assert torch.equal(ours(ids), embedding(ids))
    ours(ids).sum().backward()
    assert torch.equal(ours.weight.grad, torch.tensor([[2.0, 2.0], *[[0.0, 0.0]] * 4]))


def test_what_does_not_learn_or_is_not_float32_stays_with_autograd(tmp_path: Path) -> None:
    path = str(write_model(tmp_path / "model"))
    adapted = load_policy(ModelConfig(path=path), CPU, AdapterConfig(rank=2))
    for model in (adapted, load_policy(ModelConfig(path=path, dtype="bfloat16"), CPU)):
        add_gradients_in_place(model.pretrained)
        assert type(model.pretrained.get_input_embeddings()) is nn.Embedding
        assert not model.lm.get_output_embeddings().in_place
