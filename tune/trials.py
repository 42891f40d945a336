"""Ray Tune as this project uses it: function trials of one worker, quiet, with the run folders as the only record."""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..physics import InputError
from ..physics.errors import StorageUnavailable, is_full_disk
from ..physics.files import read_json, write_json
from ..platform.progress import Progress
from ..platform.ray_runtime import connect
from ..platform.shared_folders import check_shared
from ..platform.storage import Location, Url, locate, remove_folder
from ..platform.training.run_folder import History

FAILURE_FILE = "failure.json"
_UNAVAILABLE = "storage_unavailable"  # the key of a trial's report that it cannot write or read its files, with a sentence
_RESTARTS = 3  # a worker that dies is replaced this often; its trial goes on from the run folder's checkpoint


def run_trials(
    work: Callable[[dict[str, Any]], None],
    scratch: Location,
    progress: Progress,
    max_concurrent: int,
    on_end: Callable[[dict[str, Any]], str] = lambda _: "",
    resources: dict[str, float] | None = None,
    reuse_actors: bool = True,
    dataset: Location | None = None,
    **tuning: Any,
) -> None:
    """Run `work(parameters)` as Ray Tune trials; returns when all have ended, whatever their end.

    `parameters["run"]` names the run folder of a trial: one whose worker died for good leaves a failure there. Then, as after any
    other end, `on_end(parameters)` is called, which returns a note for the progress. Trials that a full disk stopped, or a store that does
    not respond, have not ended: no others begin, and StorageUnavailable is raised when those that run have ended. A trial holds
    `resources`, by default one CPU and an equal part of the GPUs. With `reuse_actors` one process runs trial after trial. `tuning` goes to
    `tune.TuneConfig`, except `param_space`. Nothing in `scratch` outlives the call.

    Raises InputError where a node of the cluster does not see the folder that `scratch` lies in, or the `dataset` of the trials.
    """
    # Quiet, and Ctrl-C stops the command instead of passing for its end.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the newer output prints tables whatever its verbosity
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    ray = connect()
    check_shared(ray, scratch.parent, "--out", dataset)
    from ray import tune

    def report_unavailable(parameters: dict[str, Any]) -> None:
        try:
            work(parameters)
        except StorageUnavailable as refusal:
            tune.report({_UNAVAILABLE: str(refusal)})

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # of a full disk it would tell with each of its own files
    _clear(scratch)
    filesystem, storage_path = scratch.open_filesystem() if isinstance(scratch, Url) else (None, str(scratch))
    watch = _watch(progress, on_end, tuning.get("search_alg"))
    tuner = tune.Tuner(
        tune.with_resources(report_unavailable, resources or trial_resources(ray.cluster_resources(), max_concurrent)),
        param_space=tuning.pop("param_space", {}),
        tune_config=tune.TuneConfig(max_concurrent_trials=max_concurrent, reuse_actors=reuse_actors, **tuning),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=storage_path,
            storage_filesystem=filesystem,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=_RESTARTS),
            callbacks=[watch],
        ),
    )
    try:
        tuner.fit()
    finally:
        _clear(scratch)
    if watch.refusal:
        raise StorageUnavailable(watch.refusal)


def _clear(scratch: Location) -> None:
    with suppress(OSError, InputError, StorageUnavailable):
        remove_folder(scratch)


def trial_resources(cluster: dict[str, float], max_concurrent: int) -> dict[str, float]:
    """One CPU, and an equal fraction of the cluster's GPUs where it has any (never more than one)."""
    gpus = cluster.get("GPU", 0)
    if not gpus:
        return {"cpu": 1}
    fraction = gpus / max_concurrent
    # Ray grants whole GPUs or fractions 1/n that pack without remainder.
    return {"cpu": 1, "gpu": 1.0 if fraction >= 1 else 1 / math.ceil(1 / fraction)}


def attempt(run: Location, work: Callable[[], None]) -> str | None:
    """Do `work`; a failure is recorded in the run folder and its reason returned, so that other trials go on.

    Raises StorageUnavailable where the disk is full or the store does not respond, which is no failure of this trial.
    """
    try:
        (run / FAILURE_FILE).unlink(missing_ok=True)
        return _do(run, work)
    except Exception as error:
        if is_full_disk(error):
            raise no_room(run) from None
        raise


def _do(run: Location, work: Callable[[], None]) -> str | None:
    try:
        work()
    except StorageUnavailable:
        raise
    except Exception as error:  # one trial's defect is a line in the table, whatever it was
        if is_full_disk(error):
            raise
        return record_failure(run, str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}")
    return None


def no_room(folder: Location) -> StorageUnavailable:
    """The refusal to go on where the disk of a folder is full."""
    return StorageUnavailable(f"{str(folder)!r} cannot be written: the disk is full; make room, and the same command goes on")


@contextmanager
def full_disk_in_words(out: Location) -> Iterator[None]:
    """Turns whatever a full disk makes fail, in whichever library, into one sentence."""
    try:
        yield
    except Exception as error:
        if is_full_disk(error):
            raise no_room(out) from None
        raise


def record_failure(run: Location, reason: str) -> str:
    reason = " ".join(reason.split())
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / FAILURE_FILE, {"reason": reason})
    return reason


def read_failure(run: Location) -> str | None:
    """Why the run failed, or None."""
    path = run / FAILURE_FILE
    return read_json(path)["reason"] if path.exists() else None


def read_history(run: Location) -> list[dict[str, Any]]:
    """One record for each epoch trained so far."""
    return History(run).read()


def searcher(propose: Callable[[], dict[str, Any] | None]) -> Any:
    """A searcher for `tuning` whose trials have the parameters that `propose` returns; None ends the search."""
    from ray.tune.search import Searcher

    class Proposals(Searcher):
        is_closed = False

        def suggest(self, trial_id: str) -> Any:
            return Searcher.FINISHED if self.is_closed else propose() or Searcher.FINISHED

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            pass

        def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
            pass  # the study is its own record

    return Proposals()


def scheduler(goes_on: Callable[[dict[str, Any], dict[str, Any]], bool]) -> Any:
    """A scheduler for `tuning` that stops a trial where `goes_on(parameters, report)` is false."""
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler

    class Judge(FIFOScheduler):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            return TrialScheduler.CONTINUE if goes_on(trial.config, result) else TrialScheduler.STOP

    return Judge()


def _watch(progress: Progress, on_end: Callable[[dict[str, Any]], str], search: Any) -> Any:
    """Counts trials that end, and records those that ended for good with their worker; storage that is not available closes the search."""
    from ray.tune import Callback

    class Watch(Callback):
        def __init__(self, progress: Progress) -> None:
            self.progress = progress
            self.refusal = ""

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            if refusal := (trial.last_result or {}).get(_UNAVAILABLE):
                self.close(refusal)
            else:
                self.progress.advance(note=on_end(trial.config))

        def close(self, refusal: str) -> None:
            self.refusal = self.refusal or refusal
            if search is not None:
                search.is_closed = True

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            # Here and not from the results: of a trial that died before its first report, those may hold no configuration.
            run = locate(trial.config["run"])
            error = trial.get_error()  # an exception, or the text of one that could not be unpickled or was read from a file
            if isinstance(error, BaseException) and is_full_disk(error):
                self.close(str(no_room(run)))
                return
            reason = (str(error or "").strip().splitlines() or ["Ray gives no reason"])[-1]
            record_failure(run, f"its worker died: {reason}")
            self.progress.advance(note=on_end(trial.config))

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Tune pickles its callbacks, and a bar on a terminal holds locks

    return Watch(progress)
