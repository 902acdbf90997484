"""As a worker on a machine with NPUs starts."""

import torch

from rlhf_dist.device import NPU

torch.set_num_threads(1)
NPU.set_current()  # before the tests are imported: they name the device
