"""On a machine of NPUs nothing uses torch.cuda; some of its functions would let that pass without a word."""

import functools
import sys

import torch

# torch itself seeds and asks all devices; what only asks whether there is CUDA stays as it is.
_USES = [
    "current_blas_handle",
    "current_device",
    "current_stream",
    "default_stream",
    "device",
    "device_of",
    "empty_cache",
    "Event",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "get_rng_state",
    "get_rng_state_all",
    "init",
    "initial_seed",
    "ipc_collect",
    "list_gpu_processes",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_cached",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_cached",
    "memory_reserved",
    "memory_snapshot",
    "memory_stats",
    "memory_summary",
    "reset_accumulated_memory_stats",
    "reset_max_memory_allocated",
    "reset_max_memory_cached",
    "reset_peak_memory_stats",
    "seed",
    "seed_all",
    "set_device",
    "set_rng_state",
    "set_rng_state_all",
    "set_stream",
    "stream",
    "Stream",
    "synchronize",
]


def install():
    """Makes every use of CUDA raise, unless torch's own code does it."""
    for name in _USES:
        if hasattr(torch.cuda, name):
            setattr(torch.cuda, name, _refused(name, getattr(torch.cuda, name)))


def _refused(name, original):
    if isinstance(original, type):
        return type(name, (original,), {"__new__": lambda cls, *args, **kwargs: _raise(name)})

    @functools.wraps(original)
    def guarded(*args, **kwargs):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller != "torch" and not caller.startswith("torch."):
            _raise(name)
        return original(*args, **kwargs)

    return guarded


def _raise(name):
    raise RuntimeError(f"torch.cuda.{name} on a machine of NPUs")
