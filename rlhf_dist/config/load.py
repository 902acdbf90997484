"""From the command line to a typed configuration object: schema, then recipe files, then `key=value`."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf_dist.config import secrets
from rlhf_dist.config.checks import check_values
from rlhf_dist.config.did_you_mean import did_you_mean, near_keys
from rlhf_dist.config.files import Setting, Value, parse_value, read_recipe
from rlhf_dist.config.help import help_text
from rlhf_dist.config.keys import Key, is_missing, named_sections, schema_keys, schema_sections, value_of
from rlhf_dist.errors import UserError

C = TypeVar("C")

_MOST = 10**12  # seeds are multiplied with steps, and the product must be an int64
_BOOLEANS = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}


def load_config(kind: type[C], argv: Sequence[str], default_file: Path) -> C:
    """The configuration that a command line asks for.

    Values come from the schema's defaults, then from the recipe (and before it from the files that it names as
    `base`), then from `key=value`; the last one counts. A key without default that nobody gives stays
    ``omegaconf.MISSING``; `validate.py` knows which ones may.

    Args:
        kind: PPOConfig, SFTConfig or RewardModelConfig.
        argv: `[--config FILE] [key=value ...] [--help]`, without the program's name.
        default_file: the recipe where `--config` names none.

    Raises:
        UserError: an unknown key, a value of the wrong type or out of its range, a file that is missing or not YAML.
        SystemExit: code 0, after `--help` was printed.
    """
    line = _parse(argv)
    if line.help:
        print(help_text(kind, default_file))
        raise SystemExit(0)
    settings = read_recipe(Path(line.config) if line.config else default_file, (default_file.parent,))
    mentioned = [setting.key for setting in settings] + [text.partition("=")[0] for text in line.overrides]
    keys = schema_keys(kind, mentioned)
    settings += [_from_command_line(text, keys) for text in line.overrides]
    config = _build(kind, keys, schema_sections(kind, mentioned), settings)
    check_values(config, {setting.key: setting.where for setting in settings})
    return config


def config_yaml(config: object) -> str:
    """A configuration object as YAML text that :func:`load_config` reads back: a run's `config.yaml`.

    No secrets stand in it (`secrets.py`): it is also what two configurations are compared by.
    """
    return OmegaConf.to_yaml(OmegaConf.create(_without_secrets(OmegaConf.to_container(OmegaConf.structured(config)))))


def _without_secrets(node: Any, key: str = "") -> Any:
    if isinstance(node, dict):
        return {name: _without_secrets(child, f"{key}.{name}".lstrip(".")) for name, child in node.items()}
    return secrets.shown(key, node)


@dataclass(frozen=True)
class _CommandLine:
    config: str | None
    overrides: list[str]
    help: bool


def _parse(argv: Sequence[str]) -> _CommandLine:
    config: str | None = None
    overrides: list[str] = []
    words = iter(argv)
    for word in words:
        if word in ("--help", "-h"):
            return _CommandLine(None, [], True)
        if word == "--config":
            config = next(words, None)
            if config is None:
                raise UserError("--config: expected a file after it")
        elif word.startswith("--config="):
            config = word.partition("=")[2]
        elif word.startswith("-"):
            name, given, value = word.partition("=")
            value = given + str(secrets.shown(name.lstrip("-"), value))
            hint = f"{name.lstrip('-')}{value}" if given else "--config FILE, --help or key=value"
            raise UserError(f"unknown option {name}{value}{did_you_mean([hint])}")
        elif "=" not in word:
            hint = f"--config {word}" if word.endswith((".yaml", ".yml")) else f"{word}=VALUE"
            raise UserError(f"{word}: expected key=value{did_you_mean([hint])}")
        else:
            overrides.append(word)
    return _CommandLine(config, overrides, False)


def _from_command_line(text: str, keys: dict[str, Key]) -> Setting:
    name, _, raw = text.partition("=")
    if not raw:
        raise UserError(f"{text}: expected a value after the = (null takes a value away)")
    if name not in keys:
        return Setting(name, raw, "")
    value: Value = raw if keys[name].base is str else parse_value(raw, name)
    return Setting(name, None if value == "null" else value, "")


def _build(kind: type[C], keys: dict[str, Key], sections: Collection[str], settings: list[Setting]) -> C:
    config = OmegaConf.structured(kind)
    for section, part in named_sections(kind).items():
        for name in {key.split(".")[1]: None for key in keys if key.startswith(f"{section}.")}:
            config[section][name] = OmegaConf.structured(part.kind)
    for setting in settings:
        _apply(config, sections, keys, setting)
    missing = OmegaConf.missing_keys(config)
    for name in missing:  # to_object refuses what is missing, so it gets a value for the moment
        OmegaConf.update(config, name, "")
    result = OmegaConf.to_object(config)
    for name in missing:
        above, _, leaf = name.rpartition(".")
        setattr(value_of(result, above), leaf, MISSING)
    return cast(C, result)


def _apply(config: DictConfig, sections: Collection[str], keys: dict[str, Key], setting: Setting) -> None:
    if setting.key not in keys:
        _check_section(sections, keys, setting)
        return
    key = keys[setting.key]
    value = None if is_missing(setting.value) else setting.value
    shown = f"{setting.where}{setting.key}={_shown(secrets.shown(setting.key, value))}"
    texts = value if isinstance(value, list) else [value]
    if any(text is not None and "${" in text for text in texts):
        raise UserError(f"{shown}: ${{...}} is not looked up here; write the value itself")
    if value is None and not key.optional and not key.has_default:
        value = MISSING
    elif key.base is bool and value is not None and str(value).lower() not in _BOOLEANS:
        raise UserError(f"{shown}: expected {key.expected}")
    elif "true" in key.facts.choices:  # as YAML writes it, where it is one choice of several
        value = _BOOLEANS.get(str(value).lower(), value)
    try:
        OmegaConf.update(config, setting.key, value)
    except OmegaConfBaseException as error:
        raise UserError(f"{shown}: expected {key.expected}") from error
    if any(_is_no_amount(number) for number in _numbers(OmegaConf.select(config, setting.key))):
        raise UserError(f"{shown}: expected {key.expected} of at most 12 digits")


def _numbers(value: object) -> list[object]:
    return list(value) if isinstance(value, ListConfig) else [value]


def _is_no_amount(value: object) -> bool:
    """Whether it is a number that nothing has: infinite, not a number, or an integer beyond what tensors hold."""
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and abs(value) > _MOST


def _check_section(sections: Collection[str], keys: dict[str, Key], setting: Setting) -> None:
    """Passes for an empty section of a file; an unknown key is a UserError."""
    if setting.key not in sections:
        raise UserError(f"{setting.where}unknown key {setting.key}{did_you_mean(near_keys(setting.key, keys))}")
    if setting.value is not None:
        inside = [name for name in keys if name.startswith(setting.key + ".")]
        raise UserError(f"{setting.where}{setting.key} is a section, not a key{did_you_mean(inside)}")


def _shown(value: Value) -> str:
    if value is None:
        return "null"
    return f"[{', '.join(value)}]" if isinstance(value, list) else value
