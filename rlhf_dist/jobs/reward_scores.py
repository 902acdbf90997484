"""Scores of a reward model in this process, on one device: without a cluster, which would take longer to start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist
from rich.console import Console
from rich.progress import Progress
from transformers import AutoConfig

from rlhf_dist.config.schema import FrozenRoleConfig
from rlhf_dist.data.comparisons import encode_comparisons
from rlhf_dist.data.hub import hub_reachable
from rlhf_dist.data.preferences import RankedAnswers
from rlhf_dist.device import Device
from rlhf_dist.engine.scalar import RewardEngine
from rlhf_dist.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 64  # rows that are tokenized and scored at a time
_HEAD = "ForSequenceClassification"
_SETTINGS = ("--max-tokens ", "--truncate")


def checked_model(path: str, trust_remote_code: bool, max_tokens: int | None) -> int:
    """Passes for a reward model. Returns the most tokens of a prompt and an answer: what is asked for, or it can read.

    Raises:
        UserError: there is no such model, it has no head with one output, or it does not say what it can read.
    """
    here = Path(path).is_dir() or not hub_reachable()
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=here)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be loaded: {(str(error).splitlines() or [''])[0]}") from error
    kind = ", ".join(config.architectures or []) or "of no known architecture"
    if not kind.endswith(_HEAD) or config.num_labels != 1:
        outputs = f" with {config.num_labels} outputs" if kind.endswith(_HEAD) else ""
        raise UserError(
            f"{path} is no reward model ({kind}{outputs}): expected a model with one score, such "
            "as the model/ of a run of rlhf-dist reward"
        )
    readable = max_tokens or getattr(config, "max_position_embeddings", None)
    if not isinstance(readable, int):
        raise UserError(f"{path} does not say how many tokens it can read: give --max-tokens")
    return readable


@contextmanager
def reward_engine(role: FrozenRoleConfig, device: Device) -> Iterator[RewardEngine]:
    """The model on the device, in a process group of this process alone: engines ask it for their number."""
    device.set_current()
    alone = not dist.is_initialized()
    if alone:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield RewardEngine(role, device)
    finally:
        if alone:
            dist.destroy_process_group()


def reward_scores(
    engine: RewardEngine,
    rows: Sequence[RankedAnswers],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    truncate: bool,
) -> list[list[float]]:
    """The scores of each row's answers. UserError where a row is too long."""
    found: list[list[float]] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("scoring", total=len(rows))
        for start in range(0, len(rows), CHUNK):
            chunk = [(row.prompt, row.responses, row.ranks) for row in rows[start : start + CHUNK]]
            batch = encode_comparisons(chunk, tokenizer, max_tokens, truncate, _SETTINGS)
            scores = engine.scores(batch).split(batch.answers.tolist())
            found += [given.tolist() for given in scores]
            progress.advance(task, len(chunk))
    for row, given in zip(rows, found, strict=True):
        if any(score != score or abs(score) == float("inf") for score in given):
            raise UserError(
                f"{row.prompt.record.where}: a score is not finite ({given}): the model's weights are broken"
            )
    return found
