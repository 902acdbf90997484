"""The two shapes of model that roles hold: a policy (log-probabilities of tokens) and a scalar model (values, scores).

Both wrap a transformers model without changing its parameters' names, so that what is saved is a plain Hugging Face
checkpoint.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlhf_dist.config.schema import AdapterConfig, ModelConfig
from rlhf_dist.device import Device
from rlhf_dist.errors import UserError
from rlhf_dist.models.heads import LMHead, TokenLosses
from rlhf_dist.models.layout import MicroBatch, predicting_positions
from rlhf_dist.models.lora import add_adapter

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

# Config entries by which some architectures change the logits behind the head, where LMHead would not see it.
_LOGIT_CHANGES = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")

BIAS = "score_bias"


class PolicyModel(nn.Module):
    """A causal language model that answers with log-probabilities of response tokens.

    Args:
        lm: a transformers causal language model; its head is replaced by :class:`LMHead` in place.
    """

    auto_class = "AutoModelForCausalLM"
    adapter: LoraConfig | None = None  # of its adapter, where it has one

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        for key in _LOGIT_CHANGES:
            if getattr(lm.config, key, None) not in (None, 1, 1.0):
                raise UserError(f"model {lm.config._name_or_path}: architectures with {key} are not supported")
        lm.set_output_embeddings(LMHead(lm.get_output_embeddings()))
        self.lm = lm

    @property
    def pretrained(self) -> PreTrainedModel:
        """The transformers model inside: its names of the parameters are those of files."""
        return self.lm

    def forward(
        self,
        batch: MicroBatch,
        tokens: Tensor,
        response_lengths: Tensor,
        temperature: float,
        losses: TokenLosses | None = None,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities ``[R]`` (float32, nats) of a micro-batch's response tokens, or the sum of their losses.

        Args:
            batch: the micro-batch.
            tokens: ``[T]`` int64, the same tokens flat.
            response_lengths: ``[b]`` int64.
            temperature: divides the logits.
            losses: of the response tokens; with them the result is what :meth:`LMHead.forward` gives for losses.
        """
        rows, positions = predicting_positions(batch.lengths, response_lengths)
        starts = torch.cumsum(batch.lengths, 0) - batch.lengths
        targets = tokens[starts[rows] + positions + 1].to(batch.input_ids.device)
        hidden = _hidden_states(self.lm.base_model, batch)
        picked = hidden.flatten(0, 1)[batch.flat_index(rows, positions)]
        head: LMHead = self.lm.get_output_embeddings()
        result: Tensor | tuple[Tensor, Tensor, Tensor] = head(picked, targets, temperature, losses)
        return result


class ScalarModel(nn.Module):
    """A backbone with one linear output: the critic's value of a state, or the reward model's score of a sequence.

    To the head's output a constant is added, `score_bias` of the model's config.json (0 where there is none), which
    step 2 sets so that demonstrations score 0 on average (arXiv 2203.02155, section 3.5). Plain transformers, which
    knows nothing of it, gives the same scores less that constant.

    Args:
        classifier: a transformers sequence classifier with one label and its head named ``score``.
    """

    auto_class = "AutoModelForSequenceClassification"
    adapter: LoraConfig | None = None  # of its adapter, where it has one

    def __init__(self, classifier: PreTrainedModel) -> None:
        super().__init__()
        if not isinstance(getattr(classifier, "score", None), nn.Linear):
            raise UserError(
                f"model {classifier.config._name_or_path}: {type(classifier).__name__} has no linear 'score' head"
            )
        self.classifier = classifier
        self.bias = float(getattr(classifier.config, BIAS, 0.0))

    @property
    def pretrained(self) -> PreTrainedModel:
        """The transformers model inside: its names of the parameters are those of files."""
        return self.classifier

    def set_bias(self, bias: float) -> None:
        """Sets the constant, also in the configuration that is saved with the model."""
        self.bias = bias
        setattr(self.classifier.config, BIAS, bias)

    def forward(self, batch: MicroBatch, rows: Tensor, positions: Tensor) -> Tensor:
        """The output at given places: ``[N]`` float32 for rows ``[N]`` and positions ``[N]`` of the micro-batch."""
        hidden = _hidden_states(self.classifier.base_model, batch)
        picked = hidden.flatten(0, 1)[batch.flat_index(rows, positions)]
        return self.classifier.score(picked).squeeze(-1).float() + self.bias


def _hidden_states(backbone: nn.Module, batch: MicroBatch) -> Tensor:
    return backbone(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state


def _common_arguments(config: ModelConfig, device: Device) -> dict[str, object]:
    return {
        "dtype": device.dtype(config.dtype),
        "attn_implementation": device.attention(config.attention, config.dtype),
        "trust_remote_code": config.trust_remote_code,
        "use_safetensors": True,
    }


def _load(auto_class: Any, config: ModelConfig, device: Device, **extra: object) -> Any:
    try:
        return auto_class.from_pretrained(config.path, **_common_arguments(config, device), **extra)
    except (
        OSError,
        ValueError,
        ImportError,
    ) as error:  # the last where an attention is not installed, or not to be had
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"model.path={config.path!r} cannot be loaded: {first_line}") from error


def load_policy(config: ModelConfig, device: Device, lora: AdapterConfig | None = None) -> PolicyModel:
    """A causal language model from a Hugging Face directory or hub name (safetensors only), on CPU.

    With ``lora`` of a rank above 0 it has an adapter, which alone learns.

    Raises:
        UserError: it cannot be loaded, or its architecture is one that :class:`PolicyModel` refuses.
    """
    from transformers import AutoModelForCausalLM

    lm = _load(AutoModelForCausalLM, config, device)
    if config.gradient_checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = PolicyModel(lm)
    if lora is not None and lora.rank:
        model.adapter = add_adapter(lm, lora, head=None)
    return model


def load_scalar(
    config: ModelConfig, device: Device, zero_new_head: bool = False, lora: AdapterConfig | None = None
) -> ScalarModel:
    """A scalar model from a reward model's or a plain language model's directory, on CPU.

    A language model has no such head: a new one is drawn from N(0, 1/(H+1)) (Stiennon et al., arXiv 2009.01325,
    appendix), or is all zeros with ``zero_new_head``, so that a critic's first values are 0. With ``lora`` of a rank
    above 0 it has an adapter, which learns together with the head.

    Raises:
        UserError: it cannot be loaded, or its architecture has no sequence classifier.
    """
    from transformers import AutoModelForSequenceClassification

    classifier, info = _load(AutoModelForSequenceClassification, config, device, num_labels=1, output_loading_info=True)
    model = ScalarModel(classifier)
    if any(key.startswith("score.") for key in info["missing_keys"]):
        with torch.no_grad():
            weight = classifier.score.weight
            weight.zero_() if zero_new_head else weight.normal_(std=1.0 / math.sqrt(weight.shape[1] + 1))
    if config.gradient_checkpointing:
        classifier.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if lora is not None and lora.rank:
        model.adapter = add_adapter(classifier, lora, head="score")
    return model
