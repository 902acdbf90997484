"""Every key of the configuration, its type, its default and what it means. Defaults stand here and nowhere else.

`configs/ppo_llama.yaml` shows the same keys to users; a test keeps the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from omegaconf import MISSING

# OmegaConf reads these annotations at run time, so they are Optional[X], not X | None, for Python 3.10's sake.


@dataclass
class ModelConfig:
    """Which model, and how it is held."""

    path: str = MISSING  # directory in Hugging Face format, or a hub name
    dtype: str = "auto"  # auto (bfloat16 on accelerators, float32 on CPU) | float32 | bfloat16
    attention: str = "auto"  # auto (flash attention where a CUDA machine has it, else sdpa) | any attn_implementation
    # that transformers knows
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False  # runs the model repository's own Python code: only for sources you trust


@dataclass
class OptimConfig:
    """AdamW and its learning-rate schedule, counted in optimizer steps."""

    lr: float = 1e-5
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float = 1.0  # global gradient norm; 0 turns clipping off
    schedule: str = "constant"  # constant | cosine
    warmup_steps: int = 0
    warmup_from: float = 0.0  # share of lr that the warm-up starts from (InstructGPT: 0.1)
    min_lr_ratio: float = 0.1  # share of lr that cosine ends at


@dataclass
class WorkerConfig:
    """What each worker of a role takes."""

    cpus_per_worker: Optional[float] = None  # Ray CPUs; null: 1 beside an accelerator, 0.1 on a CPU device, where
    # roles take turns
    threads_per_worker: Optional[int] = None  # null: on CPU the machine's cores / num_workers, as roles take turns; 1
    # beside an accelerator
    strategy: str = "pack"  # pack | spread | strict_pack | strict_spread: onto few nodes, or onto many


@dataclass
class ModelRoleConfig(WorkerConfig):
    """A role with a model: how many workers hold it, and how its micro-batches are made."""

    num_workers: int = 1
    model: ModelConfig = field(default_factory=ModelConfig)
    zero_stage: int = 0  # 0 | 1 | 2 | 3
    micro_batch_tokens: int = 4096  # tokens of one forward and backward on one worker, padding included
    micro_batch_sequences: int = 0  # most sequences of it; 0: as many as the tokens allow
    layout: str = "auto"  # auto (packed with flash attention, else right) | right | left: padded there; packed: end to
    # end, without padding


@dataclass
class AdapterConfig:
    """A low-rank adapter that learns in the model's place (arXiv 2106.09685)."""

    rank: int = 0  # of A and B; 0: no adapter, all weights learn
    alpha: int = 16  # the adapter counts alpha / rank times
    dropout: float = 0.0  # of the adapter's input
    targets: str = "all-linear"  # all-linear, or names of linear layers: q_proj,v_proj


