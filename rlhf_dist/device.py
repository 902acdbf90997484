"""Everything that differs between CUDA, Ascend NPU and CPU, and the only place that knows their names.

A fourth accelerator is one more constant of :class:`Device`. Torch is imported by the methods, so that the
configuration can be checked on a machine that has none.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rlhf_dist import hostmemory
from rlhf_dist.errors import UserError
from rlhf_dist.hostmemory import Handle

if TYPE_CHECKING:
    import torch

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"


@dataclass(frozen=True)
class Device:
    """The facts of one kind of device.

    Attributes:
        name: torch's device type, and the value of `run.device`.
        ray_resource: the Ray resource a worker asks for; None where there is no accelerator to ask for.
        visible_variable: environment variable that Ray sets to the devices a worker may use.
        collective: torch.distributed backend between devices of this kind.
        default_dtype: what `dtype: auto` means.
        default_attention: what `attention: auto` means, as transformers names it, without flash attention.
        flash_packages: any of them gives transformers flash attention on this device.
        vllm_env: environment variables vLLM must see in the engine's process, before it is imported.
        vllm_sleeps: whether vLLM can give the device's memory back and take it again.
        vllm_sleeps_in_parts: whether it can also do so while a part of it sleeps already.
        interface_variables: environment variables that name the network interface of the collectives.
        waiting_variable: environment variable that lets a collective's `wait()` wait, and raise at its deadline.
        fused_adamw: whether torch's AdamW has a kernel of its own there, one for all weights.
        in_place_gradients: whether large gradients are added up in place (`rlhf_dist.models.in_place`), which saves
            passes over memory: a CPU has little to spare of its bandwidth. Elsewhere it is not always repeatable.
    """

    name: str
    ray_resource: str | None
    visible_variable: str | None
    collective: str
    default_dtype: str
    default_attention: str
    flash_packages: tuple[str, ...]
    vllm_env: dict[str, str]
    vllm_sleeps: bool
    vllm_sleeps_in_parts: bool
    interface_variables: tuple[str, ...]
    fused_adamw: bool
    in_place_gradients: bool = False
    waiting_variable: str | None = None

    @property
    def is_accelerator(self) -> bool:
        """Whether workers own devices (and Ray hands them out), as opposed to sharing the CPU's cores."""
        return self.ray_resource is not None

    def load(self) -> None:
        """Imports what torch needs to know the device.

        Raises:
            ImportError: its libraries are missing.
            UserError: their environment is.
        """
        if self.name == "npu":
            if "ASCEND_HOME_PATH" not in os.environ:  # DeepSpeed would end with a bare KeyError
                raise UserError(
                    "ASCEND_HOME_PATH is not set: source CANN's set_env.sh before `ray start` on every node"
                )
            importlib.import_module("torch_npu")

    def torch_device(self) -> torch.device:
        """The device of this process: Ray shows each worker its own ones, so it is always the first."""
        import torch

        return torch.device(self.name, 0) if self.is_accelerator else torch.device(self.name)

    def module(self) -> Any:
        """`torch.cuda`, `torch.npu` or `torch.cpu`."""
        import torch

        return getattr(torch, self.name)

    def set_current(self) -> None:
        """Makes :meth:`torch_device` this process's current device."""
        self.load()
        if self.is_accelerator:
            self.module().set_device(0)

    def synchronize(self) -> None:
        """Waits until the device has done all that was asked of it."""
        if self.is_accelerator:
            self.module().synchronize()

    def empty_cache(self) -> None:
        """Gives cached device memory back."""
        if self.name == "cuda":
            self.module().ipc_collect()  # what other processes had open, and closed since
        if self.is_accelerator:
            self.module().empty_cache()

    def count(self) -> int:
        """Accelerators that this process sees: none on a machine without their libraries, from which one may launch."""
        try:
            self.load()
        except (UserError, ImportError):
            return 0
        return self.module().device_count() if self.is_accelerator else 0

    def memory_bytes(self) -> int:
        """Memory of one accelerator, or of this machine where there is none."""
        if self.is_accelerator:
            self.load()
            return self.module().get_device_properties(0).total_memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def process_group(self, store: torch.distributed.Store, rank: int, size: int, timeout: timedelta) -> Any:
        """A collective group of this kind of device beside the process's default one, as torch's Backend object.

        Blocks until all ``size`` processes have called it with the same ``store``; ``timeout`` also bounds each of
        its collectives, whose ``wait()`` raises RuntimeError then.
        """
        if not self.is_accelerator:
            from torch.distributed import ProcessGroupGloo

            return ProcessGroupGloo(store, rank, size, timeout)
        home = "torch_npu._C._distributed_c10d" if self.name == "npu" else "torch.distributed"
        group = getattr(importlib.import_module(home), f"ProcessGroup{self.collective.upper()}")
        options = group.Options()
        options._timeout = timeout
        with _variable(self.waiting_variable, "1"):
            return group(store, rank, size, options)

    def memory(self) -> dict[str, int]:
        """Bytes of the device's memory that this process' tensors take, and took at most; {} without accelerator."""
        if not self.is_accelerator:
            return {}
        module = self.module()
        return {"device_allocated": module.memory_allocated(0), "device_peak": module.max_memory_allocated(0)}

    def shared_buffer(self, nbytes: int) -> tuple[torch.Tensor, Handle]:
        """A buffer ``[nbytes]`` uint8 that another process of this node can open, and what it opens it with.

        On CUDA it lies on the device (CUDA IPC), elsewhere in the host's memory (`hostmemory.py`): Ascend's runtime has
        no such handles in torch_npu's public interface.

        Whoever has the second result can read and write the buffer: it must come to the other process unchanged.
        """
        import torch

        if self.name == "cuda":
            buffer = torch.empty(nbytes, dtype=torch.uint8, device=self.torch_device())
            fields = buffer.untyped_storage()._share_cuda_()
            return buffer, {"fields": [f.hex() if isinstance(f, bytes) else f for f in fields]}
        return hostmemory.share(nbytes)

    def open_shared(self, handle: Handle, place: torch.device) -> torch.Tensor:
        """The buffer of another process' :meth:`shared_buffer`, by its second result.

        Args:
            handle: that result.
            place: the device on which it lies, by its number in this process.
        """
        import torch

        if self.name != "cuda":
            return hostmemory.open_shared(handle)
        _, *fields = [bytes.fromhex(f) if isinstance(f, str) else f for f in handle["fields"]]
        storage = torch.UntypedStorage._new_shared_cuda(place.index or 0, *fields)
        return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)

    def free_shared(self, handle: Handle) -> None:
        """Lets nobody else open a shared buffer of this process any more; who has it open keeps it."""
        if self.name != "cuda":
            hostmemory.release(handle)

    def seed(self, seed: int) -> None:
        """Seeds torch's generators, this device's included."""
        import torch

        torch.manual_seed(seed)
        if self.is_accelerator:
            self.module().manual_seed_all(seed)

    def dtype(self, name: str) -> torch.dtype:
        """`auto`, `float32` or `bfloat16` as a torch dtype."""
        import torch

        wanted = self.default_dtype if name == "auto" else name
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]

    def attention(self, name: str, dtype: str) -> str:
        """`auto` or an attn_implementation, as transformers takes it, for a model of ``dtype`` (`auto` too).

        Flash attention is taken where one of ``flash_packages`` is installed and the model is in bfloat16.
        """
        import torch

        if name != "auto":
            return name
        installed = any(importlib.util.find_spec(package) is not None for package in self.flash_packages)
        return "flash_attention_2" if installed and self.dtype(dtype) == torch.bfloat16 else self.default_attention

    def worker_env(self, threads: int, interface: str | None = None) -> dict[str, str]:
        """Environment of a worker process, set by Ray before the process starts.

        Args:
            threads: of OpenMP.
            interface: network interface of the collectives; None: theirs to find.

        On CPU, idle OpenMP threads must sleep rather than spin (the roles take turns on the same cores), freed memory
        is kept, as page faults cost more than it does, and large tensors lie in huge pages, of which there are fewer.
        """
        network = dict.fromkeys(self.interface_variables, interface) if interface is not None else {}
        if self.is_accelerator:
            return {"OMP_NUM_THREADS": str(threads), "DS_ACCELERATOR": self.name, **network}
        return {
            **network,
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "KMP_BLOCKTIME": "0",
            "MALLOC_TRIM_THRESHOLD_": "2147483648",
            "MALLOC_MMAP_THRESHOLD_": "1073741824",
            "THP_MEM_ALLOC_ENABLE": "1",  # torch's
            "DS_ACCELERATOR": self.name,
        }

    def nothing_visible(self) -> dict[str, str]:
        """Environment of a process that must not see this kind of device, whatever its node has."""
        return {} if self.visible_variable is None else {self.visible_variable: ""}


