"""The keys and metrics that the reference pages name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlhf_dist.config.keys import schema_keys
from rlhf_dist.controller.metric_table import METRICS, unknown_metrics
from rlhf_dist.main import JOBS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ["metrics.md", "errors.md", "howto/when_it_does_not_learn.md"]
KEYS = {name for job in JOBS.values() for name in schema_keys(job.schema)}
SECTIONS = {key.partition(".")[0] for key in KEYS if "." in key}
GROUPS = {name.partition("/")[0] for name in METRICS}


def words(page: str) -> set[str]:
    """What stands as code on a page, word by word."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return {word for code in re.findall(r"`+([^`]+)`+", text) for word in code.split()}


@pytest.mark.parametrize("page", PAGES)
def test_every_key_that_a_page_names_is_one_of_the_schema(page: str) -> None:
    named = {match[1] for word in words(page) if (match := re.fullmatch(r"([a-z]+(?:\.[a-z_]+)+)(?:=\S*)?", word))}
    keys = {name for name in named if name.partition(".")[0] in SECTIONS and not name.endswith((".md", ".py", ".json"))}
    assert len(keys) > 10
    assert keys - KEYS - {"actor.optim", "critic.optim"} == set()  # these two are sections


@pytest.mark.parametrize("page", PAGES)
def test_every_metric_that_a_page_names_is_one_of_the_table(page: str) -> None:
    shape = re.compile(rf"(?:{'|'.join(sorted(GROUPS))})/[a-z_]+")
    assert unknown_metrics(word for word in words(page) if shape.fullmatch(word)) == set()
