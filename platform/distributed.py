"""Ray Train: the same loop in several DDP workers, on CPUs or GPUs."""

import json
import threading
from pathlib import Path
from typing import Any

from ..physics import InputError
from .config import Config, load_config
from .progress import Progress
from .provenance import write_json
from .training import CONFIG_FILE, HISTORY_FILE, RESULT_FILE, train

_RESTARTS = 3  # a worker that dies is replaced this often; the run folder says where to go on
_FAILURE_FILE = "failure.json"


def train_with_ray(config: Config, dataset: Path, run: Path, num_workers: int, progress: Progress) -> dict[str, Any]:
    """Train in `num_workers` Ray Train workers that share the run folder (see `training`); returns the result.

    The folder must be visible to every worker under the same path: one machine, or shared storage.
    Each worker takes a GPU where the cluster has enough of them, else one CPU.

    Raises
    ------
    InputError
        Where the cluster is too small, or the loop refuses to go on.
    """
    from .ray_runtime import connect

    ray = connect()
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer

    resources = ray.cluster_resources()
    use_gpu = resources.get("GPU", 0) >= num_workers
    if not use_gpu and num_workers > resources.get("CPU", 0):
        raise InputError(f"--workers is {num_workers}; this cluster has {resources.get('CPU', 0):.0f} CPUs")
    (run / _FAILURE_FILE).unlink(missing_ok=True)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"dataset": str(dataset.absolute()), "run": str(run.absolute())},
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=".ray",
            storage_path=str(run.absolute()),
            failure_config=FailureConfig(max_failures=_RESTARTS, controller_failure_limit=0),
        ),
    )
    with _HistoryWatch(run, progress):
        try:
            trainer.fit()
        except WorkerGroupError as error:
            raise _system_failure(error.worker_failures, run) or error from None
    if (run / _FAILURE_FILE).exists():
        raise InputError(json.loads((run / _FAILURE_FILE).read_text())["reason"])
    return json.loads((run / RESULT_FILE).read_text())


def _work(settings: dict[str, str]) -> None:
    """What each worker runs. A refusal is written down, not raised: Ray would restart the group for it."""
    import ray.train
    from ray.train.torch import get_device

    run = Path(settings["run"])
    try:
        # No ray.train.report an epoch: the run folder is the record, and each report waits for the controller's
        # next poll, up to two seconds.
        train(load_config(run / CONFIG_FILE), Path(settings["dataset"]), run, device=get_device())
    except InputError as error:
        if ray.train.get_context().get_world_rank() == 0:
            write_json(run / _FAILURE_FILE, {"reason": str(error)})


def _system_failure(worker_failures: dict[int, Exception], run: Path) -> InputError | None:
    """What the machine refused a worker, such as space on a full disk, as a sentence."""
    for failure in worker_failures.values():
        if isinstance(failure, OSError) and failure.strerror:
            return InputError(f"a worker could not go on: {failure.strerror}; {str(run)!r} keeps the last whole epoch for --resume")
    return None


class _HistoryWatch(threading.Thread):
    """Shows the epochs that workers, in other processes, append to the run's history."""

    def __init__(self, run: Path, progress: Progress) -> None:
        super().__init__(daemon=True)
        self._history, self._progress = run / HISTORY_FILE, progress
        self._finished = threading.Event()

    def run(self) -> None:
        while not self._finished.wait(0.5):
            self._show()

    def _show(self) -> None:
        lines = self._history.read_text().splitlines() if self._history.exists() else []
        if len(lines) > self._progress.done:
            loss = json.loads(lines[-1])["validation_loss"]
            self._progress.advance(len(lines) - self._progress.done, f"validation loss {loss:.3e}")

    def __enter__(self) -> "_HistoryWatch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        self.join()
        self._show()
