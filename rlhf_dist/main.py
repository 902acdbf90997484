"""The entry points of launch/: a command line to an exit code.

A configuration is read, completed and checked without torch, so that a mistake in it is said at once; only then is the
job's module brought in, and with it the heavy libraries.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_dist.cluster.fork_server import ForkServer
from rlhf_dist.config.load import load_config
from rlhf_dist.config.resolve import cluster_address, resolve_dpo, resolve_ppo
from rlhf_dist.config.schema import ClusterConfig, DPOConfig, PPOConfig, RewardModelConfig, SFTConfig
from rlhf_dist.config.validate import validate_dpo, validate_ppo, validate_reward, validate_sft
from rlhf_dist.device import CPU, is_surely_cpu
from rlhf_dist.errors import ClusterError, RunError, StoppedByUser, UserError
from rlhf_dist.labelling.sample_request import SampleRequest, eval_request, sample_request


@dataclass(frozen=True)
class Job:
    """One of the launchers' jobs.

    Attributes:
        title: what it does, for a list of commands.
        schema: the class of its configuration.
        complete: fills in what one key takes from another.
        validate: raises UserError on what cannot run.
        module: where its ``prepare`` stands, which `rlhf_dist.jobs.run.run_job` calls.
    """

    title: str
    schema: type
    complete: Callable[[Any], Any]
    validate: Callable[[Any], None]
    module: str


#: The jobs by the names of their commands.
JOBS = {
    "sft": Job(
        "fine-tune a model on demonstrations", SFTConfig, lambda config: config, validate_sft, "rlhf_dist.jobs.sft"
    ),
    "reward": Job(
        "train a reward model on rankings",
        RewardModelConfig,
        lambda config: config,
        validate_reward,
        "rlhf_dist.jobs.reward_model",
    ),
    "ppo": Job(
        "train a policy by PPO, GRPO, RLOO or REINFORCE++", PPOConfig, resolve_ppo, validate_ppo, "rlhf_dist.jobs.ppo"
    ),
    "dpo": Job("train a policy on comparisons by DPO", DPOConfig, resolve_dpo, validate_dpo, "rlhf_dist.jobs.dpo"),
}


def run(name: str, argv: Sequence[str]) -> Path:
    """Runs a job. Returns the run's directory.

    Args:
        name: of :data:`JOBS`.
        argv: `[--config FILE] [key=value ...] [--help]`; without `--config`, the base recipe.

    Raises:
        UserError, ClusterError, RunError, StoppedByUser: as errors.py says.
        SystemExit: after `--help` was printed.
    """
    config = configuration(name, argv)
    with fork_server(config.cluster, config.run.device) as forks:
        run_job = importlib.import_module("rlhf_dist.jobs.run").run_job
        directory: Path = run_job(config, importlib.import_module(JOBS[name].module).prepare, forks).root
    return directory


def configuration(name: str, argv: Sequence[str]) -> Any:
    """The configuration that a job's command line asks for, completed and checked. Nothing is started.

    Args and errors as of :func:`run`; it is of the class ``JOBS[name].schema``.
    """
    job = JOBS[name]
    config = job.complete(load_config(job.schema, argv, default_recipe(name)))
    job.validate(config)
    return config


def default_recipe(name: str) -> Path:
    """The base recipe of a job, in the checkout that the package is installed from.

    Raises:
        UserError: it is installed without one.
    """
    recipe = Path(__file__).resolve().parent.parent / "configs" / f"{name}_llama.yaml"
    if not recipe.is_file():
        raise UserError(
            f"there is no {recipe}: install the package from a checkout of its repository (pip install -e .)"
        )
    return recipe


def launch(name: str, argv: Sequence[str]) -> int:
    """Runs a job from its command line. Whatever a user can do something about becomes one line. The exit code."""
    return guarded(lambda: run(name, argv))


def sample(options: argparse.Namespace) -> int:
    """Samples answers for labellers (`rlhf-dist sample`). The exit code."""
    return _on_engines(
        lambda: sample_request(options),
        lambda request, forks: importlib.import_module("rlhf_dist.jobs.sample").run(request, forks),
        "the answers that were being written are lost, the same command goes on with the others",
    )


def evaluate(options: argparse.Namespace) -> int:
    """Compares two models by a judge (`rlhf-dist eval`). The exit code."""
    return _on_engines(
        lambda: eval_request(options),
        lambda request, forks: importlib.import_module("rlhf_dist.jobs.evaluate").run(options, request, forks),
        "what stands in the files is kept, the same command goes on with the rest",
    )


def _on_engines(
    request_of: Callable[[], SampleRequest], run: Callable[[SampleRequest, ForkServer | None], object], lost: str
) -> int:
    """Reads what is to be sampled, then runs a command on it. The exit code, as :func:`guarded` has it.

    Args:
        request_of: checks the options, before anything heavy is imported.
        run: brings in the command's module, and does what it says with the request.
        lost: what is said to be gone, where the user ends it without waiting.
    """

    def job() -> None:
        request = request_of()
        with fork_server(request.cluster, request.device) as forks:
            run(request, forks)

    return guarded(job, lost)


@contextmanager
def fork_server(cluster: ClusterConfig, device: str) -> Iterator[ForkServer | None]:
    """Begins to import the workers' libraries beside our own, where the job will start a cluster on a CPU.

    Args:
        cluster: the section.
        device: `run.device`.
    """
    starts_one = cluster_address(cluster) is None
    if not (cluster.fork_workers and starts_one and is_surely_cpu(device)):
        yield None
        return
    forks = ForkServer(CPU.worker_env(os.cpu_count() or 1))
    try:
        yield forks
    finally:
        forks.close()


def guarded(job: Callable[[], object], lost: str = "the steps since the last checkpoint are lost") -> int:
    """Runs ``job``; whatever a user can do something about becomes one line and its exit code.

    Args:
        job: what is run.
        lost: what is said to be gone, where the user ends it without waiting.
    """
    try:
        job()
        sys.stdout.flush()
    except BrokenPipeError:  # `--help | head`: who read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, ClusterError, StoppedByUser) as error:
        print(f"{type(error).__name__}: {error}" if isinstance(error, ClusterError) else error, file=sys.stderr)
        return error.exit_code
    except RunError as error:
        print(f"error: {error}" + (f"\n{error.detail}" if error.detail else ""), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"stopped at once: {lost}", file=sys.stderr)
        return StoppedByUser.exit_code
    return 0
