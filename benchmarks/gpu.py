#!/usr/bin/env python3
"""Everything that this project promises of a CUDA device, tried on the one that is here, part by part.

    benchmarks/gpu.py [--parts NAME,NAME] [--minutes N] [--out DIR] [--logs DIR] [--rollout vllm|hf]

Each part is a process of its own with a deadline and a log; a part that fails or hangs takes no other with it, and one
that the machine cannot run (a package is missing, a second card) is skipped and says so. At the end there is a table,
and DIR/gpu-CARD.md and .json hold machine, versions, outcomes and figures. Exit code 0, 1 where a part failed, 2 where
there is no CUDA device. With --parts, a page of the same machine and versions keeps what it says of the other parts,
with their dates. `make test-gpu` installs everything first; this file needs nothing but Python, torch and what
each part asks for, so it also runs on a machine that is reached by copying files.

`--device cpu --tiny` runs the same parts without an accelerator, in their smallest size: the test of this program.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_parts.report import Result, kept, machine_lines, of_tests, page, slug, table  # noqa: E402

BASE = ("torch", "transformers", "omegaconf", "psutil")
FACTS_S = 60.0
PATIENCE_S = 15.0  # that a part has to end itself, once it was told to


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: how it is called.
        what: it does, for the list of parts.
        runs: a file of tests, or a module with its variant.
        seconds: its share of the time, of 900 in all; what earlier parts left is added.
        modules: without which it cannot run.
        devices: that it needs.
    """

    name: str
    what: str
    runs: str
    seconds: float
    modules: tuple[str, ...]
    devices: int = 1


PARTS = (
    Part("device", "facts of the device", "tests/gpu/test_device.py", 20, (*BASE, "pytest")),
    Part("kernels", "models and heads against the CPU", "tests/gpu/test_models.py", 50, (*BASE, "pytest")),
    Part("transport", "weights between processes", "tests/gpu/test_transport.py", 40, (*BASE, "pytest")),
    Part("training", "ZeRO, residency", "tests/gpu/test_training.py", 130, (*BASE, "pytest", "deepspeed")),
    Part("engines", "rollout engines", "tests/gpu/test_engines.py", 110, (*BASE, "pytest")),
    Part("mfu", "FLOPs utilization of training", "mfu", 60, BASE),
    Part("transfer", "seconds of a weight transfer", "transfer", 55, BASE),
    Part("generation", "tokens/s, sleep and wake", "generation", 105, BASE),
    Part("ppo-colocated", "PPO, all roles on one card", "ppo:colocated", 130, (*BASE, "deepspeed", "ray")),
    Part("ppo-host", "the same, weights through the host", "ppo:host", 100, (*BASE, "deepspeed", "ray")),
    Part("ppo-separate", "PPO on two cards", "ppo:separate", 100, (*BASE, "deepspeed", "ray"), 2),
)


def has_cuda() -> bool:
    """Whether NVIDIA's driver lists a device, found without torch."""
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return bool(said.strip())


