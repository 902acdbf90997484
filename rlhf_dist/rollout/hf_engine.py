"""The rollout engine on plain transformers: for machines without vLLM, and as a cross-check of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice, takewhile
from typing import Any

import torch
from torch import Tensor

from rlhf_dist.config.schema import ModelConfig, RolloutConfig
from rlhf_dist.device import Device
from rlhf_dist.errors import RunError
from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.rollout.requests import Request, RequestEngine
from rlhf_dist.rollout.sampling import Response, sample_seed
from rlhf_dist.types import Residency
from rlhf_dist.weights.groups import dial
from rlhf_dist.weights.transport import Endpoint, ParamInfo, TransferGroup


class HFEngine(RequestEngine):
    """A RolloutEngine (see `rlhf_dist.rollout.protocol`) on ``AutoModelForCausalLM`` and a decoding loop of its own.

    It works on one batch at a time, of the requests that came first; the next ones begin when all of it is done.
    """

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

        super().__init__()
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
        self._group: TransferGroup | None = None
        self._queue: deque[Request] = deque()
        self._batch: _Batch | None = None

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

    def _enqueue(self, requests: Sequence[Request]) -> None:
        self._queue.extend(requests)

    def _advance(self) -> dict[int, Response]:
        if self._batch is None:
            options = self._queue[0].options
            first = list(islice(takewhile(lambda request: request.options == options, self._queue), self._max_batch))
            for _ in first:
                self._queue.popleft()
            self._batch = _Batch(self._model, self._device, first, self._stop)
        finished = self._batch.advance()
        if not self._batch.running:
            self._batch = None
        return finished

    def _drop(self, samples: Sequence[int]) -> None:
        dropped = set(samples)
        self._queue = deque(request for request in self._queue if request.sample not in dropped)
        if self._batch is not None:
            self._batch.drop(dropped)
            if not self._batch.running:
                self._batch = None


class _Batch:
    """Requests of the same options that are decoded together, a token at a time."""

    def __init__(self, model: Any, device: torch.device, requests: Sequence[Request], stop: Tensor) -> None:
        self._model, self._stop = model, stop
        self._samples, self._options = [request.sample for request in requests], requests[0].options
        self.running = set(range(len(requests)))
        self._uniforms = _uniforms(self._samples, self._options).to(device)
        self._tokens, self._mask = _left_padded([request.tokens for request in requests], device)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._cache: Any = None
        self._sampled: list[Tensor] = []  # of each step so far [B]
        self._logprobs: list[Tensor] = []

    @torch.inference_mode()
    def advance(self) -> dict[int, Response]:
        """Samples the next token of each row. Returns the responses that end with it, by sample."""
        output = self._model(
            input_ids=self._tokens,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        token, logprob = sample(output.logits[:, -1].float(), self._options, self._uniforms[:, len(self._sampled)])
        self._sampled.append(token)
        self._logprobs.append(logprob)
        self._tokens, self._positions = token[:, None], self._positions[:, -1:] + 1
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        return self._ended(torch.isin(token, self._stop).tolist())

    def drop(self, samples: set[int]) -> None:
        """Lets these samples, where they are in the batch, never end."""
        self.running -= {row for row in self.running if self._samples[row] in samples}

    def _ended(self, stopped: list[bool]) -> dict[int, Response]:
        """Takes the rows out that sampled a stop token, or have reached their limit."""
        at_limit = len(self._sampled) == self._options.max_tokens
        ended = [row for row in sorted(self.running) if stopped[row] or at_limit]
        if not ended:
            return {}
        self.running -= set(ended)
        tokens = torch.stack([step[ended] for step in self._sampled], 1).tolist()
        logprobs = torch.stack([step[ended] for step in self._logprobs], 1).tolist()
        responses = zip(ended, tokens, logprobs, strict=True)
        return {self._samples[row]: Response(ids, values, stopped[row]) for row, ids, values in responses}


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
