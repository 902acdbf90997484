"""What shows the keys to users, the base files and the page of all keys, is what the tool makes of the schema."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rlhf_dist.config.keys import schema_keys
from rlhf_dist.config.schema import PPOConfig
from tools import config_files

ROOT = Path(__file__).resolve().parents[2]
FILES = config_files.files()
PAGE = FILES[config_files.PAGE]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_the_tool_makes_of_the_schema(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == FILES[name], "run .venv/bin/python tools/config_files.py"


@pytest.mark.parametrize("base", config_files.BASES, ids=lambda base: base.job)
def test_a_base_file_is_narrow_and_leaves_a_line_between_sections(base: config_files.Base) -> None:
    lines = FILES[base.file].splitlines()
    assert [line for line in lines if len(line) > 110] == []
    top = [number for number, line in enumerate(lines) if line and line[0] not in " #"]
    for number in top[1:]:
        comment = next(i for i in range(number - 1, 0, -1) if not lines[i].startswith("#"))
        assert lines[comment] == "" and comment < number - 1, lines[number]


@pytest.mark.parametrize("base", config_files.BASES, ids=lambda base: base.job)
def test_the_examples_of_a_base_file_are_marked_and_the_launchers_they_name_are_there(base: config_files.Base) -> None:
    assert base.examples.keys() <= schema_keys(base.kind).keys()
    assert FILES[base.file].replace("\n  # ", " ").count("(example") == len(base.examples)
    assert (ROOT / base.launcher).is_file()
    assert yaml.safe_load(FILES[base.file])["run"]["name"] == base.examples["run.name"]


@pytest.mark.parametrize("base", config_files.BASES, ids=lambda base: base.job)
def test_the_page_has_a_row_for_every_key(base: config_files.Base) -> None:
    rows = {line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")}
    for name in schema_keys(base.kind):
        section, _, inside = name.partition(".")
        assert (inside or section) in rows, name
        assert f"`{section}`" in PAGE


def test_a_row_of_the_page_says_all_that_the_schema_does() -> None:
    assert "| `optim.eps` | float | `1.0e-8` | above 0 | AdamW's epsilon |" in PAGE
    assert "| `strategy` | string | `pack` | `pack`: on few nodes<br>`spread`: on many nodes<br>" in PAGE
    path = next(line for line in PAGE.partition("## `actor`")[2].splitlines() if line.startswith("| `model.path`"))
    assert "| required in `actor`, `reward` |" in path and "; null in `critic`: the reward model, or" in path
    assert "## `actor`, `critic`, `reward` (`launch/reward_llama.py`)" in PAGE
    assert "## `reward` (`launch/ppo_llama.py`), `rewards.NAME`" in PAGE
    assert "advantage estimator ([algorithms.md](algorithms.md)) |" in PAGE


def test_all_keys_of_named_sections_are_on_the_page_as_well() -> None:
    names = [
        name.split(".", 2)[2] for name in schema_keys(PPOConfig, ["rewards.x.weight"]) if name.startswith("rewards.")
    ]
    assert names
    table = PAGE.partition("`rewards.NAME`")[2].partition("\n## ")[0]
    assert [name for name in names if f"| `{name}` |" not in table] == []
