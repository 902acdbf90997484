"""Base classes of the roles' engines: the methods of a role, on top of an engine that runs or trains its model."""

from __future__ import annotations

from pathlib import Path

from rlhf_dist.engine.export import save_all
from rlhf_dist.engine.protocol import ForwardEngine, TrainEngine
from rlhf_dist.types import Residency


class RoleEngine:
    """Base class of the engines of all roles with a model."""

    runner: ForwardEngine

    def reside(self, to: Residency) -> None:
        """Moves onto a shared device, or off it."""
        self.runner.reside(to)


class TrainedRoleEngine(RoleEngine):
    """Base class of the engines of all trained roles."""

    runner: TrainEngine

    def save_checkpoint(self, folder: Path) -> None:
        """Writes weights, optimizer and schedule, to resume from."""
        self.runner.save_checkpoint(folder)

    def load_checkpoint(self, folder: Path) -> None:
        """Restores what :meth:`save_checkpoint` wrote."""
        self.runner.load_checkpoint(folder)

    def save_model(self, folder: Path, tokenizer_path: str) -> None:
        """Writes the model in Hugging Face format, with its tokenizer. All workers call it; the first writes."""
        save_all(self.runner, folder, tokenizer_path)
