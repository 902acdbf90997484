"""How DeepSpeed is set up: its configuration, and what it would keep twice."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from rlhf_dist.device import Device
from rlhf_dist.plan.process import zero_bucket, zero_sub_group


def initialize_deepspeed(
    model: nn.Module, config: dict[str, Any], optimizer: torch.optim.Optimizer | None = None
) -> tuple[Any, ...]:
    """``deepspeed.initialize``, without the collectives that DeepSpeed would compile first on a CPU.

    Its shared-memory collectives want a C++ compiler on the user's machine and a minute of its time, and a process
    that is killed while compiling leaves a lock behind on which every later one waits for ever. Gloo does without.
    """
    import deepspeed
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if config["zero_optimization"]["stage"] == 3:
        _shard(model, config)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)


def _shard(model: nn.Module, config: dict[str, Any]) -> None:
    """Brings a model onto the device and shards it, one parameter at a time.

    Left to itself, ``deepspeed.initialize`` brings all of it there before it shards anything.
    """
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    deepspeed.zero.Init(module=model, config_dict_or_path=config)
    for buffer in model.buffers():  # which Init leaves where they were
        buffer.data = buffer.data.to(get_accelerator().current_device_name())


def deepspeed_config(
    zero_stage: int, dtype: torch.dtype, grad_clip: float, device: Device, learning: int
) -> dict[str, Any]:
    """DeepSpeed's configuration of a role.

    Args:
        zero_stage: of the role.
        dtype: of its weights.
        grad_clip: largest norm of a gradient; 0: not clipped.
        device: on which it lives.
        learning: elements of the parameters that learn.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # boundaries are set by hand: micro-batches vary in number
        "steps_per_print": 2**31 - 1,
        "gradient_clipping": grad_clip,
        # bfloat16 has float32's range, and the check is a reduction of bytes, which HCCL does not have.
        "bf16": {"enabled": dtype == torch.bfloat16, "check_grad_overflow": False},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            # Without ZeRO, DeepSpeed keeps no float32 copy of bfloat16 weights, and small updates are lost; stage 1
            # does, and is the same training otherwise.
            "stage": max(zero_stage, 1) if dtype == torch.bfloat16 else zero_stage,
            # On a stream of its own, beside the backward pass; a CPU has no streams, and one worker nobody to talk to.
            "overlap_comm": device.is_accelerator and dist.get_world_size() > 1,
            **buckets(device, learning),
            "stage3_param_persistence_threshold": 0,
        },
        "zero_force_ds_cpu_optimizer": False,
    }


def buckets(device: Device, learning: int) -> dict[str, int]:
    """How much ZeRO handles at once, in elements.

    On a CPU the latency of a collective is that of memory, and each bucket is a copy of what is in memory already.
    DeepSpeed makes the buckets of gradients as large as they may be, however little there is to put into them; their
    size must be even.
    """
    size = zero_bucket(device)
    reduced = min(size, 8 * (learning // 8 + 1))
    return {
        "reduce_bucket_size": reduced,
        "allgather_bucket_size": reduced,
        "stage3_prefetch_bucket_size": size,
        "sub_group_size": zero_sub_group(device),
    }


def share_masters(optimizer: Any) -> None:
    """Lets the float32 masters of weights that are float32 be the weights themselves, under ZeRO stage 3.

    DeepSpeed means to do so, and updates such weights in place, but tells by comparing a device with its name, which
    are never equal.

    Args:
        optimizer: what DeepSpeed made of the optimizer; any other than stage 3's stays as it is.
    """
    weights = getattr(optimizer, "fp16_partitioned_groups_flat", ())
    for flat, master in zip(weights, getattr(optimizer, "fp32_partitioned_groups_flat", ()), strict=True):
        if flat is not None and flat.dtype == master.dtype and flat.device == master.device:
            master.data = flat.data
