"""Writing so that nothing is ever half there: beside its place, synced to the disk, then renamed into it."""

from __future__ import annotations

import glob
import json
import os
import secrets
import shutil
from pathlib import Path

PARTIAL = ".tmp"  # ends the name of what is being written
ASIDE = ".old-"  # in the name of what was renamed away to be deleted; something random follows


def sync_folder(folder: Path) -> None:
    """Brings the names in ``folder`` to the disk: a rename counts after a power cut only once this is done."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_tree(folder: Path) -> None:
    """Brings every file and folder under ``folder``, and itself, to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def write_text_atomic(path: Path, text: str) -> None:
    """Writes ``text`` to ``path``: whoever reads sees the old file or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_json_atomic(path: Path, value: object) -> None:
    """Writes ``value`` as indented JSON, as :func:`write_text_atomic` does. ValueError on NaN or infinity."""
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def replace_folder(beside: Path, folder: Path) -> None:
    """Puts the folder ``beside``, which lies next to it, in the place of ``folder``, whether that is there or not.

    An old folder is renamed aside before and deleted after, never changed in place: whoever is killed in between
    leaves both whole, the old one under a name with :data:`ASIDE` in it.
    """
    if folder.exists():
        _rename_aside(folder)
    os.rename(beside, folder)
    sync_folder(folder.parent)
    for aside in folder.parent.glob(
        f"{glob.escape(folder.name)}{ASIDE}*"
    ):  # also of replacements that were interrupted
        shutil.rmtree(aside)


def remove_folder(folder: Path) -> None:
    """Deletes ``folder`` after renaming it aside, so that no half of it ever stands under its name."""
    shutil.rmtree(_rename_aside(folder))


def _rename_aside(folder: Path) -> Path:
    aside = folder.with_name(f"{folder.name}{ASIDE}{secrets.token_hex(4)}")
    os.rename(folder, aside)
    sync_folder(folder.parent)
    return aside
