"""Whole models on the simulated device: training, and the rollout engine on plain transformers."""

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from rlhf_dist.config.schema import ModelConfig, TrainedRoleConfig
from rlhf_dist.device import CPU, NPU
from rlhf_dist.engine.policy import ActorEngine
from rlhf_dist.models.layout import lay_out, resolve_layout
from rlhf_dist.rollout.hf_engine import HFEngine
from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.types import Demonstrations
from rlhf_dist.weights.source import WeightSource
from rlhf_dist.weights.transport import BroadcastGroup
from tests.rollout.engines import EOS, ROLLOUT, prompts
from tests.tiny import VOCABULARY, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), seed=1)


def steps(folder, device, dtype, checkpointing=False, **optimizer):
    """Losses, gradients of the last step and weights after it, of three steps with padding."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    parameters = list(model.parameters())
    learner = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1, **optimizer)
    model.to(device)
    assert all(own is parameter for own, parameter in zip(model.parameters(), parameters, strict=True))
    tokens = torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([9, 5, 2])[:, None]).long()
    losses = []
    for _ in range(3):
        learner.zero_grad()
        labels = tokens.masked_fill(mask == 0, -100).to(device)
        loss = model(input_ids=tokens.to(device), attention_mask=mask.to(device), labels=labels).loss
        loss.backward()
        learner.step()
        losses.append(loss.item())
    return (
        torch.tensor(losses),
        {name: parameter.grad.cpu() for name, parameter in model.named_parameters()},
        {name: value.cpu() for name, value in model.state_dict().items()},
    )


@pytest.mark.parametrize("foreach", [False, True])
def test_three_steps_of_adamw_are_the_cpus(folder, foreach):
    cpu, npu = (steps(folder, device, torch.float32, foreach=foreach) for device in ("cpu", "npu"))
    for wanted, got in zip(cpu, npu, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_bfloat16_and_recomputed_activations_are_the_cpus(folder):
    wanted = steps(folder, "cpu", torch.bfloat16, foreach=False)
    got = steps(folder, "npu", torch.bfloat16, checkpointing=True, foreach=False)
    for one, other in zip(wanted, got, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)


@torch.no_grad()
def test_flash_attention_keeps_packed_sequences_apart_without_a_mask(folder):
    """What `layout: auto` relies on, with torch_npu's fused attention behind transformers' flash attention."""
    attention = NPU.attention("flash_attention_2", "auto")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation=attention).to("npu")
    lengths = torch.tensor([7, 2, 11])
    tokens = torch.randint(3, VOCABULARY, (int(lengths.sum()),), generator=torch.Generator().manual_seed(0))

    def logits(rows, counts):
        batch = lay_out(rows, counts, resolve_layout("auto", attention), torch.device("npu", 0))
        assert batch.attention_mask is None
        return (
            model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits[0].float().cpu()
        )

    alone = torch.cat([logits(row, torch.tensor([len(row)])) for row in torch.split(tokens, lengths.tolist())])
    torch.testing.assert_close(logits(tokens, lengths), alone, rtol=0, atol=0.05)
    assert (logits(tokens, torch.tensor([len(tokens)])) - alone).abs().max() > 0.5


def engine(folder, device, rollout=ROLLOUT):
    return HFEngine(ModelConfig(path=str(folder)), rollout, device, [EOS])


@pytest.mark.parametrize("options", [(1.0, 20, 4), (0.0, 20, 4), (0.7, 20, 4, 0.9, 50)], ids=str)
def test_the_rollout_engine_samples_as_on_cpu(folder, options):
    chosen, rollout = SamplingOptions(*options), replace(ROLLOUT, dtype="float32")
    cpu, npu = (engine(folder, device, rollout).generate(prompts(7), chosen) for device in (CPU, NPU))
    assert npu.response_lists() == cpu.response_lists()
    assert all(getattr(npu, name).device.type == "cpu" for name in ("tokens", "rollout_logprobs", "finished"))
    torch.testing.assert_close(npu.rollout_logprobs, cpu.rollout_logprobs, rtol=1e-5, atol=1e-6)


def test_the_rollout_engine_takes_weights_over_hccl(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SIMULATED_NPU_SHARED", "1")
    other = write_model(tmp_path / "other", seed=2)
    receiver = engine(folder, NPU)
    sender = BroadcastGroup.listen("127.0.0.1", ["actor 0", "rollout 0"], NPU, 1 << 16, 20.0)
    source = WeightSource(engine(other, NPU)._model, 1 << 20)
    with ThreadPoolExecutor() as pool:
        joined = pool.submit(receiver.join, sender.endpoint, 1)
        sender.connect()
        joined.result()
        received = pool.submit(receiver.receive, source.metadata(), 3)
        sender.send(source.metadata(), source)
        received.result()
    options = SamplingOptions(1.0, 20, 4)
    assert receiver.generate(prompts(3), options).response_lists() == (
        engine(other, NPU).generate(prompts(3), options).response_lists()
    )
    receiver.close()
    sender.close()


@pytest.mark.parametrize(
    "dtype,stage,train_engine",
    [
        ("float32", 0, "torch"),
        ("bfloat16", 0, "torch"),
        ("float32", 0, "zero"),
        ("float32", 3, "zero"),
        ("bfloat16", 1, "zero"),
        ("bfloat16", 2, "zero"),
        ("bfloat16", 3, "zero"),
    ],
    ids=str,
)
def test_a_model_that_learns_leaves_the_device_and_comes_back_as_it_was(folder, one_rank, stage, dtype, train_engine):
    """Between its steps it goes to host memory, wholly or but for its weights; it learns what it would have anyway."""
    stays = learner(folder, stage, dtype, train_engine)
    for _ in range(3):
        stays.fit(DEMONSTRATIONS, None)
    wanted = local_weights(stays)
    del stays
    gc.collect()
    goes = learner(folder, stage, dtype, train_engine)
    for number in range(3):
        goes.fit(DEMONSTRATIONS, None)
        losses = goes.token_losses(DEMONSTRATIONS)
        gc.collect()  # what earlier tests and steps left in cycles is no part of what leaves and returns
        before = torch.npu.memory_allocated()
        goes.reside("none")
        away = torch.npu.memory_allocated()
        assert away < 0.05 * before
        goes.reside("weights")
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in goes.runner._weights()}
        weights = sum(storage.nbytes() for storage in storages.values())
        assert weights <= torch.npu.memory_allocated() - away <= 1.01 * weights + 4096
        torch.testing.assert_close(goes.token_losses(DEMONSTRATIONS), losses, rtol=0, atol=0)
        goes.reside("none" if number == 1 else "weights")
        goes.reside("all")
        assert torch.npu.memory_allocated() == pytest.approx(before, rel=1e-3)
    for one, other in zip(local_weights(goes), wanted, strict=True):
        assert torch.equal(one, other)


def local_weights(engine):
    return [getattr(parameter, "ds_tensor", parameter.data).cpu() for parameter in engine.policy.parameters()]


DEMONSTRATIONS = Demonstrations(
    torch.randint(3, VOCABULARY, (24,), generator=torch.Generator().manual_seed(3)),
    torch.tensor([3, 2, 4]),
    torch.tensor([5, 6, 4]),
)


def learner(folder, stage, dtype, train_engine="auto"):
    role = TrainedRoleConfig(zero_stage=stage, train_engine=train_engine, ema_decay=0.9)
    role.model = ModelConfig(path=str(folder), dtype=dtype)
    role.optim.lr = 1e-3
    return ActorEngine(role, NPU, 1.0, 10)


@pytest.fixture(scope="module")
def one_rank():
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.environ["MASTER_PORT"] = str(store.port)
    dist.init_process_group("hccl", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()
