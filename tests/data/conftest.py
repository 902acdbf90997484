"""Small byte-level tokenizers, with and without a chat template."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS, TURN = "<s>", "</s>", "<|turn|>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
Rows = list[dict[str, Any]]


def build(template: str | None = None, eos: str | None = EOS, closes: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE that puts BOS before a text and, where ``closes``, EOS after it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[BOS, EOS, TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the movie was good and the end was better"] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}" if closes else f"{BOS} $A", special_tokens=[(BOS, 0), (EOS, 1)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=eos)
    fast.chat_template = template
    return fast


@pytest.fixture(scope="session")
def plain() -> PreTrainedTokenizerFast:
    """Without a chat template."""
    return build()


@pytest.fixture(scope="session")
def chat() -> PreTrainedTokenizerFast:
    """With a chat template."""
    return build(TEMPLATE)


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[Rows], str]:
    """Writes rows to a JSONL file and gives its path."""

    def write(rows: Rows) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write
