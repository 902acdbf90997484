"""What a process takes before it has a model, and what DeepSpeed's settings make it take beside one.

On a CPU the libraries are a large part of a small job. The figures are proportional set sizes (PSS: a page that several
processes share counts for each by its share), in a job of eight processes; benchmarks/memory.py measures them again.
They depend on the versions that setup.py pins more than on the machine: a test compares them with the one it runs on.
"""

from __future__ import annotations

from rlhf_dist.device import Device

MIB = 2**20
TRAINER_BYTES = 340 * MIB  # Python, torch, transformers, and Ray's threads
ZERO_BYTES = 100 * MIB  # DeepSpeed: what it imports, and the threads of its collectives keep, once it is at work
ENGINE_BYTES = 470 * MIB  # vLLM too
TEXT_REWARD_BYTES = 330 * MIB  # a function or an endpoint, with a tokenizer
DRIVER_BYTES = 380 * MIB
RAY_BYTES = 430 * MIB  # a local cluster's own processes
# What the allocator holds beyond the blocks in use while a role learns, as a share of what it works with: blocks of a
# forward pass are freed in another order than they were asked for, and under ZeRO gathered and reduced between. A pass
# without gradient frees its blocks as it goes.
FRAGMENTATION = 0.5


def zero_bucket(device: Device) -> int:
    """Elements that ZeRO reduces or gathers at once: `rlhf_dist.engine.zero_settings` tells DeepSpeed.

    On accelerators 400 MB in bfloat16: between the 5e8 elements that DeepSpeed has by default, of which it keeps two
    buckets where communication overlaps, and small ones, whose latencies add up.
    """
    return 200_000_000 if device.is_accelerator else 8_000_000


def zero_sub_group(device: Device) -> int:
    """Elements that AdamW updates at once under ZeRO-3; the gradient of so many is copied for it."""
    return 1_000_000_000 if device.is_accelerator else 8_000_000
