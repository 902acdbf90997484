"""How a run begins: what it finds under its name, and whether it goes on from that, begins, or has nothing to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlhf_dist.config.load import config_yaml
from rlhf_dist.config.schema import RunConfig
from rlhf_dist.controller.checkpoints import Checkpoint
from rlhf_dist.controller.lock import RunLock
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.durable import write_text_atomic
from rlhf_dist.errors import UserError

# The section that only one kind of job has, and that kind's name.
_KINDS = {"ppo": "ppo", "sft": "sft", "training": "reward", "dpo": "dpo"}


@dataclass(frozen=True)
class Start:
    """A run's place, owned by this process, as it was found. Nothing in it has been changed yet.

    Attributes:
        directory: the run's.
        lock: by which this process owns it.
        kind: of the job: ppo, sft, reward, dpo.
        config: the configuration as YAML, for config.yaml.
        checkpoint: what the run goes on from; None where it begins.
        finished: the step that an earlier run of this name came to its end at, its summary being there; None without.
        notes: lines for the user on what was found: checkpoints that were passed over.
    """

    directory: RunDir
    lock: RunLock
    kind: str
    config: str
    checkpoint: Checkpoint | None
    finished: int | None
    notes: tuple[str, ...] = ()

    @property
    def done(self) -> int:
        """Steps that are done when the run begins."""
        return self.checkpoint.step if self.checkpoint is not None else 0

    def is_over(self, steps: int) -> bool:
        """Whether a run of so many ``steps`` has nothing left to do.

        Raises:
            UserError: it can neither go on nor is it over.
        """
        root = self.directory.root
        if self.finished is not None:
            if self.finished >= steps:
                return True
            if self.checkpoint is None:
                raise UserError(
                    f"{root} ended at step {self.finished} of {steps}, and has no complete checkpoint to resume from: "
                    "choose another run.name, or start again with run.overwrite=true"
                )
        if self.checkpoint is not None and self.checkpoint.step > steps:
            raise UserError(
                f"{self.checkpoint.path} is at step {self.checkpoint.step}, but the run is configured for "
                f"{steps}: ask for more steps, or choose another run.name"
            )
        return False

    def open(self) -> None:
        """Makes room for a run that begins: what was under its name goes. Of one that goes on nothing changes."""
        if self.checkpoint is None:
            self.directory.clear()
            self.write_config()
        self.directory.logs.mkdir(parents=True, exist_ok=True)

    def write_config(self) -> None:
        """Writes config.yaml."""
        write_text_atomic(self.directory.config, self.config)


@contextmanager
def claim_run(run: RunConfig, config: Any, tell: Any = print) -> Iterator[Start]:
    """Takes possession of the place of a run, for the time of the block, and looks at what is there.

    Args:
        run: the section of the configuration.
        config: all of it.
        tell: called with lines for the user.

    Raises:
        UserError: the run is there and was not asked to go on or to be replaced; it is alive, of another kind of
            job, no run at all, or has nothing whole to go on from.
    """
    directory = RunDir(Path(run.dir) / run.name)
    kind = kind_of(field.name for field in dataclasses.fields(config))
    assert kind is not None
    _refuse_strangers(directory, run, kind)
    with RunLock(directory.root, tell=tell) as lock:
        _refuse_strangers(directory, run, kind)  # now that nobody else changes it
        start = Start(directory, lock, kind, config_yaml(config), None, None)
        if run.resume != "false":
            start = _found(start, run)
        for note in start.notes:
            tell(note)
        yield start


def kind_of(sections: Iterable[str]) -> str | None:
    """The kind of job whose configuration has these ``sections``; None where it is not clear."""
    found = {_KINDS[section] for section in sections if section in _KINDS}
    return found.pop() if len(found) == 1 else None


def _refuse_strangers(directory: RunDir, run: RunConfig, kind: str) -> None:
    """Passes where the place is free, or holds a run that may be gone on with or replaced."""
    root = directory.root
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} exists and is not a directory: choose another run.name")
    if not directory.leftovers():
        return
    if run.resume == "false" and not run.overwrite:
        raise UserError(
            f"{root} exists already: run.resume=true resumes it, run.overwrite=true replaces it, another run.name "
            "keeps it"
        )
    if not directory.config.exists():
        raise UserError(f"{root} is not a run (no config.yaml), so it is kept: choose another run.name")
    if run.resume != "false" and (theirs := _kind_there(directory)) != kind:
        raise UserError(
            f"{root} is a run of another job ({theirs}, this one is {kind}): choose another run.name, or "
            "run.overwrite=true to replace it"
        )


def _kind_there(directory: RunDir) -> str:
    try:
        there = yaml.safe_load(directory.config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        there = None
    return (kind_of(there) if isinstance(there, dict) else None) or "its config.yaml does not say which"


def _found(start: Start, run: RunConfig) -> Start:
    """What a run that may go on has to go on from."""
    directory = start.directory
    checkpoints = directory.checkpoints
    checkpoint, damaged = checkpoints.newest(), checkpoints.damaged()
    notes = [f"{path} is passed over: {what}" for path, what in damaged.items()]
    finished = directory.last_step() if directory.summary.exists() else None
    if checkpoint is None and finished is None:
        if damaged:
            path, what = next(iter(damaged.items()))
            raise UserError(
                f"no checkpoint in {checkpoints.folder} is complete ({path.name}: {what}): run.overwrite=true "
                "starts again"
            )
        if directory.model.exists():
            raise UserError(
                f"{directory.root} holds a trained model, but no checkpoint to resume from: choose another "
                "run.name, or start again with run.overwrite=true"
            )
        if run.resume == "true":
            raise UserError(
                f"run.resume=true: {directory.root} has no checkpoint to resume from; run.resume=auto would "
                "start a new run"
            )
    return dataclasses.replace(start, checkpoint=checkpoint, finished=finished, notes=tuple(notes))
