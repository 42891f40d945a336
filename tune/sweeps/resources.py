"""How many trials run at once, and what each worker of a trial gets: from the cluster, unless the configuration says otherwise."""

from dataclasses import dataclass
from typing import Any

from ...physics import InputError
from ...platform.config import SweepConfig


@dataclass(frozen=True)
class Share:
    """`concurrent` trials at once, of `workers` workers with `cpus` and `gpus` each."""

    concurrent: int
    workers: int
    cpus: int
    gpus: float

    @property
    def of_worker(self) -> dict[str, float]:
        """The resources of a worker, as Ray takes them."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


def share_cluster(nodes: list[dict[str, float]], settings: SweepConfig, num_trials: int) -> Share:
    """Divide a cluster, of which each node has "CPU" and "GPU", among `num_trials` trials.

    As many trials run at once as there is room for, up to `sweep.max_concurrent`, and their workers share the CPUs equally, each on
    one node. A worker has a GPU where the cluster has any; a fraction of one where `sweep.max_concurrent` asks for more trials at once.

    Raises
    ------
    InputError
        Where not even one trial fits, or fewer at once than `sweep.max_concurrent`, with the numbers.
    """
    gpus = _gpus_of_worker(nodes, settings)
    most = _places(nodes, settings.cpus_per_worker or 1, gpus) // settings.workers
    wanted = settings.max_concurrent or most
    if most < max(wanted, 1):
        raise InputError(_refusal(nodes, settings, gpus, most))
    concurrent = min(wanted, num_trials)
    cpus = settings.cpus_per_worker or _most_cpus(nodes, gpus, concurrent * settings.workers)
    return Share(concurrent, settings.workers, cpus, gpus)


def cluster_nodes(ray: Any) -> list[dict[str, float]]:
    """The resources of each living node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _gpus_of_worker(nodes: list[dict[str, float]], settings: SweepConfig) -> float:
    given = settings.gpus_per_worker
    if given is not None:
        if given > 1 and given != int(given):
            raise InputError(f"sweep.gpus_per_worker is {given}; give a whole number, or a fraction below 1")
        if 0 < given < 1 and settings.workers > 1:
            raise InputError(
                f"sweep.gpus_per_worker is {given} and sweep.workers is {settings.workers}; "
                "workers of one trial cannot share a GPU: make gpus_per_worker 1"
            )
        return given
    available = int(sum(node.get("GPU", 0) for node in nodes))
    if not available:
        return 0.0
    at_once = settings.max_concurrent or 1
    if settings.workers == 1 and at_once > available:
        return 1 / -(-at_once // available)
    return 1.0


def _places(nodes: list[dict[str, float]], cpus: int, gpus: float) -> int:
    """Workers that fit on the nodes together."""
    return sum(min(int(node.get("CPU", 0) // cpus), _gpu_places(node.get("GPU", 0), gpus)) for node in nodes)


def _gpu_places(available: float, gpus: float) -> int:
    if not gpus:
        return 2**31
    return int(available // gpus) if gpus >= 1 else int(available) * int(1 / gpus + 1e-9)  # a fraction lies on one GPU


def _most_cpus(nodes: list[dict[str, float]], gpus: float, workers: int) -> int:
    largest = max(int(node.get("CPU", 0)) for node in nodes)
    return max(cpus for cpus in range(1, largest + 1) if _places(nodes, cpus, gpus) >= workers)


def _refusal(nodes: list[dict[str, float]], settings: SweepConfig, gpus: float, most: int) -> str:
    cpus = settings.cpus_per_worker or 1
    has = "; ".join(f"{int(node.get('CPU', 0))} CPUs, {int(node.get('GPU', 0))} GPUs" for node in nodes)
    one = f"{settings.workers} worker{'s' * (settings.workers > 1)} of {cpus} CPU{'s' * (cpus > 1)} and {gpus:g} GPUs"
    wanted = settings.max_concurrent
    ask = f"sweep.max_concurrent is {wanted}, with a trial of {one}" if wanted else f"a trial needs {one}"
    return (
        f"{ask}; the nodes of this cluster have {has}, room for {most} at once: lower sweep.max_concurrent, sweep.workers, "
        "sweep.cpus_per_worker or sweep.gpus_per_worker"
    )
