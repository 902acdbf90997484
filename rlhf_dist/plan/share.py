"""How much of an accelerator's memory a rollout engine may take."""

from __future__ import annotations

from rlhf_dist.config.schema import RolloutConfig

_ALONE = (
    0.9  # of what others leave; the rest is for what vLLM takes beside weights and cache: its graphs, NCCL's buffers
)
# What a process keeps on a device that its model has left: the device's context, and the buffers of its collectives.
AWAY_BYTES = 2**30


def memory_share(rollout: RolloutConfig, device_bytes: int, colocated_roles: int) -> float:
    """`rollout.memory_utilization`, or what it comes to where the configuration leaves it open.

    Args:
        rollout: the section.
        device_bytes: memory of the device.
        colocated_roles: processes of other roles on the same device.

    Returns:
        a share of ``device_bytes``, rounded down to a hundredth.
    """
    if rollout.memory_utilization is not None:
        return rollout.memory_utilization
    left = max(device_bytes - colocated_roles * AWAY_BYTES, 0) / device_bytes
    return max(int(100 * _ALONE * left) / 100, 0.01)
