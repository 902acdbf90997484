"""The simulated device: the CPU's results, its own memory, and a real accelerator's refusals."""

import copy
import io

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from rlhf_dist.device import NPU, resolve

DEVICE = torch.device("npu", 0)


def numbers(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def attention(x, y):
    mask = torch.ones(6, 6, dtype=torch.bool, device=x.device).tril()
    q = x.view(1, 2, 6, 4)
    return F.scaled_dot_product_attention(q, q * y[0, 0], q, attn_mask=mask)


def in_place(x, y):
    z = x.clone()
    z.narrow(0, 1, 2).copy_(y[:2])
    z[0].mul_(3)
    z.view(-1)[5:9].zero_()
    return z.addcmul_(x, y, value=0.5).t().contiguous()


def scattered(x, y):
    rows = torch.tensor([3, 1, 1, 0], device=x.device)
    z = x.index_add(0, rows, y[:4])
    return z.scatter_add(1, rows[:, None].expand(4, 2), y[:4, :2])[rows]


OPERATORS = {
    "arithmetic": lambda x, y: (x * 2 - y / 3).exp().clamp(max=5) + 1.5,
    "matrix product": lambda x, y: x @ y.t(),
    "softmax": lambda x, y: (x.log_softmax(-1) * y.softmax(0)).sum(),
    "norm": lambda x, y: F.layer_norm(x, (6,), y[0], y[1]),
    "embedding": lambda x, y: F.embedding(torch.tensor([1, 3, 1], device=x.device), x) @ y.t(),
    "cross entropy": lambda x, y: F.cross_entropy(x, y.argmax(-1)),
    "attention": attention,
    "in place": in_place,
    "scattered": scattered,
    "split and cat": lambda x, y: torch.cat([part.sum(0) for part in torch.split(x, [1, 3, 4])] + list(y)),
    "sort": lambda x, y: x.sort(-1, descending=True).values * y.cumsum(0),
    "where": lambda x, y: torch.where(x > y, x, y.new_tensor(0.0)),
    "gather": lambda x, y: x.gather(1, y.argsort(1)),
    "advanced index": lambda x, y: x[torch.tensor([1, 2])] * y[[0, 3]],
    "mask": lambda x, y: x[y > 0].pow(2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_and_their_gradients_are_the_cpus(name, dtype):
    results = []
    for device in ("cpu", DEVICE):
        x = numbers(8, 6, dtype=dtype).to(device).requires_grad_()
        y = numbers(8, 6, dtype=dtype, seed=1).to(device).requires_grad_()
        result = OPERATORS[name](x, y)
        assert result.device == x.device
        (result.float() * torch.arange(result.numel(), device=device).view(result.shape)).sum().backward()
        results.append([result.detach().cpu(), x.grad.cpu(), None if y.grad is None else y.grad.cpu()])
    for cpu, npu in zip(*results, strict=True):
        assert (cpu is None and npu is None) or torch.equal(cpu, npu)


def test_views_share_memory_also_through_autograd():
    flat = torch.zeros(12, device=DEVICE)
    first, second = flat.narrow(0, 0, 6).view(2, 3), flat[6:]
    first.fill_(1)
    second.copy_(torch.arange(6.0))
    assert flat.tolist() == [1.0] * 6 + [0.0, 1, 2, 3, 4, 5]
    assert first._base is flat
    leaf = torch.ones(4, device=DEVICE, requires_grad=True)
    part = (leaf * 2)[1:3]
    part.mul_(5)
    part.sum().backward()
    assert leaf.grad.tolist() == [0, 10, 10, 0]
    out = torch.empty(0, device=DEVICE)
    torch.add(flat, 1, out=out)
    assert torch.equal(out, flat + 1)
    swapped = torch.empty(0, device=DEVICE).set_(flat.untyped_storage(), 6, (3, 2), (2, 1))
    assert swapped.data_ptr() == second.data_ptr() and torch.equal(swapped.flatten(), second)


CPU = torch.ones(4, 4)
MIXED = {
    "sum": lambda x: x + CPU,
    "into it": lambda x: x.add_(CPU),
    "into cpu": lambda x: CPU.clone().add_(x),
    "product": lambda x: x @ CPU,
    "cat": lambda x: torch.cat([x, CPU]),
    "where": lambda x: torch.where(CPU > 0, x, x),
    "gather": lambda x: x.gather(1, CPU.long()),
    "embedding": lambda x: F.embedding(torch.tensor([1]), x),
    "index_select": lambda x: x.index_select(0, torch.tensor([1])),
    "masked_fill": lambda x: x.masked_fill(CPU > 0, 1.0),
    "cpu accumulator": lambda x: torch.tensor(0.0).add_(x.sum()),
    "index of cpu": lambda x: CPU[x[0].long()],
    "other device": lambda x: x + x.to("npu:1"),
    "loss": lambda x: F.cross_entropy(x, torch.tensor([0, 1, 2, 3])),
    "out": lambda x: torch.add(x, x, out=torch.empty(4, 4)),
    "generator": lambda x: x.normal_(generator=torch.Generator().manual_seed(0)),
    "numpy": lambda x: x.numpy(),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_devices_is_refused(name):
    x = torch.ones(4, 4, device=DEVICE)
    with pytest.raises((RuntimeError, TypeError), match=r"device"):
        MIXED[name](x)
    assert torch.equal(x.cpu(), CPU)


def test_a_cast_to_float64_on_the_device_gives_float32():
    x = torch.ones(4, device=DEVICE)
    assert x.double().dtype == x.to(torch.float64).dtype == torch.float32
    assert torch.ones(4, dtype=torch.float64).to(DEVICE).dtype == torch.float64


def test_what_cuda_lets_pass_passes():
    x = torch.ones(4, 4, device=DEVICE)
    x.copy_(CPU * 2)
    x[torch.tensor([0, 1])] = torch.tensor(5.0)
    assert torch.equal((x * torch.tensor(2.0)).cpu()[:, 0], torch.tensor([10.0, 10, 4, 4]))
    assert x[torch.tensor([True, False, False, True])].shape == (2, 4)


CUDA = ["current_device", "synchronize", "empty_cache", "memory_allocated", "Stream", "Event"]


@pytest.mark.parametrize("name", CUDA)
def test_cuda_is_refused(name):
    with pytest.raises(RuntimeError, match=rf"torch\.cuda\.{name}"):
        getattr(torch.cuda, name)()


def test_what_only_asks_for_cuda_is_answered():
    with pytest.raises(RuntimeError, match=r"torch\.cuda\.set_device"):
        torch.cuda.set_device(0)
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(1, device="cuda")
    assert not torch.cuda.is_available()
    torch.manual_seed(1)  # seeds CUDA too, where there is any


def test_bytes_are_counted_and_a_resized_storage_gives_them_back():
    before = torch.npu.memory_allocated()
    tensor = torch.arange(1000.0, device=DEVICE)
    assert torch.npu.memory_allocated() - before == 4000
    torch.npu.reset_peak_memory_stats()
    wide = torch.cat([tensor, tensor])
    del wide
    assert torch.npu.max_memory_allocated() - torch.npu.memory_allocated() == 8000
    storage, kept = tensor.untyped_storage(), tensor.cpu()
    storage.resize_(0)
    assert torch.npu.memory_allocated() == before and storage.size() == 0
    with pytest.raises(RuntimeError, match="beyond its npu storage"):
        tensor + 1
    storage.resize_(4000)
    assert torch.npu.memory_allocated() - before == 4000
    tensor.copy_(kept)
    assert torch.equal(tensor.cpu(), kept)
    storage.resize_(8000)
    assert torch.equal(tensor.cpu(), kept)
    free, total = torch.npu.mem_get_info()
    assert total - free == torch.npu.memory_allocated()
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(total, dtype=torch.uint8, device=DEVICE)
    del tensor, storage
    assert torch.npu.memory_allocated() == before


def test_each_device_has_memory_of_its_own():
    other = torch.npu.memory_allocated(1)
    with torch.npu.device(1):
        made = torch.ones(100, device="npu")
        assert torch.npu.current_device() == 1
    assert (made + 1).device == torch.device("npu", 1)
    assert torch.npu.current_device() == 0 and torch.npu.memory_allocated(1) - other == 400
    with pytest.raises(RuntimeError, match="does not exist"):
        torch.empty(1, device="npu:2")


def test_tensors_are_saved_and_loaded(tmp_path):
    tensor, file = numbers(3, 4).to(DEVICE), io.BytesIO()
    torch.save({"weight": tensor}, file)
    file.seek(0)
    assert torch.equal(torch.load(file)["weight"], tensor)
    file.seek(0)
    assert torch.load(file, map_location="cpu")["weight"].device.type == "cpu"
    save_file({"weight": tensor.cpu()}, tmp_path / "model.safetensors")
    assert torch.equal(load_file(tmp_path / "model.safetensors")["weight"], tensor.cpu())
    assert torch.equal(copy.deepcopy(tensor), tensor)


def test_random_numbers_come_from_the_devices_generator():
    NPU.seed(5)
    drawn, dropped = torch.randn(6, device=DEVICE), torch.native_dropout(torch.ones(50, device=DEVICE), 0.5, True)[0]
    state = torch.get_rng_state()
    NPU.seed(5)
    assert torch.equal(torch.get_rng_state(), state)  # the draws above took nothing from the CPU's
    assert torch.equal(torch.randn(6, device=DEVICE), drawn)
    saved = torch.npu.get_rng_state()
    assert torch.equal(torch.native_dropout(torch.ones(50, device=DEVICE), 0.5, True)[0], dropped)
    torch.npu.set_rng_state(saved)
    assert torch.equal(torch.native_dropout(torch.ones(50, device=DEVICE), 0.5, True)[0], dropped)
    torch.manual_seed(5)
    assert torch.equal(torch.randn(6), drawn.cpu())


def test_streams_and_events_can_be_named():
    start, end = (torch.npu.Event(enable_timing=True) for _ in range(2))
    start.record()
    with torch.npu.stream(torch.npu.Stream()) as stream:
        assert torch.npu.current_stream() == stream
    end.record()
    end.synchronize()
    assert start.elapsed_time(end) >= 0 and end.query()
    torch.ones(1, device=DEVICE).record_stream(torch.npu.current_stream())


def test_the_project_knows_it_by_its_name():
    assert resolve("npu").module() is torch.npu
    assert NPU.torch_device() == DEVICE
    NPU.synchronize()
    NPU.empty_cache()
