"""What of a configuration is secret. Whatever stores or shows a value of it asks here first."""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rlhf_dist.errors import UserError

MASK = "***"  # stands for what is left out
ENVIRONMENT = "cluster.env"
_ENDPOINT = re.compile(r"(reward|rewards\.[^.]+)\.endpoint|run\.mlflow")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def shown(key: str, value: object) -> Any:
    """What of the value of a dotted key may be stored or shown: the value itself, unless it may hold a secret.

    What comes back for `cluster.env` are the names alone, which mean: from the environment. A configuration that was
    stored so can be run again by whoever has the values.
    """
    if key == ENVIRONMENT and value:
        return [_name(entry) for entry in value] if isinstance(value, list) else MASK
    if _ENDPOINT.fullmatch(key) and isinstance(value, str):
        return masked_url(value)
    return value


def masked_url(url: str) -> str:
    """A URL without the user's name and password, its query and its fragment."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # the address is no such thing: it may be the beginning of a name and password
        return MASK
    if "@" in parts.path:  # a name and password in what is no URL
        return MASK
    user, _, host = parts.netloc.rpartition("@")
    if not (user or parts.query or parts.fragment):
        return url
    query, fragment = (MASK if part else "" for part in (parts.query, parts.fragment))
    return urlunsplit((parts.scheme, f"{MASK}@{host}" if user else host, parts.path, query, fragment))


def check_unmasked(key: str, url: str) -> None:
    """Passes for an endpoint as a user writes it.

    Raises:
        UserError: it is what :func:`masked_url` left of one.
    """
    if MASK in url:
        raise UserError(f"{key}={masked_url(url)}: what stood at {MASK} is not stored with a run: give the URL again")


def check_environment(variables: list[str]) -> None:
    """Passes where every entry of `cluster.env` has its form.

    Raises:
        UserError: an entry is neither NAME nor NAME=VALUE.
    """
    for entry in variables:
        if _NAME.fullmatch(_name(entry)) is None:
            raise UserError(
                f"{ENVIRONMENT}={_name(entry)}: expected NAME, for a variable of the environment, or NAME=VALUE"
            )


def environment(variables: list[str]) -> dict[str, str]:
    """`cluster.env` as a mapping: a name alone has its value from the environment of this process.

    Raises:
        UserError: an entry has not its form, or its variable is not set.
    """
    check_environment(variables)
    found: dict[str, str] = {}
    for entry in variables:
        name, written, value = entry.partition("=")
        if not written and name not in os.environ:
            raise UserError(f"{ENVIRONMENT}=[{name}]: that environment variable is not set")
        found[name] = value if written else os.environ[name]
    return found


def _name(entry: str) -> str:
    return entry.partition("=")[0]
