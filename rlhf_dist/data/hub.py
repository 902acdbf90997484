"""The Hugging Face hub: whether it can be reached, asked once and quickly, and loading from it with a deadline.

Its own clients retry for most of a minute, and know a deadline for each read only: a trickle lasts as long as it likes.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TypeVar

from rlhf_dist.data.functions import DeadlinePassed, call_with_deadline
from rlhf_dist.errors import UserError

T = TypeVar("T")

TIMEOUT_S = 10.0
DOWNLOAD_TIMEOUT_S = 3600.0


def from_hub(name: str, what: str, load: Callable[[], T]) -> T:
    """What ``load()`` gives, or raises; it may take up to ``DOWNLOAD_TIMEOUT_S``.

    Args:
        name: on the hub.
        what: is loaded, "data set" or "tokenizer", for the message.
        load: loads it.

    Raises:
        UserError: it took longer.
    """
    try:
        return call_with_deadline(load, DOWNLOAD_TIMEOUT_S)
    except DeadlinePassed as error:
        kind = " --repo-type dataset" if what == "data set" else ""
        raise UserError(
            f"the {what} {name} was not downloaded from the hub within {DOWNLOAD_TIMEOUT_S:g} s: fetch it "
            f"beforehand with `hf download {name}{kind}`; it is then read from the local cache"
        ) from error


def hub_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` is set: the hub's clients then read their cache, and never wait."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def hub_reachable() -> bool:
    """Whether something answers at the hub's address (`HF_ENDPOINT`), by way of the proxy where there is one."""
    from huggingface_hub import constants

    if hub_offline():
        return False
    try:
        call_with_deadline(lambda: _ask(constants.ENDPOINT), TIMEOUT_S)
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError, DeadlinePassed):
        return False
    return True


def _ask(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S).close()
