"""The rollout engine on plain transformers: for machines without vLLM, and as a cross-check of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_dist.config.schema import ModelConfig, RolloutConfig
from rlhf_dist.device import Device
from rlhf_dist.errors import RunError
from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.rollout.sampling import Response, sample_seed, to_sequences
from rlhf_dist.types import Prompts, Residency, Sequences
from rlhf_dist.weights.groups import dial
from rlhf_dist.weights.transport import Endpoint, ParamInfo, TransferGroup


class HFEngine:
    """A RolloutEngine (see `rlhf_dist.rollout.protocol`) on ``AutoModelForCausalLM`` and a decoding loop of its own."""

    def __init__(
        self, model: ModelConfig, rollout: RolloutConfig, device: Device, stop_token_ids: Sequence[int]
    ) -> None:
        """Loads the model.

        Args:
            model: whose architecture and first weights; its dtype is not used, the rollout's is.
            rollout: sizes and limits.
            device: this process's kind of device.
            stop_token_ids: sampling one of these ends a response.
        """
        from transformers import AutoModelForCausalLM

        device.set_current()
        self._device_kind, self._device = device, device.torch_device()
        self._shapes: dict[str, torch.Size] = {}  # of the weights that were dropped to make room
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            model.path,
            dtype=device.dtype(rollout.dtype),
            attn_implementation=device.attention(model.attention, rollout.dtype),
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,
        )
        self._model.to(self._device).eval()
        self._max_batch = rollout.max_batch
        self._stop = torch.tensor(list(stop_token_ids), dtype=torch.int64, device=self._device)
        self._version = 0
        self._group: TransferGroup | None = None

    def generate(self, prompts: Prompts, options: SamplingOptions) -> Sequences:
        """Samples one response a prompt, in the prompts' order. B may be 0."""
        responses: list[Response] = []
        tokens, ids = prompts.token_lists(), prompts.ids.tolist()
        for start in range(0, len(prompts), self._max_batch):
            rows = slice(start, start + self._max_batch)
            responses += self._generate_batch(tokens[rows], ids[rows], options)
        return to_sequences(prompts, responses, self._version)

    def join(self, endpoint: Endpoint, rank: int) -> None:
        """Joins the broadcast group at ``endpoint`` as its member number ``rank`` (the sender is 0)."""
        self._group = dial(endpoint, rank)
        self._group.connect()

    def receive(self, parameters: list[ParamInfo], version: int) -> None:
        """Takes one full set of weights, blocks until they serve, and sets the version.

        Raises:
            RunError: the transfer broke, or what was sent is not the model's set of parameters.
        """
        if self._group is None:
            raise RuntimeError("join() comes before receive()")
        own = dict(self._model.named_parameters())
        wrong = sorted(own.keys() ^ {info.name for info in parameters})
        if wrong:
            raise RunError(
                f"weight transfer: {len(wrong)} parameter names differ between actor and rollout model, such as "
                f"{wrong[0]}"
            )
        with torch.no_grad():
            for name, tensor in self._group.receive(parameters):
                own[name].copy_(tensor)
        self._version = version

    def reside(self, to: Residency) -> None:
        """Drops the weights, or makes room for new ones; see the protocol."""
        for name, parameter in self._model.named_parameters():
            if to == "none":
                self._shapes[name] = parameter.shape
                parameter.data = parameter.data.new_empty(0)
            elif name in self._shapes:
                parameter.data = parameter.data.new_empty(self._shapes.pop(name))
        self._device_kind.empty_cache()

    def close(self) -> None:
        """Gives memory and sockets back."""
        if self._group is not None:
            self._group.close()
        self._group = self._model = None

    @torch.inference_mode()
    def _generate_batch(self, prompts: list[list[int]], ids: list[int], options: SamplingOptions) -> list[Response]:
        uniforms = _uniforms(ids, options).to(self._device)
        tokens, mask = _left_padded(prompts, self._device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        finished = torch.zeros(len(prompts), dtype=torch.bool, device=self._device)
        cache, sampled, logprobs, alive = None, [], [], []
        for step in range(options.max_tokens):
            output = self._model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            token, logprob = sample(output.logits[:, -1].float(), options, uniforms[:, step])
            sampled.append(token)
            logprobs.append(logprob)
            alive.append(~finished)
            finished = finished | torch.isin(token, self._stop)
            if bool(finished.all()):
                break
            tokens, positions = token[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        return _responses(torch.stack(sampled, 1), torch.stack(logprobs, 1), torch.stack(alive, 1), finished)


def sample(logits: Tensor, options: SamplingOptions, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draws one token a row by inverting the cumulative distribution.

    Args:
        logits: ``[B, V]`` float32.
        options: temperature, which divides the logits (0 takes the likeliest token, with its log-probability at
            temperature 1), top-p and top-k.
        uniforms: ``[B]`` float64 in [0, 1).

    Returns:
        tokens ``[B]`` int64 and their log-probabilities over the whole vocabulary ``[B]`` float32, nats.
    """
    if options.temperature == 0:
        logprobs = logits.log_softmax(-1)
        tokens = logprobs.argmax(-1)
    else:
        logprobs = (logits / options.temperature).log_softmax(-1)
        cumulative = narrowed(logprobs.double().exp(), options.top_p, options.top_k).cumsum(-1)
        # right=True passes over tokens of probability 0; the clamp is for a product that rounds up to the whole sum.
        target = uniforms.to(cumulative)[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)
    return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)


def narrowed(probabilities: Tensor, top_p: float, top_k: int) -> Tensor:
    """``[B, V]`` with zeros where top-k and then top-p leave a token out; not normalized again.

    Top-k keeps the k likeliest tokens. Top-p keeps the fewest likeliest ones that make up that share of what top-k
    left (Holtzman et al., arXiv 1904.09751).
    """
    if top_p >= 1 and top_k <= 0:
        return probabilities
    ordered, places = probabilities.sort(dim=-1, descending=True)
    if 0 < top_k < ordered.shape[-1]:
        ordered[:, top_k:] = 0.0
    before = ordered.cumsum(-1) - ordered
    ordered[before >= top_p * ordered.sum(-1, keepdim=True)] = 0.0
    return torch.zeros_like(probabilities).scatter_(-1, places, ordered)


def _uniforms(ids: list[int], options: SamplingOptions) -> Tensor:
    """``[B, max_tokens]`` float64: each sample's random numbers, from a generator of its own."""
    rows = []
    for sample_id in ids:
        generator = torch.Generator().manual_seed(sample_seed(options.seed, sample_id))
        rows.append(torch.rand(options.max_tokens, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def _left_padded(prompts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and mask, both ``[B, longest]`` int64, with the padding in front."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return tokens.to(device), mask.to(device)


def _responses(tokens: Tensor, logprobs: Tensor, alive: Tensor, finished: Tensor) -> list[Response]:
    """Cuts ``[B, steps]`` tokens and log-probabilities where each row (``alive``) ended; ``finished`` is ``[B]``."""
    lengths = alive.sum(1).tolist()
    rows = zip(tokens.tolist(), logprobs.tolist(), lengths, finished.tolist(), strict=True)
    return [Response(row[:length], values[:length], done) for row, values, length, done in rows]
