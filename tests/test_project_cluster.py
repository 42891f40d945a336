"""The cluster files are ones that Ray accepts, pinned like the rest, closed to the world and asking for a token."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


FILES = ["cluster.yaml", "deploy/on-premises.yaml"]


@pytest.fixture(scope="module", params=FILES)
def cluster(request):
    return yaml.safe_load((ROOT / request.param).read_text())


@pytest.fixture(scope="module")
def on_aws():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def prepared(cluster):
    """The cluster as `ray up` sees it, with Ray's defaults filled in."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(cluster)
    validate_config(config)
    return config


def start_commands(config, role):
    return [command for command in config[f"{role}_start_ray_commands"] if "ray start" in command]


def test_ray_accepts_it_with_defaults_filled_in(prepared):
    if prepared["provider"]["type"] == "local":
        assert prepared["max_workers"] == len(prepared["provider"]["worker_ips"])
        return
    kinds = prepared["available_node_types"]
    workers = [kind["max_workers"] for name, kind in kinds.items() if name != prepared["head_node_type"]]
    assert 0 < sum(workers) <= prepared["max_workers"]


def test_ray_and_torch_are_pinned_as_in_the_project(cluster):
    installs = " ".join(cluster["setup_commands"])
    ray_pin = next(dependency for dependency in PROJECT["dependencies"] if dependency.startswith("ray["))
    version = ray_pin.partition("==")[2]
    assert f'"ray[data,train,tune,serve]=={version}"' in installs
    assert f"torch=={CONSTRAINTS['torch']}" in installs
    assert CONSTRAINTS["ray"] == version


def test_images_are_those_of_the_pinned_ray(on_aws):
    pin = f"rayproject/ray:{CONSTRAINTS['ray']}-"
    assert on_aws["docker"]["image"].startswith(pin)
    kinds = on_aws["available_node_types"]
    assert kinds["gpu"]["docker"]["worker_image"] == on_aws["docker"]["image"] + "-gpu"
    assert kinds["cpu"]["min_workers"] == kinds["gpu"]["min_workers"] == 0


def test_every_dependency_of_the_project_is_installed_under_the_constraints(cluster):
    installs = " ".join(cluster["setup_commands"])
    needed = {re.split(r"[\[<>=]", dependency)[0] for dependency in PROJECT["dependencies"]}
    assert needed <= set(re.findall(r"[a-z][\w-]*", installs))
    mount = next(remote for remote, local in cluster["file_mounts"].items() if local == "constraints.txt")
    assert f"--constraint {mount}" in installs


def test_no_default_of_ray_installs_a_nightly(prepared):
    commands = " ".join([*prepared["setup_commands"], *prepared["head_setup_commands"], *prepared["worker_setup_commands"]])
    assert "wheels" not in commands
    assert "dev0" not in commands


def test_the_dashboard_listens_on_loopback_only(prepared):
    (command,) = start_commands(prepared, "head")
    assert re.findall(r"--dashboard-host=(\S+)", command) == ["127.0.0.1"]
    assert "0.0.0.0" not in " ".join(prepared["head_start_ray_commands"] + prepared["worker_start_ray_commands"])


@pytest.mark.parametrize("role", ["head", "worker"])
def test_every_node_asks_for_the_token(prepared, role):
    (command,) = start_commands(prepared, role)
    assert re.search(r"RAY_AUTH_MODE=token (\S+/)?ray start", command)
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_head_is_on_demand_and_workers_are_spot(on_aws):
    types = on_aws["available_node_types"]
    assert "InstanceMarketOptions" not in types[on_aws["head_node_type"]]["node_config"]
    workers = [node for name, node in types.items() if name != on_aws["head_node_type"]]
    assert workers
    assert all(node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for node in workers)


def test_validation_would_notice_a_mistake(cluster):
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(jsonschema.ValidationError, match="dashbord"):
        validate_config(prepare_config(cluster | {"dashbord": "0.0.0.0"}))
