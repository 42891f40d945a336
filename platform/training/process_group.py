"""This process within the group that trains together; a group of one where there is no process group."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor
from torch import distributed as dist

from ...physics import InputError
from ...physics.errors import StorageUnavailable, is_full_disk

_T = TypeVar("_T")


@dataclass(frozen=True)
class Worker:
    rank: int
    size: int

    @classmethod
    def current(cls) -> "Worker":
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls(0, 1)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over workers, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def part_of(self, rows: Tensor) -> Tensor:
        """This worker's part of a global batch."""
        return rows[self.rank :: self.size]

    def first_writes(self, write: Callable[[], _T]) -> _T | None:
        """What `write` returns, on the first worker; the others wait for it, and get None.

        Raises
        ------
        InputError, StorageUnavailable
            On all of them, where the first cannot write.
        """
        failure: list[Any] = [None, False]  # a sentence, and whether it is of the storage alone
        result = None
        if self.rank == 0:
            try:
                result = write()
            except (InputError, StorageUnavailable) as error:
                failure = [str(error), isinstance(error, StorageUnavailable)]
            except OSError as error:
                sentence = f"the run folder cannot be written: {error.strerror}; it keeps the last whole epoch for --resume"
                failure = [sentence, is_full_disk(error)]
        if self.size > 1:
            dist.broadcast_object_list(failure, src=0)
        if failure[0] is not None:
            raise (StorageUnavailable if failure[1] else InputError)(failure[0])
        return result