CUDA = Device(
    name="cuda",
    ray_resource="GPU",
    visible_variable="CUDA_VISIBLE_DEVICES",
    collective="nccl",
    default_dtype="bfloat16",
    default_attention="sdpa",
    flash_packages=("flash_attn", "kernels"),
    vllm_env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
    vllm_sleeps=True,
    vllm_sleeps_in_parts=True,  # vllm 0.32, v1/executor/abstract.py: wherever the weights are awake
    interface_variables=("NCCL_SOCKET_IFNAME", GLOO_INTERFACE),
    # torch's ProcessGroupNCCL reads it when it is made. Without it wait() returns at once, and at the deadline a
    # watchdog ends the whole process, so that nobody could say who was waited for.
    waiting_variable="TORCH_NCCL_BLOCKING_WAIT",
    fused_adamw=True,
)
NPU = Device(
    name="npu",
    ray_resource="NPU",
    visible_variable="ASCEND_RT_VISIBLE_DEVICES",
    collective="hccl",
    default_dtype="bfloat16",
    default_attention="sdpa",
    flash_packages=(),
    vllm_env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_ASCEND_ENABLE_NZ": "0"},
    vllm_sleeps=True,
    vllm_sleeps_in_parts=False,  # vllm 0.23, v1/executor/abstract.py: no sleep until all of it is awake
    interface_variables=("HCCL_SOCKET_IFNAME", GLOO_INTERFACE),
    fused_adamw=False,  # torch_npu has a class of its own instead, which DeepSpeed does not know
)
CPU = Device(
    name="cpu",
    ray_resource=None,
    visible_variable=None,
    collective="gloo",
    default_dtype="float32",
    default_attention="sdpa",
    flash_packages=(),
    vllm_env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
    vllm_sleeps=False,
    vllm_sleeps_in_parts=False,
    interface_variables=(GLOO_INTERFACE,),
    fused_adamw=True,
    in_place_gradients=True,
)

