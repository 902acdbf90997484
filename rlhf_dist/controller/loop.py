"""The loop around the steps of any job: metrics, view, checkpoints, resuming, stopping, the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import rlhf_dist
from rlhf_dist.controller.identity import IDENTITY_FILE, library_versions
from rlhf_dist.controller.lock import LockLost
from rlhf_dist.controller.metrics import MetricsWriter
from rlhf_dist.controller.saving import STATE_FILE, SavePolicy
from rlhf_dist.controller.trainer import RunContext, Scores, Trainer, writing
from rlhf_dist.durable import write_json_atomic
from rlhf_dist.errors import MemoryRanOut, RunError, StoppedByUser, UserError

_FINAL = (LockLost, MemoryRanOut)  # after these nothing more can be saved: the run's place or a worker is gone


@dataclass
class Progress:
    """How far a run is; a checkpoint keeps it.

    Attributes:
        step: the last step that is done.
        tokens: of all steps so far.
        wall_s: seconds of work so far, over all tries.
        before: what the evaluation before the first step found; None before it.
        completed: whether all steps are done, and :meth:`Trainer.complete` was called.
        figures: what the last step has measured, by name.
    """

    step: int = 0
    tokens: int = 0
    wall_s: float = 0.0
    before: Scores | None = None
    completed: bool = False
    figures: dict[str, float] = field(default_factory=dict)


def run_training(
    trainer: Trainer, context: RunContext, clock: Callable[[], float] = time.monotonic
) -> dict[str, object]:
    """Runs ``trainer`` from where it begins or goes on to its end. Returns the summary, also written to summary.json.

    Args:
        trainer: what is run.
        context: what it writes to.
        clock: seconds, for `run.save_every_minutes`.

    Raises:
        StoppedByUser: after a checkpoint was written.
        LockLost: another process has taken the run over; nothing was written since.
    """
    return Loop(trainer, context, clock).run()


class Loop:
    """One run of ``trainer``.

    What was learned is saved before anything else can fail: at the end a checkpoint and the model come first, the last
    evaluation and the summary after them.
    """

    def __init__(self, trainer: Trainer, context: RunContext, clock: Callable[[], float]) -> None:
        self._trainer, self._context = trainer, context
        self._progress = Progress()
        self._saved: tuple[int, bool, Path] | None = None  # step and `completed` of the newest checkpoint, and where
        self._counted_from = time.monotonic()
        self._policy = SavePolicy(context.config, clock)

    def run(self) -> dict[str, object]:
        """See :func:`run_training`."""
        trainer, context, start = self._trainer, self._context, self._context.start
        self._take_up()
        board = context.directory.tensorboard if context.config.tensorboard else None
        after = None if start.checkpoint is None else start.done
        with MetricsWriter(context.directory.metrics, board, resumed_after=after) as metrics:
            trainer.prepare()
            if self._progress.before is None:
                self._progress.before = trainer.evaluate(0)
            self._check_best()
            context.view.start_clock()
            while self._progress.step < trainer.total_steps:
                self._stop_if_wanted()
                self._step(metrics)
                if self._progress.step == start.done + 1:
                    self._check_best()
                if self._checkpoint_is_due():
                    self._save_or_warn()
        self._save_all()
        if context.stop.wanted:
            raise StoppedByUser("stopped after the last step: everything is saved; run.resume=true does the evaluation")
        return self._summarize()

    def _take_up(self) -> None:
        """Loads the checkpoint that the run goes on from; only then is anything of the run changed."""
        start, context = self._context.start, self._context
        if start.checkpoint is None:
            return
        path = start.checkpoint.path.absolute()
        state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        for name, role in self._trainer.trained.items():
            context.run(role.load_checkpoint(path / name))
        self._trainer.load_state(state.pop("job"))
        self._trainer.load_files(path)
        self._progress = Progress(**state)
        self._saved = (self._progress.step, self._progress.completed, start.checkpoint.path)
        start.lock.check()
        with writing(context.directory.root):
            start.write_config()
            context.directory.rewind(self._progress.step)
        context.view.note(f"resuming after step {self._progress.step} ({start.checkpoint.path})")

    def _step(self, metrics: MetricsWriter) -> None:
        context, number = self._context, self._progress.step + 1
        context.timer.start_step(number)
        figures = self._trainer.step(number)
        every = context.config.eval_every
        if every and number % every == 0 and number < self._trainer.total_steps:
            with context.timer("evaluate"):
                found = self._trainer.evaluate(number)
            figures |= {f"eval/{name}": value for name, value in found.items() if value is not None}
        context.start.lock.check()
        figures |= context.timer.step_metrics()
        tokens = figures.pop("tokens")
        figures["throughput/tokens_per_s"] = tokens / figures["time/step_s"]
        with writing(context.directory.metrics):
            metrics.write(number, figures)
        context.gauges.write(number, figures)
        context.loggers.log(number, figures)
        context.view.update(number, figures)
        self._progress.step, self._progress.completed = number, False
        self._progress.tokens += int(tokens)
        self._progress.figures = figures

    def _check_best(self) -> None:
        """A mistake in `run.keep_best` shows as soon as the figure it names could be there."""
        best, before, figures = self._policy.best, self._progress.before, self._progress.figures
        known = {f"eval/{name}" for name in before or ()} | figures.keys()
        if best is not None and (figures or best.is_evaluated):
            best.check_name(known)

    def _checkpoint_is_due(self) -> bool:
        step, whole = self._progress.step, self._context.directory.checkpoints.whole
        return step < self._trainer.total_steps and self._policy.is_due(step, self._progress.figures, whole)

    def _stop_if_wanted(self) -> None:
        if not self._context.stop.wanted:
            return
        step = self._progress.step
        if step == 0:
            raise StoppedByUser("stopped before the first step")
        path = self._save()
        raise StoppedByUser(f"stopped after step {step}; resume with run.resume=true (checkpoint: {path})")

    def _save_or_warn(self) -> None:
        """A checkpoint on the way: where it fails, the run goes on with those that it has."""
        try:
            self._save()
        except _FINAL:
            raise
        except RunError as error:
            newest = self._context.directory.checkpoints.newest()
            has = f"the newest one is {newest.path}" if newest is not None else "there is none yet"
            self._warn(
                f"the checkpoint of step {self._progress.step} was not written: {error}; the run continues ({has})"
            )
        finally:
            self._policy.tried()

    def _save(self) -> Path:
        """Writes the state of now, whole or not at all, and drops the oldest. Returns where it is."""
        step, completed, checkpoints = (
            self._progress.step,
            self._progress.completed,
            self._context.directory.checkpoints,
        )
        if self._saved is not None and self._saved[:2] == (step, completed):
            return self._saved[2]
        with self._context.timer("checkpoint"):
            self._context.start.lock.check()
            try:
                self._write(checkpoints.begin(step).absolute())
                self._context.start.lock.check()
                path = checkpoints.commit(step, self._made_by())
            except LockLost:
                raise
            except (RunError, OSError) as error:
                checkpoints.discard(step)
                if isinstance(error, OSError):
                    raise RunError(f"{checkpoints.path(step)} cannot be written: {error}") from error
                raise
            self._saved = (step, completed, path)
            try:
                self._prune()
            except OSError as error:
                self._warn(f"old checkpoints in {checkpoints.folder} could not be removed: {error}")
        return path

    def _made_by(self) -> dict[str, object]:
        """What wrote a checkpoint, for its manifest."""
        return {
            "rlhf_dist": rlhf_dist.__version__,
            "versions": library_versions(),
            "job": self._context.start.kind,
        }

    def _prune(self) -> None:
        checkpoints, best = self._context.directory.checkpoints, self._policy.best
        kept = best.checkpoint(checkpoints.whole()) if best is not None else None
        checkpoints.prune(self._context.config.keep_checkpoints, () if kept is None else (kept.step,))
        if best is not None and kept is not None and kept.step == self._progress.step:
            figure = self._progress.figures[best.metric]
            self._context.view.note(
                f"the best checkpoint so far is that of step {kept.step}: {best.metric} {figure:.4g}"
            )

    def _write(self, folder: Path) -> None:
        for name, role in self._trainer.trained.items():
            self._context.run(role.save_checkpoint(folder / name))
            if not any((folder / name).glob("*")):
                raise RunError(
                    f"the workers of {name} have written a checkpoint, but nothing of it is in {folder / name} here: "
                    "run.dir must be on a disk that all nodes share"
                )
        self._trainer.save_files(folder)
        self._count_time()
        write_json_atomic(folder / IDENTITY_FILE, self._context.identity.to_json())
        write_json_atomic(folder / STATE_FILE, asdict(self._progress) | {"job": self._trainer.state()})

    def _save_all(self) -> None:
        """What the steps were done for: a checkpoint of the last one, and the model.

        The model is saved also where the checkpoint cannot be.
        """
        error = self._save_error()
        if not self._progress.completed:
            changed = self._trainer.complete()
            self._progress.completed = True
            if changed or error is not None:
                error = self._save_error()
        self._context.start.lock.check()
        with self._context.timer("save"):
            folder = self._context.directory.model.absolute()
            self._context.run(self._trainer.result.save_model(folder, self._trainer.tokenizer_path))
        if error is not None:
            raise RunError(f"the model is saved, but no checkpoint of the last step: {error}") from error

    def _save_error(self) -> RunError | None:
        try:
            self._save()
        except _FINAL:
            raise
        except RunError as error:
            return error
        return None

    def _summarize(self) -> dict[str, object]:
        """The evaluation at the end, and the summary with it."""
        try:
            after = self._trainer.evaluate(self._progress.step)
        except LockLost:
            raise
        except Exception as error:
            self._context.view.note("the model and a checkpoint are saved; run.resume=true repeats the evaluation")
            if isinstance(error, UserError):  # not of the configuration, that was checked, and the run was at its end
                raise RunError(str(error)) from error
            raise
        self._count_time()
        progress = self._progress
        assert progress.before is not None
        summary = self._trainer.summary(progress.before, after)
        summary |= {"wall_s": round(progress.wall_s, 3), "tokens": progress.tokens}
        self._context.start.lock.check()
        with writing(self._context.directory.summary):
            write_json_atomic(self._context.directory.summary, summary)
        return summary

    def _count_time(self) -> None:
        now = time.monotonic()
        self._progress.wall_s, self._counted_from = self._progress.wall_s + now - self._counted_from, now

    def _warn(self, text: str) -> None:
        self._context.view.note(f"warning: {text}")
        print(f"warning: {text}", file=sys.stderr)  # the driver's log
