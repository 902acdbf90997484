"""Settings of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

# Hypothesis fails an example that takes 200 ms: on a shared machine any one may, at any moment.
settings.register_profile("shared_machine", deadline=None)
settings.load_profile("shared_machine")


@pytest.fixture(scope="session")
def group_of_one() -> Iterator[None]:
    """A process group of this process alone: one for the whole session, as DeepSpeed keeps the first that it meets."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone(group_of_one: None) -> Iterator[None]:
    """This process as the only worker. The environment says so to this module alone, as others start jobs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, number in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
            patch.setenv(name, number)  # DeepSpeed asks for them, process group or not
        yield
