"""What all tests share: a sane process, one Ray session, and the command line as a user runs it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# Before anything imports NumPy, Numba, torch or Ray; children (command line, Ray workers) inherit it.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"  # how often Ray Train looks whether its workers are done
os.environ["MPLBACKEND"] = "Agg"
# Of the store that some tests start; without any, pyarrow asks the network for them.
os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(threads, "1")
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from neural_hamilton.serve.environment import prepare_ray_serve  # noqa: E402

prepare_ray_serve()  # before Ray starts, as `serve` does

if not torch.cuda.is_available():
    # GPU kernels then run in Triton's interpreter, which Triton sets up as it is first imported, by any test or torch.compile.
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("project", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

RunCli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Any]:
    """The `ray` module, connected to a two-CPU session that lasts as long as this process of pytest."""
    import ray

    ray.shutdown()  # a command that ran in this process may have left its own
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A `process_helpers.Nodes`: a cluster whose nodes a test may kill."""
    from process_helpers import Nodes

    cluster = Nodes()
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def store() -> Iterator[Any]:
    """A `store_helpers.Store`, a real server of S3."""
    from store_helpers import Store

    server = Store()
    yield server
    server.close()


@pytest.fixture
def bucket(store: Any) -> str:
    """The name of a new bucket."""
    name = f"bucket-{len(store.client.list_buckets()['Buckets'])}"
    store.client.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def run_cli() -> RunCli:
    """Run `python -m neural_hamilton.platform ARGS` from the repository root: `run_cli(*args, timeout=300, env=None)`."""

    def run(*args: object, timeout: float = 300, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "neural_hamilton.platform", *map(str, args)]
        return subprocess.run(command, cwd=ROOT, env=os.environ | (env or {}), capture_output=True, text=True, timeout=timeout, check=False)

    return run


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real dataset of 64/16/16 rows, 20 sensors and 20 times."""
    from neural_hamilton.platform.config import load_config
    from neural_hamilton.platform.data.generation import generate

    folder = tmp_path_factory.mktemp("shared") / "dataset"
    sizes = {"train": 64, "val": 16, "test": 16, "sensors": 20, "times": 20, "shard_rows": 32}
    generate(folder, load_config(None, {f"data.{key}": value for key, value in sizes.items()}).data, local=True)
    return folder


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the random model that `endpoint` serves."""
    from serving import save_tiny

    return save_tiny(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")  # a replica keeps a CPU, which the tests of Ray Train need
def endpoint(ray_session: Any, served_model: Path) -> Iterator[str]:
    """The URL of a real Ray Serve endpoint; it is overloaded by a few requests."""
    from serving import free_port

    from neural_hamilton.serve import application

    yield application.start(served_model, port=free_port(), max_queued_requests=4)
    application.stop()
