"""The entry points of launch/: a command line to an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf_dist.config.load import load_config
from rlhf_dist.config.schema import DPOConfig, PPOConfig, RewardModelConfig, SFTConfig
from rlhf_dist.errors import ClusterError, RunError, StoppedByUser, UserError
from rlhf_dist.jobs.dpo import run_dpo
from rlhf_dist.jobs.ppo import run_ppo
from rlhf_dist.jobs.reward_model import run_reward
from rlhf_dist.jobs.sft import run_sft


def ppo(argv: Sequence[str], default_config: Path) -> int:
    """`launch/ppo_llama.py`. Returns the exit code."""
    return _guarded(lambda: run_ppo(load_config(PPOConfig, argv, default_config)))


def sft(argv: Sequence[str], default_config: Path) -> int:
    """`launch/sft_llama.py`. Returns the exit code."""
    return _guarded(lambda: run_sft(load_config(SFTConfig, argv, default_config)))


def reward(argv: Sequence[str], default_config: Path) -> int:
    """`launch/reward_llama.py`. Returns the exit code."""
    return _guarded(lambda: run_reward(load_config(RewardModelConfig, argv, default_config)))


def dpo(argv: Sequence[str], default_config: Path) -> int:
    """`launch/dpo_llama.py`. Returns the exit code."""
    return _guarded(lambda: run_dpo(load_config(DPOConfig, argv, default_config)))


def _guarded(job: Callable[[], None]) -> int:
    """Runs ``job``; whatever a user can do something about becomes one line and its exit code."""
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
        print("stopped at once: the steps since the last checkpoint are lost", file=sys.stderr)
        return StoppedByUser.exit_code
    return 0
