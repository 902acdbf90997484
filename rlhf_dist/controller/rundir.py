"""The directory of one run, `runs/<name>/`: which file is where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf_dist.controller.checkpoints import Checkpoints
from rlhf_dist.controller.lock import is_lock
from rlhf_dist.durable import write_text_atomic

_STARTUP_FILES = {"config.yaml", "logs"}  # what a run has before it has done anything


@dataclass(frozen=True)
class RunDir:
    """Paths of a run, and the few things that change its directory as a whole.

    Attributes:
        root: `runs/<name>`.
    """

    root: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.root.name

    @property
    def config(self) -> Path:
        """`config.yaml`, the resolved configuration."""
        return self.root / "config.yaml"

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`, one line a step."""
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The directory of TensorBoard's event files."""
        return self.root / "tensorboard"

    @property
    def samples(self) -> Path:
        """`samples.jsonl`, prompts with their responses."""
        return self.root / "samples.jsonl"

    @property
    def trace(self) -> Path:
        """`trace.json`, for chrome://tracing or Perfetto."""
        return self.root / "trace.json"

    @property
    def report(self) -> Path:
        """`report.html`."""
        return self.root / "report.html"

    @property
    def summary(self) -> Path:
        """`summary.json`, written at the end."""
        return self.root / "summary.json"

    @property
    def model(self) -> Path:
        """The directory of the final model, in Hugging Face format."""
        return self.root / "model"

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints."""
        return Checkpoints(self.root / "checkpoints")

    @property
    def logs(self) -> Path:
        """The directory of the log files."""
        return self.root / "logs"

    @property
    def driver_log(self) -> Path:
        """The log of the process that runs the loop."""
        return self.log("driver")

    def log(self, worker: str) -> Path:
        """The log file of one worker process."""
        return self.logs / f"{worker}.log"

    def leftovers(self) -> set[str]:
        """What is in the directory beyond what every start makes at once: nothing where no step was ever done."""
        if not self.root.exists():
            return set()
        return {entry.name for entry in self.root.iterdir() if not is_lock(entry.name)} - _STARTUP_FILES

    def clear(self) -> None:
        """Removes all of the run but its lock; `config.yaml`, by which a run is known, goes last."""
        entries = [entry for entry in self.root.iterdir() if not is_lock(entry.name)]
        for entry in sorted(entries, key=lambda entry: entry == self.config):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def last_step(self) -> int:
        """The last step of metrics.jsonl; 0 without one."""
        return max((row["step"] for row in read_jsonl(self.metrics)), default=0)

    def rewind(self, step: int) -> None:
        """Cuts metrics.jsonl and samples.jsonl back to ``step``, so that a resumed run writes no step twice.

        An interrupted last line is dropped too, and so is the summary of an earlier end.
        """
        for path in (self.metrics, self.samples):
            if path.exists():
                write_text_atomic(path, "".join(_lines_up_to(path, step)))
        self.summary.unlink(missing_ok=True)

    def append_samples(self, samples: Iterable[Mapping[str, object]]) -> None:
        """Appends lines to samples.jsonl: step, prompt, response, score, kl, judge (or null), finished."""
        with self.samples.open("a", encoding="utf-8") as file:
            for sample in samples:
                file.write(json.dumps(dict(sample), ensure_ascii=False, allow_nan=False) + "\n")


def _lines_up_to(path: Path, step: int) -> list[str]:
    """The lines of a .jsonl file whose step is not above ``step``."""
    return [json.dumps(row, ensure_ascii=False) + "\n" for row in read_jsonl(path) if row["step"] <= step]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file that this package wrote: none where it is missing, and no line that was torn off."""
    if not path.exists():
        return []
    return [row for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if (row := _row(line))]


def _row(line: str) -> dict[str, object] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
