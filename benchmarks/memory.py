#!/usr/bin/env python3
"""The planner's memory on a CPU against the truth: proportional set sizes (PSS) of a real PPO job's processes.

    benchmarks/memory.py [--stages 0 1 2 3] [--json FILE] [--out FILE] [MODEL ...]
    benchmarks/memory.py --again FILE [--out FILE] [MODEL ...]

For each model (directories in Hugging Face format; without one, the demo's base of 3M, one of 17M made here, and
SmolLM2) and each ZeRO stage it runs `launch/ppo_llama.py` for two steps with checkpoints and evaluations: two actor
workers under that stage, a critic, a frozen reference (under stage 3 two sharded workers), a function as reward, two
vLLM engines; 4 samples of 96 tokens a step. All processes are looked at twice a second. Prints each role's largest
worker beside the plan, and the whole job; writes it as Markdown to FILE. Exit code 1 where one is off by more than 15 %
or 150 MB, whichever is larger. --json keeps what was measured, and --again compares it with the plan of now.

What bytes of tensors a worker holds, exactly, is benchmarks/memory_tensors.py's question.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.throughput import machine  # noqa: E402
from rlhf_dist.config.schema import PPOConfig  # noqa: E402
from rlhf_dist.device import CPU  # noqa: E402
from rlhf_dist.process_memory import pss_bytes  # noqa: E402

MIB = 2**20
SHARE, LEAST = 0.15, 150_000_000  # how far a role may be off: the larger of the two
EVERY_S = 0.5
WHOLE = "all, at their highest together"


@dataclass(frozen=True)
class Row:
    """One role of one job: bytes of its largest worker."""

    model: str
    stage: int
    role: str
    workers: int
    planned: int
    measured: int

    @property
    def good(self) -> bool:
        """Whether the plan is near enough."""
        return abs(self.planned - self.measured) <= max(SHARE * self.measured, LEAST)


def settings(model: Path, stage: int, folder: Path) -> list[str]:
    """The `key=value`s of the job, on top of configs/demo/smollm2.yaml."""
    sharded = ["reference.num_workers=2", "reference.zero_stage=3"] if stage == 3 else []
    return [
        "run.name=memory",
        f"run.dir={folder / 'runs'}",
        "run.device=cpu",
        "run.save_every=1",
        "run.tensorboard=false",
        "cluster.fork_workers=false",  # forked ones share what they import, and the plan is for those that do not
        f"actor.model.path={model}",
        "actor.num_workers=2",
        f"actor.zero_stage={stage}",
        f"critic.zero_stage={stage}",
        *sharded,
        f"reward.function={folder / 'score.py'}:score",
        "judge=null",
        f"data.path={folder / 'prompts.jsonl'}",
        "data.eval_path=null",
        "data.eval_count=4",
        "rollout.num_engines=2",
        "ppo.prompts_per_step=4",
        "ppo.minibatch_size=4",
        "ppo.steps=2",
    ]


def write_inputs(folder: Path) -> None:
    """Prompts and a reward."""
    (folder / "score.py").write_text("def score(prompts, responses):\n    return [len(r) / 100 for r in responses]\n")
    words = ("tea", "rain", "jazz", "snow", "bread", "maps", "clocks", "rivers", "paint", "wool", "salt", "lamps")
    rows = [json.dumps({"prompt": f"Say something nice about {word}."}) for word in words]
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")


def run_job(arguments: list[str], folder: Path) -> tuple[dict[str, int], int]:
    """Runs the job. Returns the largest PSS of each worker by its name, and of all processes together.

    Raises:
        RuntimeError: the job failed.
    """
    command = [sys.executable, str(ROOT / "launch/ppo_llama.py"), f"--config={ROOT / 'configs/demo/smollm2.yaml'}"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(ROOT)
    with (folder / "output.txt").open("w") as output:
        job = subprocess.Popen([*command, *arguments], env=environment, stdout=output, stderr=output)
        largest: dict[str, int] = {}
        whole = 0
        while job.poll() is None:
            for name, pid in workers(folder / "runs/memory/logs").items():
                largest[name] = max(largest.get(name, 0), _pss(pid))
            whole = max(whole, _pss(job.pid))
            time.sleep(EVERY_S)
    if job.returncode:
        raise RuntimeError(f"the job ended with {job.returncode}:\n{(folder / 'output.txt').read_text()[-3000:]}")
    return largest, whole


def workers(logs: Path) -> dict[str, int]:
    """The process of each worker, from the first lines of the log files."""
    found = {}
    for path in logs.glob("*.log"):
        match = re.search(r"^worker (\S+): pid (\d+)", path.read_text(errors="replace"), re.MULTILINE)
        if match:
            found[match[1]] = int(match[2])
    return found


def _pss(pid: int) -> int:
    try:
        return pss_bytes(pid)
    except psutil.Error:  # it has ended
        return 0


def planned(arguments: list[str]) -> tuple[dict[str, int], int]:
    """Bytes of a worker of each role by the plan, and of the whole job."""
    from rlhf_dist.plan.check import make_plan
    from rlhf_dist.plan.job import load_job
    from rlhf_dist.plan.loads import Hardware
    from rlhf_dist.plan.process import TEXT_REWARD_BYTES

    config = load_job(arguments, ROOT / "configs/demo/smollm2.yaml")
    assert isinstance(config, PPOConfig)
    plan = make_plan(config, CPU, Hardware(1, 0, None))
    roles = {role: needs.total for role, needs in plan.footprints.items()}
    return roles | {"reward": TEXT_REWARD_BYTES}, plan.loads[0].total


def measure(model: Path, stage: int) -> dict[str, int]:
    """Bytes of the workers of one job, by their names, and of the whole job."""
    with tempfile.TemporaryDirectory(prefix="rlhf-memory-") as made:
        folder = Path(made)
        write_inputs(folder)
        largest, whole = run_job(settings(model, stage, folder), folder)
    return largest | {WHOLE: whole}


def compare(name: str, model: Path, stage: int, measured: dict[str, int]) -> list[Row]:
    """What :func:`measure` gave against the plan; the last row is the whole job."""
    expected, whole = planned(settings(model, stage, Path("/tmp")))
    rows = []
    for role in ("actor", "critic", "reference", "reward", "rollout"):
        sizes = [size for worker, size in measured.items() if worker.rpartition("-")[0] == role]
        rows.append(Row(name, stage, role, len(sizes), expected[role], max(sizes)))
    return [*rows, Row(name, stage, WHOLE, 1, whole, measured[WHOLE])]


def make_17m(folder: Path, tokenizer: Path) -> Path:
    """A Llama of 17M random parameters with the vocabulary, and the tokenizer, of SmolLM2."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def table(rows: Iterable[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| model | actor's ZeRO | role | workers | planned MiB | measured MiB | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        error = f"{row.planned / row.measured - 1:+.0%}, {(row.planned - row.measured) / MIB:+.0f} MiB"
        sizes = f"{row.planned / MIB:.0f} | {row.measured / MIB:.0f}"
        beyond = "" if row.good else " **beyond**"
        lines.append(f"| {row.model} | {row.stage} | {row.role} | {row.workers} | {sizes} | {error}{beyond} |")
    return "\n".join(lines)


