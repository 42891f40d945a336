"""Where batches come from: a split held on the device, streamed from its files, or drawn without end.

All three give the same global batches whatever the number of workers; a worker takes its part of each. Shapes: N rows,
S sensors, T query times.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...architectures.selective_scan.threads import num_threads
from ..config import Config, TrainingConfig
from ..config.data import DataConfig
from ..data.datasets import RowFile, TrainingRows, list_files, num_readers, read_rows
from ..data.manifest import read_config, read_manifest
from ..data.schema import tensor_column
from ..data.shards import make_rows, row_values
from ..storage import Location
from .drawing import drawing_processes
from .process_group import Worker

_GIB = 1 << 30
_ROWS_AT_ONCE = 4096  # rows gathered or drawn together, for many batches
_GOLDEN = 0.5 * (math.sqrt(5.0) - 1.0)
_DRAWN_AHEAD = 4  # such groups per thread


@dataclass(frozen=True)
class Batch:
    """Rows as tensors on one device. Shapes: potential (N, S), q, p (N, T), initial (N, 2).

    `times` is (N, T), or (1, T) where all rows share them: networks then compute what depends on times alone once.
    """

    potential: Tensor
    times: Tensor
    q: Tensor
    p: Tensor
    initial: Tensor

    @classmethod
    def from_rows(cls, rows: TrainingRows, device: torch.device | str = "cpu") -> "Batch":
        arrays = (rows.potential, rows.distinct_times, rows.q, rows.p, rows.initial)
        return cls(*(torch.from_numpy(np.array(a, dtype=np.float32)).to(device) for a in arrays))

    def __len__(self) -> int:
        return len(self.potential)

    def take(self, rows: Tensor) -> "Batch":
        times = self.times if len(self.times) == 1 else self.times[rows]
        return Batch(self.potential[rows], times, self.q[rows], self.p[rows], self.initial[rows])

    def split(self, sizes: list[int]) -> "list[Batch]":
        """Consecutive groups of rows of the given sizes, without a copy."""
        times = [self.times] * len(sizes) if len(self.times) == 1 else self.times.split(sizes)
        others = (getattr(self, name).split(sizes) for name in ("potential", "q", "p", "initial"))
        return [Batch(v, t, q, p, i) for t, v, q, p, i in zip(times, *others, strict=True)]

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))

    @staticmethod
    def concatenate(parts: "list[Batch]") -> "Batch":
        """Rows of several, in order; shared times stay shared where all share the same."""
        first = parts[0].times
        shared = all(len(part.times) == 1 and torch.equal(part.times, first) for part in parts)
        times = first if shared else torch.cat([part.times.expand(len(part), -1) for part in parts])
        potential, q, p, initial = (torch.cat([getattr(part, name) for part in parts]) for name in ("potential", "q", "p", "initial"))
        return Batch(potential, times, q, p, initial)


class Part(NamedTuple):
    """A worker's part of a global batch of `rows` rows. The mean over workers of `weight` times the mean of `batch` is the batch's mean.

    All workers step equally often, so one without rows takes the batch's first row at weight zero.
    """

    batch: Batch
    weight: float
    rows: int


class Source(Protocol):
    """Where the batches of an epoch come from."""

    kind: str  # "resident", "streamed" or "endless", for the records
    num_rows: int  # of an epoch

    def epoch(self, number: int) -> Iterator[Part]:
        """The parts of epoch 0, 1, ..., a pure function of the number."""
        ...


def open_source(config: Config, dataset: Location, device: torch.device, worker: Worker) -> Source:
    """The source that `config.training` asks for."""
    settings = config.training
    files = training_files(dataset, settings)
    num_rows = sum(file.rows for file in files)
    if settings.endless:
        mixed = config.mixed_data() if settings.mixed_fraction else None
        return Endless(read_config(read_manifest(dataset)), num_rows, settings, device, worker, mixed)
    if num_rows * row_bytes(config.data) > settings.resident_gib * _GIB:
        return Streamed(files, settings, device, worker, row_bytes(config.data))
    return Resident(Batch.from_rows(read_rows(files), device), settings, worker)


def training_files(dataset: Location, settings: TrainingConfig) -> list[RowFile]:
    """The files with the rows to train on; InputError as `list_files`."""
    return list_files(dataset, "train", settings.train_rows, start=settings.train_start, per_potential=settings.trajectories_per_potential)


def validation_files(dataset: Location, settings: TrainingConfig) -> list[RowFile]:
    """The files with the rows that choose among epochs; InputError as `list_files`."""
    return list_files(dataset, "val", settings.val_rows, start=settings.val_start)


def rows_of(config: Config) -> int:
    """How many rows of the training split a run of a resolved configuration trains on."""
    settings, data = config.training, config.data
    if settings.train_rows is not None:
        return settings.train_rows
    if settings.trajectories_per_potential is None:
        return data.train - settings.train_start
    orbits = data.distribution.orbits_per_hamiltonian
    return settings.trajectories_per_potential * (data.train // orbits - settings.train_start // orbits)


def row_bytes(data: DataConfig) -> int:
    """Memory of one row of a batch."""
    return 4 * (row_values(data) + 2 * data.get_system().degrees_of_freedom)


def _passes(settings: TrainingConfig, epoch: int) -> range:
    """The passes over the rows that make an epoch, numbered from the start of the run."""
    return range(epoch * settings.passes, (epoch + 1) * settings.passes)


def order_of_rows(num_rows: int, seed: int, epoch: int) -> Tensor:
    """A permutation that depends on (seed, epoch) alone."""
    return torch.from_numpy(np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_rows))


class Resident:
    """A split that lives on the device. An epoch is `training.passes` permutations of it, one after another, cut into batches there:
    a step copies nothing to a GPU.
    """

    kind = "resident"

    def __init__(self, rows: Batch, settings: TrainingConfig, worker: Worker) -> None:
        self.num_rows = settings.passes * len(rows)
        self._rows, self._settings, self._worker = rows, settings, worker

    def epoch(self, number: int) -> Iterator[Part]:
        orders = [order_of_rows(len(self._rows), self._settings.seed, each) for each in _passes(self._settings, number)]
        order = torch.cat(orders).to(self._rows.potential.device)
        for batches in _groups(order.split(self._settings.batch_size)):
            group = _Group(batches, self._worker)
            yield from group.parts(self._rows.take(group.rows))


class Streamed:
    """A split read from its files every epoch, a window of rows at a time, the next one, also of the next epoch, while the last is in use.

    The order of files and the order of rows within a window are permutations seeded by the epoch, so a row meets others of its
    window, not of the whole split. Memory is three windows of an eighth of `resident_gib` each.
    """

    kind = "streamed"

    def __init__(self, files: list[RowFile], settings: TrainingConfig, device: torch.device, worker: Worker, bytes_per_row: int) -> None:
        self.num_rows = settings.passes * sum(file.rows for file in files)
        self._settings, self._device, self._worker = settings, device, worker
        window_rows = max(settings.batch_size, int(settings.resident_gib * _GIB / 8 / bytes_per_row))
        self._windows = _Windows(files, window_rows, settings)
        self._stream, self._next_epoch = iter(list[Batch]()), -1

    def epoch(self, number: int) -> Iterator[Part]:
        if number != self._next_epoch:
            self._stream = self._windows.read(range(number, max(number + 1, self._settings.epochs)))
        self._next_epoch = -1
        rest: Batch | None = None
        windows = self._windows.of_epoch(number)
        for position, window in enumerate(itertools.islice(self._stream, len(windows))):
            rows = window.take(order_of_rows(len(window), self._settings.seed, windows[position][0]))
            rows = rows if rest is None else Batch.concatenate([rest, rows])
            whole = len(rows) if position == len(windows) - 1 else len(rows) // self._settings.batch_size * self._settings.batch_size
            for batches in _groups(torch.arange(whole).split(self._settings.batch_size)) if whole else ():
                group = _Group(batches, self._worker)
                yield from group.parts(rows.take(group.rows).to(self._device))
            rest = rows.take(torch.arange(whole, len(rows))) if whole < len(rows) else None
        self._next_epoch = number + 1 if number + 1 < self._settings.epochs else -1


class _Windows(NamedTuple):
    """Which files a `Streamed` reads together. It does not refer back to it, so dropping a `Streamed` ends its thread at once."""

    files: list[RowFile]
    rows: int
    settings: TrainingConfig

    def read(self, epochs: range) -> Iterator[Batch]:
        """The windows of some epochs, in turn."""
        windows = (files for epoch in epochs for _, files in self.of_epoch(epoch))
        return _ahead((lambda files=files: Batch.from_rows(read_rows(files)) for files in windows), ThreadPoolExecutor(1), ahead=1)

    def of_epoch(self, number: int) -> list[tuple[int, list[RowFile]]]:
        """The windows of an epoch, each with its own number among those of all epochs."""
        return [window for each in _passes(self.settings, number) for window in self._of_pass(each)]

    def _of_pass(self, number: int) -> list[tuple[int, list[RowFile]]]:
        """The files in the order of a pass, grouped so that a group's rows fill a window, or one file does."""
        windows: list[list[RowFile]] = [[]]
        for index in order_of_rows(len(self.files), self.settings.seed, number).tolist():
            file = self.files[index]
            if windows[-1] and sum(f.rows for f in windows[-1]) + file.rows > self.rows:
                windows.append([])
            windows[-1].append(file)
        return [(number * len(windows) + position, files) for position, files in enumerate(windows)]


