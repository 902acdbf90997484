"""Connecting to a cluster: what is asked of Ray before."""

from __future__ import annotations

import pytest
from ray._raylet import AuthenticationMode

from rlhf_dist.cluster import session


def test_no_token_is_read_where_the_cluster_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once Ray has read one, it wants it from the head too, which then takes the driver for dead."""
    asked = []
    monkeypatch.setattr(session, "get_authentication_mode", lambda: AuthenticationMode.DISABLED)
    monkeypatch.setattr(session, "GcsClient", lambda address: asked.append(address))

    def looked_for() -> bool:
        raise AssertionError("a token was looked for")

    monkeypatch.setattr(session, "_has_token", looked_for)
    session._check_cluster_answers("127.0.0.1:6379")
    assert asked == ["127.0.0.1:6379"]
