"""What a role's layout costs with the attention that its model has."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_dist.config.roles import JobConfig, job_roles
from rlhf_dist.device import Device
from rlhf_dist.models.layout import is_flash


def costly_layouts(config: JobConfig, device: Device) -> Iterator[str]:
    """A line for each role whose packed sequences are kept apart by a mask over all pairs of tokens."""
    for role in job_roles(config):
        if role.torch_config is None or role.torch_config.layout != "packed":
            continue
        attention, section = device.attention(role.model.attention, role.model.dtype), role.section
        if not is_flash(attention):
            size = f"{role.torch_config.micro_batch_tokens} x {role.torch_config.micro_batch_tokens}"
            yield (
                f"{section}.layout=packed with attention {attention}: a mask of up to {size} for each micro-batch, and "
                f"every pair of its tokens is computed: use {section}.layout=auto, or flash attention "
                f"({section}.model.attention, docs/devices.md)"
            )
