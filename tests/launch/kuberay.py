"""The fields of KubeRay's RayCluster and RayJob, to check manifests against: a field that is not here is a mistake.

The pods' part is Kubernetes' own API, whose published models lightkube has. KubeRay's own part is written down here
after its API reference (docs.ray.io/en/master/cluster/kubernetes/references/api.html, KubeRay 1.7), as far as a
cluster for training needs it: what it has beyond that (autoscaling, fault tolerance of the GCS, TLS, ...) is refused
too. :func:`crd_problems` checks against KubeRay's CRDs themselves, where a machine has them.
"""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any, Literal, Optional

import jsonschema
import msgspec
import yaml
from lightkube.models.core_v1 import PodTemplateSpec
from lightkube.models.meta_v1 import ObjectMeta


class AuthOptions(msgspec.Struct):
    mode: Optional[Literal["disabled", "token"]] = None
    secretName: Optional[str] = None


class HeadGroupSpec(msgspec.Struct):
    template: PodTemplateSpec
    rayStartParams: Optional[dict[str, str]] = None
    serviceType: Optional[str] = None
    resources: Optional[dict[str, str]] = None
    labels: Optional[dict[str, str]] = None


class WorkerGroupSpec(msgspec.Struct):
    groupName: str
    template: PodTemplateSpec
    maxReplicas: int
    minReplicas: int
    replicas: Optional[int] = None
    numOfHosts: Optional[int] = None
    rayStartParams: Optional[dict[str, str]] = None
    resources: Optional[dict[str, str]] = None
    labels: Optional[dict[str, str]] = None


class RayClusterSpec(msgspec.Struct):
    headGroupSpec: HeadGroupSpec
    workerGroupSpecs: list[WorkerGroupSpec]
    rayVersion: str  # KubeRay needs it to allow token authentication
    authOptions: Optional[AuthOptions] = None
    suspend: Optional[bool] = None


class RayCluster(msgspec.Struct):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: ObjectMeta
    spec: RayClusterSpec


class RayJobSpec(msgspec.Struct):
    entrypoint: str
    rayClusterSpec: RayClusterSpec
    runtimeEnvYAML: Optional[str] = None
    submissionMode: Optional[Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]] = None
    submitterPodTemplate: Optional[PodTemplateSpec] = None
    entrypointNumCpus: Optional[float] = None
    entrypointResources: Optional[str] = None
    metadata: Optional[dict[str, str]] = None
    backoffLimit: Optional[int] = None
    activeDeadlineSeconds: Optional[int] = None
    preRunningDeadlineSeconds: Optional[int] = None
    shutdownAfterJobFinishes: Optional[bool] = None
    ttlSecondsAfterFinished: Optional[int] = None
    suspend: Optional[bool] = None


class RayJob(msgspec.Struct):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: ObjectMeta
    spec: RayJobSpec


KINDS: dict[str, type[msgspec.Struct]] = {"RayCluster": RayCluster, "RayJob": RayJob}


def problems(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with a manifest: fields that do not exist, are missing, or have values of the wrong type."""
    kind = KINDS[manifest["kind"]]
    found = _unknown(manifest, kind, "")
    try:
        msgspec.convert(manifest, kind, strict=True)
    except msgspec.ValidationError as error:
        found.append(str(error))
    return found


def _unknown(value: Any, hint: Any, where: str) -> list[str]:
    """The dotted names of the fields in ``value`` that the type ``hint`` does not have."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is list and isinstance(value, list):
        (item,) = typing.get_args(hint)
        return [name for index, part in enumerate(value) for name in _unknown(part, item, f"{where}[{index}]")]
    if not isinstance(value, dict) or not isinstance(hint, type) or not issubclass(hint, msgspec.Struct):
        return []
    hints, found = typing.get_type_hints(hint), []
    for name, part in value.items():
        if name in hints:
            found += _unknown(part, hints[name], f"{where}.{name}")
        else:
            found.append(f"unknown field {where}.{name}")
    return found


def crd_problems(manifest: dict[str, Any], folder: Path) -> list[str]:
    """What KubeRay's own CRD in ``folder`` finds wrong, with a field that it does not have as a mistake."""
    crd = yaml.load((folder / f"ray.io_{manifest['kind'].lower()}s.yaml").read_text(), yaml.CSafeLoader)
    (version,) = [version for version in crd["spec"]["versions"] if version["name"] == "v1"]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # the API server knows it; a CRD says no more
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)]


def _strict(schema: Any) -> Any:
    """A CRD's schema as JSON Schema, that refuses fields which the API server would drop without a word."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: _strict(part) for name, part in schema.items()}
    keeps = schema.get("x-kubernetes-preserve-unknown-fields", False) or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not keeps:
        schema["additionalProperties"] = False
    return schema