DEVICES = {device.name: device for device in (CUDA, NPU, CPU)}

# Of the language-model head (`rlhf_dist.models.heads`), by torch's device type.
#: Exponentials that are kept for a gradient, at most, but for those of one row: 128 MiB of float32. Elsewhere 512 MiB:
#: products of fewer rows do not fill an accelerator.
HEAD_KEPT = {CPU.name: 1 << 25}
HEAD_KEPT_ELSEWHERE = 1 << 27
#: Columns of a tile; elsewhere all: launching more kernels costs more than a cache saves.
HEAD_TILE = {CPU.name: 2048}


@contextmanager
def _variable(name: str | None, value: str) -> Iterator[None]:
    """Sets an environment variable for a while; None: none."""
    before = os.environ.get(name) if name is not None else None
    try:
        if name is not None:
            os.environ[name] = value
        yield
    finally:
        if name is not None and before is None:
            del os.environ[name]
        elif name is not None and before is not None:
            os.environ[name] = before


def detect() -> Device:
    """The machine's best device: CUDA, else Ascend, else CPU."""
    import torch

    if torch.cuda.is_available():
        return CUDA
    if importlib.util.find_spec("torch_npu") is not None and os.path.exists("/dev/davinci_manager"):
        return NPU
    return CPU


def is_surely_cpu(name: str) -> bool:
    """Whether `run.device` comes to the CPU, as far as that can be known without loading torch."""
    accelerators = ("/dev/nvidiactl", "/dev/davinci_manager", "/dev/dxg")  # the last is CUDA under WSL
    return name == CPU.name or (name == "auto" and not any(os.path.exists(path) for path in accelerators))


def planned(name: str) -> Device:
    """The accelerator that a plan for a cluster elsewhere is made for: what `run.device` names, else CUDA."""
    return CUDA if name == "auto" else resolve(name)


def resolve(name: str) -> Device:
    """The device that `run.device` names.

    Raises:
        UserError: there is no such kind of device.
    """
    if name == "auto":
        return detect()
    if name not in DEVICES:
        raise UserError(f"run.device={name!r}: expected auto, {', '.join(DEVICES)}")
    return DEVICES[name]
