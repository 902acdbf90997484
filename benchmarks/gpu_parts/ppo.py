"""A short PPO job, started as a user starts it: on two cards, or with all roles on one."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from benchmarks.gpu_parts.common import (
    GIB,
    ROOT,
    TRAINING_BYTES,
    Findings,
    Settings,
    made_model,
    run_part,
    say,
    used_bytes,
)
from rlhf_dist.controller.parity import TOLERANCES

STEPS = 3

# The keys of each variant: where the roles live, and what carries the weights.
VARIANTS = {
    "separate": ["placement=[[actor, critic, reference], [rollout]]", "weights.transport=collective"],
    "colocated": ["placement=colocated", "weights.transport=shared"],
    "host": ["placement=colocated", "weights.transport=host", "rollout.enforce_eager=true"],
}

REWARD = '''"""Likes long words, and has an opinion of every text."""


def score(prompts, responses):
    return [len(response) / 100 + (len(set(response)) % 7) / 7 for response in responses]
'''


def settings_of(settings: Settings, found: Findings) -> list[str]:
    """The job's command line, behind the launcher."""
    actor = job_shape(settings)
    critic = {"1B": "0.4B"}.get(actor, actor)
    found.note(f"Actor and reference: a Llama {actor}; critic: {critic}; rollout: {settings.rollout}.")
    prompts, tokens, batch = (6, 8, 3) if settings.tiny else (64, 128, 16)
    return [
        "run.name=job",
        f"run.device={settings.device.name}",
        "run.save_every=0",
        f"actor.model.path={made_model(settings, actor)}",
        "actor.optim.lr=1e-3",  # so that weights which did not arrive show
        f"critic.model.path={made_model(settings, critic)}",
        "critic.optim.lr=1e-4",
        "reward.model.path=null",
        "reward.function=reward.py:score",
        "data.path=prompts.jsonl",
        "data.eval_count=4",
        f"rollout.backend={settings.rollout}",
        f"rollout.max_prompt_tokens={tokens}",
        f"rollout.max_response_tokens={tokens}",
        "rollout.memory_utilization=0.5",
        "rollout.memory_gib=0.25",
        f"ppo.prompts_per_step={prompts}",
        f"ppo.minibatch_size={batch}",
        f"ppo.steps={STEPS}",
        "weights.verify_every=1",
        "weights.timeout_s=60",
        *VARIANTS[settings.variant],
    ]


def job_shape(settings: Settings) -> str:
    """The largest actor that the device and, where roles take turns, the host's memory hold."""
    shape = settings.shape(TRAINING_BYTES)
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return "0.4B" if shape == "1B" and host < 96 * GIB else shape


def write_inputs(folder: Path, prompts: int) -> None:
    """The reward function and the prompts."""
    from tests.tiny import sentence, write_jsonl

    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reward.py").write_text(REWARD)
    write_jsonl(folder / "prompts.jsonl", [{"prompt": sentence(rng, rng.randint(1, 4))} for _ in range(prompts)])


class Watch(threading.Thread):
    """Looks at the device's memory four times a second, whoever has it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self.device, self.done, self.most = settings.device, threading.Event(), 0
        self.start()

    def run(self) -> None:
        while not self.done.wait(0.25):
            self.most = max(self.most, used_bytes(self.device))


def run_job(folder: Path, arguments: list[str]) -> tuple[int, str]:
    """Runs the job to its end; gives its exit code and what it printed. It is ended together with this process."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, str(ROOT / "launch/ppo_llama.py"), *arguments]
    say(" ".join(command))
    job = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    signal.signal(signal.SIGTERM, lambda *_: job.send_signal(signal.SIGINT))
    assert job.stdout is not None
    output = []
    for line in job.stdout:  # shown as it comes: the log tells how far a job was that had to be ended
        say(line.rstrip())
        output.append(line)
    return job.wait(), "".join(output)


def main(settings: Settings, found: Findings) -> None:
    """Runs the job, and looks at what it left."""
    folder = settings.work / f"ppo-{settings.variant}"
    write_inputs(folder, 40 if settings.tiny else 200)
    arguments = settings_of(settings, found)
    watch = Watch(settings)
    started = time.perf_counter()
    code, output = run_job(folder, arguments)
    found.figure("the whole job, start and evaluations included", time.perf_counter() - started, "s")
    watch.done.set()
    run = folder / "runs/job"
    if code != 0:
        said = [line for line in output.splitlines() if line.strip()]
        cause = next((line for line in said if line.startswith("error")), said[-1] if said else "nothing was printed")
        for log in sorted(run.glob("logs/*")):
            print(f"--- {log.name}\n{log.read_text()[-4000:]}", flush=True)
        found.check(False, f"exit code {code}: {cause}")
        return
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    judge(settings, found, lines)
    found.check((run / "summary.json").is_file(), "the run has left no summary.json")
    found.check((run / "model/config.json").is_file(), "the run has left no model")
    if settings.device.is_accelerator:
        found.figure("memory of the first device at the most, all roles", watch.most / GIB, "GiB")


def judge(settings: Settings, found: Findings, lines: list[dict[str, float]]) -> None:
    """Checks the lines of metrics.jsonl, and notes what they say."""
    found.check(len(lines) == STEPS, f"{len(lines)} steps were done, of {STEPS}")
    if not lines:
        return
    tolerance = TOLERANCES[settings.device.dtype("auto")]
    gaps = [line["rollout/logprob_gap"] for line in lines]
    found.figure("largest rollout/logprob_gap", max(gaps), "nats a token")
    found.check(max(gaps) <= tolerance, f"rollout/logprob_gap reached {max(gaps):.3g}, {tolerance:g} is allowed")
    for line in lines:
        wrong = [name for name, value in line.items() if not torch.isfinite(torch.tensor(float(value)))]
        found.check(not wrong, f"step {line['step']:g}: {', '.join(wrong[:3])} is not finite")
    versions = [line["weights/version"] for line in lines]
    found.check(versions == sorted(set(versions)), f"the weights' versions were {versions}")
    later = lines[1:] or lines
    for phase in ("step", "rollout", "score", "train", "sync"):
        seconds = statistics.median(line[f"time/{phase}_s"] for line in later)
        found.figure(f"a step's {phase}" if phase != "step" else "a step", seconds, "s")
    rate = statistics.median(line["throughput/tokens_per_s"] for line in later)
    found.figure("throughput of a step", rate, "tokens/s")


if __name__ == "__main__":
    sys.exit(run_part(main))