class Endless:
    """The training split without an end: epoch e trains on rows [e N, (e + 1) N) of it, drawn and certified as they are needed.

    A row is a pure function of the seed and its index, so the first epoch is the dataset's own split and no row comes twice. A
    batch takes every n-th row of the epoch, n the number of batches, which keeps orbits of one potential apart. Rows are drawn
    ahead across the ends of epochs, up to that of the last one: by threads, or for a GPU by processes, as threads would keep
    the interpreter from the steps.

    Of these rows `settings.mixed_fraction` are those of `mixed` instead, the same ones always.
    """

    kind = "endless"

    def __init__(
        self,
        data: DataConfig,
        num_rows: int,
        settings: TrainingConfig,
        device: torch.device,
        worker: Worker,
        mixed: DataConfig | None = None,
    ) -> None:
        self.num_rows = num_rows
        self._settings, self._device = settings, device
        mixture = _Mixture(data, mixed, settings.mixed_fraction)
        self._draws = _Draws(mixture, num_rows, settings.batch_size, worker, in_processes=device.type == "cuda")
        self._stream, self._next_epoch = iter(list[Part]()), -1

    def epoch(self, number: int) -> Iterator[Part]:
        if number != self._next_epoch or number >= self._settings.epochs:  # else it is under way already
            self._stream = self._draws.parts(range(number, max(number + 1, self._settings.epochs)))
        self._next_epoch = -1
        for part in itertools.islice(self._stream, self._draws.num_batches):
            yield part._replace(batch=part.batch.to(self._device))
        self._next_epoch = number + 1


