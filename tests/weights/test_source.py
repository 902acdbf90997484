"""The full weights of a module under every ZeRO stage, on two gloo ranks for real."""

import os
import socket

import pytest
import torch

from rlhf_dist.engine.zero_settings import initialize_deepspeed
from rlhf_dist.engine.zero_shards import Zero3Sharding
from rlhf_dist.weights.packing import ParamInfo
from rlhf_dist.weights.sharding import UNSHARDED
from rlhf_dist.weights.source import WeightSource, gathered_state_dict
from tests.processes import context, process

BUCKET = 40_000  # bytes: several groups for the tiny model, smaller than its embedding
STAGES = (0, 1, 2, 3)
CASES = ((True, False), (False, True))  # (tied, bfloat16)


def tiny_llama(tied):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259,  # odd, so that nothing divides by two ranks
        hidden_size=64,
        intermediate_size=91,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


def checkpoint(model):
    """What a checkpoint of the model holds: a tied head is not in it."""
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return {name: tensor.clone() for name, tensor in state.items()}


@pytest.mark.parametrize("tied", [True, False])
def test_a_plain_module_yields_its_checkpoint_in_own_copies(tied):
    model = tiny_llama(tied)
    source = WeightSource(model, BUCKET)
    pairs = list(source)
    assert [ParamInfo.of(*pair) for pair in pairs] == source.metadata()
    expected = checkpoint(model)
    assert dict(pairs).keys() == expected.keys()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in pairs)


def test_the_wire_dtype_converts_floating_point_parameters_only():
    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(3, 5))
            self.steps = torch.nn.Parameter(torch.arange(4), requires_grad=False)

    source = WeightSource(Mixed(), BUCKET, dtype=torch.bfloat16)
    assert [info.dtype for info in source.metadata()] == ["bfloat16", "int64"]
    assert [tensor.dtype for _, tensor in source] == [torch.bfloat16, torch.int64]


def test_a_state_dict_holds_persistent_buffers_and_no_others():
    module = torch.nn.Linear(2, 3)
    module.register_buffer("kept", torch.ones(2))
    module.register_buffer("derived", torch.zeros(2), persistent=False)
    assert gathered_state_dict(module, BUCKET).keys() == {"weight", "bias", "kept"}


def zero_engine(model, stage, bf16):
    if bf16:
        model.bfloat16()  # as roles load it: a model that is sharded while it loads keeps its dtype
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": 2,
        "bf16": {"enabled": bf16},
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 100},
        "zero_allow_untested_optimizer": True,
    }
    return initialize_deepspeed(model=model, optimizer=optimizer, config=config)[0]


def streamed(module, sharding):
    """What the source says and yields on this rank."""
    source = WeightSource(module, BUCKET, sharding)
    metadata = source.metadata()
    return metadata, [(name, tensor) for name, tensor in source]


def zero_rank(rank, port, queue):
    try:
        join_ranks(rank, port)
        queue.put((rank, {(case, stage): measure(rank, *case, stage) for case in CASES for stage in STAGES}))
    except Exception as error:
        queue.put((rank, f"{type(error).__name__}: {error}"))
        raise
    torch.distributed.barrier()


def join_ranks(rank, port):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        DS_ACCELERATOR="cpu",
    )
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")


def measure(rank, tied, bf16, stage):
    """One optimizer step of the tiny model under a ZeRO stage: what the source yields before and after it."""
    model = tiny_llama(tied)
    expected = checkpoint(model)
    engine = zero_engine(model, stage, bf16)
    sharding = Zero3Sharding(engine, rank) if stage == 3 else UNSHARDED
    metadata, before = streamed(engine.module, sharding)
    tokens = torch.arange(12).view(1, 12) + rank
    engine.backward(engine(input_ids=tokens, labels=tokens).loss)
    engine.step()
    state = gathered_state_dict(engine.module, BUCKET, sharding)
    return {
        "metadata": metadata == [ParamInfo.of(*pair) for pair in before] if rank == 0 else before == [],
        "shapes": {info.name: info.shape for info in metadata} == {k: tuple(v.shape) for k, v in expected.items()},
        "before": all(torch.equal(tensor, expected[name].to(tensor.dtype)) for name, tensor in before),
        "dtypes": {info.dtype for info in metadata},
        "after": {name: tensor.float().numpy() for name, tensor in state.items()},
    }


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_every_zero_stage_yields_the_plain_state_dict_before_and_after_a_step():
    queue = context().Queue()
    port = free_port()
    ranks = [process(zero_rank, rank, port, queue) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    results = dict(queue.get(timeout=240) for _ in ranks)
    for rank in ranks:
        rank.join(timeout=60)
    assert not any(isinstance(result, str) for result in results.values()), results
    for tied, bf16 in CASES:
        names = checkpoint(tiny_llama(tied)).keys()
        plain = results[0][(tied, bf16), 0]["after"]
        for stage in STAGES:
            first, second = (results[rank][(tied, bf16), stage] for rank in (0, 1))
            for found in (first, second):
                assert found["metadata"] and found["shapes"] and found["before"], (tied, bf16, stage)
                assert found["dtypes"] == {"bfloat16" if bf16 else "float32"}
            assert second["after"] == {}
            assert first["after"].keys() == names
            for name, reference in plain.items():
                tensor = torch.from_numpy(first["after"][name])
                torch.testing.assert_close(tensor, torch.from_numpy(reference), atol=2e-2 if bf16 else 5e-5, rtol=0)