def heading(rows: list[Row]) -> str:
    """What the table is, and where it comes from."""
    facts = machine()
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    beyond = sum(not row.good for row in rows)
    return (
        "# Planned and measured memory of a job's processes\n\n"
        f"By `benchmarks/memory.py` on {facts['processor']}, {facts['cores']} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, {facts['device']}; Python {facts['python']}, {versions}.\n\n"
        "Proportional set size (PSS) of the largest worker of each role with its children, at its highest, looked at "
        "twice a second from start to end: loading, two PPO steps of 4 samples of 96 tokens, checkpoints, evaluations. "
        "The last row of each job is the highest sum over all processes at one time, driver and Ray's own included. "
        f"{len(rows) - beyond} of {len(rows)} rows are within 15 % or 150 MB. "
        "Tensors alone, to the byte: [memory_tensors.md](memory_tensors.md).\n\n"
    )


def main() -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", type=Path)
    parser.add_argument(
        "--stages", nargs="+", type=int, default=[0, 1, 2, 3], metavar="STAGE", help="ZeRO stages (default all)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the measurements in FILE")
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="compare measurements kept in FILE, without measuring"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table to FILE (Markdown)")
    options = parser.parse_args()
    kept = json.loads(options.again.read_text()) if options.again else {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        models = {path.name: path.absolute() for path in options.models}
        if not models:
            subprocess.run([sys.executable, "-m", "demo.smollm2"], cwd=ROOT, check=True)
            smollm2 = ROOT / "demo/smollm2"
            models = {"3M": ROOT / "demo/base", "17M": make_17m(Path(folder) / "17M", smollm2), "135M": smollm2}
        for name, model in models.items():
            for stage in options.stages:
                job = f"{name} {stage}"
                if options.again is None:
                    kept[job] = measure(model, stage)
                    print(f"{len(kept)} jobs measured", end="\r", file=sys.stderr)
                if job in kept:
                    rows += compare(name, model, stage, kept[job])
                if options.json is not None:
                    options.json.write_text(json.dumps(kept, indent=1))
                if options.out is not None:
                    options.out.write_text(heading(rows) + table(rows) + "\n")
    print(heading(rows) + table(rows))
    return int(not all(row.good for row in rows))


if __name__ == "__main__":
    sys.exit(main())
