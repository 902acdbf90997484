"""The comparison with the hand-written loop: both in turn, ratios by round, phases that cover the whole step."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.beside_bare import BARE, PHASES, PROMPTS, ROOT, bare_seconds, compare, recipe, summarize, write_prompts
from rlhf_dist.config.load import load_config
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.data.chat import read_prompt
from rlhf_dist.data.records import read_records

STEP = {name: 1.0 for parts in PHASES.values() for name in parts}


def test_the_phases_are_all_that_the_bare_loop_times() -> None:
    text = (BARE / "loop.py").read_text()
    (names,) = re.findall(r'names = "([a-z_ ]+)"', text)
    assert sorted(part for phase, parts in PHASES.items() if phase != "step" for part in parts) == sorted(names.split())


def test_the_first_step_of_the_bare_loop_does_not_count() -> None:
    lines = [json.dumps({"step": n, **STEP, "generate": value}) for n, value in enumerate((100.0, 2.0, 4.0, 3.0))]
    seconds = bare_seconds("\n".join(["noise", *lines, "RES {}"]))
    assert seconds["rollout"] == 3.0 and seconds["score"] == 4.0 and seconds["step"] == 1.0


def test_both_run_in_turn_and_the_ratio_is_the_median_of_the_rounds() -> None:
    order: list[str] = []
    bare, ours = iter((1.0, 2.0, 10.0)), iter((2.0, 2.0, 5.0))

    def runner(name: str, values: Iterator[float]) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            order.append(name)
            return dict.fromkeys(PHASES, next(values))

        return run

    step = summarize(compare(runner("bare", bare), runner("ours", ours), 3))["step"]
    assert order == ["bare", "ours", "ours", "bare", "bare", "ours"]
    assert (step["ratio"], step["ratio_min"], step["ratio_max"]) == (1.0, 0.5, 2.0)
    assert (step["bare_s"], step["ours_s"]) == (2.0, 2.0)


def test_the_work_is_configured_by_keys_that_there_are(tmp_path: Path) -> None:
    config = load_config(PPOConfig, recipe(tmp_path), ROOT / "configs" / "ppo_llama.yaml")
    assert {role.micro_batch_sequences for role in (config.actor, config.critic, config.reference, config.reward)} == {
        8
    }


def test_the_bare_loops_prompts_are_data_that_rlhf_dist_reads(tmp_path: Path) -> None:
    (tmp_path / "prompts_16_24.jsonl").write_text('{"input": "the river"}\n{"input": "a hill"}\n')
    write_prompts(tmp_path)
    records = read_records(str(tmp_path / PROMPTS), "train")
    assert [read_prompt(record).plain for record in records] == ["the river", "a hill"]
