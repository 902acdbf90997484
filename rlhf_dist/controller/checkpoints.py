"""The checkpoints of a run: writing them completely or not at all, finding the newest, pruning old ones.

A checkpoint counts once everything in it is written and synced, its manifest names every file with size and checksum,
and a rename has put it in its place. Whatever is not that is passed over, and what is wrong with it is said.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from rlhf_dist.durable import ASIDE, PARTIAL, remove_folder, replace_folder, sync_tree, write_json_atomic

MANIFEST = "manifest.json"
FORMAT = 1  # of the manifest and of what lies beside it
_NAME = re.compile(rf"step-(\d+)({re.escape(ASIDE)}[0-9a-f]+)?")
_READERS = 4  # threads; hashing lets go of the interpreter's lock


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: the step after which it was written, and its directory."""

    step: int
    path: Path


def write_manifest(folder: Path, made_by: dict[str, object]) -> None:
    """Syncs all that is in ``folder`` to the disk, then writes the manifest that makes it a whole checkpoint.

    Args:
        folder: the checkpoint, complete but for this.
        made_by: what wrote it: version, kind of job, step.
    """
    sync_tree(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(_READERS) as pool:
        sums = list(pool.map(_checksum, files))
    written = datetime.now(timezone.utc).isoformat(timespec="seconds")
    entries = [
        {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": checksum}
        for path, checksum in zip(files, sums, strict=True)
    ]
    write_json_atomic(
        folder / MANIFEST, {"format": FORMAT, "made_by": made_by | {"written": written}, "files": entries}
    )


def damage(folder: Path) -> str | None:
    """What keeps ``folder`` from being a whole checkpoint, in a few words; None where it is one. Reads every byte."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, files = manifest["format"], manifest["files"]
        if version != FORMAT:
            return f"its format is {version}, this version reads {FORMAT}"
        named = [(folder / entry["path"], int(entry["bytes"]), str(entry["sha256"])) for entry in files]
    except FileNotFoundError:
        return f"it has no {MANIFEST}: written by an earlier version, or not to its end"
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {MANIFEST} cannot be read"
    for path, size, _ in named:
        if not path.is_file():
            return f"{path.relative_to(folder)} is missing"
        if path.stat().st_size != size:
            return f"{path.relative_to(folder)} has {path.stat().st_size} bytes instead of {size}"
    with ThreadPoolExecutor(_READERS) as pool:
        for (path, _, wanted), found in zip(
            named, pool.map(_checksum_or_none, [path for path, *_ in named]), strict=True
        ):
            if found != wanted:
                return f"{path.relative_to(folder)} does not have the content that was written"
    return None


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _checksum_or_none(path: Path) -> str | None:
    try:
        return _checksum(path)
    except OSError:
        return None


class Checkpoints:
    """The directory of a run's checkpoints.

    Args:
        folder: `runs/<name>/checkpoints`, which need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, str | None] = {}  # what was looked at or written once is not read again

    def path(self, step: int) -> Path:
        """The folder of the checkpoint of ``step``."""
        return self.folder / f"step-{step}"

    def begin(self, step: int) -> Path:
        """An empty directory to write the checkpoint of ``step`` into; it counts once it is committed."""
        partial = self._partial(step)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    def commit(self, step: int, made_by: dict[str, object]) -> Path:
        """Makes the checkpoint that was begun for ``step`` whole. Returns where it is."""
        partial, path = self._partial(step), self.path(step)
        write_manifest(partial, made_by | {"step": step})
        replace_folder(partial, path)
        self._known[path] = None
        return path

    def discard(self, step: int) -> None:
        """Removes what was begun for ``step``, so that a failed write takes no room."""
        shutil.rmtree(self._partial(step), ignore_errors=True)

    def whole(self) -> list[Checkpoint]:
        """The whole checkpoints, oldest first.

        One that was renamed aside counts as long as all of it is there: where a process was killed while it put a
        new one of the same step in its place, it is the only one.
        """
        found: dict[int, Path] = {}
        for step, path in self._named():
            if step not in found and self.damage(path) is None:
                found[step] = path
        return [Checkpoint(step, path) for step, path in sorted(found.items())]

    def folders(self) -> list[Path]:
        """All that has the name of a checkpoint, whole or not, of the highest step first; nothing of it is read."""
        return [path for _, path in self._named()]

    def newest(self) -> Checkpoint | None:
        """The whole checkpoint of the highest step, if there is one; older ones are not read."""
        return next((Checkpoint(step, path) for step, path in self._named() if self.damage(path) is None), None)

    def damaged(self) -> dict[Path, str]:
        """What stands under the name of a checkpoint above the newest whole one and is none: where, and why not."""
        newest, found = self.newest(), {}
        for step, path in self._named():
            if newest is not None and step <= newest.step:
                break
            wrong = self.damage(path)
            if wrong is not None and ASIDE not in path.name:
                found[path] = wrong
        return found

    def prune(self, keep: int, also: Collection[int] = ()) -> None:
        """Removes all checkpoints but the ``keep`` newest whole ones (at least one stays) and those of the steps
        ``also``; and what writes, replacements and removals that did not come to their end have left here.

        A damaged one goes when there is a whole one of its step or a later one, not before.
        """
        whole = self.whole()
        stays = {checkpoint.path for checkpoint in whole[-max(keep, 1) :]}
        stays |= {checkpoint.path for checkpoint in whole if checkpoint.step in also}
        for step, path in self._named():
            if path in stays or not whole or step > whole[-1].step:
                continue
            if ASIDE in path.name:
                shutil.rmtree(path)
            else:
                remove_folder(path)
        for partial in self.folder.glob(f"step-*{PARTIAL}"):
            shutil.rmtree(partial)

    def damage(self, path: Path) -> str | None:
        """See :func:`damage`; read once."""
        if path not in self._known:
            self._known[path] = damage(path)
        return self._known[path]

    def _partial(self, step: int) -> Path:
        return self.folder / f"step-{step}{PARTIAL}"

    def _named(self) -> list[tuple[int, Path]]:
        """All that has the name of a checkpoint, of the highest step first; what was renamed aside after its peers."""
        if not self.folder.is_dir():
            return []
        matches = [
            (_NAME.fullmatch(entry.name), Path(entry.path)) for entry in os.scandir(self.folder) if entry.is_dir()
        ]
        named = [(int(match[1]), match[2] is not None, path) for match, path in matches if match]
        return [(step, path) for step, _, path in sorted(named, key=lambda item: (-item[0], item[1], item[2]))]
