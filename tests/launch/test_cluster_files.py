"""launch/cluster/: manifests that KubeRay takes, commands that the launchers take, queries that Prometheus takes."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from rlhf_dist.cluster.prometheus import GAUGES
from rlhf_dist.config.load import load_config
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.device import DEVICES
from tests.launch.kuberay import crd_problems, problems

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "launch" / "cluster"
MANIFESTS = sorted(CLUSTER.glob("ray*.yaml"))
SCRIPTS = sorted([*CLUSTER.glob("*.sh"), *CLUSTER.glob("*.sbatch")])
DOCS = ROOT / "docs" / "operators.md"
CRDS = os.environ.get("KUBERAY_CRDS")  # a folder with KubeRay's CRDs, such as its Helm chart's

K8S_RESOURCE = {"cuda": "nvidia.com/gpu", "npu": "huawei.com/Ascend910"}
# What the package exports; Ray writes `ray_` before each. The values are the tags beside `run`.
METRICS: dict[str, set[str]] = {name: set(tags) for name, tags in GAUGES.items()}


def _name(path: Path) -> str:
    return path.name


def _manifest(path: Path) -> dict[str, Any]:
    (document,) = yaml.safe_load_all(path.read_text())
    return document


def _cluster(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"]["rayClusterSpec"]


def _device(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    spec = _cluster(manifest)
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


# --- Kubernetes ---


def test_there_is_a_cluster_and_a_job_for_each_accelerator() -> None:
    assert {path.name for path in MANIFESTS} == {
        f"ray{kind}-{device}.yaml" for kind in ("cluster", "job") for device in K8S_RESOURCE
    }


@pytest.mark.parametrize("path", MANIFESTS, ids=_name)
def test_a_manifest_has_only_fields_that_there_are(path: Path) -> None:
    assert problems(_manifest(path)) == []


@pytest.mark.skipif(not CRDS, reason="KUBERAY_CRDS names no folder with KubeRay's CRDs")
@pytest.mark.parametrize("path", MANIFESTS, ids=_name)
def test_a_manifest_passes_kuberays_own_crd(path: Path) -> None:
    assert crd_problems(_manifest(path), Path(str(CRDS))) == []


def _misspell(manifest: dict[str, Any], *keys: str | int) -> dict[str, Any]:
    manifest = copy.deepcopy(manifest)
    node: Any = manifest
    for key in keys[:-1]:
        node = node[key]
    node[f"{keys[-1]}x"] = node.pop(keys[-1])
    return manifest


@pytest.mark.parametrize(
    "keys",
    [
        ("spec", "shutdownAfterJobFinishes"),
        ("spec", "rayClusterSpec", "authOptions", "mode"),
        ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"),
        ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplicas"),
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "terminationGracePeriodSeconds"),
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "workingDir"),
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "volumes", 1, "emptyDir", "sizeLimit"),
    ],
    ids=lambda keys: str(keys[-1]),
)
def test_a_misspelt_field_does_not_pass(keys: tuple[str | int, ...]) -> None:
    wrong = _misspell(_manifest(CLUSTER / "rayjob-cuda.yaml"), *keys)
    assert any(f"{keys[-1]}x" in problem for problem in problems(wrong))
    if CRDS:
        assert any(f"{keys[-1]}x" in problem for problem in crd_problems(wrong, Path(CRDS)))


def test_a_value_of_the_wrong_type_does_not_pass() -> None:
    wrong = _manifest(CLUSTER / "rayjob-cuda.yaml")
    wrong["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    assert problems(wrong) == [
        "Expected `str`, got `int` - at `$.spec.rayClusterSpec.headGroupSpec.rayStartParams[...]`"
    ]


@pytest.mark.parametrize("device", K8S_RESOURCE)
def test_job_and_cluster_are_the_same_cluster(device: str) -> None:
    job, cluster = (_manifest(CLUSTER / f"{kind}-{device}.yaml") for kind in ("rayjob", "raycluster"))
    assert _cluster(job) == _cluster(cluster)


@pytest.mark.parametrize("path", MANIFESTS, ids=_name)
def test_ray_reads_the_resources_that_the_recipe_needs(path: Path) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    manifest, device = _manifest(path), _device(path)
    cr = {"metadata": {"name": "x", "namespace": "y"}, "spec": _cluster(manifest)}
    head, group = _derive_autoscaling_config_from_ray_cr(cr)["available_node_types"].values()
    resource = str(DEVICES[device].ray_resource)
    assert head["resources"]["CPU"] == 0 and resource not in head["resources"]
    config = _config(_commands(path)[0])
    roles = [config.actor, config.critic, config.reward, config.reference]
    wanted = sum(role.num_workers for role in roles) + config.rollout.num_engines
    assert group["resources"][resource] * group["min_workers"] == wanted
    assert group["resources"]["CPU"] * group["min_workers"] >= wanted
    (worker,) = _cluster(manifest)["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    for kind in ("requests", "limits"):
        assert int(worker["resources"][kind][K8S_RESOURCE[device]]) == group["resources"][resource]


def test_the_shell_passes_the_npus_to_ray_as_json() -> None:
    """KubeRay pastes rayStartParams into a shell's command line as they are."""
    group = _cluster(_manifest(CLUSTER / "raycluster-npu.yaml"))["workerGroupSpecs"][0]
    (word,) = shlex.split(f"--resources={group['rayStartParams']['resources']}")
    assert json.loads(word.partition("=")[2]) == {"NPU": 8}


