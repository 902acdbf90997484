"""Low-rank adapters against plain peft, and what is made of them: merged weights, the reference, the files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from rlhf_dist.config.schema import AdapterConfig, ModelConfig
from rlhf_dist.device import CPU
from rlhf_dist.errors import UserError
from rlhf_dist.models.language import PolicyModel, load_policy, load_scalar
from rlhf_dist.models.layout import lay_out
from rlhf_dist.models.lora import without_adapter
from rlhf_dist.weights.source import WeightSource, gathered_adapter
from tests.tiny import VOCABULARY, write_model

LORA = AdapterConfig(rank=4, alpha=8)
PROMPTS, RESPONSES = torch.tensor([2, 4]), torch.tensor([5, 3])
LENGTHS = PROMPTS + RESPONSES
TOKENS = torch.randint(3, VOCABULARY, (int(LENGTHS.sum()),), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", tied=False)


def filled(path: Path) -> PolicyModel:
    """A policy whose adapter does something: B is not 0."""
    torch.manual_seed(5)
    policy = load_policy(ModelConfig(path=str(path)), CPU, LORA)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return policy


def logprobs(policy: PolicyModel) -> torch.Tensor:
    laid = lay_out(TOKENS, LENGTHS, "right", torch.device("cpu"))
    return policy(laid, TOKENS, RESPONSES, 1.0)


def plain_logprobs(model: torch.nn.Module) -> torch.Tensor:
    found = []
    for row, prompt in zip(torch.split(TOKENS, LENGTHS.tolist()), PROMPTS.tolist(), strict=True):
        distribution = model(row[None]).logits[0].log_softmax(-1)[prompt - 1 : -1]
        found.append(distribution.gather(1, row[prompt:, None])[:, 0])
    return torch.cat(found)


def test_a_fresh_adapter_changes_nothing_and_alone_learns(path: Path) -> None:
    policy = load_policy(ModelConfig(path=str(path)), CPU, LORA)
    torch.testing.assert_close(logprobs(policy), logprobs(load_policy(ModelConfig(path=str(path)), CPU)))
    assert all("lora_" in name for name, parameter in policy.named_parameters() if parameter.requires_grad)
    assert sum("lora_" in name for name, _ in policy.named_parameters()) == 2 * 7 * 2  # 7 layers in each of 2 blocks


def test_logprobs_and_gradients_are_pefts(path: Path) -> None:
    policy = filled(path)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    plain = get_peft_model(
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        LoraConfig(r=4, lora_alpha=8, target_modules=names),
    )
    ours = {f"base_model.model.{name}": parameter for name, parameter in policy.lm.named_parameters()}
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "lora_" in name:
                parameter.copy_(ours[name])
    got, wanted = logprobs(policy), plain_logprobs(plain)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-5)
    got.sum().backward()
    wanted.sum().backward()
    for name, parameter in plain.named_parameters():
        if "lora_" in name:
            torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-4, atol=1e-5)


def test_the_merged_weights_are_a_plain_checkpoint_that_computes_the_same(path: Path) -> None:
    policy = filled(path)
    source = WeightSource(policy.lm, 1 << 20)
    state = dict(source)
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    assert state.keys() == dict(plain.named_parameters()).keys() == {info.name for info in source.metadata()}
    plain.load_state_dict(state)
    torch.testing.assert_close(plain_logprobs(plain), logprobs(policy), rtol=0, atol=2e-5)


def test_without_its_adapter_the_policy_is_its_base(path: Path) -> None:
    policy = filled(path)
    base = logprobs(load_policy(ModelConfig(path=str(path)), CPU))
    adapted = logprobs(policy)
    with without_adapter(policy), torch.no_grad():
        torch.testing.assert_close(logprobs(policy), base)
    assert torch.equal(logprobs(policy), adapted)
    assert not torch.allclose(adapted, base)


def test_the_adapters_tensors_load_in_peft(path: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    policy = filled(path)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(gathered_adapter(policy.lm), folder / "adapter_model.safetensors")
    policy.adapter.save_pretrained(str(folder))
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), str(folder))
    torch.testing.assert_close(plain_logprobs(loaded), logprobs(policy), rtol=0, atol=2e-5)


def test_a_scalar_models_head_learns_beside_the_adapter(path: Path) -> None:
    model = load_scalar(ModelConfig(path=str(path)), CPU, lora=LORA)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "classifier.score.weight" in learning
    assert all("lora_" in name for name in learning - {"classifier.score.weight"})


def test_a_layer_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(UserError, match=r"no linear layer q_prj \(did you mean q_proj"):
        load_policy(ModelConfig(path=str(path)), CPU, AdapterConfig(rank=2, targets="q_prj"))
