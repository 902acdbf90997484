"""The report of several runs: bands of seeds, score against KL, samples through time, and what differs."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path

import pytest

from rlhf_dist.__main__ import main
from rlhf_dist.controller.comparison import write_comparison
from rlhf_dist.controller.loaded_run import groups_of, load_runs
from rlhf_dist.controller.rundir import RunDir, read_jsonl
from rlhf_dist.errors import UserError
from tests.controller.curves_of_runs import sample, write_run

SLOW = {"actor": {"optim": {"lr": 1e-5}, "num_workers": 1}}
FAST = {"actor": {"optim": {"lr": 2e-5}, "num_workers": 2}}


def _page(runs: list[RunDir]) -> str:
    return write_comparison([run.root for run in runs], runs[0].root.parent / "page.html").read_text(encoding="utf-8")


def _plots(text: str) -> dict[str, list[dict]]:
    """The lines of each chart, by the beginning of its description."""
    found = re.findall(r'aria-label="([^"]*?)\. [^"]*" data-plot="([^"]*)"', text)
    return {html.unescape(title): json.loads(html.unescape(points))["lines"] for title, points in found}


def test_seeds_of_one_configuration_are_a_band_of_mean_least_and_most(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, f"grpo-s{seed}", SLOW, seed=seed, steps=6) for seed in (1, 2, 3)]
    text = _page([*runs, write_run(tmp_path, "fast", FAST, steps=6)])
    band, single = _plots(text)["KL to the reference, nats a sequence"]
    values = [[row["kl/sequence_mean"] for row in read_jsonl(run.metrics)] for run in runs]
    assert band["label"] == "grpo (3 runs)" and single["label"] == "fast" and "low" not in single
    assert band["x"] == [1, 2, 3, 4, 5, 6]
    assert band["y"] == pytest.approx([sum(step) / 3 for step in zip(*values, strict=True)], rel=1e-4)
    assert band["low"] == pytest.approx([min(step) for step in zip(*values, strict=True)], rel=1e-4)
    assert band["high"] == pytest.approx([max(step) for step in zip(*values, strict=True)], rel=1e-4)
    assert "mean of the seeds 1, 2, 3; the band is from the least of them to the most" in text


def test_a_band_ends_with_the_shortest_of_its_runs_and_says_so(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, f"a-{seed}", seed=seed, steps=6) for seed in (1, 2)]
    lines = runs[1].metrics.read_text().splitlines(keepends=True)
    runs[1].metrics.write_text("".join(lines[:4]))
    text = _page(runs)
    assert _plots(text)["Entropy, nats a token"][0]["x"] == [1, 2, 3, 4]
    assert "up to step 4, where the shortest run ends" in text


def test_score_against_kl_has_a_curve_for_each_run_also_of_one_group(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, f"a-{seed}", seed=seed, steps=6) for seed in (1, 2)]
    lines = _plots(_page(runs))["Score, mean of a step, against KL in nats a sequence"]
    assert [line["label"] for line in lines] == ["a-1", "a-2"]
    rows = read_jsonl(runs[0].metrics)
    assert lines[0]["x"] == pytest.approx([row["kl/sequence_mean"] for row in rows], rel=1e-4)
    assert lines[0]["y"] == pytest.approx([row["reward/score_mean"] for row in rows], rel=1e-4)
    assert lines[0]["steps"] == [1, 2, 3, 4, 5, 6]


def test_keys_that_differ_stand_apart_by_whether_a_result_depends_on_them(tmp_path: Path) -> None:
    text = _page([write_run(tmp_path, "slow", SLOW, steps=2), write_run(tmp_path, "fast", FAST, steps=2)])
    section = text[text.index("What differs between the configurations") :]
    first, rest = section.split("<details>", 1)
    assert "actor.optim.lr" in first and "1e-05" in first and "2e-05" in first
    assert "actor.num_workers" not in first and "actor.num_workers" in rest
    assert "ppo.steps" not in section


def test_a_band_lists_all_of_its_seeds_where_configurations_differ_in_the_seed(tmp_path: Path) -> None:
    seeds = [write_run(tmp_path, f"a-{seed}", SLOW, seed=seed, steps=2) for seed in (4, 7)]
    text = _page([*seeds, write_run(tmp_path, "fast", FAST, seed=9, steps=2)])
    assert re.search("<code>run.seed</code></th><td[^>]*><bdi>4, 7</bdi></td><td[^>]*><bdi>9</bdi></td>", text)


def test_a_figure_that_never_changes_is_a_flat_line(tmp_path: Path) -> None:
    text = _page([write_run(tmp_path, name, settings, steps=60) for name, settings in (("a", SLOW), ("b", FAST))])
    plot = re.search(r'aria-label="KL coefficient, reward a nat\. [^"]*" data-plot="([^"]*)"', text)
    assert plot is not None
    low, high, *_ = json.loads(html.unescape(plot[1]))["y"]
    assert low < 0.095 and high > 0.105


def test_only_the_seed_and_the_place_may_differ_within_a_group(tmp_path: Path) -> None:
    write_run(tmp_path / "here", "a", SLOW, seed=1, steps=1)
    write_run(tmp_path / "there", "a", SLOW, seed=2, steps=1)
    write_run(tmp_path, "b", FAST, seed=1, steps=1)
    groups = groups_of(load_runs([tmp_path / "here/a", tmp_path / "there/a", tmp_path / "b"]))
    assert [[run.label for run in group.runs] for group in groups] == [["here/a", "there/a"], [f"{tmp_path.name}/b"]]


def test_the_same_prompt_is_shown_over_the_steps_of_every_run_as_text(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, name, settings, steps=2) for name, settings in (("slow", SLOW), ("fast", FAST))]
    for run in runs:
        run.append_samples([sample(step, "<b>it", f"{run.name} at <i>{step}") for step in range(0, 40, 4)])
    text = _page(runs)
    assert text.count("&lt;b&gt;it") == 1 and "<b>it" not in text
    shown = [int(step) for step in re.findall(r"slow at &lt;i&gt;(\d+)", text)]
    assert shown[0] == 0 and shown[-1] == 36 and len(shown) == 6
    assert text.count("6 of 10 steps") == 2


def test_each_group_has_a_button_that_shows_and_hides_its_curves(tmp_path: Path) -> None:
    text = _page([write_run(tmp_path, "slow", SLOW, steps=2), write_run(tmp_path, "fast", FAST, steps=2)])
    assert re.findall(r'data-toggle="(\d)"', text) == ["0", "1"]
    assert '<g data-line="0">' in text and '<g data-line="1">' in text


def test_the_warnings_of_each_run_bear_its_name(tmp_path: Path) -> None:
    cut = write_run(tmp_path, "short", FAST, steps=9, change=lambda step, row: row | {"response/finished": 0.2})
    text = _page([write_run(tmp_path, "well", SLOW, steps=9), cut])
    (card,) = re.findall(r'<li class="card warning">(.*?)</li>', text)
    assert "Answers are cut off" in card and "<bdi>short</bdi>, from step 5" in card


def test_long_curves_are_thinned_but_keep_their_ends(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, name, settings, steps=2000) for name, settings in (("slow", SLOW), ("fast", FAST))]
    line = _plots(_page(runs))["Entropy, nats a token"][0]
    assert len(line["x"]) <= 300 and line["x"][0] == 1 and line["x"][-1] == 2000


def test_the_command_writes_the_page_of_several_runs_here_or_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [str(write_run(tmp_path / "runs", name, steps=2).root) for name in ("a", "b")]
    monkeypatch.chdir(tmp_path)
    assert main(["report", *runs]) == 0
    assert main(["report", *runs, "--out", "pages/two.html"]) == 0
    assert capsys.readouterr().out == f"runs-report.html{os.linesep}pages/two.html{os.linesep}"
    assert (tmp_path / "runs-report.html").is_file() and (tmp_path / "pages" / "two.html").is_file()


def test_a_run_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", steps=1)
    with pytest.raises(UserError, match="named more than once"):
        write_comparison([run.root, run.root / "."], tmp_path / "page.html")
