"""Folders that commands write results to: never over what they did not make."""

from collections.abc import Collection

from ..physics import InputError
from ..physics.files import read_json
from .storage import Location

_MARKS = {  # files by which a folder is recognised, all of them needed
    "a dataset": ("manifest.json",),
    "a model": ("model.json",),
    "a sweep or a study": ("study.json",),
    "a training run": ("config.yaml", "dataset.json"),
}
_SEALED = ("a dataset", "a model")  # nothing else belongs inside these either


def check_placement(out: Location, option: str = "--out") -> None:
    """Raise InputError where `out` is a file, or lies in the folder of a dataset or a model."""
    if out.is_file():
        raise InputError(f"{option} {str(out)!r} is a file; give a folder")
    for parent in out.absolute().parents:
        kind = _kind_of(parent)
        if kind in _SEALED:
            raise InputError(f"{option} {str(out)!r} lies in {str(parent)!r}, which holds {kind}; choose a folder outside it")


def check_results_folder(out: Location, record: str, writes: Collection[str]) -> None:
    """Check that a command may write the files `writes` to `out`, where it did so before if its `record` is there.

    Raises
    ------
    InputError
        Where `out` is a file, the folder of something else, or holds a file of one of these names that is not the command's own.
    """
    check_placement(out)
    if (kind := _kind_of(out)) is not None:
        raise InputError(f"--out {str(out)!r} holds {kind}; choose another folder")
    taken = sorted(name for name in writes if (out / name).exists())
    if taken and not _is_own(out / record):
        raise InputError(f"--out {str(out)!r} holds {taken[0]!r}, which this command did not write; choose another folder")


def _kind_of(folder: Location) -> str | None:
    return next((kind for kind, names in _MARKS.items() if all((folder / name).is_file() for name in names)), None)


def _is_own(record: Location) -> bool:
    try:
        return {"schema_version", "dataset"} <= read_json(record).keys()
    except InputError:
        return record.is_file()  # damaged: the other files are still those that it stood beside
