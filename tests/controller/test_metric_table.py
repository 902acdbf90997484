"""The table of metrics is what the trainers write, no more and no less. tests/pipeline holds real runs against it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import rlhf_dist
from rlhf_dist.cluster.prometheus import GAUGES
from rlhf_dist.controller import warning_signs as signs
from rlhf_dist.controller.metric_table import METRICS, metric_named, unknown_metrics
from rlhf_dist.controller.run_diff import phase_of
from tools import metrics_page

PACKAGE = Path(rlhf_dist.__file__).parent
WRITERS = ["ppo", "ppo_trainer", "sft", "reward_model", "dpo", "loop", "trace"]
TREES = [ast.parse((PACKAGE / "controller" / f"{name}.py").read_text()) for name in WRITERS]
TREES.append(ast.parse((PACKAGE / "algo" / "mismatch.py").read_text()))
GROUPS = sorted({name.partition("/")[0] for name in METRICS})


def _patterns() -> set[str]:
    """Strings of the code that writes metrics, each as a regular expression; a placeholder stands for any string."""
    found = set()
    for tree in TREES:
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [re.escape(p.value) if isinstance(p, ast.Constant) else "\0" for p in node.values]
                found.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.escape(node.value))
    return found


PATTERNS = _patterns()
CONSTANTS = {pattern for pattern in PATTERNS if "\0" not in pattern}


def _is_written(name: str) -> bool:
    """Whether the code has the name, or an f-string that makes it of another string that the code has."""
    if re.escape(name) in CONSTANTS:
        return True
    if name == "reward/NAME_mean":
        return re.escape(name).replace("NAME", "\0") in PATTERNS
    for pattern in PATTERNS - CONSTANTS:
        inside = re.fullmatch(pattern.replace("\0", "(.+)"), name)
        if inside and all(re.escape(part) in CONSTANTS for text in inside.groups() for part in text.split("/")):
            return True
    return False


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_the_table_is_written_by_the_code(name: str) -> None:
    assert _is_written(name)


def test_a_name_that_nobody_writes_is_noticed() -> None:
    assert not _is_written("policy/enthalpy")
    assert not _is_written("time/lunch_s")
    assert not _is_written("eval/enthalpy")


def test_every_name_in_the_code_that_writes_metrics_is_in_the_table() -> None:
    shape = re.compile(rf"({'|'.join(GROUPS)})/\w+")
    names = {re.sub(r"\\(.)", r"\1", pattern) for pattern in CONSTANTS}
    written = {name for name in names if shape.fullmatch(name)}
    assert len(written) > 25
    assert unknown_metrics(written) == set()


def test_the_metric_of_a_source_is_known_by_any_name_and_no_other_is() -> None:
    metric = metric_named("reward/polite_mean")
    assert metric is not None and metric.source_in("reward/polite_mean") == "polite"
    assert unknown_metrics(["step", "reward/polite_mean", "reward/polite_median", "kl/coef"]) == {
        "reward/polite_median"
    }


@pytest.mark.parametrize("name", [name for name in METRICS if not name.startswith(("time/", "throughput/"))])
def test_a_metric_belongs_to_the_phase_in_which_diff_looks_for_it(name: str) -> None:
    assert METRICS[name].phase == phase_of(name.replace("NAME", "polite"))


def test_the_gauges_of_a_run_are_metrics_of_the_table() -> None:
    plain = {name.removeprefix("rlhf_").replace("_", "/", 1) for name, tags in GAUGES.items() if not tags}
    assert unknown_metrics(plain) == set()


def test_the_page_has_the_table_of_today() -> None:
    page = (metrics_page.ROOT / metrics_page.PAGE).read_text(encoding="utf-8")
    assert metrics_page.with_tables(page) == page, "run .venv/bin/python tools/metrics_page.py"


def test_the_page_says_of_every_metric_what_is_healthy() -> None:
    page = (metrics_page.ROOT / metrics_page.PAGE).read_text(encoding="utf-8")
    healthy = page.partition("\n## Healthy ranges\n")[2]
    rows = {
        name
        for line in healthy.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }
    assert METRICS.keys() - rows == set()
    assert unknown_metrics(name.replace("NAME", "any") for name in rows) == set()


def test_the_page_has_every_warnings_threshold() -> None:
    """Each figure that a warning looks at, with the threshold as the code has it."""
    page = (metrics_page.ROOT / metrics_page.PAGE).read_text(encoding="utf-8")
    rows = {
        line.split("`")[1]: line
        for line in page.partition("\n## Healthy ranges\n")[2].splitlines()
        if line.startswith("| `")
    }
    for name, threshold in {
        "kl/sequence_mean": f"{signs.KL_PER_TOKEN} nats a token",
        "policy/entropy": f"{signs.ENTROPY_LEFT:.0%} of",
        "response/finished": f"{signs.FINISHED_SHARE:.0%}",
        "response/length_mean": f"{signs.LENGTH_GROWTH} times",
        "eval/distinct_2": f"{signs.DISTINCT_LEFT:.0%} of",
        "value/explained_variance": f"{signs.EXPLAINED_VARIANCE}",
        "rollout/logprob_gap": f"{signs.LOGPROB_GAP} nats",
    }.items():
        assert threshold in rows[name], name
