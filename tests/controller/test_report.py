"""The report: whole without the network, true to the run's files, and there for unfinished runs too."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from rlhf_dist.__main__ import main
from rlhf_dist.controller.curves import CHARTS, charts_of, running_mean, save_curves_png
from rlhf_dist.controller.metric_table import METRICS, PPO, REWARD, SFT, metrics_of
from rlhf_dist.controller.metrics import MetricsWriter
from rlhf_dist.controller.report import phase_seconds, print_summary, summary_rows, write_report
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.durable import write_json_atomic, write_text_atomic
from rlhf_dist.errors import UserError

_SUMMARY = {
    "before": {"score_mean": -0.41, "judge_mean": None, "distinct_2": 0.71},
    "after": {"score_mean": 1.72, "judge_mean": 0.55, "distinct_2": 0.62},
    "kl_sequence_mean": 10.83,
    "wall_s": 541.2,
    "tokens": 1234567,
}


def _sample(step: int, prompt: str, response: str) -> dict:
    return {
        "step": step,
        "prompt": prompt,
        "response": response,
        "score": 0.5,
        "kl": 1.0,
        "judge": None,
        "finished": step > 0,
    }


def _run(folder: Path, name: str, keys: tuple[str, ...], steps: int) -> RunDir:
    run = RunDir(folder / name)
    write_text_atomic(run.config, f"run:\n  name: {name}\n")
    with MetricsWriter(run.metrics) as writer:
        for step in range(1, steps + 1):
            writer.write(step, {**dict.fromkeys(keys, step * 1.5), "time/rollout_s": 1.0})
    return run


@pytest.fixture
def ppo(tmp_path: Path) -> RunDir:
    """A finished PPO run."""
    run = _run(tmp_path, "demo-ppo", metrics_of(PPO), 3)
    run.append_samples([_sample(0, "it <is>", "dull & thin"), _sample(3, "it <is>", "warm")])
    write_json_atomic(run.summary, _SUMMARY)
    return run


class _Page(HTMLParser):
    """Collects tags, and complains where they do not nest."""

    VOID = ("meta", "br", "use", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def _shown(run: RunDir) -> str:
    return write_report(run.root).read_text(encoding="utf-8")


def test_the_report_needs_nothing_but_itself(ppo: RunDir) -> None:
    page = _Page(_shown(ppo))
    assert page.open == []
    assert all(link.startswith("#") for link in page.links)
    assert not page.tags & {"link", "iframe", "img"}


def test_the_only_script_of_a_page_is_the_one_that_its_policy_names(ppo: RunDir) -> None:
    text = _shown(ppo)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "default-src 'none'" in text
    assert not re.search(r"\son\w+=", text.replace(script, "")), "a handler in an attribute, which would not run"


def test_curves_take_their_colours_from_the_page(ppo: RunDir) -> None:
    text = _shown(ppo)
    assert "prefers-color-scheme: dark" in text
    assert 'stroke="var(--c1)"' in text


def test_before_and_after_stand_side_by_side_with_text_escaped(ppo: RunDir) -> None:
    text = _shown(ppo)
    assert "it &lt;is&gt;" in text and "dull &amp; thin" in text and "warm" in text
    assert text.count("[cut at the length limit]") == 1
    for figure in ("-0.410", "1.720", "+2.130", "0.550", "10.83 nats a sequence", "9m 01s", "1,234,567"):
        assert figure in text


@pytest.mark.parametrize(
    ("keys", "job"), [(metrics_of(SFT), "supervised fine-tuning"), (metrics_of(REWARD), "reward model")]
)
def test_the_other_two_jobs_have_a_report_too(tmp_path: Path, keys: tuple[str, ...], job: str) -> None:
    text = _shown(_run(tmp_path, "other", keys, 2))
    assert job in text and "Learning rate" in text and "unfinished" in text


def test_a_run_without_a_single_step_has_a_report(tmp_path: Path) -> None:
    text = _shown(_run(tmp_path, "early", metrics_of(PPO), 0))
    assert "No step has ended yet" in text and "unfinished" in text


def test_a_run_cut_in_the_middle_of_a_line_has_a_report(ppo: RunDir) -> None:
    ppo.summary.unlink()
    with ppo.metrics.open("a") as file:
        file.write('{"step": 4, "loss/pol')
    with ppo.samples.open("a") as file:
        file.write('{"step"')
    assert "3 steps" in _shown(ppo)


def test_the_steps_between_the_first_and_the_last_sample_of_a_prompt_are_there_too(ppo: RunDir) -> None:
    ppo.samples.unlink()
    ppo.append_samples([_sample(step, "it is", f"text of step {step}") for step in (0, 1, 2, 3)])
    text = _shown(ppo)
    assert "2 of the steps between" in text
    assert all(f"text of step {step}" in text for step in (0, 1, 2, 3))


def test_samples_without_a_common_prompt_show_the_newest(ppo: RunDir) -> None:
    ppo.append_samples([_sample(5, "other prompt", "newest text")])
    text = _shown(ppo)
    assert "newest text" in text and "Samples of the last step" in text


def test_charts_are_titled_by_the_table_of_metrics_and_unknown_ones_by_their_names() -> None:
    rows = [{"step": 1, "mine/own": 1.0, "time/rollout_s": 1.0, "loss/sft": 1.0, "eval/loss": 2.0, "kl/coef": 0.1}]
    rows[0]["reward/polite_mean"] = 1.0
    assert [(chart.title, chart.unit) for chart in charts_of(rows)] == [
        ("Loss", "nats a token"),
        ("KL coefficient", "reward a nat"),
        ("mine/own", ""),
        ("Score of polite", "mean of a step"),
    ]


def test_every_metric_of_a_chart_is_in_the_table() -> None:
    assert {key for chart in CHARTS for key in chart.keys} <= METRICS.keys()


def test_time_shares_are_of_the_parts_a_step_divides_into() -> None:
    rows = [
        {"step": n, "time/step_s": 10.0, "time/a_s": 2.0, "time/b_s": 7.0, "time/b/x_s": 6.0, "time/critic/y_s": 3.0}
        for n in (1, 2, 3)
    ]
    assert phase_seconds(rows) == {"b": 7.0, "a": 2.0, "other": 1.0}


def test_running_mean_uses_fewer_neighbours_at_the_ends() -> None:
    assert running_mean([0.0, 3.0, 6.0, 9.0], 3) == [1.5, 3.0, 6.0, 7.5]


def test_a_figure_that_was_not_measured_is_a_dash() -> None:
    rows = {row.label: (row.before, row.after, row.change) for row in summary_rows(_SUMMARY)}
    assert list(rows) == ["learned reward", "judge (independent)", "distinct-2"]
    assert rows["judge (independent)"] == ("–", "0.550", "–")


def test_the_terminals_table_has_the_same_figures() -> None:
    out = io.StringIO()
    print_summary(_SUMMARY, Console(file=out, width=100))
    assert "+2.130" in out.getvalue() and "10.83 nats a sequence" in out.getvalue()


def test_one_picture_of_several_runs(tmp_path: Path, ppo: RunDir) -> None:
    sft = _run(tmp_path, "demo-sft", metrics_of(SFT), 50)
    path = tmp_path / "docs" / "curves.png"
    save_curves_png([sft.root, ppo.root], path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        write_report(tmp_path)


def test_the_command_prints_where_the_report_is(ppo: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(ppo.root)]) == 0
    assert capsys.readouterr().out == f"{ppo.report}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["rapport"], ["report"], ["report", "/nowhere"], ["report", "/nowhere", "/no"]]
)
def test_wrong_arguments_end_with_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_the_command_needs_no_training_library() -> None:
    code = (
        "import sys, rlhf_dist.__main__, rlhf_dist.controller.report, rlhf_dist.controller.view\n"
        "assert not {'torch', 'ray', 'vllm', 'deepspeed', 'transformers'} & set(sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)
