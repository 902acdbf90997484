"""Shapes of real models, for the planner, which needs no weights."""

from __future__ import annotations


def llama(width: int, middle: int, layers: int, heads: int, *, tied: bool = False, **other: int) -> dict[str, object]:
    """A Llama 3's config.json."""
    return {
        "vocab_size": 128256,
        "hidden_size": width,
        "intermediate_size": middle,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": tied,
        **other,
    }


# The real shapes, by how the recipes call the models, and the parameters that this makes (as their makers state them).
MODELS = {
    "meta-llama/Llama-3.1-70B-Instruct": (llama(8192, 28672, 80, 64), 70_553_706_496),
    "meta-llama/Llama-3.1-8B-Instruct": (llama(4096, 14336, 32, 32), 8_030_261_248),
    "meta-llama/Llama-3.2-3B-Instruct": (llama(3072, 8192, 28, 24, tied=True, head_dim=128), 3_212_749_824),
    "meta-llama/Llama-3.2-1B-Instruct": (llama(2048, 8192, 16, 32, tied=True, head_dim=64), 1_235_814_400),
    "demo/smollm2": (
        llama(576, 1536, 30, 9, tied=True, vocab_size=49152, num_key_value_heads=3, max_position_embeddings=8192),
        134_515_008,
    ),
}
