"""RLHF training of language models, distributed over GPUs, Ascend NPUs or CPUs, on Ray actors.

Importing the package does nothing and needs none of ray, vllm, deepspeed or an accelerator.
"""

__version__ = "0.1.0"
