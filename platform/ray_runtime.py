"""One way into Ray: quiet, on loopback, with its authentication mode always explicit."""

import logging
import os
from typing import Any


def connect(num_cpus: int | None = None) -> Any:
    """Join the cluster of RAY_ADDRESS or of the submitted job, else start a private one; returns the ray module.

    Does nothing where Ray is already initialised. Token authentication is on unless RAY_AUTH_MODE says otherwise.
    """
    # Before the import: Ray reads these once. Without an explicit mode, clients and clusters disagree about tokens.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray

    if not ray.is_initialized():
        joins = bool(os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))
        private = {} if joins else {"num_cpus": num_cpus, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **private)
    for name in ("ray", "ray.data", "ray.train", "ray.tune", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray
