"""The fastest plans that fit, by the cost model: which roles share devices, how many each has, which ZeRO stages."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlhf_dist.config.parsing import COLOCATED, SEPARATE
from rlhf_dist.config.roles import Role, RoleKind, job_roles
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.config.validate import validate_ppo
from rlhf_dist.device import Device
from rlhf_dist.errors import UserError
from rlhf_dist.plan.batch_limits import batch_limits
from rlhf_dist.plan.changes import set_key
from rlhf_dist.plan.check import Plan, make_plan
from rlhf_dist.plan.cost import Speeds, step_seconds
from rlhf_dist.plan.job import job_models
from rlhf_dist.plan.loads import Hardware

_WIDTHS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Suggestion:
    """A plan that fits.

    Attributes:
        settings: the `key=value`s that make it of the configuration it was made for.
        seconds: of each phase.
        plan: the whole of it.
    """

    settings: dict[str, str]
    seconds: dict[str, float]
    plan: Plan

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())


def suggest_plans(config: PPOConfig, device: Device, hardware: Hardware, speeds: Speeds, best: int) -> list[Suggestion]:
    """The ``best`` fastest plans that fit into the hardware, the fastest first; none where nothing fits."""
    heads = next(model.facts.heads for model in job_models(config, device).values() if _samples(model.role))
    widths = [width for width in _WIDTHS if heads % width == 0 and width <= hardware.devices_per_node]
    if config.rollout.backend == "hf":
        widths = [1]
    found: list[Suggestion] = []
    for placement, groups in _placements(config).items():
        for settings in _counts(placement, groups, hardware, widths):
            fitting = _fitting(config, device, hardware, speeds, settings)
            if fitting is not None:
                found.append(fitting)
    return sorted(found, key=lambda suggestion: suggestion.total)[:best]


def _samples(role: Role) -> bool:
    return role.kind is RoleKind.ENGINE


def _placements(config: PPOConfig) -> dict[str, list[list[Role]]]:
    """Values of `placement`, each with the groups of roles whose numbers of devices are chosen together.

    Engines are the last group, or at the end of the only one. Functions need no devices, and are in none.
    """
    roles = [role for role in job_roles(config) if role.kind is not RoleKind.FUNCTION]
    engines = [role for role in roles if _samples(role)]
    in_torch = [role for role in roles if not _samples(role)]
    policies = [role for role in in_torch if role.kind is RoleKind.POLICY]
    scalars = [role for role in in_torch if role.kind is RoleKind.SCALAR]
    alone = [[role] for role in in_torch if role.learns]
    frozen = [role for role in in_torch if not role.learns]
    by_kind = [group for group in (policies, scalars, engines) if group]
    return {
        SEPARATE: [group for group in (*alone, frozen, engines) if group],
        _as_lists(by_kind): by_kind,
        _as_lists([in_torch, engines]): [in_torch, engines],
        COLOCATED: [[*in_torch, *engines]],
    }


def _as_lists(groups: Sequence[Sequence[Role]]) -> str:
    """Groups as `placement` reads them."""
    return "[" + ", ".join("[" + ", ".join(role.name for role in group) + "]" for group in groups) + "]"


def _counts(
    placement: str, groups: Sequence[Sequence[Role]], hardware: Hardware, widths: Sequence[int]
) -> Iterator[dict[str, str]]:
    """Numbers of devices of each group: powers of two and the whole, as far as they go together."""
    sizes = sorted({2**n for n in range(hardware.devices.bit_length())} | {hardware.devices})
    for chosen in itertools.product(sizes, repeat=len(groups)):
        taken = sum(
            size * (len(group) if placement == SEPARATE else 1) for size, group in zip(chosen, groups, strict=True)
        )
        if not hardware.devices / 2 < taken <= hardware.devices:
            continue
        settings = {"placement": placement}
        for size, group in zip(chosen, groups, strict=True):
            settings |= {role.workers_key: str(size) for role in group if not _samples(role)}
        (engines,), size = [role for role in groups[-1] if _samples(role)], chosen[-1]
        for width in widths:
            if size % width == 0:
                yield settings | {
                    engines.workers_key: str(size // width),
                    f"{engines.section}.tensor_parallel": str(width),
                }


def _fitting(
    config: PPOConfig, device: Device, hardware: Hardware, speeds: Speeds, settings: dict[str, str]
) -> Suggestion | None:
    """The plan with the lowest ZeRO stages under which it fits."""
    changed = copy.deepcopy(config)
    for key, value in settings.items():
        set_key(changed, key, value if key == "placement" else int(value))
    settings = dict(settings)
    for role in job_roles(changed):
        if role.torch_config is not None:
            settings[f"{role.section}.zero_stage"] = str(_lowest_stage(changed, device, hardware, role))
    try:
        validate_ppo(changed, check_paths=False)
        plan = make_plan(changed, device, hardware, fixes=False)
    except UserError:  # what the user set otherwise does not go with this
        return None
    if plan.problems:
        return None
    seconds = step_seconds(changed, plan.pools, plan.models, plan.footprints, speeds)
    return Suggestion(settings, seconds, plan)


def _lowest_stage(config: PPOConfig, device: Device, hardware: Hardware, role: Role) -> int:
    """Sets, and returns, the lowest stage under which a worker of the role fits on a device by itself."""
    models = job_models(config, device)
    for stage in (0, 1, 2, 3) if role.learns else (0, 3):
        set_key(config, f"{role.section}.zero_stage", stage)
        needs = models[role.name].footprint(batch_limits(config), device, hardware.memory_bytes)
        if hardware.memory_bytes is None or needs.total < 0.95 * hardware.memory_bytes:
            break
    return stage
