"""docs/tutorial.md: its commands lead from a model's samples to a better model, and print what the page shows."""

from __future__ import annotations

import json
import shutil
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tutorial import CHROMIUM, PAGE, ROOT, Tutorial, commands, outputs, vader_with_noise
from rlhf_dist.data.comparisons import is_ranking
from rlhf_dist.labelling.candidates import load_candidates
from rlhf_dist.labelling.judgements import Judgement, load_judgements
from rlhf_dist.labelling.preferences import places
from tests.tiny import write_data, write_model

NOISE = 0.05
RESULTS = ROOT / "benchmarks" / "results" / "tutorial.json"

_JOB = ["run.device=cpu", "run.tensorboard=false"]
_SAMPLE = ["--device cpu", "--max-tokens 10"]
SMALL = {
    "rlhf-dist sft": [*_JOB, "sft.max_steps=60", "sft.batch_size=8", "actor.optim.lr=1e-2", "data.eval_count=8"],
    "rlhf-dist sample": [*_SAMPLE, "--limit 12"],
    "rlhf-dist sample --model sft=runs/demo-sft/model --model": [*_SAMPLE, "--limit 8", "--backend hf"],
    "rlhf-dist label runs/tutorial/candidates.jsonl": ["--labellers ann,bob", "--shared 0.5"],
    "rlhf-dist reward": [*_JOB, "data.eval_count=2", "training.max_steps=10"],
    "rlhf-dist ppo": [
        *_JOB,
        "actor.train_engine=zero",
        "data.eval_count=5",
        "rollout.max_prompt_tokens=32",
        "rollout.max_response_tokens=12",
        "rollout.memory_gib=0.25",
        "ppo.prompts_per_step=7",
        "ppo.minibatch_size=4",
        "ppo.steps=2",
    ],
}
"""What makes the page's commands small, by how they begin."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the paths of this repository that the page names, and a tiny model and data in them."""
    demo = tmp_path / "demo"
    demo.mkdir()
    for name in ("judge.py", "guidelines.md"):
        shutil.copy(ROOT / "demo" / name, demo)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_model(demo / "base")
    write_data(demo / "data", 120)
    rows = (demo / "data" / "prompts.jsonl").read_text().splitlines(keepends=True)
    (demo / "data" / "prompts_train.jsonl").write_text("".join(rows[:100]))
    (demo / "data" / "prompts_eval.jsonl").write_text("".join(rows[100:]))
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_the_tutorials_commands_lead_to_a_model_that_is_compared(
    checkout: Path,
) -> None:
    pytest.importorskip("playwright.sync_api", reason="the extra `test` is not installed whole: no playwright")
    vader = pytest.importorskip("vaderSentiment.vaderSentiment", reason="the extra `demo` is not installed")
    tutorial = Tutorial(checkout, vader_with_noise(1, NOISE), 10, SMALL)
    printed = {command: tutorial.run(command).output for command in commands(PAGE.read_text())}

    made = checkout / "runs" / "tutorial"
    assert all(len(row.answers) >= 2 for row in load_candidates(str(made / "candidates.jsonl")))
    people = load_judgements(str(made / "people.jsonl"))
    assert {one.labeller for one in people} == {"ann", "bob"} and len({one.prompt.id for one in people}) == 12
    check_opinions(people, vader.SentimentIntensityAnalyzer().polarity_scores)
    rows = [json.loads(line) for line in (made / "rankings.jsonl").read_text().splitlines()]
    assert rows and all(is_ranking(row["ranking"]) and len(row["responses"]) >= 2 for row in rows)
    assert any({"ann", "vader (function)"} <= set(row["labellers"]) for row in rows), (
        "people and the judge do not come together"
    )

    reward = json.loads((checkout / "runs/tutorial-reward/summary.json").read_text())
    assert 0 <= reward["after"]["accuracy"] <= 1
    steps = (checkout / "runs/tutorial-ppo/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in steps] == [1, 2]
    for judgements in ("blind.jsonl", "blind_judge.jsonl"):
        judged = load_judgements(str(made / judgements))
        assert judged and all({answer.model for answer in one.answers} == {"sft", "ppo"} for one in judged)
        (shown,) = (
            text for command, text in printed.items() if command.endswith(f"judgements runs/tutorial/{judgements}")
        )
        assert "Elo" in shown and "Model against model" in shown


def check_opinions(judgements: list[Judgement], score: Any) -> None:
    """What labellers clearly prefer, their rankings put first."""
    clear = 0
    for one in judgements:
        place = places(one.ranking)
        scores = {answer.id: score(f"{one.prompt.plain} {answer.text.strip()}")["compound"] for answer in one.answers}
        for better, worse in permutations(scores, 2):
            if scores[better] - scores[worse] > 10 * NOISE:
                assert place[better] < place[worse], (one.prompt.plain, one.ranking, scores)
                clear += 1
    assert clear, "no two answers differ clearly"


def test_what_the_tutorial_shows_was_printed_by_its_commands() -> None:
    """The page's commands are those of the recorded run, and each line of its output was printed there."""
    page, recorded = PAGE.read_text(), json.loads(RESULTS.read_text())["commands"]
    assert commands(page) == [one["command"] for one in recorded][: len(commands(page))]
    printed = {line.rstrip() for one in recorded for line in one["output"]} | {"", "..."}
    shown = [line.rstrip() for block in outputs(page) for line in block.splitlines()]
    assert shown
    assert [line for line in shown if line not in printed] == []
