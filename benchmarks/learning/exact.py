#!/usr/bin/env python3
"""Do the algorithms reach the optimum? A task whose best policy is known in closed form.

    benchmarks/learning/exact.py [--only NAME ...] [--staleness N ...] [--seeds N] [--steps N] [--out DIR]

With a vocabulary of 8 tokens and responses of at most 2, all 57 responses y to a prompt x can be counted. A table gives
each a reward r(x, y). The policy that maximizes E[r] - beta KL(pi, pi_ref) is then known: pi*(y|x) is proportional to
pi_ref(y|x) exp(r(x, y) / beta), and its value is beta log Z(x), with Z(x) = sum_y pi_ref(y|x) exp(r(x, y) / beta). What
a policy lacks to it is beta KL(pi, pi*). Each algorithm trains a small Llama on real Ray workers; its policy is then
evaluated over all responses, without sampling, and the share of the best possible gain (the value of pi* over that of
pi_ref) is reported.

A run that is done is not done again. At the end it writes exact.json, exact.md and exact.png into DIR.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.beside_bare import commit  # noqa: E402
from benchmarks.throughput import machine  # noqa: E402

LETTERS = "abcdefg"
EOS = 0  # its id; the letters follow
LONGEST = 2  # tokens of a response
BETA = 0.2
PROMPTS = ("a b", "b c", "c d", "d a")  # of two tokens: a Llama cannot tell "a" from "a a"
STEPS = 90
GROUP = 16  # samples of a prompt in a batch, which those that compare them have together

#: The settings of each algorithm; its objective is the one above, without a bias.
ALGORITHMS: dict[str, list[str]] = {
    "PPO": ["ppo.lam=1.0"],
    "Dr. GRPO": ["ppo.advantage=dr_grpo"],
    "RLOO": ["ppo.advantage=rloo"],
    "REINFORCE++": ["ppo.advantage=reinforce++"],
}
COMMON = [
    "run.device=cpu",
    "run.tensorboard=false",
    "run.samples_every=0",
    "run.eval_every=0",
    "run.save_every=0",
    "data.path=prompts.jsonl",
    "data.eval_count=4",
    "actor.model.path=model",
    "actor.optim.schedule=cosine",
    "actor.optim.grad_clip=0",
    "actor.optim.lr=3e-3",
    "actor.optim.warmup_steps=10",
    "actor.optim.min_lr_ratio=0",
    "critic.optim.lr=3e-3",
    "reward.model.path=null",
    "reward.function=table.py:score",
    "rollout.backend=hf",
    "rollout.max_batch=1024",
    "rollout.max_prompt_tokens=2",
    f"rollout.max_response_tokens={LONGEST}",
    f"rollout.samples_per_prompt={GROUP}",
    f"ppo.kl.coef={BETA}",
    "ppo.kl.place=reward",
    "ppo.kl.estimator=k1",
    "ppo.gamma=1.0",
    "ppo.value_clip=0",
    "ppo.prompts_per_step=64",
    "ppo.minibatch_size=256",
]


def responses() -> list[tuple[int, ...]]:
    """All responses, as token ids: those that end with EOS, and those that are cut off."""
    letters = range(1, len(LETTERS) + 1)
    ended = [(*row, EOS) for length in range(LONGEST) for row in itertools.product(letters, repeat=length)]
    return ended + list(itertools.product(letters, repeat=LONGEST))


def reward(prompt: str, response: str) -> float:
    """The table: a number for each prompt and response (as texts), between -0.5 and 0.5."""
    return random.Random(f"{prompt}>{response}").uniform(-0.5, 0.5)


def text(tokens: tuple[int, ...]) -> str:
    """What the tokenizer makes of a response."""
    return " ".join(LETTERS[token - 1] for token in tokens if token != EOS)


def write_task(folder: Path) -> None:
    """The model that is both policy and reference, its tokenizer, prompts and reward."""
    vocabulary = {"<eos>": EOS} | {letter: number for number, letter in enumerate(LETTERS, start=1)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.06,
        tie_word_embeddings=False,
        pad_token_id=EOS,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [json.dumps({"prompt": prompt}) for prompt in PROMPTS * 9]  # the last ones are held out
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "table.py").write_text(
        f"import sys\n\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from benchmarks.learning.exact import reward\n\n\n"
        "def score(prompts, responses):\n"
        "    return [reward(prompt, response.strip()) for prompt, response in zip(prompts, responses)]\n"
    )


@dataclass(frozen=True)
class Task:
    """What is known of the task.

    Attributes:
        reference: ``[P, Y]`` float64, log-probabilities of the reference.
        rewards: ``[P, Y]`` float64.
    """

    reference: Tensor
    rewards: Tensor

    @property
    def best(self) -> Tensor:
        """``[P]``, the value of the best policy."""
        return BETA * torch.logsumexp(self.reference + self.rewards / BETA, 1)

    def value(self, logprobs: Tensor) -> Tensor:
        """``[P]``, E[r] - beta KL(pi, pi_ref) of a policy with log-probabilities ``[P, Y]``."""
        return (logprobs.exp() * (self.rewards - BETA * (logprobs - self.reference))).sum(1)

    def gain(self, logprobs: Tensor) -> float:
        """The share of the best possible gain that a policy has reached."""
        start = self.value(self.reference)
        return float((self.value(logprobs) - start).sum() / (self.best - start).sum())

    def optimum(self) -> Tensor:
        """``[P, Y]``, log-probabilities of the best policy."""
        return self.reference + self.rewards / BETA - self.best[:, None] / BETA


@torch.no_grad()
def all_logprobs(model: Any) -> Tensor:
    """``[P, Y]`` float64, log-probability of every response to every prompt."""
    rows = []
    for words in PROMPTS:
        prompt = [LETTERS.index(letter) + 1 for letter in words.split()]
        row = []
        for tokens in responses():
            logits = model(torch.tensor([prompt + list(tokens)])).logits[0].double().log_softmax(-1)
            row.append(sum(logits[len(prompt) - 1 + at, token] for at, token in enumerate(tokens)))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def task_in(folder: Path) -> Task:
    """The task that :func:`write_task` wrote."""
    reference = all_logprobs(AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32))
    rewards = torch.tensor([[reward(p, text(y)) for y in responses()] for p in PROMPTS], dtype=torch.float64)
    return Task(reference, rewards)


def command(name: str, settings: list[str], seed: int, steps: int) -> list[str]:
    """The command of a run, to be given in the task's folder."""
    return [
        *(sys.executable, str(ROOT / "launch/ppo_llama.py"), "--config", str(ROOT / "configs/ppo_llama.yaml")),
        *(f"run.name={name}", f"run.seed={seed}", "run.overwrite=true", f"ppo.steps={steps}", *COMMON, *settings),
    ]