class _Draws:
    """The work of an `Endless`. It does not refer back to it, so dropping an `Endless` ends its threads at once."""

    def __init__(self, data: "_Mixture", num_rows: int, batch_size: int, worker: Worker, in_processes: bool) -> None:
        self.num_batches = -(-num_rows // batch_size)
        self._data, self._num_rows, self._worker, self._in_processes = data, num_rows, worker, in_processes

    def parts(self, epochs: range) -> Iterator[Part]:
        """The worker's parts of all batches of some epochs, drawn ahead."""
        batches = [torch.arange(first, self._num_rows, self.num_batches) for first in range(self.num_batches)]
        groups = [_Group(batches, self._worker) for batches in _groups(batches)]
        work = (functools.partial(_draw, self._data, (epoch * self._num_rows + group.rows).numpy()) for epoch in epochs for group in groups)
        threads = num_threads()
        pool = drawing_processes(max(1, threads // 2)) if self._in_processes else ThreadPoolExecutor(threads)
        drawn = _ahead(work, pool, _DRAWN_AHEAD * threads)
        for group, arrays in zip(itertools.cycle(groups), drawn, strict=False):
            yield from group.parts(Batch(*map(torch.from_numpy, arrays)))


class _Mixture(NamedTuple):
    """Rows of `data`, but for a fraction of them, which are rows of `mixed`."""

    data: DataConfig
    mixed: DataConfig | None = None
    fraction: float = 0.0

    def parts(self, indices: np.ndarray) -> Iterator[tuple[DataConfig, np.ndarray]]:
        """Which of the indices, as their places, are drawn from what."""
        if self.mixed is None:
            yield self.data, np.arange(indices.size)
            return
        # Multiples of the golden ratio, which are spread evenly over any stretch of rows and any batch.
        is_mixed = indices * _GOLDEN % 1.0 < self.fraction
        for data, chosen in ((self.data, ~is_mixed), (self.mixed, is_mixed)):
            if chosen.any():
                yield data, np.flatnonzero(chosen)


def _draw(mixture: _Mixture, indices: np.ndarray) -> list[np.ndarray]:
    """Rows of the training split in the order of `indices`, as the arrays of a `Batch`."""
    unique, place = np.unique(indices, return_inverse=True)
    batches, places = list[Batch](), list[np.ndarray]()
    for data, chosen in mixture.parts(unique):
        table, _ = make_rows(data, "train", unique[chosen])
        batches.append(Batch.from_rows(TrainingRows.from_table(table, data.get_system())))
        places.append(chosen)
    order = np.argsort(np.concatenate(places))
    rows = Batch.concatenate(batches).take(torch.from_numpy(order[place]))
    return [tensor.numpy() for tensor in vars(rows).values()]


def _groups(batches: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Groups of batches of some thousand rows together: one gather for a group costs as much as one for each batch would."""
    size = max(1, _ROWS_AT_ONCE // len(batches[0]))
    for start in range(0, len(batches), size):
        yield batches[start : start + size]


class _Group:
    """A worker's parts of some global batches, given as the numbers of their rows; `rows` are those that it needs, in order."""

    def __init__(self, batches: Sequence[Tensor], worker: Worker) -> None:
        own = [worker.part_of(batch) for batch in batches]
        taken = [mine if len(mine) else batch[:1] for mine, batch in zip(own, batches, strict=True)]
        self.rows = torch.cat(taken)
        self._sizes = [len(rows) for rows in taken]
        self._shares = [(worker.size * len(mine) / len(batch), len(batch)) for mine, batch in zip(own, batches, strict=True)]

    def parts(self, rows: Batch) -> Iterator[Part]:
        """Of the contents of its rows."""
        for batch, (weight, number) in zip(rows.split(self._sizes), self._shares, strict=True):
            yield Part(batch, weight, number)


_T = TypeVar("_T")


def _ahead(work: Iterable[Callable[[], _T]], pool: Executor, ahead: int) -> Iterator[_T]:
    """The results in order, computed up to `ahead` tasks in advance. When the reader stops, pending tasks are cancelled.

    A pool of threads ends with its reader, who waits for the tasks that are under way; processes stay for others.
    """
    waiting: list[Future[_T]] = []
    pending = iter(work)
    try:
        for task in itertools.islice(pending, ahead):
            waiting.append(pool.submit(task))
        while waiting:
            result = waiting.pop(0).result()
            waiting.extend(pool.submit(task) for task in itertools.islice(pending, 1))
            yield result
    finally:
        for future in waiting:
            future.cancel()
        if isinstance(pool, ThreadPoolExecutor):
            pool.shutdown()


def normalisation(dataset: Location, settings: TrainingConfig) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of the fields (C,), over the sensors and rows of the training split."""
    fields = read_config(read_manifest(dataset)).get_system().fields
    counts, totals, squares = (np.zeros(sum(fields.values())) for _ in range(3))
    files = training_files(dataset, settings)
    reads = (functools.partial(file.read, list(fields)) for file in files)
    for table in _ahead(reads, ThreadPoolExecutor(num_readers(files)), ahead=num_readers(files)):
        for channel, values in enumerate(_channels(table, fields)):
            counts[channel] += values.size
            totals[channel] += values.sum()
            squares[channel] += np.square(values).sum()
    means = totals / counts
    variances = np.maximum(squares / counts - means**2, 0.0) * counts / np.maximum(counts - 1, 1)
    return torch.from_numpy(means), torch.from_numpy(np.sqrt(variances))


def _channels(table: pa.Table, fields: Mapping[str, int]) -> Iterator[np.ndarray]:
    """The values of each channel of the fields in turn, all rows and sensors."""
    for name, count in fields.items():
        values = tensor_column(table, name).astype(np.float64)
        yield from values.swapaxes(0, 1) if count > 1 else [values]
