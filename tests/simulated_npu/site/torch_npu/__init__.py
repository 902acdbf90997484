"""Stands in for Ascend's torch_npu: a device `npu` whose memory is the host's, and the backend `hccl` over gloo.

The compiled part is what the variable SIMULATED_NPU_LIBRARY names; tests/simulated_npu/build.py makes it.
"""

import sys

import torch

from torch_npu import cuda_guard, npu
from torch_npu._C._distributed_c10d import ProcessGroupHCCL
from torch_npu.attention import npu_fusion_attention

__all__ = ["ProcessGroupHCCL", "npu", "npu_fusion_attention"]
__version__ = "0.0.0+simulated"


def _hccl(store, rank, size, timeout):
    options = ProcessGroupHCCL.Options()
    options._timeout = timeout
    return ProcessGroupHCCL(store, rank, size, options)


torch.utils.rename_privateuse1_backend("npu")
torch._register_device_module("npu", npu)
torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
torch.distributed.Backend.register_backend("hccl", _hccl, devices=["npu"])
sys.modules["torch.npu"] = npu
cuda_guard.install()
