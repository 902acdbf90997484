"""`torch.npu`: as much of torch_npu's module as torch, DeepSpeed, transformers and the project ask for."""

import contextlib
import functools
from types import SimpleNamespace

import torch

from torch_npu._C import simulated

_initialized = True
default_generators = tuple(simulated.default_generator(index) for index in range(simulated.device_count()))

device_count = simulated.device_count
current_device = simulated.current_device


def _index(device=None):
    if device is None:
        return current_device()
    if isinstance(device, str):
        device = torch.device(device)
    if isinstance(device, torch.device):
        if device.type != "npu":
            raise ValueError(f"expected an npu device, got {device}")
        return current_device() if device.index is None else device.index
    return int(device)


@functools.cache
def _opened():
    """A real device would have got a context of this process now, with its memory: said once, in the process's log."""
    print("simulated npu: this process has opened a device", flush=True)


def _checked(device=None):
    _opened()
    index = _index(device)
    if not 0 <= index < device_count():
        raise RuntimeError(f"npu:{index} does not exist: there are {device_count()}")
    return index


def _lazy_init():
    pass


def _lazy_call(function):
    function()


def init():
    pass


def is_initialized():
    return True


def is_available():
    return device_count() > 0


def _is_in_bad_fork():
    return False


def set_device(device):
    simulated.exchange_device(_checked(device))


class device:
    """Makes a device current, as a context manager."""

    def __init__(self, device):
        self._index = _index(device)

    def __enter__(self):
        self._before = simulated.exchange_device(self._index)

    def __exit__(self, *_):
        simulated.exchange_device(self._before)


class device_of(device):
    def __init__(self, tensor):
        super().__init__(tensor.device if tensor.device.type == "npu" else -1)


def _exchange_device(index):
    return simulated.exchange_device(index)


_maybe_exchange_device = _exchange_device


def synchronize(device=None):
    _checked(device)


def get_device_name(device=None):
    _checked(device)
    return "Simulated NPU"


def get_device_properties(device=None):
    _checked(device)
    return SimpleNamespace(name="Simulated NPU", total_memory=simulated.total_bytes())


def get_device_capability(device=None):
    return None


# Memory


def empty_cache():
    pass


def memory_allocated(device=None):
    return simulated.allocated(_checked(device))


def max_memory_allocated(device=None):
    return simulated.peak(_checked(device))


def reset_peak_memory_stats(device=None):
    simulated.reset_peak(_checked(device))


def mem_get_info(device=None):
    total = simulated.total_bytes()
    return total - memory_allocated(device), total


def memory_stats(device=None):
    return {
        "allocated_bytes.all.current": memory_allocated(device),
        "allocated_bytes.all.peak": max_memory_allocated(device),
        "reserved_bytes.all.current": memory_allocated(device),
        "reserved_bytes.all.peak": max_memory_allocated(device),
        "num_alloc_retries": 0,
    }


memory_reserved = memory_cached = memory_allocated
max_memory_reserved = max_memory_cached = max_memory_allocated
reset_max_memory_allocated = reset_max_memory_cached = reset_peak_memory_stats


# Random numbers


def manual_seed(seed):
    default_generators[current_device()].manual_seed(int(seed))


def manual_seed_all(seed):
    for generator in default_generators:
        generator.manual_seed(int(seed))


def seed():
    default_generators[current_device()].seed()


def seed_all():
    manual_seed_all(torch.seed())


def initial_seed():
    return default_generators[current_device()].initial_seed()


def get_rng_state(device=None):
    return default_generators[_checked(device)].get_state()


def set_rng_state(state, device=None):
    default_generators[_checked(device)].set_state(state.cpu())


def get_rng_state_all():
    return [get_rng_state(index) for index in range(device_count())]


def set_rng_state_all(states):
    for index, state in enumerate(states):
        set_rng_state(state, index)


# Streams: all work is done when it is asked for


class Stream(torch.Stream):
    def __new__(cls, device=None, priority=0, **kwargs):
        return super().__new__(cls, device=torch.device("npu", _checked(device)), priority=priority)


class Event:
    def __new__(cls, enable_timing=False, blocking=False, interprocess=False):
        return torch.Event(device="npu", enable_timing=enable_timing)


def current_stream(device=None):
    return torch.accelerator.current_stream(_checked(device))


default_stream = current_stream


def set_stream(stream):
    torch.accelerator.set_stream(stream)


def stream(stream):
    return contextlib.nullcontext() if stream is None else stream


# Types


def is_bf16_supported(including_emulation=True):
    return True


def get_amp_supported_dtype():
    return [torch.float16, torch.bfloat16]


def _tensor_type(name, dtype):
    def make(cls, *arguments, device=None):
        place = torch.device("npu", _index(device))
        if arguments and all(isinstance(argument, int) for argument in arguments):
            return torch.empty(*arguments, dtype=dtype, device=place)
        return torch.tensor(*arguments or ([],), dtype=dtype, device=place)

    return type(name, (), {"__new__": make, "dtype": dtype, "__module__": "torch.npu"})


FloatTensor = _tensor_type("FloatTensor", torch.float32)
DoubleTensor = _tensor_type("DoubleTensor", torch.float64)
HalfTensor = _tensor_type("HalfTensor", torch.float16)
BFloat16Tensor = _tensor_type("BFloat16Tensor", torch.bfloat16)
ByteTensor = _tensor_type("ByteTensor", torch.uint8)
CharTensor = _tensor_type("CharTensor", torch.int8)
ShortTensor = _tensor_type("ShortTensor", torch.int16)
IntTensor = _tensor_type("IntTensor", torch.int32)
LongTensor = _tensor_type("LongTensor", torch.int64)
BoolTensor = _tensor_type("BoolTensor", torch.bool)
