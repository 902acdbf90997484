"""What a role's layout costs with the attention that its model has."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_dist.device import Device
from rlhf_dist.models.layout import is_flash
from rlhf_dist.plan.job import JobConfig, job_pools, model_sections


def costly_layouts(config: JobConfig, device: Device) -> Iterator[str]:
    """A line for each role whose packed sequences are kept apart by a mask over all pairs of tokens."""
    present = {role.role for pool in job_pools(config, device) for role in pool.roles}
    for name, (section, role) in model_sections(config).items():
        attention = device.attention(role.model.attention, role.model.dtype)
        if name in present and role.layout == "packed" and not is_flash(attention):
            size = f"{role.micro_batch_tokens} x {role.micro_batch_tokens}"
            yield (
                f"{section}.layout=packed with attention {attention}: a mask of up to {size} for each micro-batch, and "
                f"every pair of its tokens is computed: use {section}.layout=auto, or flash attention "
                f"({section}.model.attention, docs/devices.md)"
            )
