"""One rank of the collectives' test: every collective that DeepSpeed and the weight transfer use."""

import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed import BroadcastOptions, PrefixStore, TCPStore

from rlhf_dist.device import NPU

NPU.set_current()
DEVICE = NPU.torch_device()


def collectives(rank: int, dtype: torch.dtype) -> None:
    """What two ranks make of their numbers."""

    def mine(size: int) -> torch.Tensor:
        return torch.full((size,), rank + 1, dtype=dtype, device=DEVICE)

    def room(size: int) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device=DEVICE)

    total = mine(4)
    dist.all_reduce(total)
    assert total.tolist() == [3] * 4
    most = torch.tensor(rank, device=DEVICE)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    assert int(most) == 1
    parts = [room(2), room(2)]
    dist.all_gather(parts, mine(2))
    assert [part.tolist() for part in parts] == [[1, 1], [2, 2]]
    whole = room(4)
    dist.all_gather_into_tensor(whole, mine(2))
    assert whole.tolist() == [1, 1, 2, 2]
    numbers = torch.arange(4, device=DEVICE).to(dtype)
    part = room(2)
    dist.reduce_scatter_tensor(part, numbers)
    assert part.tolist() == [4 * rank, 4 * rank + 2]
    part = room(2)
    dist.reduce_scatter(part, list(numbers.split(2)))
    assert part.tolist() == [4 * rank, 4 * rank + 2]
    sent = mine(3)
    work = dist.broadcast(sent, 1, async_op=True)
    assert work is not None
    work.wait()
    assert sent.tolist() == [2] * 3
    at_root = mine(1)
    dist.reduce(at_root, 0)
    assert rank == 1 or at_root.item() == 3
    exchanged = room(2)
    dist.all_to_all_single(exchanged, mine(2))
    assert exchanged.tolist() == [1, 2]
    wholes, halves = [room(4), room(2)], [mine(2), mine(1)]
    with dist._coalescing_manager():
        for one, half in zip(wholes, halves, strict=True):
            dist.all_gather_into_tensor(one, half)
    assert [one.tolist() for one in wholes] == [[1, 1, 2, 2], [1, 2]]
    with dist._coalescing_manager(device=DEVICE):
        dist.all_reduce(halves[0])
        dist.all_reduce(halves[1])
    assert halves[0].tolist() == [3, 3] and halves[1].tolist() == [3]


def refusals() -> None:
    """What the real hccl refuses, on each rank before anything is sent."""

    def ones(dtype: torch.dtype) -> torch.Tensor:
        return torch.ones(2, dtype=dtype).to(DEVICE)

    for dtype in (torch.float64, torch.uint8, torch.bool):
        with pytest.raises(RuntimeError, match="Unsupported data type"):
            dist.all_reduce(ones(dtype))
        with pytest.raises(RuntimeError, match="Unsupported data type"):
            dist.reduce(ones(dtype), 0)
        with pytest.raises(RuntimeError, match="Unsupported data type"):
            dist.reduce_scatter_tensor(ones(dtype)[:1], ones(dtype))
        sent = ones(dtype)
        dist.broadcast(sent, 0)  # which only moves bytes
        assert sent.tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="Cannot use ReduceOp"):
        dist.all_reduce(ones(torch.int64), dist.ReduceOp.BOR)
    with pytest.raises(RuntimeError, match="does not support gather"):
        dist.gather(ones(torch.float32), [ones(torch.float32)] * 2 if dist.get_rank() == 0 else None)


def main(rank: int, port: int) -> None:
    """Runs as rank ``rank`` of two that meet at ``port``."""
    dist.init_process_group("hccl", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        collectives(rank, dtype)
    everyone: list = [None, None]
    dist.all_gather_object(everyone, {"rank": rank})
    assert everyone == [{"rank": 0}, {"rank": 1}]
    with pytest.raises(RuntimeError):
        dist.all_reduce(torch.ones(2))
    refusals()
    group = dist.new_group([0, 1])
    total = torch.ones(1, device=DEVICE)
    dist.all_reduce(total, group=group)
    assert total.item() == 2 and dist.get_backend(group) == "hccl"
    dist.barrier()

    ports = [0]
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if rank == 0 else None
    if store is not None:
        ports = [store.port]
    dist.broadcast_object_list(ports, 0)
    store = store or TCPStore("127.0.0.1", ports[0], is_master=False, wait_for_workers=False)
    beside = NPU.process_group(PrefixStore("beside", store), rank, 2, timedelta(seconds=20))
    sent = torch.full((3,), rank, dtype=torch.uint8, device=DEVICE)
    options = BroadcastOptions()
    options.rootRank = 1
    beside.broadcast([sent], options).wait()
    assert sent.tolist() == [1, 1, 1]
    with pytest.raises(RuntimeError, match="npu tensors only, and got one on cpu"):
        beside.broadcast([sent.cpu()], options)
    dist.barrier()
    beside.shutdown()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
