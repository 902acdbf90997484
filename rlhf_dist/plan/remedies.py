"""The fastest plans that fit, by the cost model: which roles share devices, how many each has, which ZeRO stages."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.config.validate import validate_ppo
from rlhf_dist.device import Device
from rlhf_dist.errors import UserError
from rlhf_dist.plan.changes import set_key
from rlhf_dist.plan.check import Plan, make_plan
from rlhf_dist.plan.cost import Speeds, step_seconds
from rlhf_dist.plan.extent import reach_of
from rlhf_dist.plan.job import job_models
from rlhf_dist.plan.loads import Hardware

# Placements with the groups of roles whose numbers of devices are chosen together.
_PLACEMENTS = {
    "separate": (("actor",), ("critic",), ("reward", "reference"), ("rollout",)),
    "[[actor, reference], [critic, reward], [rollout]]": (("actor", "reference"), ("critic", "reward"), ("rollout",)),
    "[[actor, critic, reward, reference], [rollout]]": (("actor", "critic", "reward", "reference"), ("rollout",)),
    "colocated": (("actor", "critic", "reward", "reference", "rollout"),),
}
_STAGES = {"actor": (0, 1, 2, 3), "critic": (0, 1, 2, 3), "reward": (0, 3), "reference": (0, 3)}
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
    models = job_models(config, device)
    heads = models["rollout"].facts.heads
    widths = [width for width in _WIDTHS if heads % width == 0 and width <= hardware.devices_per_node]
    if config.rollout.backend == "hf":
        widths = [1]
    found: list[Suggestion] = []
    for placement, groups in _PLACEMENTS.items():
        present = [tuple(role for role in group if role in models) for group in groups]
        for settings in _counts(placement, [group for group in present if group], hardware, widths):
            fitting = _fitting(config, device, hardware, speeds, settings)
            if fitting is not None:
                found.append(fitting)
    return sorted(found, key=lambda suggestion: suggestion.total)[:best]


def _counts(
    placement: str, groups: Sequence[tuple[str, ...]], hardware: Hardware, widths: Sequence[int]
) -> Iterator[dict[str, str]]:
    """Numbers of devices of each group: powers of two and the whole, as far as they go together."""
    sizes = sorted({2**n for n in range(hardware.devices.bit_length())} | {hardware.devices})
    for chosen in itertools.product(sizes, repeat=len(groups)):
        taken = sum(
            size * (len(group) if placement == "separate" else 1) for size, group in zip(chosen, groups, strict=True)
        )
        if not hardware.devices / 2 < taken <= hardware.devices:
            continue
        settings = {"placement": placement}
        for size, group in zip(chosen, groups, strict=True):
            settings |= {f"{role}.num_workers": str(size) for role in group if role != "rollout"}
        engines = chosen[-1]
        for width in widths:
            if engines % width == 0:
                yield settings | {"rollout.num_engines": str(engines // width), "rollout.tensor_parallel": str(width)}


def _fitting(
    config: PPOConfig, device: Device, hardware: Hardware, speeds: Speeds, settings: dict[str, str]
) -> Suggestion | None:
    """The plan with the lowest ZeRO stages under which it fits."""
    changed = copy.deepcopy(config)
    for key, value in settings.items():
        set_key(changed, key, value if key == "placement" else int(value))
    settings = dict(settings)
    for role, stages in _STAGES.items():
        if f"{role}.num_workers" in settings:
            settings[f"{role}.zero_stage"] = str(_lowest_stage(changed, device, hardware, role, stages))
    try:
        validate_ppo(changed, check_paths=False)
        plan = make_plan(changed, device, hardware, fixes=False)
    except UserError:  # what the user set otherwise does not go with this
        return None
    if plan.problems:
        return None
    seconds = step_seconds(changed, plan.pools, plan.models, plan.footprints, speeds)
    return Suggestion(settings, seconds, plan)


def _lowest_stage(config: PPOConfig, device: Device, hardware: Hardware, role: str, stages: tuple[int, ...]) -> int:
    """Sets, and returns, the lowest stage under which a worker of the role fits on a device by itself."""
    models = job_models(config, device)
    for stage in stages:
        set_key(config, f"{role}.zero_stage", stage)
        if role not in models:
            break
        needs = models[role].footprint(reach_of(config), device, hardware.memory_bytes)
        if hardware.memory_bytes is None or needs.total < 0.95 * hardware.memory_bytes:
            break
    return stage
