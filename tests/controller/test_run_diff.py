"""`rlhf-dist diff`: the first step, phase and figure in which two runs part, and what differed before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_dist.__main__ import main
from rlhf_dist.controller.checkpoints import write_manifest
from rlhf_dist.controller.identity import IDENTITY_FILE
from rlhf_dist.controller.run_diff import Parting, RunDiff, diff_runs, phase_of, report_lines
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.durable import write_json_atomic
from rlhf_dist.errors import UserError
from tests.controller.curves_of_runs import Figures, sample, write_run

Change = Callable[[int, Figures], Figures]


def _times(step: int, **factors: float) -> Change:
    """Multiplies figures, written `loss__value`, from ``step`` on."""
    by_name = {name.replace("__", "/"): factor for name, factor in factors.items()}
    return lambda now, row: {k: v * by_name.get(k, 1.0) if now >= step else v for k, v in row.items()}


def _diff(folder: Path, change: Change, tolerance: float | None = None) -> RunDiff:
    a = write_run(folder, "a", steps=9)
    b = write_run(folder, "b", steps=9, change=change)
    return diff_runs(a.root, b.root, tolerance)


def _first(diff: RunDiff) -> tuple[int, str, str]:
    one = diff.parted[0]
    return one.step, one.phase, one.figure


def test_equal_runs_are_equal_to_the_bit_whatever_time_they_took(tmp_path: Path) -> None:
    diff = _diff(tmp_path, _times(1, time__step_s=3.0, time__train_s=5.0, throughput__tokens_per_s=0.3))
    assert not diff.parted and not diff.before
    assert "Equal to the bit in all 9 steps that both have." in report_lines(diff)


def test_the_first_figure_beyond_noise_is_named_in_the_order_of_the_phases(tmp_path: Path) -> None:
    change = _times(4, policy__entropy=1.1, reward__total_mean=1.1, loss__policy=2.0)
    diff = _diff(tmp_path, change)
    assert _first(diff) == (4, "advantage", "reward/total_mean")
    assert [one.phase for one in diff.parted] == ["advantage", "train", "train"]
    assert diff.equal_to == 3
    assert "They part at step 4, phase advantage (a | b):" in report_lines(diff)


def test_what_float_reductions_change_is_noise_and_said_to_be(tmp_path: Path) -> None:
    noise = _times(3, loss__value=1 + 3e-6, policy__entropy=1 - 5e-6)
    beyond = _times(7, loss__value=1.01)
    diff = _diff(tmp_path, lambda step, row: beyond(step, noise(step, row)))
    assert _first(diff) == (7, "train", "loss/value")
    assert "Equal to the bit up to step 2; equal within noise (relative 0.0001) up to step 6." in report_lines(diff)
    assert not _diff(tmp_path, noise).parted
    assert _first(_diff(tmp_path, noise, tolerance=0.0)) == (3, "train", "loss/value")


@pytest.mark.parametrize("figure", ["rollout/logprob_gap", "loss/policy", "kl/sequence_mean"])
def test_figures_that_cancel_to_nearly_nothing_are_no_parting(tmp_path: Path, figure: str) -> None:
    a = write_run(tmp_path, "a", steps=3, change=lambda _, row: row | {figure: 1e-7})
    b = write_run(tmp_path, "b", steps=3, change=lambda _, row: row | {figure: 3e-7})
    assert not diff_runs(a.root, b.root).parted


def test_another_learning_rate_is_a_parting_however_small_it_is(tmp_path: Path) -> None:
    a = write_run(tmp_path, "a", steps=3, change=lambda _, row: row | {"policy/lr": 1e-6})
    b = write_run(tmp_path, "b", steps=3, change=lambda _, row: row | {"policy/lr": 2e-6})
    assert _first(diff_runs(a.root, b.root)) == (1, "train", "policy/lr")


def test_bfloat16_has_more_noise(tmp_path: Path) -> None:
    half = {"actor": {"model": {"dtype": "bfloat16"}}}
    a = write_run(tmp_path, "a", half, steps=5)
    b = write_run(tmp_path, "b", half, steps=5, change=_times(2, loss__value=1.005))
    assert not diff_runs(a.root, b.root).parted
    assert _first(diff_runs(a.root, b.root, tolerance=1e-4)) == (2, "train", "loss/value")


def _with_samples(folder: Path, name: str, samples: list[dict[str, object]]) -> RunDir:
    run = write_run(folder, name, {"run": {"samples_every": 2, "samples_count": 1}}, steps=4)
    run.append_samples(samples)
    return run


def test_samples_show_a_parting_before_any_figure_and_where_in_the_text_it_is(tmp_path: Path) -> None:
    long = "the same words " * 8
    a = _with_samples(tmp_path, "a", [sample(0, "p", "x"), sample(2, "p", long + "good")])
    b = _with_samples(tmp_path, "b", [sample(0, "p", "x"), sample(2, "p", long + "bad")])
    diff = diff_runs(a.root, b.root)
    assert _first(diff) == (2, "rollout", "response 1 of samples.jsonl")
    assert 'words good" | "...ame words the same words bad"' in str(diff.parted[0])


def test_samples_beyond_those_of_the_rollout_are_of_an_evaluation(tmp_path: Path) -> None:
    a = _with_samples(tmp_path, "a", [sample(2, "p", "x"), sample(2, "held out", "good")])
    b = _with_samples(tmp_path, "b", [sample(2, "p", "x"), sample(2, "held out", "bad")])
    assert _first(diff_runs(a.root, b.root))[1] == "evaluate"


def test_keys_data_and_versions_that_differed_before_are_listed(tmp_path: Path) -> None:
    runs = []
    for name, rate, workers, content, torch in (("a", 1e-5, 1, "aaa", "2.12"), ("b", 2e-5, 2, "bbb", "2.13")):
        run = write_run(tmp_path, name, {"actor": {"lr": rate, "num_workers": workers}}, steps=2)
        folder = run.root / "checkpoints" / "step-2"
        folder.mkdir(parents=True)
        write_json_atomic(folder / IDENTITY_FILE, {"values": {}, "content": {"data, train": content}})
        write_manifest(folder, {"rlhf_dist": "0.1.0", "versions": {"torch": torch}, "job": "ppo", "step": 2})
        runs.append(run.root)
    assert diff_runs(*runs).before == [
        "version of torch: 2.12 | 2.13",
        "content of data, train: aaa | bbb",
        "actor.lr: 1e-05 | 2e-05",
        "actor.num_workers: 1 | 2 [no result depends on it]",
    ]


def test_runs_of_other_lengths_and_figures_are_compared_where_both_have_them(tmp_path: Path) -> None:
    a = write_run(tmp_path, "a", steps=5)
    b = write_run(tmp_path, "b", steps=3, change=lambda _, row: row | {"loss/pretrain": 3.0})
    b.metrics.write_text(b.metrics.read_text() + '{"step": 4, "torn')
    write_run(tmp_path, "c", steps=5)
    assert not diff_runs(a.root, tmp_path / "c").parted
    lines = "\n".join(report_lines(diff_runs(a.root, b.root)))
    assert "loss/pretrain: only in b, from step 1" in lines


@pytest.mark.parametrize(
    ("figure", "phase"),
    [
        ("response/length_mean", "rollout"),
        ("reward/score_mean", "score"),
        ("reward/judge_mean", "score"),
        ("rollout/logprob_gap", "score"),
        ("reward/total_mean", "advantage"),
        ("value/explained_variance", "advantage"),
        ("loss/policy", "train"),
        ("reward/margin", "train"),
        ("mine/own", "train"),
        ("weights/version", "sync"),
        ("eval/score_mean", "evaluate"),
    ],
)
def test_each_figure_belongs_to_the_phase_that_shows_it_first(figure: str, phase: str) -> None:
    assert phase_of(figure) == phase


def test_the_command_ends_with_0_or_1_and_mistakes_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = str(write_run(tmp_path, "a", steps=3).root)
    b = str(write_run(tmp_path, "b", steps=3).root)
    c = str(write_run(tmp_path, "c", steps=3, change=_times(2, loss__value=2.0)).root)
    empty = write_run(tmp_path, "d", steps=0)
    assert main(["diff", a, b]) == 0 and main(["diff", a, c]) == 1
    assert "They part at step 2, phase train (a | b):" in capsys.readouterr().out
    assert main(["diff", a, str(empty.root)]) == 2
    assert "have no step in common" in capsys.readouterr().err
    assert main(["diff", a, "/nowhere"]) == 2 and main(["diff", a, b, "--tolerance", "-1"]) == 2


def test_a_parting_is_one_line_with_both_values() -> None:
    assert str(Parting(1, "train", "loss/value", 1.0, 1.5, 1 / 3)) == "loss/value: 1 | 1.5 (relative difference 0.33)"


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", steps=1)
    with pytest.raises(UserError, match="named more than once"):
        diff_runs(run.root, run.root)
