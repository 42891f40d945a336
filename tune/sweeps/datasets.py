"""The datasets of a sweep that varies what a network sees of a problem: the same problems through other sensors, or with other noise."""

import itertools
from collections.abc import Mapping
from typing import Any

from ...platform.config import Config
from ...platform.data.generation import generate
from ...platform.data.manifest import MANIFEST_FILE
from ...platform.storage import Location
from .search_spaces import Choices, Space

DATASETS_FOLDER = "datasets"


def dataset_of(parameters: Mapping[str, Any], config: Config, dataset: Location, out: Location) -> Location:
    """The dataset that a trial with these parameters trains on."""
    varied = _of_data(parameters)
    values = config.data.model_dump(mode="json")
    if all(values[key.removeprefix("data.")] == value for key, value in varied.items()):
        return dataset
    return out / DATASETS_FOLDER / ",".join(f"{key.removeprefix('data.')}={value}" for key, value in sorted(varied.items()))


def generate_datasets(config: Config, dataset: Location, out: Location, space: Space) -> None:
    """Generate what is missing of the datasets that the space can ask for. Rows are as many, of the same seed."""
    keys = {key: domain.values for key, domain in space.items() if key.startswith("data.") and isinstance(domain, Choices)}
    for values in itertools.product(*keys.values()):
        parameters = dict(zip(keys, values, strict=True))
        folder = dataset_of(parameters, config, dataset, out)
        if not (folder / MANIFEST_FILE).exists():
            generate(folder, config.override(parameters).data)


def _of_data(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if key.startswith("data.")}
