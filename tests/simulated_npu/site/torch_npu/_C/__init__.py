"""The compiled extension."""

import importlib.util
import os

import torch  # its libraries must be in the process before the extension's

_path = os.environ.get("SIMULATED_NPU_LIBRARY")
if not _path or not torch.__version__:
    raise ImportError("the simulated NPU: SIMULATED_NPU_LIBRARY does not name its compiled extension")
_spec = importlib.util.spec_from_file_location("simulated_npu", _path)
simulated = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(simulated)
