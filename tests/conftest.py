"""Settings of the whole suite."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.shapes import MODELS

# Hypothesis fails an example that takes 200 ms: on a shared machine any one may, at any moment.
settings.register_profile("shared_machine", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=25)  # of make test-fast; the whole suite draws 100
settings.load_profile("shared_machine")


def pytest_collection_finish() -> None:
    """One torch thread: the models are tiny, and threads that wait for each other on busy cores take minutes."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _libraries_are_no_garbage() -> None:
    """What is there before a module's tests is not looked through again by each of their garbage collections.

    The libraries are millions of objects, and the planner and torch collect often: it was a third of the fast tests.
    """
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser. A module's own: while it runs, Playwright's event loop is that of the whole thread."""
    from tests.browser import launched

    with launched() as browser:
        yield browser


@pytest.fixture(scope="session")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The config.json of real models, without weights: a folder for each name.

    Once for the session, as the planner keeps what it has found of a folder. Nobody may write into them.
    """
    from transformers import LlamaConfig

    made = {}
    for name, (shape, _) in MODELS.items():
        folder = tmp_path_factory.mktemp(name.rpartition("/")[2])
        LlamaConfig(**shape).save_pretrained(folder)
        made[name] = str(folder)
    return made


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of tests/tiny.py, to be read only: once for the session, like :func:`architectures`."""
    from tests.tiny import write_model

    return write_model(tmp_path_factory.mktemp("tiny"))