@pytest.mark.parametrize("path", MANIFESTS, ids=_name)
def test_pods_are_safe_and_have_time_for_a_checkpoint(path: Path) -> None:
    manifest = _manifest(path)
    spec = _cluster(manifest)
    assert spec["rayVersion"] == "2.60.0" and spec["authOptions"] == {"mode": "token"}
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert "privileged" not in container["securityContext"] and not pod.get("hostNetwork")
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command[0] == "python" and command[2:4] == ["drain", "--timeout"]
        assert (ROOT / Path(command[1]).relative_to(container["workingDir"])).is_file()
        assert int(command[4]) < pod["terminationGracePeriodSeconds"]
        assert _stop_wait(path) <= int(command[4])
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert set(mounts.values()) == set(volumes)
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"


def _stop_wait(path: Path) -> int:
    """The seconds that Ray waits for a stopped job, of a manifest or of the command in its comment."""
    manifest = _manifest(path)
    if manifest["kind"] == "RayJob":
        return int(yaml.safe_load(manifest["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"])
    (found,) = re.findall(r'"RAY_JOB_STOP_WAIT_TIME_S": "(\d+)"', path.read_text())
    return int(found)


def test_what_is_to_be_filled_in_is_marked_and_explained() -> None:
    docs = DOCS.read_text()
    for path in [*MANIFESTS, CLUSTER / "slurm.sbatch"]:
        lines = [line for line in path.read_text().splitlines() if re.search("fill-in", line, re.I)]
        assert lines, path.name
        for line in lines:
            assert "FILL IN" in line or path.suffix == ".sbatch", line
            (word,) = re.findall(r"fill-in/\w+|fill-in-\w+|=FILL-IN", line) or [""]
            assert word in docs, line


# --- the commands in them ---


def _commands(path: Path) -> list[list[str]]:
    """The launchers' command lines in a file: a manifest's entrypoint, and those in comments and code blocks."""
    found = []
    if path.suffix == ".yaml":
        found = [shlex.split(_manifest(path)["spec"].get("entrypoint", ""))]
    text = re.sub(r"^# ?", "", path.read_text(), flags=re.M)
    text = re.sub(r" \\\n\s*", " ", text)
    for line in text.splitlines():
        _, there, command = line.partition("python launch/")
        if there and "entrypoint" not in line and "=" in command:
            found.append(shlex.split(f"python launch/{command}", comments=True))
    return [words for words in found if words]


def _config(words: list[str]) -> PPOConfig:
    assert words[:2] == ["python", "launch/ppo_llama.py"] and (ROOT / words[1]).is_file()
    argv = [str(ROOT / word) if word.startswith("configs/") else word for word in words[2:]]
    return load_config(PPOConfig, argv, ROOT / "configs" / "ppo_llama.yaml")


@pytest.mark.parametrize("path", [*MANIFESTS, DOCS], ids=_name)
def test_the_launchers_take_the_commands(path: Path) -> None:
    commands = _commands(path)
    assert commands
    for words in commands:
        config = _config(words)
        if path in MANIFESTS:
            assert config.run.device == _device(path)
        if _name(path).startswith("rayjob"):
            assert config.run.resume == "auto"
            assert not re.search(r"[\"'$&|;<>()\\`*]", " ".join(words))  # a shell reads it before Ray does


# --- the scripts ---


@pytest.mark.parametrize("path", SCRIPTS, ids=_name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([shellcheck, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [*SCRIPTS, *CLUSTER.glob("*.py")], ids=_name)
def test_scripts_can_be_executed(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env ")


@pytest.mark.parametrize("path", [path for path in CLUSTER.iterdir() if path.is_file()], ids=_name)
def test_whether_there_is_a_checkpoint_is_the_launchers_question(path: Path) -> None:
    assert not re.search(r"step-|checkpoints/", path.read_text())


def test_slurm_signals_the_script_early_enough() -> None:
    text = (CLUSTER / "slurm.sbatch").read_text()
    (early,) = re.findall(r"^#SBATCH --signal=B:TERM@(\d+)$", text, re.M)
    (wait,) = re.findall(r"^STOP_WAIT=\$\{STOP_WAIT:-(\d+)\}$", text, re.M)
    assert int(wait) < int(early)


# --- Grafana ---


def _dashboard() -> dict[str, Any]:
    return json.loads((CLUSTER / "grafana-dashboard.json").read_text())


def _selectors(expression: Any) -> list[promql_parser.VectorSelector]:
    if isinstance(expression, promql_parser.VectorSelector):
        return [expression]
    parts = [getattr(expression, name, None) for name in ("expr", "lhs", "rhs", "vector_selector")]
    return [found for part in [*parts, *getattr(expression, "args", [])] if part for found in _selectors(part)]


def _queries() -> list[str]:
    return [target["expr"] for panel in _dashboard()["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("query", sorted(set(_queries())))
def test_a_query_is_promql_over_metrics_that_are_exported(query: str) -> None:
    (selector,) = _selectors(promql_parser.parse(query))
    assert str(selector.name).startswith("ray_")
    tags = METRICS[str(selector.name).removeprefix("ray_")] | {"run"}
    assert {matcher.name for matcher in selector.matchers.matchers} <= tags
    grouped = re.fullmatch(r"max by \(([\w, ]+)\) \(.*\)", query)  # a run that was resumed has two exporters
    assert grouped and set(grouped[1].split(", ")) <= tags
    assert 'run=~"$run"' in query


def test_every_metric_is_on_the_dashboard() -> None:
    assert {str(_selectors(promql_parser.parse(query))[0].name) for query in _queries()} == {
        f"ray_{metric}" for metric in METRICS
    }


def test_the_dashboards_panels_are_whole() -> None:
    dashboard = _dashboard()
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "run"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["title"] and panel["description"]
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken
        taken |= cells
        for target in panel["targets"]:
            tags = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert tags <= set(re.findall(r"\w+", target["expr"].partition(")")[0]))
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