@dataclass
class TrainedRoleConfig(ModelRoleConfig):
    """A role that learns: actor, critic, or the model of SFT and reward training."""

    train_engine: str = "auto"  # auto (torch for one worker with float32 weights, else zero) | torch (one worker
    # alone, without DeepSpeed) | zero (DeepSpeed, at zero_stage)
    lora: AdapterConfig = field(default_factory=AdapterConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema_decay: float = 0.0  # of a moving average of the weights, saved beside the model (InstructGPT: 0.992); 0: none


@dataclass
class FrozenRoleConfig(ModelRoleConfig):
    """A role that only runs forward: reference and reward model."""

    zero_stage: int = 0  # 0 | 3
    micro_batch_tokens: int = 16384  # tokens of one forward on one worker, padding included


@dataclass
class RewardSourceConfig(FrozenRoleConfig):
    """What scores a response: a reward model, a function or an HTTP endpoint."""

    kind: str = "outcome"  # outcome: one score for the whole response | process: the model scores each of its steps
    step_separator: str = "\n\n"  # text that ends a step, for kind=process; the last step ends with the response
    weight: float = 1.0  # of its score in the sum, where there are several (section rewards)
    function: Optional[str] = None  # "package.module:function" or "path/file.py:function"; replaces the model
    function_timeout_s: float = 60.0
    endpoint: Optional[str] = None  # URL that is posted prompts and responses, and answers scores; replaces the model
    endpoint_timeout_s: float = 60.0
    endpoint_retries: int = 3  # tries after the first one, when it cannot be reached or is overloaded
    endpoint_token_env: Optional[str] = None  # environment variable that holds the bearer token


@dataclass
class RolloutConfig(WorkerConfig):
    """Who samples, and how."""

    backend: str = "vllm"  # vllm | hf
    num_engines: int = 1
    tensor_parallel: int = 1  # devices that share one engine's model
    dtype: str = "auto"
    temperature: float = 1.0
    top_p: float = 1.0  # draw from the likeliest tokens that make up this probability; 1: all
    top_k: int = 0  # draw from so many likeliest tokens; 0: all
    max_response_tokens: int = 256
    max_prompt_tokens: int = 256
    samples_per_prompt: int = 1
    environment: Optional[str] = None  # "package.module:function" that answers each turn of a response
    max_turns: int = 4  # turns of a response, with an environment
    max_turn_tokens: int = 128  # most tokens of a turn, with an environment
    memory_gib: float = 1.0  # KV cache of an engine on CPU, GiB; less where the job's sequences cannot fill it
    memory_utilization: Optional[float] = None  # share of an accelerator's memory an engine may take; null: 0.9, and
    # less where other roles share the device
    block_size: int = 32  # tokens of a KV-cache block; on CPU a multiple of 32
    enforce_eager: Optional[bool] = None  # null: true on CPU, false on accelerators
    max_batch: int = 256  # sequences an engine runs at once
    seed_per_request: bool = True  # each sample has random numbers of its own; false: an engine's samples share them,
    # which is faster on Ascend, and no longer repeatable


@dataclass
class WeightsConfig:
    """How the actor's weights reach the engines, and how that is checked."""

    transport: str = "auto"  # auto | collective | shared | host: device to device, through memory that the actor's and
    # the engine's process share, or through host memory; auto: shared where both have the same devices, else
    # collective
    bucket_mb: int = 64  # MiB of one broadcast
    verify_every: int = 50  # steps between two parity checks; the first transfer is always checked; 0: only the first
    tolerance: Optional[float] = None  # largest mean difference of a sequence's log-probabilities, nats; null: 1e-3
    # in float32, 0.15 in bfloat16
    timeout_s: float = 300.0


@dataclass
class KLConfig:
    """The penalty that keeps the policy near the reference."""

    coef: float = 0.02
    place: str = "reward"  # reward: taken from each token's reward; loss: added to the policy's loss
    estimator: str = "k1"  # k1 | k2 | k3; in the loss k2 or k3
    controller: str = "fixed"  # fixed | adaptive
    target: float = 6.0  # adaptive: nats a sequence
    horizon: int = 10000  # adaptive: samples over which the coefficient moves


@dataclass
class PPOAlgoConfig:
    """PPO, after InstructGPT (arXiv 2203.02155, appendix C.4) and arXiv 2403.17031."""

    steps: int = 100
    prompts_per_step: int = 512
    minibatch_size: int = 64  # sequences of one optimizer step, over all workers
    epochs: int = 1
    advantage: str = "gae"  # gae | grpo | dr_grpo | rloo | reinforce++ | "package.module:function"
    use_critic: Optional[bool] = None  # null: as the estimator needs; a function of your own gets values with true
    aggregation: str = "token-mean"  # token-mean | sequence-mean | constant: how tokens make a minibatch's loss
    clip: float = 0.2
    clip_high: Optional[float] = None  # null: as clip
    value_clip: float = 0.2  # 0 turns value clipping off
    gamma: float = 1.0
    lam: float = 0.95
    whiten_advantages: Optional[bool] = None  # null: with gae and reinforce++
    whiten_rewards: bool = False
    missing_eos_penalty: float = 0.0  # taken from the score of a response without end-of-sequence token
    score_clip: float = 0.0  # scores are clipped to +- this; 0: off
    normalize_scores: bool = False  # subtract the running mean, divide by the running standard deviation
    critic_warmup_steps: int = 0  # first steps, in which only the critic learns
    rollout_correction: str = "off"  # off | truncate | mask: for the gap between the engine's policy and the trainer's
    rollout_cap: float = 2.0  # largest importance ratio that it lets through
    pretrain_coef: float = 0.0  # gamma of PPO-ptx (InstructGPT: 27.8); 0: no pretraining text
    pretrain_per_sample: float = 1.0  # pretraining examples beside each sample (InstructGPT: 8)
    function_timeout_s: float = 600.0  # one call of a function of yours: judge, rollout.environment or ppo.advantage
    kl: KLConfig = field(default_factory=KLConfig)


@dataclass
class RunConfig:
    """Where a run lives, and how often it looks at itself."""

    name: str = MISSING
    dir: str = "runs"
    seed: int = 1
    device: str = "auto"  # auto | cuda | npu | cpu
    resume: str = (
        "false"  # false | true | auto: go on from the newest whole checkpoint of runs/<name>; auto: begin where
    )
    # there is none yet
    resume_changed: bool = False  # go on also where configuration, data or models are not those of the checkpoint
    overwrite: bool = False  # replace runs/<name> where it exists already
    save_every: int = 0  # steps between checkpoints; 0: as save_every_minutes says
    save_every_minutes: float = 30.0  # minutes between checkpoints, beside those of save_every; 0: none
    keep_best: Optional[str] = None  # figure of metrics.jsonl whose best checkpoint is kept too, as reward/score_mean;
    # -eval/loss: the less the better
    keep_checkpoints: int = 2
    eval_every: int = 0  # steps between evaluations; 0: only before and after
    samples_every: int = 10  # steps between entries of samples.jsonl; 0: never
    samples_count: int = 8  # samples of one entry
    tensorboard: bool = True


@dataclass
class ClusterConfig:
    """The Ray cluster, and how long anything may take."""

    address: Optional[str] = None  # null: RAY_ADDRESS or the job's cluster, else a local one is started and stopped
    # again
    placement_timeout_s: float = 120.0
    start_timeout_s: float = 900.0  # loading models and engines
    call_timeout_s: float = 3600.0  # any one phase of a step
    collective_timeout_s: Optional[float] = None  # any wait of a role's workers for one another, as while the first of
    # them saves; null: as call_timeout_s
    object_store_gib: float = 1.0  # of a local cluster that this run starts
    fork_workers: bool = (
        True  # where the run starts a cluster of its own on a CPU, fork its workers from one process that
    )
    # has imported their libraries, which saves seconds; false: each imports them for itself
    interface: Optional[str] = None  # network interface of the collectives between nodes, as eth0; null: theirs to find
    ports: Optional[str] = None  # range in which workers listen for one another, as 20000-20099; null: any free port
    env: list[str] = field(default_factory=list)  # further environment variables of every worker: NAME, with the value
    # that it has where the run is launched, or NAME=VALUE, which is not for secrets


@dataclass
class PromptDataConfig:
    """Prompts for PPO."""

    path: str = MISSING  # .jsonl, .parquet, or a hub name
    split: str = "train"
    eval_path: Optional[str] = None  # held-out prompts; null: the last eval_count of path are held out
    eval_split: str = "test"
    eval_count: int = 128


@dataclass
class DemonstrationDataConfig:
    """Prompts with answers, for SFT."""

    path: str = MISSING
    split: str = "train"
    eval_path: Optional[str] = None  # null: the last eval_count of path are held out
    eval_split: str = "test"
    eval_count: int = 256
    max_tokens: int = 512  # prompt and response; longer examples are an error unless truncate
    truncate: bool = False


@dataclass
class ComparisonDataConfig:
    """K-way rankings, for the reward model."""

    path: str = MISSING
    split: str = "train"
    extra_path: Optional[str] = None  # further comparisons, mixed in
    eval_path: Optional[str] = None  # null: the last eval_count of path are held out
    eval_split: str = "test"
    eval_count: int = 256
    max_tokens: int = 512
    truncate: bool = False


@dataclass
class RewardModelDataConfig(ComparisonDataConfig):
    """K-way rankings, for the reward model, and demonstrations to centre it on."""

    demonstrations_path: Optional[str] = None  # a bias makes the trained model's mean score of these 0


@dataclass
class TextDataConfig:
    """Pretraining text, for PPO-ptx and for SFT: rows of `text`."""

    path: Optional[str] = None  # .jsonl, .parquet, or a hub name
    split: str = "train"
    max_tokens: int = 256  # a longer text makes several examples
    eval_path: Optional[str] = None  # null: the last eval_count examples of path are held out
    eval_split: str = "test"
    eval_count: int = 64


@dataclass
class SFTTrainingConfig:
    """Step 1."""

    epochs: float = 1.0
    max_steps: int = 0  # 0: as epochs say
    batch_size: int = 64  # examples of one optimizer step, over all workers
    pretrain_share: float = 0.0  # pretraining examples beside each demonstration (InstructGPT, before RL: 0.1)


@dataclass
class RewardTrainingConfig:
    """Step 2 (arXiv 2203.02155, section 3.5 and appendix C.2)."""

    epochs: float = 1.0
    max_steps: int = 0
    batch_size: int = 64  # prompts of one optimizer step; all C(K,2) pairs of a prompt are one element


@dataclass
class SFTConfig:
    """`launch/sft_llama.py`."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DemonstrationDataConfig = field(default_factory=DemonstrationDataConfig)
    pretrain: TextDataConfig = field(default_factory=TextDataConfig)
    actor: TrainedRoleConfig = field(default_factory=TrainedRoleConfig)
    sft: SFTTrainingConfig = field(default_factory=SFTTrainingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass
class RewardModelConfig:
    """`launch/reward_llama.py`."""

    run: RunConfig = field(default_factory=RunConfig)
    data: RewardModelDataConfig = field(default_factory=RewardModelDataConfig)
    reward: TrainedRoleConfig = field(default_factory=TrainedRoleConfig)
    training: RewardTrainingConfig = field(default_factory=RewardTrainingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass
class DPOTrainingConfig:
    """Direct preference optimization (arXiv 2305.18290)."""

    beta: float = 0.1  # strength of the tie to the reference
    label_smoothing: float = 0.0  # share of pairs taken to be labelled the wrong way round
    epochs: float = 1.0
    max_steps: int = 0
    batch_size: int = 64  # prompts of one optimizer step; all pairs of a prompt are one element


@dataclass
class DPOConfig:
    """`launch/dpo_llama.py`."""

    run: RunConfig = field(default_factory=RunConfig)
    data: ComparisonDataConfig = field(default_factory=ComparisonDataConfig)
    actor: TrainedRoleConfig = field(default_factory=TrainedRoleConfig)
    reference: FrozenRoleConfig = field(default_factory=FrozenRoleConfig)
    dpo: DPOTrainingConfig = field(default_factory=DPOTrainingConfig)
    placement: str = "separate"  # separate: every role has its own devices; colocated: all share the same ones, in
    # turns; or the roles that share, as [[actor, reference], [critic, reward], [rollout]]
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass
class PPOConfig:
    """`launch/ppo_llama.py`."""

    run: RunConfig = field(default_factory=RunConfig)
    data: PromptDataConfig = field(default_factory=PromptDataConfig)
    pretrain: TextDataConfig = field(default_factory=TextDataConfig)
    actor: TrainedRoleConfig = field(default_factory=TrainedRoleConfig)
    critic: TrainedRoleConfig = field(default_factory=TrainedRoleConfig)
    reward: RewardSourceConfig = field(default_factory=RewardSourceConfig)
    rewards: dict[str, RewardSourceConfig] = field(default_factory=dict)  # further ones, by names of the user's
    reference: FrozenRoleConfig = field(default_factory=FrozenRoleConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    ppo: PPOAlgoConfig = field(default_factory=PPOAlgoConfig)
    placement: str = "separate"  # separate: every role has its own devices; colocated: all share the same ones, in
    # turns; or the roles that share, as [[actor, reference], [critic, reward], [rollout]]
    judge: Optional[str] = None  # independent scorer of the evaluation, "package.module:function"; never trained on
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
