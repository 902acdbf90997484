"""The plan against a process's own memory, on whatever machine this is: benchmarks/memory.py does it for whole jobs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_dist.config.schema import ModelConfig, TrainedRoleConfig
from rlhf_dist.device import CPU
from rlhf_dist.plan.batch_limits import BatchLimits
from rlhf_dist.plan.process import TRAINER_BYTES

ROOT = Path(__file__).resolve().parents[2]
ROWS, LENGTH, WORKERS = 16, 128, 2


def role_of(model: str) -> TrainedRoleConfig:
    return TrainedRoleConfig(num_workers=WORKERS, zero_stage=3, model=ModelConfig(path=model, dtype="float32"))


def work(folder: str, rank: int, port: int) -> None:
    """One worker of SFT in a process of its own: two steps, and its PSS before the model and at its highest."""
    import threading

    import torch
    import torch.distributed as dist

    from rlhf_dist.engine.policy import ActorEngine
    from rlhf_dist.engine.zero_settings import initialize_deepspeed  # noqa: F401
    from rlhf_dist.process_memory import pss_bytes, release_freed
    from rlhf_dist.types import Demonstrations

    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(WORKERS), LOCAL_RANK="0"
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORKERS)
    from deepspeed import ops  # noqa: F401  # what a worker has imported by the time it loads its model
    from transformers import LlamaForCausalLM  # noqa: F401

    before, highest, done = pss_bytes(os.getpid()), 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.01):
            highest = max(highest, pss_bytes(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    engine = ActorEngine(role_of(folder), CPU, 1.0, 10)
    release_freed()
    batch = Demonstrations(
        torch.randint(3, 40_000, (ROWS * LENGTH,)), torch.full((ROWS,), LENGTH // 2), torch.full((ROWS,), LENGTH // 2)
    )
    for _ in range(3):
        engine.fit(batch, None)
        release_freed()
    done.set()
    watcher.join()
    Path(folder, f"rank{rank}.json").write_text(json.dumps([before, highest]))
    dist.barrier()


@pytest.mark.slow
def test_a_worker_takes_what_the_plan_says(tmp_path: Path) -> None:
    """17M parameters under ZeRO-3 on two workers. What libraries take depends on their builds, so it is measured."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlhf_dist.plan.facts import policy_facts
    from rlhf_dist.plan.footprint import trained_footprint

    shape = {"vocab_size": 49152, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(**shape, **heads, tie_word_embeddings=True)).save_pretrained(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "import sys; from tests.plan.test_measured import work; work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
    )
    environment = os.environ | CPU.worker_env(1) | {"PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(rank), str(port)], env=environment)
        for rank in range(WORKERS)
    ]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    facts = policy_facts(role_of(str(tmp_path)).model, CPU.dtype("float32"))
    plan = trained_footprint(
        facts, role_of(str(tmp_path)), BatchLimits(LENGTH, train_sequences=ROWS, score_sequences=ROWS), CPU
    )
    for rank in range(WORKERS):
        before, highest = json.loads((tmp_path / f"rank{rank}.json").read_text())
        measured, planned = highest - before, plan.total - TRAINER_BYTES
        assert abs(planned - measured) < max(0.15 * highest, 150e6), f"planned {planned:,}, measured {measured:,}"
