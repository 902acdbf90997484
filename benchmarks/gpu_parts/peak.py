"""How many operations a second a card can do, and how many a training step needs."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_dist.device import Device

# Dense bfloat16 products with float32 sums, in operations a second, as NVIDIA's data sheets and white papers have them;
# the first name that matches counts. Cards without bfloat16 units (T4, V100) are here with their float16.
PEAKS = (
    (r"\bGB200|\bB200", 2250e12),
    (r"\bGB300|\bB300", 2250e12),
    (r"H100.*NVL|H200.*NVL", 835e12),
    (r"H100.*PCIe", 756e12),
    (r"H100|H200|H800|GH200", 989e12),
    (r"\bH20\b", 148e12),
    (r"A100|A800", 312e12),
    (r"A10G", 70e12),
    (r"\bA10\b", 125e12),
    (r"\bA30\b", 165e12),
    (r"\bA40\b", 149.7e12),
    (r"RTX A6000", 154.8e12),
    (r"\bL40S", 362e12),
    (r"\bL40\b", 181e12),
    (r"\bL4\b", 121e12),
    (r"RTX 5090", 209.5e12),
    (r"RTX 4090", 165.2e12),
    (r"RTX 3090", 71e12),
    (r"\bT4\b", 65e12),
    (r"V100", 125e12),
)


def listed_peak(card: str) -> float | None:
    """The table's entry for a card, by the name that torch gives it; None where it has none."""
    for pattern, flops in PEAKS:
        if re.search(pattern, card):
            return flops
    return None


def attained_peak(device: Device, tiny: bool) -> float:
    """Operations a second of a large product of square matrices in the device's dtype, measured: the best of five."""
    import torch

    size = 256 if tiny else 8192
    place, dtype = device.torch_device(), device.dtype("auto")
    left, right = (torch.randn(size, size, device=place).to(dtype) for _ in range(2))
    left @ right
    best = float("inf")
    for _ in range(5):
        device.synchronize()
        started = time.perf_counter()
        left @ right
        device.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def training_flops(config: Any, rows: int, length: int, causal: bool = True) -> float:
    """Operations of one forward and backward of a Llama on ``rows`` sequences of ``length`` tokens.

    Three times the forward's products: 2 operations for each weight and token, the embedding's lookup not counted and
    the head counted for every token; and the attention's two products, half of them where it is causal. Recomputation
    (of activations, or of the head's logits) is not counted, as is usual for a model's FLOPs utilization (Chowdhery et
    al., arXiv 2204.02311, appendix B).
    """
    width, heads, head = config.hidden_size, config.num_attention_heads, config.head_dim
    projections = 2 * width * heads * head + 2 * width * config.num_key_value_heads * head
    layer = projections + 3 * width * config.intermediate_size
    weights = config.num_hidden_layers * layer + width * config.vocab_size
    attention = config.num_hidden_layers * 4 * length * heads * head * (0.5 if causal else 1.0)
    return 3.0 * rows * length * (2 * weights + attention)
