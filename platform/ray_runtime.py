"""One way into Ray: quiet, on loopback, with its authentication mode explicit."""

import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..physics import InputError
from .cluster.joining import check_cluster, cluster_address

_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "ray.serve")
_ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}


def choose_authentication() -> None:
    """Turn token authentication on unless RAY_AUTH_MODE says otherwise.

    Ray reads the mode when it is first imported; set later, its clients and its servers would disagree,
    so a program that imported Ray before calling this keeps Ray's own default.
    """
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def connect(num_cpus: int | None = None) -> Any:
    """Join the cluster of RAY_ADDRESS or of the submitted job, else start a private one; returns the ray module.

    Does nothing where Ray is already initialised.

    Raises
    ------
    InputError
        Where the cluster cannot be joined (see `check_cluster`), or the folder for temporary files does not suit a private one.
    """
    choose_authentication()
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads of a worker wait for each other without sleeping, by default for so long that on a busy machine a step takes up to
        # twenty times as long. A wait this short costs 2% on an idle one.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    address = cluster_address()
    with _private() if address is None else contextlib.nullcontext():
        import ray

        if not ray.is_initialized():
            if address is None:
                _start(ray, num_cpus)
            else:
                check_cluster(address)
                ray.init(address=address, **_QUIET)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray


@contextlib.contextmanager
def _private() -> Iterator[None]:
    """Inside, Ray starts a cluster that nobody outside this machine can reach: its metrics would otherwise listen on every interface.

    The switch is Ray's own. It is read as Ray is imported, and no `ray start` of this process may find it later.
    """
    given = os.environ.get(_ONE_MACHINE)
    os.environ[_ONE_MACHINE] = given or "0"
    try:
        yield
    finally:
        if given is None:
            del os.environ[_ONE_MACHINE]


def _start(ray: Any, num_cpus: int | None) -> None:
    """A private Ray. "local": without it Ray would look for the newest cluster of this machine, even one long dead."""
    _provide_token()
    try:
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **_QUIET)
    except ray.exceptions.AuthenticationError:
        path = os.environ.get("RAY_AUTH_TOKEN_PATH")
        raise InputError(f"RAY_AUTH_TOKEN_PATH is {path!r}; it must be a readable file that holds Ray's token, or unset") from None
    except OSError as error:
        if "AF_UNIX path length" not in str(error):
            raise
        from ray._common.utils import get_default_ray_temp_dir

        raise InputError(
            f"Ray's temporary folder is {get_default_ray_temp_dir()!r}, below which the paths of its sockets are longer than the system "
            "allows (107 bytes); set RAY_TMPDIR to a shorter folder of this machine"
        ) from None


def _provide_token() -> None:
    """A token for this process and its children, where Ray would make one and could not keep it, as in a container without a home."""
    folder = Path(os.path.expanduser("~")) / ".ray"
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or (folder / "auth_token").exists()
    if os.environ.get("RAY_AUTH_MODE") != "token" or given:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
