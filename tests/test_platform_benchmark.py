"""The benchmark: its problems are those of the hashes, and evaluation recognises them and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.config.load import load_data_config
from neural_hamilton.platform.data.datasets import read_split
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.evaluation.benchmark import TASKS, find_task, problems_hash


@pytest.fixture(scope="module")
def surface_8(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "surface-8"
    generate(folder, load_data_config("benchmark-surface-8", {"data.train": 0, "data.val": 0}), local=True)
    return folder


def test_a_task_is_made_again(surface_8):
    assert find_task(read_split(surface_8, "test")) == "benchmark-surface-8"


def test_part_of_a_task_is_none(surface_8):
    assert find_task(read_split(surface_8, "test", 1999)) is None


def test_the_last_digits_of_another_cpu_do_not_matter(surface_8):
    split = read_split(surface_8, "test")

    def nudged(name, by):
        values = getattr(split, name)
        return {name: (values.astype(np.float64) + by).astype(values.dtype)}

    elsewhere = replace(split, **nudged("potential", 1e-16), **nudged("times", 1e-16), **nudged("initial", -1e-16), **nudged("q", 1e-9))
    assert problems_hash(elsewhere) == problems_hash(split)
    assert find_task(replace(split, **nudged("initial", 1e-4))) is None


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_configuration(task):
    config = load_config(task).data
    assert task == f"benchmark-{config.system}-{config.sensors}"
    assert (config.test, config.seed, config.noise) == (2000, 0, 0.0)
