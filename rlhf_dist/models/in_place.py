"""Gradients of the two largest weights, embedding and head, added up where they are kept.

Autograd makes a new gradient of a weight's whole size for each use in each micro-batch, of an embedding mostly zeros,
and adds it to what is there: several passes over memory, which on a CPU are a tenth of a training step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlhf_dist.models.heads import LMHead


class _Embed(torch.autograd.Function):
    """Rows of ``weight``; the backward pass adds to the rows of ``weight.grad``."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids, weight)
        ctx.padding = padding
        return nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:  # type: ignore[override]
        ids, weight = ctx.saved_tensors
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        rows, places = gradient.reshape(-1, weight.shape[1]), ids.reshape(-1)
        if ctx.padding is not None:
            learns = places != ctx.padding
            rows, places = rows[learns], places[learns]
        weight.grad.index_add_(0, places, rows)
        return None, None, None


class InPlaceEmbedding(nn.Embedding):
    """An embedding with the weight of another, whose gradient is added to ``weight.grad`` in the backward pass.

    Autograd's hooks never see that gradient.

    Args:
        embedding: an embedding without extras but a padding token, which has no gradient.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        number, size = embedding.weight.shape
        super().__init__(number, size, padding_idx=embedding.padding_idx, _weight=embedding.weight.detach())
        self.weight = embedding.weight

    def forward(self, input: Tensor) -> Tensor:
        """``[...]`` int64 to ``[..., H]``."""
        embedded: Tensor = _Embed.apply(input, self.weight, self.padding_idx)
        return embedded


def add_gradients_in_place(model: Any) -> None:
    """Lets embedding and head of a transformers model add up their gradients where they are kept.

    For weights that only plain autograd looks after: no hooks, no sharding, in float32. What does not learn, or is of
    a class of the model's own, stays as it is.

    Args:
        model: a transformers model, maybe with an :class:`LMHead`.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if type(embedding) is nn.Embedding and _is_plain(embedding) and _learns(embedding.weight):
        model.set_input_embeddings(InPlaceEmbedding(embedding))
    if isinstance(head, LMHead) and _learns(head.weight) and (head.bias is None or _learns(head.bias)):
        head.in_place = True


def _is_plain(embedding: nn.Embedding) -> bool:
    return embedding.max_norm is None and not embedding.scale_grad_by_freq and not embedding.sparse


def _learns(parameter: Tensor) -> bool:
    return parameter.requires_grad and parameter.dtype == torch.float32
