"""The directory of one run, `runs/<name>/`: which file is where, and how to write one so it is never half there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_dist.durable import PARTIAL, replace_folder, write_text_atomic
from rlhf_dist.errors import UserError

_STEP_DIR = re.compile(r"step-(\d+)")
_STARTUP_FILES = {"config.yaml", "logs"}  # what a run has before it has done anything


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: the step after which it was written, and its directory."""

    step: int
    path: Path


@dataclass(frozen=True)
class RunDir:
    """Paths of a run, and the few things that change its directory as a whole.

    Attributes:
        root: `runs/<name>`.
    """

    root: Path

    @classmethod
    def create(cls, parent: str | Path, name: str, *, resume: bool = False, overwrite: bool = False) -> RunDir:
        """Makes `parent/name`, or takes up the one that is there.

        What a run that never got to its first step left behind is replaced without asking.

        Args:
            parent: `run.dir`.
            name: `run.name`, one path component.
            resume: an existing run is kept as it is; one that does not exist yet is made.
            overwrite: an existing run is removed first, if it is one (has a config.yaml) or is empty.

        Raises:
            UserError: the name is no directory name; the run exists and neither flag was given; both were.
        """
        if not name or name in (".", "..") or Path(name).name != name:
            raise UserError(f"run.name={name!r}: expected a single directory name")
        if resume and overwrite:
            raise UserError("run.resume and run.overwrite contradict each other: give one of them")
        run = cls(Path(parent) / name)
        if run.root.exists() and not resume:
            run._clear(overwrite)
        try:
            run.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{run.root}: cannot be made ({error.strerror}); choose another run.dir") from error
        return run

    def _clear(self, overwrite: bool) -> None:
        if not self.root.is_dir():
            raise UserError(f"{self.root} is in the way: it is no directory; choose another run.name")
        entries = {entry.name for entry in self.root.iterdir()}
        if not entries <= _STARTUP_FILES:
            if not overwrite:
                raise UserError(
                    f"{self.root} exists: choose another run.name, or run.resume=true to go on, or run.overwrite=true"
                )
            if not self.config.exists():
                raise UserError(f"{self.root} is not a run (no config.yaml), so run.overwrite=true leaves it alone")
        shutil.rmtree(self.root)

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

    @property
    def checkpoints(self) -> Path:
        """The directory of the checkpoints."""
        return self.root / "checkpoints"

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

    def begin_checkpoint(self, step: int) -> Path:
        """An empty directory to write the checkpoint of ``step`` into; it counts once it is committed."""
        partial = self.checkpoints / f"step-{step}{PARTIAL}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    def commit_checkpoint(self, step: int) -> Path:
        """Makes the checkpoint that was begun for ``step`` complete, by its rename. Returns where it is."""
        path = self.checkpoints / f"step-{step}"
        replace_folder(path.with_name(path.name + PARTIAL), path)
        return path

    def complete_checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints, oldest first; what an interrupted write left behind is not among them."""
        if not self.checkpoints.is_dir():
            return []
        named = [(path, _STEP_DIR.fullmatch(path.name)) for path in self.checkpoints.iterdir() if path.is_dir()]
        found = [Checkpoint(int(match[1]), path) for path, match in named if match]
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def newest_checkpoint(self) -> Checkpoint | None:
        """The complete checkpoint of the highest step, if there is one."""
        found = self.complete_checkpoints()
        return found[-1] if found else None

    def prune_checkpoints(self, keep: int) -> None:
        """Removes all complete checkpoints but the ``keep`` newest (at least one stays), and interrupted ones."""
        for checkpoint in self.complete_checkpoints()[: -max(keep, 1)]:
            shutil.rmtree(checkpoint.path)
        for partial in self.checkpoints.glob(f"step-*{PARTIAL}"):
            shutil.rmtree(partial)

    def rewind(self, step: int) -> None:
        """Cuts metrics.jsonl and samples.jsonl back to ``step``, so that a resumed run writes no step twice.

        An interrupted last line is dropped too, and so is the summary of an earlier end.
        """
        for path in (self.metrics, self.samples):
            if path.exists():
                write_text_atomic(path, "".join(_lines_up_to(path, step)))
        self.summary.unlink(missing_ok=True)

    def append_samples(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Appends lines to samples.jsonl: step, prompt, response, score, kl, judge (or null), finished."""
        with self.samples.open("a", encoding="utf-8") as file:
            for sample in samples:
                file.write(json.dumps(dict(sample), ensure_ascii=False, allow_nan=False) + "\n")


def _lines_up_to(path: Path, step: int) -> list[str]:
    """The lines of a .jsonl file whose step is not above ``step``."""
    return [json.dumps(row, ensure_ascii=False) + "\n" for row in read_jsonl(path) if row["step"] <= step]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file that this package wrote: none where it is missing, and not a half-written last one."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]