def main(argv: list[str]) -> int:
    """Runs the parts. Returns the exit code."""
    options = arguments(argv)
    if options.check:
        if not has_cuda():
            print("test-gpu: there is no CUDA device here (nvidia-smi lists none): nothing to test", file=sys.stderr)
        return 0 if has_cuda() else 2
    facts = gather_facts()
    if facts["error"] or "torch" not in facts["versions"]:
        print(f"gpu.py: {facts['error'] or 'torch is not installed here'}", file=sys.stderr)
        return 2
    if options.device == "cuda" and not facts["cards"]:
        print("gpu.py: torch sees no CUDA device here: nothing to test", file=sys.stderr)
        return 2
    print("\n".join(machine_lines(facts)))
    rollout = options.rollout or ("vllm" if "vllm" in facts["versions"] else "hf")
    say_what_is_missing(facts, rollout)
    results = run_all(options, facts, rollout)
    print("\n" + table(results))
    write(options, facts, results, argv)
    return int(any(result.outcome == "failed" for result in results))


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    names = ",".join(part.name for part in PARTS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=names, help=f"parts to run, separated by commas (default: {names})")
    parser.add_argument("--minutes", type=float, default=15.0, help="time for all parts together (default 15)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu is for testing this program")
    parser.add_argument("--tiny", action="store_true", help="use the smallest size of everything")
    parser.add_argument("--rollout", choices=("vllm", "hf"), help="rollout engine (default: vLLM if it is installed)")
    parser.add_argument("--out", type=Path, help="where the page is written (benchmarks/results; with --tiny nowhere)")
    parser.add_argument(
        "--logs", type=Path, default=ROOT / "runs" / "gpu", help="directory of the logs (default runs/gpu)"
    )
    parser.add_argument("--check", action="store_true", help="only check whether there is a CUDA device: exit 0 or 2")
    options = parser.parse_args(argv)
    options.parts = options.parts.split(",")
    for name in options.parts:
        if name not in names.split(","):
            parser.error(f"--parts {name}: there are {names}")
    if options.out is None and options.device == "cuda" and not options.tiny:
        options.out = ROOT / "benchmarks" / "results"
    return options


def environment() -> dict[str, str]:
    """Of every process that is started here: it finds this repository, and asks no hub for anything.

    But for flash attention, where `kernels` is to bring it: its kernels lie on the hub.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    wanted = importlib.util.find_spec("kernels") is not None
    offline = {} if wanted else {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def gather_facts() -> dict[str, Any]:
    """What benchmarks/gpu_parts/facts.py says, in a process of its own: this one imports no torch."""
    command = [sys.executable, "-m", "benchmarks.gpu_parts.facts"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=2 * FACTS_S, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"torch did not answer within {2 * FACTS_S:g} s", "versions": {}, "cards": []}
    except (subprocess.CalledProcessError, IndexError, json.JSONDecodeError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return {"error": said[-1] if said else repr(error), "versions": {}, "cards": []}


def say_what_is_missing(facts: dict[str, Any], rollout: str) -> None:
    """Which packages are not here, and what that costs."""
    for module in ("transformers", "omegaconf", "psutil", "pytest", "deepspeed", "ray"):
        hit = [part.name for part in PARTS if module in part.modules]
        if module not in facts["versions"]:
            print(f"not installed: {module}; without it these are skipped: {', '.join(hit)}")
    if "deepspeed" not in facts["versions"]:
        print("without deepspeed, mfu measures forward and backward only")
    if rollout == "hf":
        print("rollout: transformers, " + ("as asked for" if "vllm" in facts["versions"] else "vllm is not installed"))


def run_all(options: argparse.Namespace, facts: dict[str, Any], rollout: str) -> list[Result]:
    """All parts one after another, within the time there is."""
    scale = options.minutes * 60 / (FACTS_S / 3 + sum(part.seconds for part in PARTS))
    wanted = [part for part in PARTS if part.name in options.parts]
    spare = scale * sum(part.seconds for part in PARTS if part not in wanted)
    options.logs.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="rlhf-gpu-") as work:
        for part in wanted:
            reason = why_not(part, facts, options.device)
            if reason:
                results.append(Result(part.name, "skipped", reason))
                spare += scale * part.seconds
            else:
                deadline = scale * part.seconds + spare
                print(f"{part.name}: {part.what} (at most {deadline:.0f} s) ...", flush=True)
                results.append(run_part(part, options, rollout, Path(work), deadline))
                spare = max(0.0, deadline - results[-1].seconds)
            print(table(results[-1:]), flush=True)
    return results


def why_not(part: Part, facts: dict[str, Any], device: str) -> str:
    """Why a part cannot run here; "" where it can."""
    missing = [module for module in part.modules if module not in facts["versions"]]
    if missing:
        return f"needs {', '.join(missing)}"
    if device == "cuda" and len(facts["cards"]) < part.devices:
        return f"needs {'two' if part.devices == 2 else part.devices} CUDA devices"
    return ""


def run_part(part: Part, options: argparse.Namespace, rollout: str, work: Path, deadline: float) -> Result:
    """Runs a part in a process of its own."""
    log, answer = options.logs / f"{part.name}.log", work / f"{part.name}.out"
    command = [sys.executable, *command_of(part, options, rollout, work, answer)]
    started = time.monotonic()
    with log.open("w") as file:
        print("$", *command, file=file, flush=True)
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        code = wait(process, deadline)
    found = outcome(part, answer, code, deadline, log)
    return Result(part.name, seconds=time.monotonic() - started, log=shown(log), **found)


def command_of(part: Part, options: argparse.Namespace, rollout: str, work: Path, answer: Path) -> list[str]:
    """A part's command, behind `python`."""
    if part.runs.endswith(".py"):
        # Settings of their own: the suite's ask for plugins that such a machine may lack.
        own = ["-c", "tests/gpu/pytest.ini", "--rootdir", ".", "--confcutdir", "tests/gpu", "-p", "no:cacheprovider"]
        return ["-m", "pytest", *own, f"--gpu-device={options.device}", f"--junitxml={answer}", part.runs]
    module, _, variant = part.runs.partition(":")
    tiny = ["--tiny"] if options.tiny else []
    places = ["--work", str(work), "--json", str(answer)]
    settings = ["--device", options.device, "--rollout", rollout, "--variant", variant, *places, *tiny]
    return ["-m", f"benchmarks.gpu_parts.{module}", *settings]


