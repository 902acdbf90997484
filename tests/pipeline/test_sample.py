"""`rlhf-dist sample` on real Ray and vLLM: two models one after the other, ended in between, gone on with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rlhf_dist.labelling.candidates import load_candidates
from tests.pipeline.conftest import Workspace
from tests.tiny import write_data, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_two_models_answer_and_what_is_lost_is_sampled_again_alike(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    write_model(tmp_path / "old", seed=0)
    run = tmp_path / "runs/new"
    write_model(run / "model", seed=1)
    (run / "config.yaml").touch()
    (run / "summary.json").write_text("{}")
    (run / "metrics.jsonl").write_text('{"step": 8}\n{"step": 9}\n')
    write_data(tmp_path / "data")
    command = [sys.executable, "-m", "rlhf_dist", "sample", "--model", "old", "--model", "runs/new/model"]
    command += ["--prompts", "data/prompts.jsonl", "--limit", "24", "--out", "c.jsonl", "--device", "cpu"]
    command += ["--k", "3", "--max-tokens", "12", "--batch", "32"]
    first = place.finish(place.launch(command), "", 0)
    assert "old: 16 of 24 prompts\n" in first.output and "new: 24 of 24 prompts\n" in first.output
    rows = load_candidates(str(tmp_path / "c.jsonl"))
    assert [len(row.answers) for row in rows] == [3] * 24
    answers = [answer for row in rows for answer in row.answers]
    assert {(answer.model, answer.details["weight_version"]) for answer in answers} == {("old", None), ("new", 9)}
    assert len({answer.text for answer in answers}) > 60, "samples share their random numbers"

    out = tmp_path / "c.jsonl"
    whole = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(whole[:20]) + whole[20][:40])
    second = place.finish(place.launch(command), "", 0)
    assert "old: " not in second.output and "new: 24 of 24 prompts\n" in second.output
    assert [json.loads(line) for line in out.read_bytes().splitlines()] == [json.loads(line) for line in whole]
    assert not (tmp_path / "c.logs").exists()


def test_a_judge_compares_two_models_and_a_second_call_asks_nobody_again(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    for seed, name in enumerate(("old", "new")):
        write_model(tmp_path / name, seed=seed)
    write_data(tmp_path / "data")
    (tmp_path / "judge.py").write_text(
        "def longer(prompts, responses):\n    return [len(text) for text in responses]\n"
    )
    command = [
        sys.executable,
        "-m",
        "rlhf_dist",
        "eval",
        "new",
        "old",
        "--prompts",
        "data/prompts.jsonl",
        "--limit",
        "16",
    ]
    command += [
        "--out",
        "eval",
        "--function",
        "judge.py:longer",
        "--backend",
        "hf",
        "--device",
        "cpu",
        "--max-tokens",
        "6",
    ]
    first = place.finish(place.launch(command), "", 0)
    rows = load_candidates(str(tmp_path / "eval/candidates.jsonl"))
    texts = [{answer.model: len(answer.text) for answer in row.answers} for row in rows]
    longer = [one["new"] - one["old"] if len(one) == 2 else 0 for one in texts]
    found = json.loads((tmp_path / "eval/eval.json").read_text())
    signs = sum(value > 0 for value in longer), sum(value == 0 for value in longer), sum(value < 0 for value in longer)
    assert (found["wins"], found["ties"], found["losses"]) == signs and sum(signs) == 16
    assert found["win_rate"]["value"] == pytest.approx((signs[0] + signs[1] / 2) / 16)
    assert f"new against old: {signs[0]} won" in first.output and "at equal length" in first.output
    again = "def longer(prompts, responses):\n    raise RuntimeError('asked again')\n\n"
    (tmp_path / "judge.py").write_text(f"{again}def shorter(p, r):\n    return [-len(text) for text in r]\n")
    place.finish(place.launch([*command, "--function", "judge.py:shorter"]), "", 0)
    other = json.loads((tmp_path / "eval/eval.json").read_text())
    assert (other["wins"], other["losses"]) == (found["losses"], found["wins"])
    place.finish(place.launch(command), "", 0)
    assert json.loads((tmp_path / "eval/eval.json").read_text()) == found, "two judges are mixed"
