"""What the engines of the roles have in common: each gives its role's methods, and has the model run or trained."""

from __future__ import annotations

from pathlib import Path

from rlhf_dist.engine.export import save_all
from rlhf_dist.engine.protocol import ForwardEngine, TrainEngine
from rlhf_dist.types import Residency


class RoleEngine:
    """What the engines of all roles with a model have in common."""

    runner: ForwardEngine

    def reside(self, to: Residency) -> None:
        """Comes onto the device, or leaves it, where roles share it."""
        self.runner.reside(to)


class TrainedRoleEngine(RoleEngine):
    """What the engines of all roles that learn have in common."""

    runner: TrainEngine

    def save_checkpoint(self, folder: Path) -> None:
        """Weights, optimizer and schedule, to go on from."""
        self.runner.save_checkpoint(folder)

    def load_checkpoint(self, folder: Path) -> None:
        """Goes on from what :meth:`save_checkpoint` wrote."""
        self.runner.load_checkpoint(folder)

    def save_model(self, folder: Path, tokenizer_path: str) -> None:
        """Writes the model in Hugging Face format, with its tokenizer. All workers call it; the first writes."""
        save_all(self.runner, folder, tokenizer_path)
