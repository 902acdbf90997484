"""The tests under inside/ run in a process of their own, where torch knows the simulated NPU."""

import os

collect_ignore = [] if "SIMULATED_NPU_LIBRARY" in os.environ else ["inside"]
