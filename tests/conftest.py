"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# Hypothesis fails an example that takes 200 ms: on a shared machine any one may, at any moment.
settings.register_profile("shared_machine", deadline=None)
settings.load_profile("shared_machine")
