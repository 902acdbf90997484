"""Whatever stands in a data set: it is read, or refused in one line that names file and row, and soon."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rlhf_dist.data.comparisons import load_comparisons
from rlhf_dist.data.demonstrations import load_demonstrations
from rlhf_dist.data.pretraining import load_text
from rlhf_dist.data.prompts import load_prompts
from rlhf_dist.errors import UserError
from tests.tiny import write_tokenizer

FIELDS = ("prompt", "response", "responses", "ranking", "messages", "role", "content", "text")
LONG_S = 20.0  # of a row of a few bytes, on a machine that does other things beside
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

numbers = st.integers() | st.floats() | st.sampled_from([10**25, -(10**400), 10**18])
texts = st.text(max_size=12) | st.text(st.characters(categories=["Cs", "Cc", "Zl"]), max_size=4)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | texts, inner, max_size=4),
    max_leaves=12,
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]) | values, "content": values}),
    max_size=3,
)
rows = st.fixed_dictionaries(
    {},
    optional={
        "prompt": values,
        "response": values,
        "responses": st.lists(values, max_size=4) | values,
        "ranking": st.lists(st.integers(-1, 4) | numbers, max_size=4) | values,
        "messages": messages | values,
        "text": values,
    },
)

READERS: dict[str, Callable[[str, Any], Any]] = {
    "prompts": lambda path, tokenizer: load_prompts(path, "train", tokenizer, 64),
    "demonstrations": lambda path, tokenizer: load_demonstrations(path, "train", tokenizer, 64, False),
    "comparisons": lambda path, tokenizer: load_comparisons(path, "train", tokenizer, 64, True),
    "text": lambda path, tokenizer: load_text(path, "train", tokenizer, 16),
}


@pytest.fixture(scope="module", params=["plain", "chat"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    made = AutoTokenizer.from_pretrained(folder)
    if request.param == "chat":
        made.chat_template = (
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        )
    return made


def read_all(path: Path, tokenizer: Any) -> None:
    for reader in READERS.values():
        started, said = time.monotonic(), str(path)
        try:
            reader(str(path), tokenizer)
        except UserError as error:
            said = str(error)
        assert said.startswith(str(path))
        assert said.isprintable()
        assert time.monotonic() - started < LONG_S


@FEW
@given(content=st.binary(max_size=200))
@example(content=b'{"prompt": ' + b"1" * 5000 + b"}")
@example(content=b'{"text": "\\ud800"}')
@example(content=b'{"a\\nb": 1}')
@example(content=b'{"prompt": ' + b"[" * 100_000)
def test_any_bytes_are_read_or_refused_in_one_line(content: bytes, tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    read_all(path, tokenizer)


@FEW
@given(found=st.lists(rows, min_size=1, max_size=3), ascii_only=st.booleans())
def test_any_rows_are_read_or_refused_in_one_line(
    found: list[dict[str, Any]], ascii_only: bool, tmp_path: Path, tokenizer: Any
) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in found]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    read_all(path, tokenizer)


@settings(FEW, max_examples=8)
@given(content=st.binary(max_size=200), cut=st.integers(0, 400), at=st.integers(0, 400))
def test_a_damaged_parquet_file_is_read_or_refused_in_one_line(
    content: bytes, cut: int, at: int, tmp_path: Path, tokenizer: Any
) -> None:
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict({"prompt": ["a film"], "response": ["good"]}).to_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + content + whole[at + len(content) : len(whole) - cut])
    read_all(path, tokenizer)
