"""One rank of the test of loading: the most that lies on the device while a role's model comes under ZeRO-3."""

import os
import sys
from dataclasses import replace

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_dist.config.schema import FrozenRoleConfig, ModelConfig, TrainedRoleConfig
from rlhf_dist.device import NPU
from rlhf_dist.engine.zero import ZeroForwardEngine, ZeroTrainEngine
from rlhf_dist.models.language import PolicyModel


def policy(dtype: torch.dtype) -> PolicyModel:
    """A model of many layers, of which none is large."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=24,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    return PolicyModel(LlamaForCausalLM(config).to(dtype))


def main(rank: int, port: int) -> None:
    """Runs as rank ``rank`` of two that meet at ``port``."""
    NPU.set_current()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0")
    dist.init_process_group("hccl", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for dtype in ("float32", "bfloat16"):
        model = policy(NPU.dtype(dtype))
        sizes = [parameter.nbytes for parameter in model.parameters()]
        role = FrozenRoleConfig(zero_stage=3, num_workers=2, model=ModelConfig(path="", dtype=dtype))
        torch.npu.reset_peak_memory_stats()
        before = torch.npu.memory_allocated()
        frozen = ZeroForwardEngine(model, NPU, role)
        assert torch.npu.memory_allocated() - before <= 0.51 * sum(sizes)
        peak = torch.npu.max_memory_allocated() - before
        # Half of the model, and one parameter with the copies that a broadcast and a cut make of it.
        assert peak <= 0.5 * sum(sizes) + 4 * max(sizes), (dtype, peak, sum(sizes))
        assert all(buffer.device.type == "npu" for buffer in frozen.model.buffers())
        del frozen, model
    model = policy(torch.float32)
    sizes = [parameter.nbytes for parameter in model.parameters()]
    learner = replace(TrainedRoleConfig(zero_stage=3), num_workers=2, model=ModelConfig(path="", dtype="float32"))
    torch.npu.reset_peak_memory_stats()
    before = torch.npu.memory_allocated()
    trained = ZeroTrainEngine(model, NPU, learner, 1)
    held, peak = torch.npu.memory_allocated() - before, torch.npu.max_memory_allocated() - before
    # DeepSpeed makes float32 copies of the shards, which are given back again where these are float32 themselves.
    assert peak <= held + 0.5 * sum(sizes) + 4 * max(sizes), (held, peak)
    dist.barrier()
    assert all(buffer.device.type == "npu" for buffer in trained.model.buffers())
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
