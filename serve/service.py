"""What an endpoint holds while it runs: its models, its queue, its limits and its instruments."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..physics import InputError
from .batching import PredictionQueue
from .catalogue import Catalogue
from .instruments import Instruments

_SHORTEST_KEY = 16


@dataclass(frozen=True)
class Limits:
    """What a request may take, and who may send one.

    Attributes
    ----------
    max_queued_requests
        Requests that wait or are worked on, in this process.
    max_queue_seconds
        Work that waits for this process, at the speed of late.
    request_timeout_seconds
        From the first byte to the response.
    max_body_mb
        Of one request, in MiB, unpacked.
    api_key
        What a request must bring as `Authorization: Bearer KEY`; None: nothing.
    cors_origins
        Pages from these addresses may read responses.
    """

    max_queued_requests: int = 128
    max_queue_seconds: float = 1.5
    request_timeout_seconds: float = 60.0
    max_body_mb: float = 32.0
    api_key: str | None = field(default=None, repr=False)
    cors_origins: tuple[str, ...] = ()

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 2**20)


class Service:
    """One process of an endpoint. `catalogue` may be replaced at any time: requests keep the models that they began with.

    Parameters
    ----------
    catalogue
        The models.
    limits
        See `Limits`.
    instruments
        Where to count; by default nowhere.
    read_metrics
        The text of /metrics; without it there is no such route.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        limits: Limits | None = None,
        instruments: Instruments | None = None,
        read_metrics: Callable[[], str] | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.limits = limits or Limits()
        self.instruments = instruments or Instruments()
        self.read_metrics = read_metrics
        self.queue = PredictionQueue(self.limits.max_queued_requests, self.limits.max_queue_seconds, self.instruments.finish_pass)


def read_api_key(file: str) -> str:
    """The key in a file, without white space around it; InputError where there is none."""
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise InputError(f"api_key_file is {file!r}, which cannot be read: {error}; give a file that holds one key") from None
    if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"api_key_file is {file!r}, which holds no key of at least {_SHORTEST_KEY} printable characters without spaces")
    return key