def trained(folder: Path, name: str) -> Any:
    """The model of a run."""
    return AutoModelForCausalLM.from_pretrained(folder / "runs" / name / "model", dtype=torch.float32)


def approach(folder: Path, name: str, task: Task) -> list[float]:
    """The gain in each step, as its samples show it: their rewards less beta times the actor's log-ratios.

    Where batches are sampled ahead, the samples are an older policy's, and it may lie above 1.
    """
    lines = [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]
    start, best = float(task.value(task.reference).mean()), float(task.best.mean())
    values = [line["reward/score_mean"] - BETA * line["kl/sequence_mean"] for line in lines]
    return [(value - start) / (best - start) for value in values]


def train(folder: Path, task: Task, algorithm: str, staleness: int, seed: int, steps: int) -> dict[str, Any]:
    """One run, unless it is done. Its gain, exactly, and its approach."""
    name = f"{algorithm.lower().replace('+', 'p').replace('. ', '_')}-{staleness}-{seed}-{steps}"
    if not (folder / "runs" / name / "summary.json").exists():
        settings = [*ALGORITHMS[algorithm], f"rollout.staleness={staleness}"]
        subprocess.run(command(name, settings, seed, steps), cwd=folder, check=True)
    gain = task.gain(all_logprobs(trained(folder, name)))
    return {"algorithm": algorithm, "staleness": staleness, "seed": seed, "gain": gain} | {
        "approach": approach(folder, name, task)
    }


HEADING = """\
# The algorithms against an exact optimum

The share of the best possible gain that each algorithm reaches, by `benchmarks/learning/exact.py`, whose docstring
describes the task.

"""


def table(runs: list[dict[str, Any]], stalenesses: list[int]) -> str:
    """The gains as Markdown: a row an algorithm, a column a staleness, the mean and the least of its seeds."""
    lines = [f"| by | {' | '.join(f'staleness {n}' for n in stalenesses)} |", "|---|" + "---|" * len(stalenesses)]
    for algorithm in dict.fromkeys(run["algorithm"] for run in runs):
        cells = []
        for staleness in stalenesses:
            gains = [r["gain"] for r in runs if (r["algorithm"], r["staleness"]) == (algorithm, staleness)]
            cells.append(f"{fmean(gains):.2%}" + (f" (least {min(gains):.2%})" if len(gains) > 1 else ""))
        lines.append(f"| {algorithm} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """The approach to the optimum, a panel for each staleness."""
    from matplotlib.figure import Figure

    stalenesses = sorted({run["staleness"] for run in runs})
    figure = Figure(figsize=(4.2 * len(stalenesses), 3.6), layout="constrained")
    panels = figure.subplots(1, len(stalenesses), sharey=True, squeeze=False)[0]
    algorithms = list(dict.fromkeys(run["algorithm"] for run in runs))
    for panel, staleness in zip(panels, stalenesses, strict=True):
        for run in (run for run in runs if run["staleness"] == staleness):
            number = algorithms.index(run["algorithm"])
            label = run["algorithm"] if run["seed"] == 1 else None
            panel.plot(run["approach"], f"C{number}-", linewidth=1, alpha=0.8, label=label)
        panel.axhline(1, color="black", linewidth=0.8, linestyle="--")
        panel.set(title=f"staleness {staleness}", xlabel="step", ylim=(0, 1.1))
    panels[0].set(ylabel="share of the best possible gain")
    panels[0].legend()
    figure.savefig(path, dpi=110)


def main(argv: list[str]) -> int:
    """Reads the command line, trains what is missing, writes table and picture. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS))
    parser.add_argument("--staleness", nargs="+", type=int, default=[0, 1, 4])
    parser.add_argument("--seeds", type=int, default=1, help="runs of each (default %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run (default %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args(argv)
    folder = ROOT / "runs" / "exact"
    if not (folder / "table.py").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_task(folder)
    task = task_in(folder)
    runs = [
        train(folder, task, algorithm, staleness, seed, options.steps)
        for seed in range(1, options.seeds + 1)
        for staleness in options.staleness
        for algorithm in options.only
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    best = float((task.best - task.value(task.reference)).mean())
    kept = {"machine": machine(), "commit": commit(), "beta": BETA, "best_gain": best}
    kept |= {"steps": options.steps, "runs": runs}
    (options.out / "exact.json").write_text(json.dumps(kept, indent=1) + "\n")
    (options.out / "exact.md").write_text(HEADING + table(runs, options.staleness))
    plot(runs, options.out / "exact.png")
    print(table(runs, options.staleness))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
