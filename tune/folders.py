"""The output folder of a sweep or a study: whose it is, and that one driver at a time works in it."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..architectures import parse_architecture
from ..physics import InputError
from ..physics.files import is_litter, read_json, write_json
from ..platform.config import Config, SweepConfig, TrainingConfig
from ..platform.folder_lock import LOCK_FILE, hold_folder
from ..platform.outputs import check_placement
from ..platform.provenance import changed_keys
from ..platform.storage import Location
from ..platform.training.continuation import BESIDE_THE_WEIGHTS
from ..platform.training.run_folder import prepare_run

RECORD_FILE, COST_FILE = "study.json", "cost.json"
_OF_A_PLAN = (RECORD_FILE, COST_FILE, LOCK_FILE)  # all that a plan leaves in a folder


def resolve(config: Config, dataset: Location) -> Config:
    """The configuration with what the dataset decides filled in; refuses what no run could start from, as `prepare_run` does."""
    with tempfile.TemporaryDirectory() as scratch:
        return prepare_run(Path(scratch) / "run", dataset, config, resume=False)


@contextmanager
def claimed(out: Location, identity: dict[str, Any]) -> Iterator[None]:
    """Hold `out` for this driver and for what `identity` (plain nested values) describes.

    A folder that was only planned belongs to nobody: another identity takes it over.

    Raises
    ------
    InputError
        Where `out` holds work of another identity or anything else, is in use, or cannot be written.
    """
    check_owner(out, identity)
    read_cost(out)  # refused, if it must be, before anything runs
    with hold_folder(out, "--out"):
        check_owner(out, identity)  # again: another driver may have begun and ended meanwhile
        if not (out / RECORD_FILE).exists() or _changes(out, json.loads(json.dumps(identity))):
            write_json(out / RECORD_FILE, identity)
            (out / COST_FILE).unlink(missing_ok=True)
        yield


def read_cost(out: Location) -> dict[str, Any]:
    """`plan`, what `plan` expected of a call or None, and `calls`, what each call that did anything took."""
    if not (out / COST_FILE).exists():
        return {"plan": None, "calls": []}
    try:
        cost = read_json(out / COST_FILE)
    except InputError as error:
        raise InputError(f"{error}; delete it") from None
    if set(cost) != {"plan", "calls"} or not isinstance(cost["calls"], list):
        raise InputError(f"{out / COST_FILE} is no record of costs; delete it")
    return cost


def record_cost(out: Location, plan: dict[str, Any] | None = None, call: dict[str, Any] | None = None) -> None:
    """Keep a plan, the latest one, or a call, in the order of calls, in a folder that is `claimed`."""
    cost = read_cost(out)
    write_json(out / COST_FILE, {"plan": plan or cost["plan"], "calls": cost["calls"] + ([call] if call else [])})


@contextmanager
def recorded(out: Location, started: float) -> Iterator[dict[str, Any]]:
    """Record a call that did something: what the work inside puts into the dictionary, and its seconds since `started`, however it ends."""
    call: dict[str, Any] = {}
    try:
        yield call
    finally:
        if call:
            record_cost(out, call=call | {"seconds": time.monotonic() - started})


def check_owner(out: Location, identity: dict[str, Any]) -> None:
    """Raise InputError where `out` holds work of another identity or anything else."""
    check_placement(out)
    identity = json.loads(json.dumps(identity))
    names = [path.name for path in out.glob("*") if path.name not in _OF_A_PLAN]
    work = [name for name in names if not (name.endswith(".partial") or is_litter(name))]
    if (out / RECORD_FILE).exists() and not _is_record(out):
        raise InputError(f"--out {str(out)!r} holds {RECORD_FILE!r}, which is no record of a sweep or a study; choose another folder")
    if not (out / RECORD_FILE).exists():
        if work:
            raise InputError(f"--out {str(out)!r} holds {work[0]!r} and no {identity['kind']}; choose another folder")
        return
    if work and (changes := _changes(out, identity)):
        kind = read_json(out / RECORD_FILE).get("kind", "study")
        raise InputError(f"--out {str(out)!r} already holds a {kind} with {changes}; choose another folder")


def _is_record(out: Location) -> bool:
    try:
        return "kind" in read_json(out / RECORD_FILE)
    except InputError as error:
        raise InputError(f"{error}; choose another folder") from None


def _changes(out: Location, identity: dict[str, Any]) -> str:
    """How the work that `out` holds differs from `identity`; empty where it does not."""
    try:
        before = read_json(out / RECORD_FILE)
        return changed_keys(*(without_free_keys(each) for each in (_with_newer_keys(before, identity), identity)))
    except InputError as error:
        raise InputError(f"{error}; choose another folder") from None
    except (AttributeError, TypeError):
        raise InputError(f"{out / RECORD_FILE} is no record of a sweep or a study; choose another folder") from None


def without_free_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Sections of a configuration without the keys of training that do not touch the weights: work goes on with others of them."""
    kept = {key: value for key, value in values.get("training", {}).items() if key not in BESIDE_THE_WEIGHTS}
    return values | ({"training": kept} if "training" in values else {})


def _with_newer_keys(before: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
    """A record with the settings that the version which wrote it did not have yet: at their defaults they do what it did."""
    defaults: dict[str, BaseModel] = {"training": TrainingConfig(), "sweep": SweepConfig()}
    if "architecture" in before:
        defaults["architecture"] = parse_architecture({"name": before["architecture"].get("name")})
    completed = dict(before)
    for name in before.keys() & defaults.keys():
        newer = defaults[name].model_dump(mode="json")
        completed[name] = {key: newer[key] for key in identity.get(name, {}) if key in newer} | before[name]
    return completed
