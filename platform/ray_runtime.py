"""One way into Ray: quiet, on loopback, with its authentication mode explicit."""

import logging
import os
import sys
from typing import Any

_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "ray.serve")


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
    """
    choose_authentication()
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads of a worker wait for each other without sleeping, by default for so long that on a busy machine a step takes up to
        # twenty times as long. A wait this short costs 2% on an idle one.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    joins = bool(os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))
    if not joins:
        # Ray's own switch, read as it is imported, for a cluster that nobody outside this machine can reach: its metrics would otherwise
        # listen on a random port of every interface.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if not ray.is_initialized():
        # "local": without it Ray would look for the newest cluster of this machine, even one long dead.
        private = {} if joins else {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **private)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray
