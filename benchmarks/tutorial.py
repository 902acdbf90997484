#!/usr/bin/env python3
"""Runs docs/tutorial.md: the commands of the page, one after another, as they stand there.

    python benchmarks/tutorial.py [--folder DIR] [--seed N] [--check] [--out FILE]

Where the page asks its reader to judge answers, a program does so in Chromium: it sees what a reader sees, and its
opinion is VADER's score of the text plus noise. ``--seed`` repeats everything with other random numbers. ``--check``
adds a judge that took no part: the demo's reward model, which learns from people's ratings of other texts. All that the
commands print goes to FILE, with seconds and the runs' summaries; what the page shows is taken from there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
JUDGEMENTS = 10  # that the page asks for at each of its two visits to the labelling page
NOISE = 0.2  # of a labeller's opinion, standard deviation
CLEARLY, MUCH = 0.4, 0.8  # differences of opinion from which one answer is clearly, or much, better
COMMAND_S, PAGE_S = 1200.0, 30.0  # deadlines of a command, and of anything on the labelling page
CHECK = (
    "rlhf-dist reward --config configs/demo/reward.yaml",
    "rlhf-dist judge runs/tutorial/both.jsonl --task compare --reward-model runs/demo-reward/model "
    "--out runs/tutorial/check.jsonl",
    "rlhf-dist judgements runs/tutorial/check.jsonl",
)
Opinion = Callable[[str], float]
_FENCE = re.compile(r"^(?P<mark><!-- [^\n]* -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_SECRET = re.compile(r"#[\w-]{20,}")
_LINK = re.compile(r"^  (?!operator )\S+ +(http://\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Done:
    """A command that was run.

    Attributes:
        command: as the page has it.
        seconds: wall time.
        output: all that it printed, without the secrets of links.
    """

    command: str
    seconds: float
    output: str


def commands(page: str) -> list[str]:
    """The commands of a page's ``bash`` blocks that are marked as run by the tutorial's test, each in one line."""
    found = []
    for fence in _FENCE.finditer(page):
        if fence["kind"] == "bash" and "test_tutorial.py" in (fence["mark"] or ""):
            found += fence["text"].replace("\\\n", " ").strip().splitlines()
    return [" ".join(command.split()) for command in found]


def outputs(page: str) -> list[str]:
    """The ``text`` blocks of a page: what its commands print."""
    return [fence["text"] for fence in _FENCE.finditer(page) if fence["kind"] == "text"]


def vader_with_noise(seed: int, noise: float = NOISE) -> Opinion:
    """A labeller's opinion of a text: VADER's score, from -1 to 1, plus noise of this standard deviation."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer, rng = SentimentIntensityAnalyzer(), random.Random(seed)
    return lambda text: float(analyzer.polarity_scores(text)["compound"]) + rng.gauss(0, noise)


