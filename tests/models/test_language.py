"""Policies and scalar models against plain transformers, one sequence at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_dist.config.algorithms import LAYOUTS
from rlhf_dist.config.schema import ModelConfig
from rlhf_dist.device import CPU
from rlhf_dist.errors import UserError
from rlhf_dist.models.language import load_policy, load_scalar
from rlhf_dist.models.layout import lay_out, predicting_positions
from tests.tiny import VOCABULARY, write_model

PROMPTS, RESPONSES = torch.tensor([3, 1, 2, 7, 1]), torch.tensor([4, 1, 6, 2, 9])
LENGTHS = PROMPTS + RESPONSES


def tokens() -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (int(LENGTHS.sum()),), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logprobs_entropy_and_gradient_equal_those_of_plain_transformers(
    tmp_path: Path, tied: bool, temperature: float, layout: str
) -> None:
    path = write_model(tmp_path / "model", tied=tied)
    policy = load_policy(ModelConfig(path=str(path)), CPU)
    flat = tokens()
    laid = lay_out(flat, LENGTHS, layout, torch.device("cpu"))
    weights = torch.randn(int(RESPONSES.sum()), generator=torch.Generator().manual_seed(2))
    loss, logprobs, entropy = policy(laid, flat, RESPONSES, temperature, lambda given, rows: given * weights[rows])
    torch.testing.assert_close(policy(laid, flat, RESPONSES, temperature), logprobs, rtol=0, atol=1e-6)

    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    wanted, wanted_entropy = [], []
    for row, prompt in zip(torch.split(flat, LENGTHS.tolist()), PROMPTS.tolist(), strict=True):
        distribution = (plain(row[None]).logits[0] / temperature).log_softmax(-1)[prompt - 1 : -1]
        wanted.append(distribution.gather(1, row[prompt:, None])[:, 0])
        wanted_entropy.append(-(distribution.exp() * distribution).sum(-1))
    torch.testing.assert_close(logprobs, torch.cat(wanted), rtol=0, atol=2e-5)
    torch.testing.assert_close(entropy, torch.cat(wanted_entropy), rtol=0, atol=1e-4)

    loss.backward()
    (torch.cat(wanted) * weights).sum().backward()
    for (name, ours), (_, theirs) in zip(policy.lm.named_parameters(), plain.named_parameters(), strict=True):
        error = (ours.grad - theirs.grad).norm() / theirs.grad.norm()
        assert error < 1e-5, f"{name}: {error}"


def test_policy_keeps_the_parameter_names_of_the_checkpoint(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model", tied=False)
    plain = AutoModelForCausalLM.from_pretrained(path)
    policy = load_policy(ModelConfig(path=str(path)), CPU)
    assert dict(policy.lm.named_parameters()).keys() == dict(plain.named_parameters()).keys()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_equal_the_head_on_each_state_of_each_sequence_alone(tmp_path: Path, layout: str) -> None:
    path = write_model(tmp_path / "model")
    model = load_scalar(ModelConfig(path=str(path)), CPU)
    model.classifier.save_pretrained(tmp_path / "saved")
    flat = tokens()
    rows, positions = predicting_positions(LENGTHS, RESPONSES)
    values = model(lay_out(flat, LENGTHS, layout, torch.device("cpu")), rows, positions)

    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    wanted = []
    for row, prompt in zip(torch.split(flat, LENGTHS.tolist()), PROMPTS.tolist(), strict=True):
        states = plain.model(row[None]).last_hidden_state[0]
        wanted.append(plain.score(states)[prompt - 1 : -1, 0])
    torch.testing.assert_close(values, torch.cat(wanted), rtol=0, atol=1e-5)


def test_a_critic_without_a_head_starts_at_zero_and_one_with_a_head_keeps_it(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    assert load_scalar(ModelConfig(path=str(path)), CPU, zero_new_head=True).classifier.score.weight.abs().max() == 0
    reward = load_scalar(ModelConfig(path=str(path)), CPU)
    head = reward.classifier.score.weight.detach()
    assert head.std() == pytest.approx(65**-0.5, rel=0.3)
    reward.classifier.save_pretrained(tmp_path / "reward")
    again = load_scalar(ModelConfig(path=str(tmp_path / "reward")), CPU, zero_new_head=True)
    assert torch.equal(again.classifier.score.weight, head)


def test_a_folder_that_is_no_model_is_one_line_naming_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load_policy(ModelConfig(path=str(tmp_path)), CPU)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bias_is_added_to_the_scores_and_saved_with_the_model(tmp_path: Path) -> None:
    model = load_scalar(ModelConfig(path=str(write_model(tmp_path / "model"))), CPU)
    flat, rows, last = tokens(), torch.arange(len(LENGTHS)), LENGTHS - 1
    laid = lay_out(flat, LENGTHS, "right", torch.device("cpu"))
    before = model(laid, rows, last)
    for row, score in zip(torch.split(flat, LENGTHS.tolist()), before, strict=True):
        states = model.classifier.model(row[None]).last_hidden_state[0]
        torch.testing.assert_close(score, model.classifier.score(states)[-1, 0], rtol=0, atol=1e-5)
    model.set_bias(-1.25)
    model.classifier.save_pretrained(tmp_path / "saved")
    again = load_scalar(ModelConfig(path=str(tmp_path / "saved")), CPU)
    torch.testing.assert_close(again(laid, rows, last), before - 1.25)
