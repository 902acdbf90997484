"""Where torch_npu keeps its process group."""

import os
import socket

from torch_npu._C import simulated


class ProcessGroupHCCL(simulated.ProcessGroupHCCL):
    """A group of processes. As with HCCL, each must have a device of its own.

    SIMULATED_NPU_SHARED=1 lets them share one, for a test whose ranks are threads.
    """

    def __init__(self, store, rank, size, options):
        visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "0,1").split(",")
        mine = f"npu {visible[simulated.current_device()]} of {socket.gethostname()}"
        store.set(f"device of {rank}", mine)
        taken = [store.get(f"device of {other}").decode() for other in range(size)]
        if taken.count(mine) > 1 and os.environ.get("SIMULATED_NPU_SHARED") != "1":
            ranks = ", ".join(str(other) for other in range(size) if taken[other] == mine)
            raise RuntimeError(f"hccl: the ranks {ranks} are on the same device, {mine}")
        super().__init__(store, rank, size, options)


__all__ = ["ProcessGroupHCCL"]
