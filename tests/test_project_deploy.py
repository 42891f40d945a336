"""What deploy/ holds: images and manifests pinned like the project, with commands and settings that exist.

With KUBERAY_CRDS naming a folder that has KubeRay's definitions (helm-chart/kuberay-operator/crds of its repository), manifests are
validated against them too.
"""

import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RAY = next(dependency for dependency in PROJECT["dependencies"] if dependency.startswith("ray[")).partition("==")[2]
MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def cluster_of(manifest: Any) -> Any:
    spec = manifest["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def pods(manifest: Any) -> Iterator[tuple[str, Any]]:
    cluster = cluster_of(manifest)
    yield "head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


def closed(schema: Any) -> Any:
    """A schema that allows no property which it does not name: Kubernetes would drop it in silence."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: closed(part) for name, part in schema.items()}
    if "properties" in result and not result.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    if result.pop("x-kubernetes-int-or-string", False):
        result.pop("type", None)
    return result


def test_there_is_one_of_each_kind():
    assert sorted(read(path)["kind"] for path in MANIFESTS) == sorted(KINDS)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
class TestManifests:
    def test_kuberay_accepts_it(self, path: Path):
        folder = os.environ.get("KUBERAY_CRDS")
        if folder is None:
            pytest.skip("KUBERAY_CRDS names no folder with KubeRay's definitions")
        manifest = read(path)
        definition = read(Path(folder) / f"ray.io_{KINDS[manifest['kind']]}.yaml")
        version = manifest["apiVersion"].rpartition("/")[2]
        (schema,) = (one["schema"]["openAPIV3Schema"] for one in definition["spec"]["versions"] if one["name"] == version)
        schema = closed(schema)
        schema["properties"]["metadata"] = {"type": "object"}  # the API server's own
        jsonschema.validate(manifest, schema)
        manifest["spec"]["unknownField"] = 1
        with pytest.raises(jsonschema.ValidationError, match="unknownField"):
            jsonschema.validate(manifest, schema)

    def test_ray_is_pinned_and_asks_for_a_token(self, path: Path):
        cluster = cluster_of(read(path))
        assert cluster["rayVersion"] == RAY
        assert cluster["authOptions"] == {"mode": "token"}

    def test_every_pod_has_limits_and_shared_memory_and_all_its_volumes(self, path: Path):
        for name, pod in pods(read(path)):
            (container,) = pod["containers"]
            resources = container["resources"]
            assert resources["requests"] == resources["limits"], name
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
            assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}["shared-memory"] == "/dev/shm"
            assert container["image"].partition(":")[0] == "neural-hamilton"
            gpus = resources["limits"].get("nvidia.com/gpu")
            assert (container["image"] == "neural-hamilton:cuda") is (gpus is not None)

    def test_no_task_runs_on_the_head(self, path: Path):
        assert cluster_of(read(path))["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_command_of_the_job_is_one_that_there_is():
    from neural_hamilton.platform.cli import cli

    job = next(manifest for manifest in map(read, MANIFESTS) if manifest["kind"] == "RayJob")
    program, command, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert program in PROJECT["scripts"]
    parser = cli.get_command(None, command)  # type: ignore[arg-type]
    assert parser is not None
    parser.make_context(command, list(arguments))  # raises for an unknown option or a missing one


def serve_configurations() -> list[Any]:
    service = next(manifest for manifest in map(read, MANIFESTS) if manifest["kind"] == "RayService")
    return [read(ROOT / "deploy" / "serve.yaml"), yaml.safe_load(service["spec"]["serveConfigV2"])]


@pytest.mark.parametrize("configuration", serve_configurations(), ids=["serve.yaml", "endpoint.yaml"])
def test_serve_configurations_are_those_of_the_application(configuration: Any):
    from ray.serve.schema import ServeDeploySchema

    from neural_hamilton.serve.application import ModelSettings, ServeOptions
    from neural_hamilton.serve.shipped import shipped_models

    ServeDeploySchema.model_validate(configuration)
    (application,) = configuration["applications"]
    ServeOptions.model_validate(application["args"])
    (deployment,) = application["deployments"]
    assert set(ModelSettings.model_validate(deployment["user_config"]).models.values()) <= set(shipped_models())


def test_the_endpoint_has_the_environment_that_proxies_and_replicas_read():
    import json

    from neural_hamilton.serve.environment import PROXY_LIMITS, SETTINGS
    from neural_hamilton.serve.proxy import ProxyLimits

    service = next(manifest for manifest in map(read, MANIFESTS) if manifest["kind"] == "RayService")
    for _, pod in pods(service):
        environment = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
        ProxyLimits.model_validate(json.loads(environment.pop(PROXY_LIMITS)))
        assert environment.items() <= SETTINGS.items()


def test_the_image_installs_what_the_project_pins():
    lines = (ROOT / "deploy" / "Dockerfile").read_text()
    assert "--constraint /opt/neural-hamilton/constraints.txt" in lines
    assert re.search(r"^USER 1000$", lines, re.MULTILINE)
    assert "RAY_AUTH_MODE=token" in lines
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().split()
    assert {".git", ".venv", "runs", "data"} <= set(ignored)
