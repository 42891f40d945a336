"""One training run as a command makes it: the folder claimed, progress shown, in this process or under Ray Train."""

from typing import Any

import torch

from ..config import Config, TrainingConfig
from ..folder_lock import holds_folder
from ..machine import default_device
from ..progress import track
from ..storage import Location
from .batches import rows_of
from .learner import check_device
from .loop import train
from .run_folder import History, prepare_run
from .trackers import check_trackers


def steps_of(config: Config) -> int:
    """Steps of the optimizer in a whole run of a resolved configuration."""
    settings = config.training
    return settings.epochs * -(-settings.passes * rows_of(config) // settings.batch_size)


def check_start(settings: TrainingConfig, device: torch.device, num_workers: int = 1) -> None:
    """Raises InputError where a run with these settings would refuse to begin on such a device, before its folder is claimed."""
    check_device(settings, device, num_workers)
    check_trackers(settings.trackers)


@holds_folder("run", "--out")
def run_training(
    config: Config,
    dataset: Location,
    run: Location,
    workers: int,
    resume: bool,
    deadline: float | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
) -> dict[str, Any]:
    """Train in the folder `run`, in this process (`workers` 0) or under Ray Train; returns the result.

    `deadline` as in `training.train`, `cpus` and `gpus` as in `worker_resources`; InputError as there and in `prepare_run`.
    """
    dataset, run = dataset.absolute(), run.absolute()

    def check() -> None:
        check_start(config.training, _device(workers, cpus, gpus), max(1, workers))

    config = prepare_run(run, dataset, config, resume, before_claim=check)
    done = sum(line["steps"] for line in History(run).read())
    with track(f"train {config.architecture.name}", steps_of(config), done) as progress:
        if workers:
            from .distributed import train_with_ray, worker_resources

            return train_with_ray(config, dataset, run, workers, progress, deadline, worker_resources(workers, cpus, gpus))
        return train(
            config,
            dataset,
            run,
            report=lambda record: progress.advance(0, f"validation loss {record['validation_loss']:.3e}"),
            on_step=progress.advance,
            deadline=deadline,
        )


def _device(workers: int, cpus: int | None, gpus: int | None) -> torch.device:
    """What a run trains on: this process's device, or that of Ray's workers; InputError where the cluster is too small for them."""
    if not workers:
        return default_device()
    from .distributed import worker_resources

    return torch.device("cuda" if worker_resources(workers, cpus, gpus)["GPU"] else "cpu")
