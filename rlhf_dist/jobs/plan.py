"""`python -m rlhf_dist plan`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.device import planned, resolve
from rlhf_dist.errors import ClusterError, UserError
from rlhf_dist.plan.check import make_plan
from rlhf_dist.plan.cost import Speeds
from rlhf_dist.plan.job import load_job
from rlhf_dist.plan.loads import Hardware
from rlhf_dist.plan.show import show_plan, show_suggestions
from rlhf_dist.plan.suggest import suggest_plans

DEFAULT_DEVICE_GIB = 80.0
SUGGESTIONS = 3
_GIB = 2**30


def run(options: argparse.Namespace) -> None:
    """The command `plan`, with the options of its command line."""
    run_plan(
        options.config,
        options.settings,
        options.nodes,
        options.devices_per_node,
        options.device_memory,
        options.suggest,
    )


def run_plan(
    recipe: Path, settings: list[str], nodes: int, devices_per_node: int | None, memory_gib: float | None, suggest: bool
) -> None:
    """Prints the plan of a recipe, or with ``suggest`` the fastest plans that fit.

    Raises:
        UserError: a mistake in the recipe or the options.
        ClusterError: it cannot work.
    """

    if nodes < 1 or (devices_per_node or 0) < 0 or (memory_gib is not None and memory_gib <= 0):
        raise UserError("plan: --nodes, --devices-per-node and --device-memory must be above 0")
    if nodes > 1 and not devices_per_node:
        raise UserError(f"plan: --nodes {nodes} needs --devices-per-node: without accelerators, a plan is for one node")
    config = load_job(settings, recipe)
    if devices_per_node:
        device = planned(config.run.device)
        hardware = Hardware(nodes, devices_per_node, int((memory_gib or DEFAULT_DEVICE_GIB) * _GIB))
    else:
        device = resolve(config.run.device)
        here = int(memory_gib * _GIB) if memory_gib else device.memory_bytes()
        hardware = Hardware(nodes, device.count() if device.is_accelerator else 0, here)
    console = Console()
    if suggest:
        if not isinstance(config, PPOConfig) or not hardware.devices_per_node:
            raise UserError("plan --suggest works for PPO on accelerators: give --nodes and --devices-per-node")
        suggestions = suggest_plans(config, device, hardware, Speeds(), SUGGESTIONS)
        if not suggestions:
            raise ClusterError(f"no layout fits on {hardware.devices} devices: add devices, or use a smaller model")
        show_suggestions(suggestions, Speeds(), console)
        return
    plan = make_plan(config, device, hardware)
    show_plan(plan, console)
    if plan.problems:
        raise ClusterError(f"the job cannot run: {plan.problems[0].what}")
