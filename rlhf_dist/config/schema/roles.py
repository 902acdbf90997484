"""Sections of the roles that hold a model, or score without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from omegaconf import MISSING

from rlhf_dist.config.algorithms import LAYOUTS
from rlhf_dist.config.schema.define import FUNCTION, key, section

DTYPES = {"auto": "bfloat16 on accelerators, float32 on CPU", "float32": "", "bfloat16": ""}


@dataclass
class ModelConfig:
    """The model of a role."""

    path: str = key(MISSING, "directory in Hugging Face format, or a name on the Hugging Face hub")
    dtype: str = key("auto", "data type of the computation", choices=DTYPES)
    attention: str = key(
        "auto",
        "attention implementation: auto (FlashAttention for bfloat16 on CUDA where it is installed, else sdpa), or any "
        "attn_implementation of transformers",
    )
    gradient_checkpointing: bool = key(
        False, "recompute activations in the backward pass: less memory for about a third more time"
    )
    trust_remote_code: bool = key(False, "run the Python code that comes with the model: only for sources you trust")


@dataclass
class OptimConfig:
    """The optimizer of a role that learns."""

    lr: float = key(1e-5, "peak learning rate", above=0)
    betas: list[float] = key(
        [0.9, 0.95], "AdamW's decay rates of the first and second moments", length=2, least=0, below=1
    )
    eps: float = key(1e-8, "AdamW's epsilon", above=0)
    weight_decay: float = key(0.0, "AdamW's weight decay", least=0)
    grad_clip: float = key(1.0, "global norm to which larger gradients are scaled down; 0: no clipping", least=0)
    schedule: str = key(
        "constant",
        "learning rate after the warm-up",
        choices={"constant": "lr", "cosine": "decays to min_lr_ratio * lr at the end of the run"},
    )
    warmup_steps: int = key(0, "optimizer steps of the linear warm-up", least=0)
    warmup_from: float = key(0.0, "share of lr at which the warm-up starts (InstructGPT: 0.1)", least=0, most=1)
    min_lr_ratio: float = key(0.1, "share of lr at which the cosine schedule ends", least=0, most=1)


@dataclass
class WorkerConfig:
    """What each worker of a role takes of the cluster."""

    cpus_per_worker: Optional[float] = key(
        None,
        "CPUs that Ray reserves per worker; null: 1 beside an accelerator, 0.1 on CPU, where roles take turns",
        least=0,
        last=True,
    )
    threads_per_worker: Optional[int] = key(
        None,
        "CPU threads per worker; null: 1 beside an accelerator, on CPU all cores divided by the role's workers",
        least=1,
        last=True,
    )
    strategy: str = key(
        "pack",
        "placement of the workers",
        choices={
            "pack": "on few nodes",
            "spread": "on many nodes",
            "strict_pack": "on one node",
            "strict_spread": "on a node each",
        },
        last=True,
    )


@dataclass
class ModelRoleConfig(WorkerConfig):
    """A role with a model: how many workers hold it, and how its micro-batches are made."""

    num_workers: int = key(1, "number of workers; each has one device, or shares the cores of a CPU machine", least=1)
    model: ModelConfig = section(ModelConfig, "the model, and how it is loaded")
    zero_stage: int = key(
        0,
        "DeepSpeed ZeRO stage, by what is sharded over the workers",
        choices={0: "nothing", 1: "optimizer states", 2: "and gradients", 3: "and weights"},
    )
    micro_batch_tokens: int = key(
        4096, "most tokens, padding included, in one forward and backward pass of a worker", least=1
    )
    micro_batch_sequences: int = key(
        0, "most sequences in such a pass; 0: as many as micro_batch_tokens allows", least=0
    )
    layout: str = key(
        "auto",
        "layout of the sequences in such a pass",
        choices={"auto": "packed with FlashAttention, else right", **LAYOUTS},
    )


@dataclass
class AdapterConfig:
    """The low-rank adapter of a role that learns."""

    rank: int = key(0, "rank of the adapter's matrices; 0: no adapter, all weights are trained", least=0)
    alpha: int = key(16, "the adapter's output is scaled by alpha / rank", least=1)
    dropout: float = key(0.0, "dropout on the adapter's input", least=0, below=1)
    targets: str = key(
        "all-linear", "layers with an adapter: all-linear, or the names of linear layers, such as q_proj,v_proj"
    )


@dataclass
class TrainedRoleConfig(ModelRoleConfig):
    """A role that learns: actor, critic, or the model of SFT and reward training."""

    train_engine: str = key(
        "auto",
        "training engine",
        choices={
            "auto": "torch for one worker with float32 weights, else zero",
            "torch": "plain PyTorch, one worker only",
            "zero": "DeepSpeed at zero_stage",
        },
    )
    lora: AdapterConfig = section(
        AdapterConfig, "a low-rank adapter (LoRA, arXiv 2106.09685) that is trained instead of the weights"
    )
    optim: OptimConfig = section(OptimConfig, "AdamW and its learning rate schedule, counted in optimizer steps")
    ema_decay: float = key(
        0.0,
        "decay of a moving average of the weights, which is saved beside the model (InstructGPT: 0.992); 0: none",
        least=0,
        below=1,
    )


@dataclass
class FrozenRoleConfig(ModelRoleConfig):
    """A role that only runs forward: reference and reward model."""

    zero_stage: int = key(
        0, "DeepSpeed ZeRO stage, by what is sharded over the workers", choices={0: "nothing", 3: "weights"}
    )
    micro_batch_tokens: int = key(16384, "most tokens, padding included, in one forward pass of a worker", least=1)


@dataclass
class RewardSourceConfig(FrozenRoleConfig):
    """What scores a response: a reward model, a function or an HTTP endpoint."""

    kind: str = key(
        "outcome",
        "what is scored (docs/rewards.md)",
        choices={"outcome": "the whole response", "process": "each of its steps, by a model"},
    )
    step_separator: str = key("\n\n", "text that ends a step, with kind=process; the last step ends with the response")
    weight: float = key(1.0, "weight of this source's score in the sum over all sources")
    function: Optional[str] = key(None, "Python function that scores instead of a model", form=FUNCTION)
    function_timeout_s: float = key(60.0, "seconds that one call of the function may take", above=0)
    endpoint: Optional[str] = key(
        None, "URL that scores instead of a model: prompts and responses are posted to it (docs/rewards.md)"
    )
    endpoint_timeout_s: float = key(60.0, "seconds that one request may take", above=0)
    endpoint_retries: int = key(3, "retries when the endpoint cannot be reached or is overloaded", least=0)
    endpoint_token_env: Optional[str] = key(
        None, "environment variable that holds the endpoint's bearer token; null: no token"
    )
