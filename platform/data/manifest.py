"""The manifest of a dataset folder: what the rows are, how many, and the checksum of every file."""

from collections import Counter
from typing import Any

from pydantic import ValidationError

from ...physics import InputError
from ...physics.files import read_json
from ...physics.systems import Imported
from ..config.data import DataConfig
from ..provenance import hash_json
from ..storage import Location

MANIFEST_FILE = "manifest.json"
DATASET_SCHEMA_VERSION = 2
_FIELDS = ("config", "files")  # the others follow from these, where a version did not write them
_FILE_FIELDS = {"file", "split", "rows", "bytes", "sha256"}
_ENSEMBLE_KEYS = ("control_points", "length_scale", "depth")


def read_manifest(folder: Location) -> dict[str, Any]:
    """The manifest of a dataset folder, in the current schema.

    Raises InputError where there is none, or it cannot be read, has an unknown schema version, or lacks a field.
    """
    path = folder / MANIFEST_FILE
    if folder.exists() and not path.is_file():
        raise InputError(f"dataset {str(folder)!r} has no readable {MANIFEST_FILE}; run generate, or import, again to complete it")
    manifest = read_json(path, f"dataset {str(folder)!r}", DATASET_SCHEMA_VERSION, {1: _from_schema_1})
    missing = [name for name in _FIELDS if name not in manifest]
    if missing:
        raise InputError(
            f"{path}, written by version {written_by(manifest)}, has no {missing[0]!r}; generate the dataset again with this version"
        )
    config = read_config(manifest, path)
    made_by = "import" if isinstance(config.distribution, Imported) else "generate"
    if not _lists_files(manifest):
        raise InputError(f"{path} does not list the files of its splits; the file is damaged: run {made_by} again to repair the dataset")
    manifest = _derived(manifest, config) | manifest
    if not _is_whole(manifest, config):
        raise InputError(f"{path} does not count the rows of its splits; the file is damaged: run {made_by} again to repair the dataset")
    return manifest | {"config": config.model_dump(mode="json")}


def written_by(manifest: dict[str, Any]) -> str:
    """The version of this project that wrote a manifest."""
    return str(manifest.get("code_version", "unknown"))


def _lists_files(manifest: dict[str, Any]) -> bool:
    files = manifest["files"]
    return isinstance(files, list) and all(isinstance(line, dict) and line.keys() >= _FILE_FIELDS for line in files)


def _derived(manifest: dict[str, Any], config: DataConfig) -> dict[str, Any]:
    """The fields that follow from the others: not every version wrote all of them."""
    files = manifest["files"]
    rows = {split: sum(line["rows"] for line in files if line["split"] == split) for split in config.counts}
    sums = {name: sum((Counter(line.get(name, {})) for line in files), Counter[str]()) for name in ("rejections", "certificates")}
    return {
        "system": config.system,
        "counts": rows,
        **{name: dict(sorted(total.items())) for name, total in sums.items()},
        "dataset_hash": hash_json([(line["file"], line["sha256"]) for line in files]),
    }


def _is_whole(manifest: dict[str, Any], config: DataConfig) -> bool:
    """Whether system and counts have the form that readers rely on."""
    counts = manifest["counts"]
    counted = isinstance(counts, dict) and counts.keys() == config.counts.keys() and all(isinstance(n, int) for n in counts.values())
    return counted and manifest["system"] == config.system


def read_config(manifest: dict[str, Any], path: Location | None = None) -> DataConfig:
    """How the rows were drawn; InputError, naming the key, where the manifest does not describe it."""
    try:
        return DataConfig.model_validate(manifest["config"])
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(["config", *(str(part) for part in problem["loc"])])
        raise InputError(
            f"{path or MANIFEST_FILE}, written by version {written_by(manifest)}, does not describe how the dataset was drawn: "
            f"{place}: {problem['msg']}"
        ) from None


def _from_schema_1(manifest: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 knew one system, and kept the ensemble's keys beside the others."""
    config = manifest.get("config")
    if isinstance(config, dict):
        config = migrate_config(config)
    return {**{key: value for key, value in manifest.items() if key != "preset"}, "system": "well", "config": config}


def migrate_config(config: dict[str, Any]) -> dict[str, Any]:
    """The `data` section as version 0.1 recorded it, in today's keys."""
    if "preset" not in config:
        return config
    own = {key: config[key] for key in _ENSEMBLE_KEYS if config.get(key) is not None}
    rest = {key: value for key, value in config.items() if key not in ("preset", *_ENSEMBLE_KEYS)}
    return {"system": "well", "ensemble": {"name": config["preset"], **own}, **rest}


def as_schema_1(config: DataConfig) -> dict[str, Any] | None:
    """The section as version 0.1 wrote it, by which its files and models are recognised; None where it could not."""
    ensemble = config.distribution
    if config.system != "well" or ensemble.name not in ("paper", "phase-space"):
        return None
    own = ensemble.dump()
    usual = type(ensemble)()
    depth = None if own["depth"] == usual.dump()["depth"] else own["depth"]
    rest = config.model_dump(mode="json", exclude={"system", "ensemble"})
    return rest | {"preset": own["name"], **{key: list(own[key]) for key in _ENSEMBLE_KEYS[:2]}, "depth": depth and list(depth)}
