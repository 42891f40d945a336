"""Ray Train: the same loop in several DDP workers, on CPUs or GPUs."""

import re
import threading
from contextlib import suppress
from typing import Any

from ...physics import InputError
from ...physics.errors import StorageUnavailable
from ..config import Config, load_config
from ..progress import Progress
from ..shared_folders import check_shared
from ..storage import Location, Url, locate
from .loop import train
from .run_folder import CONFIG_FILE, History

_RESTARTS = 3  # how often workers that die are replaced; the run goes on from its folder
_STARTS = (
    10  # attempts, about a minute each, while the cluster has too few CPUs or GPUs, as after the loss of a node or before one is started
)
_TIMEOUT_S = 600  # how long a worker waits for the others of its group


def train_with_ray(
    config: Config,
    dataset: Location,
    run: Location,
    num_workers: int,
    progress: Progress,
    deadline: float | None = None,
    resources: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Train in `num_workers` Ray Train workers that share the run folder; returns the result. `deadline` as in `training.train`.

    Every worker must see the folder under the same path, or be given its URL. A worker gets `resources`, "CPU"
    and "GPU", for which the cluster may have to start nodes. By default the CPUs that are there are divided equally among the workers, and
    each gets a GPU where there are enough of them.

    Raises
    ------
    InputError
        Where the cluster is too small, the loop refuses to go on, or workers die again and again.
    """
    from ..ray_runtime import connect

    ray = connect()  # before Ray is imported: it reads its settings once
    check_shared(ray, run.absolute(), "--out", dataset.absolute(), urls=True)
    from ray.exceptions import RayActorError
    from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer

    from .network_interface import ClusterTorchConfig

    filesystem, storage_path = run.open_filesystem() if isinstance(run, Url) else (None, str(run.absolute()))
    resources_per_worker = resources or worker_resources(num_workers)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"dataset": str(dataset.absolute()), "run": str(run.absolute()), "deadline": deadline},
        torch_config=ClusterTorchConfig(timeout_s=_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=bool(resources_per_worker.get("GPU")), resources_per_worker=resources_per_worker
        ),
        run_config=RunConfig(
            name=".ray",
            storage_path=storage_path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=_RESTARTS, controller_failure_limit=_STARTS),
        ),
    )
    kept = f"{str(run)!r} keeps the last whole epoch for --resume"
    with _HistoryWatch(run, progress):
        try:
            outcome: Any = _fit(trainer, kept)
        except ControllerError as error:
            raise InputError(f"the workers could not be started: {_last_line(error)}; {kept}") from None
        except WorkerGroupError as error:
            if not all(isinstance(failure, RayActorError) or _is_of_a_loss(failure) for failure in error.worker_failures.values()):
                raise
            raise InputError(f"a worker died {_RESTARTS + 1} times without an error of its own, as when memory runs out; {kept}") from None
    if "failure" in outcome:
        raise (StorageUnavailable if outcome["of_storage"] else InputError)(outcome["failure"])
    return outcome


def _is_of_a_loss(failure: Exception) -> bool:
    """Whether a failure is that a worker was lost, in the words of Ray Train, or of another worker, which may notice it before Ray does."""
    words = r"worker health check|gloo.*(Connection (closed|reset) by peer|timed out|Broken pipe)|NCCL"
    return re.search(words, str(failure), re.DOTALL) is not None


def _last_line(error: Exception) -> str:
    """What an error that holds the traceback of another process comes down to."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _fit(trainer: Any, kept: str) -> Any:
    """What the first worker returns. A controller that Ray loses before it has begun, as a busy cluster may, is started again."""
    from ray.exceptions import RayActorError

    for _ in range(_RESTARTS):
        try:
            return trainer.fit().return_value
        except RayActorError as error:
            if "never ran" not in str(error):
                raise InputError(f"the controller of Ray Train died: {' '.join(str(error).split())}; {kept}") from None
    raise InputError(f"the controller of Ray Train could not be started in {_RESTARTS} attempts; {kept}")


def worker_resources(num_workers: int, cpus: int | None = None, gpus: int | None = None) -> dict[str, float]:
    """The "CPU" and "GPU" of each of equal workers, as given, for which the cluster may have to start nodes; else those that are there are
    shared. InputError where it is too small, or cannot be reached.
    """
    from ..cluster.joining import cluster_address
    from ..ray_runtime import connect

    ray = connect()
    there = ray.cluster_resources()
    has_cpus, has_gpus = there.get("CPU", 0), there.get("GPU", 0)
    is_given = cpus is not None or gpus is not None
    use_gpus = int(has_gpus >= num_workers) if gpus is None else gpus
    if not is_given and not use_gpus and num_workers > has_cpus:
        raise InputError(f"--workers is {num_workers}; this cluster has {has_cpus:.0f} CPUs: give --cpus-per-worker if it starts nodes")
    if cpus is None:
        cpus = cpus_per_worker(ray.nodes(), num_workers) if has_cpus >= num_workers else 1
    if is_given and cluster_address() is None and (num_workers * cpus > has_cpus or num_workers * use_gpus > has_gpus):
        raise InputError(
            f"--workers is {num_workers}, of {cpus} CPUs and {use_gpus} GPUs each; this machine has {has_cpus:.0f} and {has_gpus:.0f}: ask "
            "for less, or set RAY_ADDRESS to a cluster that has more or starts nodes"
        )
    return {"CPU": cpus, "GPU": use_gpus}


def cpus_per_worker(nodes: list[dict[str, Any]], num_workers: int) -> int:
    """An equal number of CPUs, so that the workers together use the cluster and each fits on a node; PyTorch uses as many threads."""
    sizes = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    return max(count for count in range(1, max(sizes) + 1) if count == 1 or sum(size // count for size in sizes) >= num_workers)


def _work(settings: dict[str, Any]) -> dict[str, Any]:
    """What each worker runs. A refusal is returned, not raised: Ray would restart the group for it."""
    from ray.train.torch import get_device

    run = locate(settings["run"])
    try:
        # No ray.train.report per epoch: the run folder is the record, and each report waits for the controller's
        # next poll, up to two seconds.
        config, dataset = load_config(run / CONFIG_FILE), locate(settings["dataset"])
        return train(config, dataset, run, device=get_device(), deadline=settings["deadline"])
    except (InputError, StorageUnavailable) as error:
        return {"failure": str(error), "of_storage": isinstance(error, StorageUnavailable)}


class _HistoryWatch(threading.Thread):
    """Shows the epochs that workers, in other processes, append to the run's history."""

    def __init__(self, run: Location, progress: Progress) -> None:
        super().__init__(daemon=True)
        self._history, self._progress = History(run), progress
        self._every = 2.0 if isinstance(run, Url) else 0.5
        self._finished = threading.Event()

    def run(self) -> None:
        while not self._finished.wait(self._every):
            with suppress(StorageUnavailable):  # the workers will say so
                self._show()

    def _show(self) -> None:
        lines = self._history.read()
        steps = sum(line["steps"] for line in lines)
        if steps > self._progress.done:
            self._progress.advance(steps - self._progress.done, f"validation loss {lines[-1]['validation_loss']:.3e}")

    def __enter__(self) -> "_HistoryWatch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        self.join()
        self._show()