def wait(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    """Waits for a part; gives its exit code, or None where it was ended at the deadline, all its processes with it."""
    code = None
    try:
        code = process.wait(deadline)
    except subprocess.TimeoutExpired:
        process.terminate()  # PPO's launcher stops its cluster then
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            pass
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # what the part left running, in the group that it led
        except ProcessLookupError:
            pass
        process.wait()
    return code


def outcome(part: Part, answer: Path, code: int | None, deadline: float, log: Path) -> dict[str, Any]:
    """What a part says of itself, or what is to be said where it could not."""
    found: dict[str, Any] = {"outcome": "failed", "reason": ""}
    try:
        found = of_tests(answer) if part.runs.endswith(".py") else json.loads(answer.read_text())
        found.pop("failures", None)
    except (OSError, ValueError, ParseError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        found["reason"] = f"ended with {code} and said nothing: {lines[-1][:300]}"
    if code is None:
        return {**found, "outcome": "failed", "reason": f"was not done after {deadline:.0f} s"}
    if code != 0 and found["outcome"] == "passed":
        return {**found, "outcome": "failed", "reason": f"ended with {code} after it had passed"}
    return found


def shown(path: Path) -> str:
    """A path as it is printed: within the repository where it lies there."""
    path = path.resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return "unknown (a copy without git)"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "-uno") else ""
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + changed


def write(options: argparse.Namespace, facts: dict[str, Any], results: list[Result], argv: list[str]) -> None:
    """Writes the page and the JSON, where they are wanted."""
    if options.out is None:
        return
    how = {
        "command": " ".join(["benchmarks/gpu.py", *argv]),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    name = options.out / f"gpu-{slug(facts, options.device)}"
    for result in results:
        result.made = f"{how['date']}, commit {how['commit']}"
    results = results + kept(name.with_name(name.name + ".json"), facts, results)
    results.sort(key=lambda result: [part.name for part in PARTS].index(result.part))
    everything = {**how, "machine": facts, "parts": [asdict(result) for result in results]}
    for suffix, text in ((".json", json.dumps(everything, indent=2) + "\n"), (".md", page(results, facts, how))):
        beside = name.with_name(name.name + suffix + ".new")
        beside.write_text(text)
        beside.replace(name.with_name(name.name + suffix))
    print(f"written: {shown(name.with_name(name.name + '.md'))} and .json")


def stop(*_: object) -> None:
    """SIGTERM's handler: ends as Ctrl-C does, with the part that runs."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
