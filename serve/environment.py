"""What Ray Serve reads from the environment as it starts. No imports, so that it can be set before anything else is."""

import json
import os
from typing import Any

PROXY_LIMITS = "NEURAL_HAMILTON_PROXY_LIMITS"  # see `proxy.ProxyLimits`

SETTINGS = {
    # A proxy that takes longer to start is killed and started again: on a busy machine, for ever.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    # How soon a proxy that was lost is noticed; the default of 10 s leaves connections refused for half a minute.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "neural_hamilton.serve.proxy:middlewares",
    # Ray lowers the priority of what it runs, behind everything else on the machine: right for batch work, not for requests.
    "RAY_worker_niceness": "0",
    # How old what /metrics shows may be; the default is 10 s.
    "RAY_metrics_report_interval_ms": "2000",
}


def prepare_ray_serve(**proxy_limits: Any) -> None:
    """Set what is not set, with the limits of proxies; a cluster that runs already has its own, see the guide to operating an endpoint."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if proxy_limits:
        os.environ.setdefault(PROXY_LIMITS, json.dumps(proxy_limits))
