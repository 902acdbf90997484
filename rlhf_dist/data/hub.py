"""Whether the Hugging Face hub can be reached, asked once and quickly: its own clients retry for most of a minute."""

from __future__ import annotations

import urllib.error
import urllib.request

TIMEOUT_S = 10.0


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
        with urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False
