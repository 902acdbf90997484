"""Sections of a run itself and of the cluster that it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from omegaconf import MISSING

from rlhf_dist.config.schema.define import Form, key
from rlhf_dist.device import DEVICES

_NAME = Form(r"[A-Za-z0-9][A-Za-z0-9._-]*", "letters, digits, dots, dashes and underscores only")


@dataclass
class RunConfig:
    """Where a run is kept, and how often it saves, evaluates and logs."""

    name: str = key(MISSING, "name of the run, which is kept in the directory <dir>/<name>", form=_NAME)
    dir: str = key("runs", "directory in which runs are kept")
    seed: int = key(
        1,
        "random seed of sampling, shuffling and new heads; samples do not depend on the number of workers and engines",
        least=0,
    )
    device: str = key(
        "auto",
        "device of the workers",
        choices={"auto": "an accelerator if there is one, else cpu", **dict.fromkeys(DEVICES, "")},
    )
    resume: str = key(
        "false",
        "continue from the newest complete checkpoint of the run",
        choices={"false": "", "true": "", "auto": "if there is one, else start anew"},
    )
    resume_changed: bool = key(
        False, "continue even if configuration, data or models differ from those of the checkpoint"
    )
    overwrite: bool = key(False, "replace the run's directory if it exists")
    save_every: int = key(0, "steps between checkpoints; 0: only every save_every_minutes", least=0)
    save_every_minutes: float = key(30.0, "minutes between checkpoints, besides those of save_every; 0: none", least=0)
    keep_best: Optional[str] = key(
        None,
        "metric of metrics.jsonl whose best checkpoint is kept as well: the highest, as of reward/score_mean, or, "
        "with a minus sign, the lowest, as of -eval/loss; null: none",
    )
    keep_checkpoints: int = key(2, "number of newest checkpoints that are kept; older ones are removed", least=1)
    eval_every: int = key(0, "steps between evaluations; 0: only before and after training", least=0)
    samples_every: int = key(10, "steps between entries of samples.jsonl; 0: none", least=0)
    samples_count: int = key(8, "samples per entry of samples.jsonl", least=1)
    tensorboard: bool = key(True, "also write the metrics to <dir>/<name>/tensorboard")
    wandb: Optional[str] = key(
        None,
        "also log to Weights & Biases; null: no",
        choices={"offline": "to <dir>/<name>/wandb, for `wandb sync`", "online": "as `wandb login` set it up"},
    )
    mlflow: Optional[str] = key(
        None,
        "also log to the MLflow tracking server or database of this URI, such as http://host:5000 or "
        "sqlite:///mlflow.db; null: no",
    )
    trackio: Optional[str] = key(
        None,
        "also log to trackio: local, or a Space of the Hugging Face hub as user/name; null: no",
        form=Form(r"local|[^/\s]+/[^/\s]+", "local, or user/name"),
    )
    project: str = key("rlhf_dist", "project, or experiment, that the run belongs to at these three", form=_NAME)


@dataclass
class ClusterConfig:
    """The Ray cluster, and how long anything may take."""

    address: Optional[str] = key(
        None,
        "Ray cluster to connect to; null: that of RAY_ADDRESS or of the Ray job, else a local one for this run only",
    )
    placement_timeout_s: float = key(120.0, "seconds to wait until the cluster has room for all workers", above=0)
    start_timeout_s: float = key(900.0, "seconds that loading models and starting engines may take", above=0)
    call_timeout_s: float = key(3600.0, "seconds that any one phase of a step may take", above=0)
    collective_timeout_s: Optional[float] = key(
        None,
        "seconds that a role's workers may wait for one another, such as while one of them saves; null: as "
        "call_timeout_s",
        above=0,
    )
    object_store_gib: float = key(
        1.0, "GiB of shared memory for Ray's object store, where this run starts a local cluster", above=0
    )
    fork_workers: bool = key(
        True,
        "where this run starts a local cluster on CPU, fork the workers from one process that has imported their "
        "libraries, which saves seconds; false: each worker imports them itself",
    )
    interface: Optional[str] = key(
        None,
        "network interface for collectives between nodes, such as eth0; null: chosen by their library",
    )
    ports: Optional[str] = key(
        None, "range of ports for connections between workers, such as 20000-20099; null: any free port"
    )
    env: list[str] = key(
        [],
        "further environment variables of all workers: NAME, whose value is taken from where the run is launched, or "
        "NAME=VALUE, which is not for secrets",
    )
