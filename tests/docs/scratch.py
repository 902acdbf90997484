"""The folder in which the pages' commands run: the names that the pages use, each the smallest real thing of its kind.

A page that names something else says with `<!-- file: NAME -->` what it is, or it is added here.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from transformers import LlamaConfig

from rlhf_dist.__main__ import main
from tests.controller.curves_of_runs import write_run
from tests.docs.pages import ROOT
from tests.shapes import MODELS
from tests.tiny import sentence, write_data, write_jsonl, write_model, write_reward_model, write_tokenizer

POLICIES = ("my-ppo", "my-sft", "demo-sft", "demo-ppo", "sft", "ppo")  # runs/NAME with a language model
REWARD_MODELS = ("my-reward", "demo-reward", "reward", "people")
CURVES = ("ppo-seed1", "ppo-seed2", "grpo", "ppo-a", "ppo-b")  # runs of which only reports are written
SHAPES = {  # runs/NAME with a reward model that is only checked: without weights
    "reward_llama_8b": "meta-llama/Llama-3.1-8B-Instruct",
    "reward_llama_1b": "meta-llama/Llama-3.2-1B-Instruct",
    "own-rankings": "demo/base",
}
ROWS = 300  # of data: the recipes hold 256 out
JUDGE = '''"""Longer answers are better."""


def score(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]
'''


def write_scratch(folder: Path) -> Path:
    """Fills an empty folder. It takes a few seconds, most of them for torch."""
    for name in ("configs", "docs/examples"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("launch", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    _write_demo(folder / "demo")
    _write_runs(folder)
    for name, (shape, _) in MODELS.items():
        LlamaConfig(**shape).save_pretrained(folder / name)
        write_tokenizer(folder / name)
    for name, like in SHAPES.items():
        shutil.copytree(folder / like, folder / "runs" / name / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    _write_files(folder)
    return folder


def _write_demo(demo: Path) -> None:
    """What is in `demo/`, with a few lines of data in place of what `make demo` fetches."""
    demo.mkdir()
    for name in ("base", "judge.py"):
        (demo / name).symlink_to(ROOT / "demo" / name)
    made = write_data(demo / "data", ROWS)
    for name in ("prompts_train", "prompts_eval"):
        shutil.copy(made / "prompts.jsonl", made / f"{name}.jsonl")
    for name in ("comparisons_train", "comparisons_labels", "pairs_eval"):
        shutil.copy(made / "comparisons.jsonl", made / f"{name}.jsonl")


def _write_runs(folder: Path) -> None:
    runs = folder / "runs"
    for seed, name in enumerate((*POLICIES, *CURVES)):
        write_run(runs, name, seed=seed, steps=5)
    first = runs / POLICIES[0] / "model"
    write_model(first)
    for name in POLICIES[1:]:
        shutil.copytree(first, runs / name / "model")
    reward = runs / REWARD_MODELS[0] / "model"
    write_reward_model(reward, first)
    for file in first.glob("tokenizer*"):
        shutil.copy(file, reward)
    for name in REWARD_MODELS[1:]:
        shutil.copytree(reward, runs / name / "model")


def _write_files(folder: Path) -> None:
    """Prompts, answers, judgements and what else stands beside the runs."""
    for file in (ROOT / "docs" / "examples").iterdir():
        shutil.copy(file, folder)
    shutil.copy(folder / "people.jsonl", folder / "judgements.jsonl")
    data = write_data(folder / "data", ROWS)
    for name, like in {"prompts": "prompts", "rankings": "comparisons", "heldout": "comparisons"}.items():
        shutil.copy(data / f"{like}.jsonl", folder / f"{name}.jsonl")
    rng = random.Random(2)
    pairs = [
        {"prompt": sentence(rng, 3), "chosen": sentence(rng, 4), "rejected": sentence(rng, 5), "subset": "easy"}
        for _ in range(12)
    ]
    write_jsonl(folder / "rewardbench.jsonl", pairs)
    (folder / "judge.py").write_text(JUDGE)
    (folder / "guidelines.md").write_text("Prefer what is true.\n")
    export = folder / "export.json"
    words = [str(folder / "people.jsonl"), str(export), "--from", "judgements", "--to", "label-studio"]
    assert main(["convert", *words]) == 0 and json.loads(export.read_text())
