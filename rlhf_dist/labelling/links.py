"""The secret links by which labellers and the operator come in, in one file that its owner alone may read."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_dist.durable import sync_folder
from rlhf_dist.errors import UserError

OPERATOR = ""  # the name of the operator, which no labeller can have
_TOKEN_BYTES = 24


@dataclass(frozen=True)
class Links:
    """Who comes in by which token.

    Attributes:
        tokens: by the name of a labeller, and :data:`OPERATOR`.
        port: at which the server was last, so that links hold over a restart; 0 where it was not there yet.
        settings: what must not change between two starts.
    """

    tokens: Mapping[str, str]
    port: int
    settings: Mapping[str, object]

    @property
    def mark(self) -> str:
        """8 hexadecimal digits that tell this labelling's cookies from those of another on the same host."""
        return hashlib.sha256(self.tokens[OPERATOR].encode()).hexdigest()[:8]

    def holder(self, token: str, names: Sequence[str]) -> str | None:
        """Whose token it is, among ``names``; None where it is nobody's. Takes the same time whichever it is."""
        found = None
        for name in names:
            if hmac.compare_digest(token.encode("utf-8", "replace"), self.tokens[name].encode()):
                found = name
        return found


def read_links(path: Path, labellers: Sequence[str], settings: Mapping[str, object]) -> Links:
    """The links of a labelling: those of the file, and new ones for whoever has none yet. Writes nothing.

    Args:
        path: of the file, which need not be there.
        labellers: who shall come in.
        settings: what must be as it was when the file was made.

    Raises:
        UserError: the file is malformed, others may read it, or a setting is another.
    """
    there = _read(path) if path.exists() else Links({}, 0, settings)
    for name, value in settings.items():
        if there.settings.get(name) != value:
            was = there.settings.get(name)
            raise UserError(f"{path}: this labelling was begun with {name} {was}, not {value}: choose another --out")
    fresh = {name: secrets.token_urlsafe(_TOKEN_BYTES) for name in [OPERATOR, *labellers] if name not in there.tokens}
    return Links({**there.tokens, **fresh}, there.port, settings)


def write_links(path: Path, links: Links) -> None:
    """Writes the file anew, readable by its owner alone from the first moment. UserError where that cannot be."""
    row = {"port": links.port, "settings": dict(links.settings), "tokens": dict(links.tokens)}
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(row, file, indent=2, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path) -> Links:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UserError(f"{path}: others may read these secret links; run chmod 600, or remove it for new ones")
        row = json.loads(path.read_text(encoding="utf-8"))
        tokens = {str(name): str(token) for name, token in row["tokens"].items()}
        if not tokens.get(OPERATOR) or min(map(len, tokens.values())) < _TOKEN_BYTES:
            raise ValueError
        return Links(tokens, int(row["port"]), dict(row["settings"]))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no file of links; remove it, and new ones are made") from error
