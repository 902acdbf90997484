"""The planner's tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from rlhf_dist.plan.check import Plan
from rlhf_dist.plan.cost import Speeds
from rlhf_dist.plan.loads import GIB
from rlhf_dist.plan.pools import RoleResources
from rlhf_dist.plan.suggest import Suggestion


def show_plan(plan: Plan, console: Console) -> None:
    """Prints a plan: the roles, the devices, the batches, what wastes and what cannot work."""
    console.print(_roles(plan))
    console.print(_devices(plan))
    if plan.batches is not None:
        console.print(_batches(plan))
    for remark in plan.remarks:
        console.print(f"note: {remark}", soft_wrap=True, highlight=False, markup=False)
    for problem in plan.problems:
        change = (
            f"; the smallest change: {problem.change}"
            if problem.change
            else "; on these devices no change of that role helps"
        )
        console.print(f"cannot run: {problem.what}{change}", soft_wrap=True, highlight=False, markup=False)
    if not plan.problems:
        console.print("fits")


def show_suggestions(suggestions: Sequence[Suggestion], speeds: Speeds, console: Console) -> None:
    """Prints plans as lines that can be put behind a launcher's command."""
    console.print(
        f"by the cost model (rlhf_dist/plan/cost.py): {speeds.flops / 1e12:g} TFLOP/s, {speeds.memory / 1e12:g} TB/s "
        f"of device memory, {speeds.link / 1e9:g} GB/s between devices, {speeds.host / 1e9:g} GB/s to the host, all "
        "sequences of full length",
        highlight=False,
    )
    for number, suggestion in enumerate(suggestions, 1):
        phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in suggestion.seconds.items() if seconds)
        console.print(f"\n{number}. about {suggestion.total:.0f} s a step ({phases})", highlight=False)
        line = " ".join(
            f'"{key}={value}"' if " " in value else f"{key}={value}" for key, value in suggestion.settings.items()
        )
        console.print(f"   {line}", soft_wrap=True, highlight=False, markup=False)


def _roles(plan: Plan) -> Table:
    table = _table("GiB of one worker on its device")
    for name in ("role", "n", "model", "weights", "grads", "optim", "buffers", "activ", "cache", "process", "total"):
        table.add_column(name, justify="left" if name == "role" else "right", no_wrap=True)
    for role in (role for pool in plan.pools for role in pool.roles):
        needs, model = plan.footprints.get(role.role), plan.models.get(role.role)
        if needs is None or model is None:
            table.add_row(role.role, _count(role), *["-"] * 9)
            continue
        parts = (
            needs.weights,
            needs.gradients,
            needs.optimizer,
            needs.buffers + needs.fragmentation,
            needs.activations,
            needs.cache,
            needs.process,
            needs.total,
        )
        size = (
            f"{model.facts.parameters / 1e9:.2f}B"
            if model.facts.parameters > 1e8
            else f"{model.facts.parameters / 1e6:.1f}M"
        )
        table.add_row(role.role, _count(role), size, *(_gib(part) for part in parts))
    return table


def _devices(plan: Plan) -> Table:
    memory = plan.hardware.memory_bytes
    table = _table("GiB on a device, at most" if plan.device.is_accelerator else "GiB on the node")
    for name in ("roles", "devices", "nodes", "GiB", "of", "headroom", "most for"):
        table.add_column(name, justify="left" if name in ("roles", "most for") else "right")
    per_node = plan.hardware.devices_per_node
    for load in plan.loads:
        nodes = max(1, -(-load.pool.devices // per_node)) if per_node else 1
        headroom = "-" if memory is None else f"{(memory - load.total) / memory:.0%}"
        room = "-" if memory is None else _gib(memory)
        devices = str(load.pool.devices) if plan.device.is_accelerator else "-"
        table.add_row(load.pool.name, devices, str(nodes), _gib(load.total), room, headroom, load.largest)
    return table


def _batches(plan: Plan) -> Table:
    batches = plan.batches
    assert batches is not None
    table = _table("One step", header=False)
    rows = {
        "prompts": batches.prompts,
        "samples": batches.samples,
        "tokens of a sample, at most": batches.longest,
        "optimizer steps": batches.optimizer_steps,
        "samples of one": batches.minibatch,
        **{f"micro-batches of one on each {role} worker": count for role, count in batches.micro_batches.items()},
        "sequences an engine runs at once": "-" if plan.concurrent is None else plan.concurrent,
        "GiB of one transfer of weights": _gib(plan.transfer_bytes),
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _table(title: str, header: bool = True) -> Table:
    return Table(
        title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_header=header
    )


def _count(role: RoleResources) -> str:
    return str(role.workers) if role.devices <= 1 else f"{role.workers}x{role.devices}"


def _gib(size: int) -> str:
    gib = size / GIB
    if size == 0:
        return "-"
    return f"{gib:.3f}" if gib < 1 else f"{gib:.1f}"
