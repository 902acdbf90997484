"""The parts of `benchmarks/gpu.py` that are no tests: each is a process of its own that writes JSON."""
