"""docs/coming_from.md: what it says of our side exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_dist.config.keys import schema_keys
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.errors import UserError
from rlhf_dist.plan.job import load_job

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/coming_from.md").read_text()
METRIC = re.compile(r"(reward|kl|policy|loss|value|response|rollout|time|throughput)/\w+")


def our_names() -> Iterator[str]:
    """What stands in backquotes in the first column of the tables that begin with ours."""
    ours = False
    for line in PAGE.splitlines():
        if not line.startswith("|"):
            ours = False
        elif line.startswith("| rlhf_dist |"):
            ours = True
        elif ours:
            yield from re.findall(r"`([^`]+)`", line.split("|")[1])


def settings() -> list[str]:
    """Those that are keys or settings: names with a dot or an equals sign, and `placement`."""
    found = [name for name in our_names() if not METRIC.fullmatch(name)]
    return sorted({name.replace("NAME", "polite") for name in found if re.fullmatch(r"[a-z_]+[.=][\w.+=-]+", name)})


def test_the_tables_hold_keys_and_metrics_enough_to_be_worth_a_test() -> None:
    assert len(settings()) > 70 and "rewards.polite.weight" in settings()
    assert sum(METRIC.fullmatch(name) is not None for name in our_names()) > 10


@pytest.mark.parametrize("setting", settings())
def test_every_key_of_ours_in_the_tables_is_one_and_takes_the_value(setting: str) -> None:
    key, equals, value = setting.partition("=")
    assert key in schema_keys(PPOConfig, [key])
    if not equals:
        return
    grouped = [] if key.startswith("ppo.kl") else ["rollout.samples_per_prompt=4"]
    estimator = ["ppo.kl.estimator=k3"] if value == "loss" else []
    try:
        load_job([setting, *grouped, *estimator], ROOT / "configs/demo/ppo.yaml")
    except UserError as error:
        pytest.fail(f"{setting}: {error}")


@pytest.mark.parametrize("metric", sorted({name for name in our_names() if METRIC.fullmatch(name)}))
def test_every_metric_of_ours_in_the_tables_is_one_of_a_run(metric: str) -> None:
    source = "".join(path.read_text() for path in (ROOT / "rlhf_dist").rglob("*.py"))
    assert f'"{metric}"' in source


def test_words_in_the_first_column_that_look_like_no_key_are_few() -> None:
    others = {name for name in our_names() if not METRIC.fullmatch(name) and not re.search("[.=]", name)}
    assert others <= {"vllm", "hf", "k1", "k2", "k3", "placement"}
