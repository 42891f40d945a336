"""Where else the figures of each epoch go: TensorBoard, MLflow. The run folder stays the record."""

import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from ...physics import InputError
from ...physics.files import write_file
from ..config import Config
from ..storage import Location, Url

TENSORBOARD_FOLDER = "tensorboard"
_EXPERIMENT = "neural-hamilton"


class Tracker(Protocol):
    def log(self, epoch: int, figures: dict[str, float]) -> None:
        """Take the figures of an epoch; if it is trained again, the later ones count."""
        ...

    def close(self) -> None: ...


def check_trackers(names: Sequence[str]) -> None:
    """Raises InputError where the package of one is not installed."""
    for name in names:
        if importlib.util.find_spec(_MODULES[name]) is None:
            raise InputError(_missing(name))


@contextmanager
def tracking(config: Config, run: Location, first_epoch: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """`log(epoch, figures)` for all that `training.trackers` names, in a run that goes on after `first_epoch` epochs.

    Raises
    ------
    InputError
        Where the package of one is not installed, or it refuses its settings.
    """
    with ExitStack() as stack:
        trackers: list[Tracker] = []
        for name in config.training.trackers:
            trackers.append(_OPENERS[name](config, run, first_epoch))
            stack.callback(trackers[-1].close)

        def log(epoch: int, figures: dict[str, float]) -> None:
            for tracker in trackers:
                tracker.log(epoch, figures)

        yield log


class _TensorBoard:
    """Event files in the run folder: `tensorboard --logdir RUN`."""

    def __init__(self, config: Config, run: Location, first_epoch: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError:
            raise InputError(_missing("tensorboard")) from None
        self._destination = run / TENSORBOARD_FOLDER
        self._scratch = TemporaryDirectory(prefix="neural-hamilton-") if isinstance(run, Url) else None
        folder = str(self._scratch.name if self._scratch else self._destination)
        # What TensorBoard shows of epochs after `purge_step`, from before an interruption, it drops.
        self._writer = SummaryWriter(folder, purge_step=first_epoch + 1, flush_secs=10)

    def log(self, epoch: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, epoch)
        if self._scratch:
            self._writer.flush()
            for file in Path(self._scratch.name).iterdir():
                write_file(self._destination / file.name, file.read_bytes())

    def close(self) -> None:
        self._writer.close()
        if self._scratch:
            self._scratch.cleanup()


class _MLflow:
    """A run of the experiment neural-hamilton at MLFLOW_TRACKING_URI, by default in mlflow.db beside the run folder.

    A resumed run continues its MLflow run, which is found by the run folder's path.
    """

    def __init__(self, config: Config, run: Location, first_epoch: int) -> None:
        try:
            import mlflow  # noqa: F401  (the whole package, before a part of it)
            from mlflow.exceptions import MlflowException
        except ModuleNotFoundError:
            raise InputError(_missing("mlflow")) from None
        try:
            self._client, experiment = _open_experiment(run.parent)
            tag = hashlib.sha256(str(run).encode()).hexdigest()
            known = self._client.search_runs([experiment], f"tags.run_folder = '{tag}'", max_results=1) if first_epoch else []
            created = known[0] if known else self._client.create_run(experiment, run_name=run.name, tags={"run_folder": tag})
            self._id = created.info.run_id
            if not known:
                for section in ("architecture", "training"):
                    for key, value in config.dump()[section].items():
                        self._client.log_param(self._id, f"{section}.{key}", value)
        except MlflowException as error:
            raise InputError(f"training.trackers has mlflow, which refuses: {' '.join(str(error).split())}") from None

    def log(self, epoch: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._id, name, value, step=epoch)

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _open_experiment(folder: Location) -> tuple[Any, str]:
    """A client, and the experiment's identifier: where the user's MLflow is configured, else in a database in `folder`."""
    import mlflow

    if mlflow.is_tracking_uri_set():
        client, artifacts = mlflow.MlflowClient(), None
    elif isinstance(folder, Url):
        raise InputError(
            f"training.trackers has mlflow, which cannot keep its database in {str(folder)!r}: set MLFLOW_TRACKING_URI to a server, or "
            "go on with --resume and --set training.trackers=[]"
        )
    elif {"%", "?"} & set(str(folder)):  # MLflow takes the URL of its database for a path, and SQLAlchemy reads it as a URL
        raise InputError(
            f"training.trackers has mlflow, which cannot keep its database in {str(folder)!r}, with % or ? in its name: set "
            "MLFLOW_TRACKING_URI, or go on with --resume and --set training.trackers=[]"
        )
    else:
        client, artifacts = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}"), (folder / "mlartifacts").as_uri()
    known = client.get_experiment_by_name(_EXPERIMENT)
    return client, known.experiment_id if known else client.create_experiment(_EXPERIMENT, artifact_location=artifacts)


def _missing(tracker: str) -> str:
    package = {"tensorboard": "tensorboardX", "mlflow": "mlflow-skinny"}[tracker]
    return f"training.trackers has {tracker}, which needs the package {package}: pip install {package}, or --set training.trackers=[]"


_OPENERS: dict[str, Any] = {"tensorboard": _TensorBoard, "mlflow": _MLflow}
_MODULES = {"tensorboard": "tensorboardX", "mlflow": "mlflow"}
