"""Where batches come from: the same global batches for any number of workers, from memory, from files and without end."""

import dataclasses
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import torch

from neural_hamilton.architectures import Task, build_operator, parse_architecture
from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import DataConfig, load_config
from neural_hamilton.platform.data.datasets import list_files, read_rows, read_split
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.training import batches
from neural_hamilton.platform.training.batches import Batch, Endless, Resident, Streamed, normalisation, open_source, order_of_rows
from neural_hamilton.platform.training.objectives import total_losses
from neural_hamilton.platform.training.process_group import Worker

CPU = torch.device("cpu")
ALONE = Worker(0, 1)
KINDS = {Resident: {}, Streamed: {"training.resident_gib": 5e-6}, Endless: {"training.endless": True}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Orbits with times of their own, in files of 8 rows."""
    folder = tmp_path_factory.mktemp("batches") / "dataset"
    sizes = {"ensemble": "phase-space", "train": 60, "val": 4, "sensors": 12, "times": 9, "shard_rows": 8, "noise": 0.1}
    generate(folder, load_config(None, {f"data.{key}": value for key, value in sizes.items()}).data, local=True)
    return folder


def source_of(kind, dataset, worker=ALONE, **settings):
    data = {"data.sensors": 12, "data.times": 9}
    config = load_config(None, data | KINDS[kind] | {"training.batch_size": 7} | {f"training.{k}": v for k, v in settings.items()})
    source = open_source(config, dataset, CPU, worker)
    assert type(source) is kind
    return source


def rows_of(shares):
    """One number a row that tells rows apart, batch by batch, without what is there at weight zero."""
    return [part.batch.q[:, 4].numpy() for part in shares if part.weight]


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_is_every_row_once_in_an_order_of_its_own(dataset, kind):
    source = source_of(kind, dataset)
    everything = np.sort(read_split(dataset, "train").q[:, 4])
    epochs = [np.concatenate(rows_of(source.epoch(number))) for number in (0, 0, 1)]
    assert source.num_rows == 60
    np.testing.assert_array_equal(np.sort(epochs[0]), everything)
    np.testing.assert_array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], epochs[2])
    if kind is Endless:
        assert not np.intersect1d(epochs[2], everything).size, "no row comes twice"
    else:
        np.testing.assert_array_equal(np.sort(epochs[2]), everything)
        other = np.concatenate(rows_of(source_of(kind, dataset, seed=1).epoch(0)))
        assert not np.array_equal(other, epochs[0])


@pytest.mark.parametrize("kind", [Resident, Streamed])
def test_an_epoch_of_three_passes_is_three_epochs_of_one(dataset, kind):
    """In the same order, but batches go on from one pass to the next."""
    once, thrice = source_of(kind, dataset), source_of(kind, dataset, passes=3)
    assert thrice.num_rows == 180
    apart = [np.concatenate(rows_of(once.epoch(number))) for number in (3, 4, 5)]
    np.testing.assert_array_equal(np.concatenate(rows_of(thrice.epoch(1))), np.concatenate(apart))
    assert [len(part.batch) for part in thrice.epoch(1)] == [7] * 25 + [5]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3])
def test_workers_together_see_the_batches_that_one_sees(dataset, kind, size):
    """Every worker steps equally often, and the mean over workers of weight times mean is the mean of the global batch."""
    whole = list(source_of(kind, dataset).epoch(1))
    parts = [list(source_of(kind, dataset, Worker(rank, size)).epoch(1)) for rank in range(size)]
    for global_batch, *shares in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.sort(np.concatenate(rows_of(shares))), np.sort(global_batch.batch.q[:, 4].numpy()))
        means = [part.weight * part.batch.q.double().mean() for part in shares]
        assert float(sum(means)) / size == pytest.approx(float(global_batch.batch.q.double().mean()))
        assert all(len(part.batch) and part.rows == len(global_batch.batch) for part in shares)


def test_a_worker_without_rows_takes_one_at_weight_zero(dataset):
    last = list(source_of(Resident, dataset, Worker(2, 3), batch_size=29).epoch(0))[-1]  # 60 rows: the last batch has two
    assert len(last.batch) == 1 and last.weight == 0


def test_rows_in_memory_and_from_files_are_the_same(dataset):
    columns = {}
    for kind in (Resident, Streamed):
        batch = Batch.concatenate([part.batch for part in source_of(kind, dataset).epoch(0)])
        order = batch.q[:, 4].argsort()
        columns[kind] = [getattr(batch.take(order), name) for name in ("potential", "times", "q", "p", "initial")]
    assert all(torch.equal(a, b) for a, b in zip(columns[Resident], columns[Streamed], strict=True))


def test_endless_rows_are_those_of_a_larger_dataset(dataset, tmp_path):
    """Noise and all: epoch 1 of 60 rows is rows 60 to 119 of the dataset of 120."""
    values = {"ensemble": "phase-space", "train": 120, "val": 4, "sensors": 12, "times": 9, "noise": 0.1}
    generate(tmp_path / "larger", DataConfig(**values), local=True)
    larger = read_split(tmp_path / "larger", "train")
    batch = Batch.concatenate([part.batch for part in source_of(Endless, dataset).epoch(1)])
    order, truth = batch.q[:, 4].argsort(), np.argsort(larger.q[60:, 4])
    for name in ("potential", "times", "q", "p"):
        np.testing.assert_array_equal(getattr(batch, name)[order].numpy(), getattr(larger, name)[60:][truth])


def test_endless_batches_keep_orbits_of_one_potential_apart(dataset):
    owners = dict(zip(read_split(dataset, "train").q[:, 4].tolist(), np.arange(60) // 4, strict=True))
    for part in source_of(Endless, dataset).epoch(0):
        potentials = [owners[value] for value in part.batch.q[:, 4].tolist()]
        assert len(set(potentials)) == len(potentials) >= 6


def test_streaming_holds_a_window_and_not_the_split(dataset, monkeypatch):
    """At no time are more files being read or kept than two windows hold."""
    reads = []
    monkeypatch.setattr(batches, "read_rows", lambda files: reads.append(len(files)) or read_rows(files))
    shares = source_of(Streamed, dataset).epoch(0)
    next(shares)
    assert sum(reads) <= 3 < len(list_files(dataset, "train"))
    shares.close()
    assert sum(reads) <= 4


@pytest.mark.parametrize("train_rows", [None, 13])
@pytest.mark.parametrize("kind", KINDS)
def test_normalisation_is_that_of_the_rows_trained_on(dataset, kind, train_rows):
    settings = load_config(None, KINDS[kind] | {"training.train_rows": train_rows}).training
    values = read_split(dataset, "train", train_rows).potential.astype(np.float64)
    assert normalisation(dataset, settings) == pytest.approx((values.mean(), values.std(ddof=1)))


def test_damage_met_while_streaming_names_the_file(dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    source = source_of(Streamed, copy)
    victim = list_files(copy, "train")[3].path
    victim.write_bytes(victim.read_bytes()[:-5])
    with pytest.raises(InputError, match=victim.name):
        list(source.epoch(0))


def test_shared_times_are_held_once_and_change_no_answer(tiny_dataset):
    split = read_split(tiny_dataset, "train")
    shared = Batch.from_rows(split)
    assert shared.times.shape == (1, split.times.shape[1])
    assert Batch.concatenate([shared, shared]).times.shape == shared.times.shape
    torch.manual_seed(0)
    model = build_operator(parse_architecture({"name": "deeponet", "width": 16}), Task((20,), ((0.0, 1.0),), 2.0))
    rows = torch.arange(4)
    apart = dataclasses.replace(shared, times=torch.tensor(split.times, dtype=torch.float32))
    losses = [total_losses(model, batch.take(rows)) for batch in (shared, apart)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    mixed = Batch.concatenate([shared, dataclasses.replace(shared, times=shared.times + 1)])
    assert mixed.times.shape == (2 * len(shared), split.times.shape[1])


def test_orders_are_permutations_that_depend_on_seed_and_epoch_alone():
    orders = [order_of_rows(103, seed, epoch) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert sorted(orders[0].tolist()) == list(range(103))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2]) and not torch.equal(orders[0], orders[3])


def test_endless_rows_are_drawn_ahead_across_epochs_and_do_not_depend_on_it(dataset, monkeypatch):
    alone = [rows_of(source_of(Endless, dataset).epoch(number)) for number in range(4)]
    drawn = []
    draw = batches._draw
    source = source_of(Endless, dataset, epochs=3)
    monkeypatch.setattr(batches, "_draw", lambda data, rows: (drawn.append(int(rows[0]) // source.num_rows), draw(data, rows))[1])
    shares = source.epoch(0)
    first = [next(shares)]
    deadline = time.time() + 60
    while set(drawn) != {0, 1, 2}:  # what comes next is under way while an epoch is used; nothing beyond the last one is
        assert set(drawn) < {0, 1, 2} and time.time() < deadline
        time.sleep(0.01)
    rest = list(shares)
    epochs = [rows_of([*first, *rest]), *(rows_of(source.epoch(number)) for number in (1, 2))]
    next(source.epoch(1))  # left early
    epochs += [rows_of(source.epoch(number)) for number in (2, 3)]  # and one more than there are
    for got, number in zip(epochs, (0, 1, 2, 2, 3), strict=True):
        assert len(got) == len(alone[number])
        for one, other in zip(got, alone[number], strict=True):
            np.testing.assert_array_equal(one, other)


def test_processes_draw_the_rows_that_threads_draw():
    """In a script of its own, whose processes end with it."""
    script = """
import torch
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.training.batches import _Draws, _Mixture
from neural_hamilton.platform.training.process_group import Worker

if __name__ == "__main__":
    torch.set_num_threads(2)
    data = load_config(None, {"data.sensors": 12, "data.times": 10}).data
    threads, processes = (list(_Draws(_Mixture(data), 100, 30, Worker(0, 1), own).parts(range(2))) for own in (False, True))
    assert len(threads) == len(processes) == 8
    for one, other in zip(threads, processes):
        assert all(torch.equal(x, y) for x, y in zip(vars(one.batch).values(), vars(other.batch).values()))
    print("same")
"""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".py") as file:
        file.write(script)
        file.flush()
        done = subprocess.run([sys.executable, file.name], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "same\n", done.stderr
