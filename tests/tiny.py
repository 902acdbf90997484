"""A tiny model, tokenizer and data, made on the spot: real files in the real formats, seconds to use."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [
    "a",
    "the",
    "film",
    "movie",
    "is",
    "was",
    "good",
    "bad",
    "great",
    "poor",
    "dull",
    "plot",
    "cast",
    "very",
    "not",
]
VOCABULARY = 320


def sentence(rng: random.Random, words: int) -> str:
    """``words`` random words."""
    return " ".join(rng.choice(WORDS) for _ in range(words))


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE with <bos>, <eos> and <pad>, which puts <bos> in front."""
    _tokenizer().save_pretrained(folder)


@functools.cache
def _tokenizer() -> PreTrainedTokenizerFast:
    rng = random.Random(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([sentence(rng, 12) for _ in range(200)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def write_model(folder: Path, *, tied: bool = True, seed: int = 0) -> Path:
    """A Llama of 0.1M random parameters, spread wide enough that its distributions are far from uniform."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.08,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_reward_model(folder: Path, model: Path) -> None:
    """A reward model on ``model``'s body, with a random head."""
    from rlhf_dist.config.schema import ModelConfig
    from rlhf_dist.device import CPU
    from rlhf_dist.models.language import load_scalar

    torch.manual_seed(1)
    load_scalar(ModelConfig(path=str(model)), CPU).classifier.save_pretrained(folder)


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_data(folder: Path, size: int = 40) -> Path:
    """sft.jsonl, comparisons.jsonl, prompts.jsonl and text.jsonl of ``size`` rows each."""
    rng = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(
        folder / "sft.jsonl",
        [{"prompt": sentence(rng, 3), "response": " " + sentence(rng, rng.randint(1, 8))} for _ in range(size)],
    )
    rows = []
    for _ in range(size):
        count = rng.randint(2, 5)
        ranks = [rng.randint(1, count) for _ in range(count)]
        dense = {rank: place + 1 for place, rank in enumerate(sorted(set(ranks)))}
        if len(dense) == 1:
            ranks, dense = [1, *[2] * (count - 1)], {1: 1, 2: 2}
        answers = [" " + sentence(rng, rng.randint(1, 8)) for _ in range(count)]
        rows.append({"prompt": sentence(rng, 2), "responses": answers, "ranking": [dense[rank] for rank in ranks]})
    write_jsonl(folder / "comparisons.jsonl", rows)
    write_jsonl(folder / "prompts.jsonl", [{"prompt": sentence(rng, rng.randint(1, 5))} for _ in range(size)])
    write_jsonl(folder / "text.jsonl", [{"text": sentence(rng, rng.randint(1, 20))} for _ in range(size)])
    return folder