class Tutorial:
    """The reader: a folder in which the commands run, and somebody who judges.

    Args:
        folder: the current directory of all commands.
        opinion: of the labeller.
        judgements: how many to give at a visit to the labelling page.
        extra: words that are added to commands that begin with a key; the longest key counts.
    """

    def __init__(
        self, folder: Path, opinion: Opinion, judgements: int, extra: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.folder, self.opinion, self.judgements, self.extra = folder, opinion, judgements, extra or {}
        self.environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}

    def run(self, command: str) -> Done:
        """Runs a command to its end; one that labels, until all judgements are given. SystemExit where it fails."""
        begun = time.monotonic()
        words = [re.sub(r"^rlhf-dist ", f"{shlex.quote(sys.executable)} -m rlhf_dist ", command)]
        fitting = [beginning for beginning in self.extra if command.startswith(beginning)]
        if fitting:
            words += self.extra[max(fitting, key=len)]
        process = subprocess.Popen(
            ["bash", "-c", f"exec {' '.join(words)}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        timer = threading.Timer(COMMAND_S, process.kill)
        timer.start()
        try:
            output = self._label(process) if command.startswith("rlhf-dist label ") else ""
            output += process.communicate()[0]
        finally:
            timer.cancel()
            process.kill()
        if process.returncode != 0:
            raise SystemExit(f"{command}\nended with exit code {process.returncode}:\n{output}")
        return Done(command, round(time.monotonic() - begun, 1), _SECRET.sub("#...", output))

    def _label(self, process: subprocess.Popen[str]) -> str:
        """Judges at the page that ``process`` serves, then presses Ctrl-C. Gives what was printed so far."""
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if "Ctrl-C stops" in line:
                break
        links = _LINK.findall(printed)
        for link in links:
            with Browser() as page:
                page.goto(link)
                for number in range(1, self.judgements + 1):
                    if not judge(page, self.opinion, number):
                        break
        if links:
            process.send_signal(signal.SIGINT)
        return printed


class Browser:
    """A page of Chromium, for a ``with`` block."""

    def __enter__(self) -> Any:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = self._chromium.new_page()
        page.set_default_timeout(PAGE_S * 1000)
        return page

    def __exit__(self, *_: object) -> None:
        self._chromium.close()
        self._playwright.stop()


def judge(page: Any, opinion: Opinion, number: int) -> bool:
    """Judges what the labelling page shows, as its ``number``-th judgement, and saves it.

    Args:
        page: of Chromium, with a labeller's link opened.
        opinion: of a prompt with its answer.
        number: of this judgement, counted from 1.

    Returns:
        False where nothing is left to judge.
    """
    page.wait_for_selector("#prompt-title, .message-page")
    if page.locator(".message-page").count():
        return False
    plain = "where => document.querySelector(`${where} .plain`)?.textContent ?? ''"
    prompt = page.evaluate(plain, ".prompt")
    letters = [one.removeprefix("answer-") for one in page.evaluate(
        "() => [...document.querySelectorAll('[id^=answer-]')].map((one) => one.id)"
    )]  # fmt: skip
    answers = {letter: page.evaluate(plain, f"#answer-{letter}").strip() for letter in letters}
    scores = {letter: round(opinion(f"{prompt} {text}"), 1) for letter, text in answers.items()}
    if page.locator("input[name=preference]").count():
        _compare(page, scores["A"] - scores["B"])
    else:
        _rank(page, scores)
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        "number => document.querySelector('.message-page') || "
        "document.querySelector('#progress-text').textContent.startsWith(`${number} `)",
        arg=number,
    )
    return True


def _rank(page: Any, scores: Mapping[str, float]) -> None:
    levels = sorted(set(scores.values()), reverse=True)
    for letter in sorted(scores, key=lambda letter: -scores[letter]):
        page.locator(f'.board [data-letter="{letter}"]').focus()
        page.keyboard.press(str(levels.index(scores[letter]) + 1))


def _compare(page: Any, difference: float) -> None:
    how = "much" if abs(difference) > MUCH else "clearly" if abs(difference) > CLEARLY else "slightly"
    label = f"{'A' if difference > 0 else 'B'} is {how} better" if difference else "About equal"
    page.get_by_label(label).check(force=True)


def seeded(seed: int) -> dict[str, list[str]]:
    """What repeats the tutorial with other random numbers."""
    jobs = {f"rlhf-dist {job}": [f"run.seed={seed}"] for job in ("sft", "reward", "ppo")}
    return {} if seed == 1 else jobs | {"rlhf-dist sample": [f"--seed {seed}"]}


def main() -> int:
    """Runs the page's commands, and writes what came of them. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT, help="a checkout of this repository, with demo/data")
    parser.add_argument("--seed", type=int, default=1, help="1: the page as it stands")
    parser.add_argument("--check", action="store_true", help="ask a judge that took no part as well")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/tutorial.json")
    options = parser.parse_args()
    tutorial = Tutorial(options.folder, vader_with_noise(options.seed), JUDGEMENTS, seeded(options.seed))
    done = []
    for command in [*commands(PAGE.read_text()), *(CHECK if options.check else ())]:
        done.append(tutorial.run(command))
        print(f"\n$ {command}\n{done[-1].output}[{done[-1].seconds} s]", flush=True)
    runs = sorted((options.folder / "runs").glob("*/summary.json"))
    said = {
        "seed": options.seed,
        "machine": {"processor": _processor(), "cpus": os.cpu_count(), "python": platform.python_version()},
        "seconds": round(sum(one.seconds for one in done), 1),
        "commands": [vars(one) | {"output": one.output.splitlines()} for one in done],
        "summaries": {path.parent.name: json.loads(path.read_text()) for path in runs},
    }
    options.out.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    return 0


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.processor()


if __name__ == "__main__":
    sys.exit(main())
