"""RLHF training of language models, distributed over GPUs, Ascend NPUs or CPUs, on Ray actors.

Importing the package does nothing and needs none of ray, vllm, deepspeed or an accelerator. The jobs can be run from
Python, too (see :mod:`rlhf_dist.api`)::

    run = rlhf_dist.ppo("configs/demo/ppo.yaml", {"run.name": "mine", "actor.num_workers": 2})
    run.directory, run.metrics, run.summary
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_dist.api import Run, dpo, ppo, reward, sft

__all__ = ["Run", "dpo", "ppo", "reward", "sft"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What :data:`__all__` names, imported when it is first asked for."""
    if name in __all__:
        return getattr(importlib.import_module("rlhf_dist.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
