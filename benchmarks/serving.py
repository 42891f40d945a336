"""The endpoint under load: latency, throughput, overload and lost processes, with the bare network beside it in the same run.

It starts `neural-hamilton serve mambonet` as a user would, with one replica on one core, and loads it from this process on another.
"""

import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import psutil
import pyarrow as pa
import torch

import neural_hamilton as nh
from neural_hamilton.architectures import load_model
from neural_hamilton.physics.systems import draw_rows, get_system
from neural_hamilton.serve.arrow_stream import MEDIA_TYPE
from neural_hamilton.serve.shipped import SHIPPED_MODELS

from .timing import compare

_MODEL = "mambonet"
_NUM_ROWS = 1024
_CLIENT_MODEL = "orbitnet"
_CLIENT_ROWS = 100_000
_MOST_TIMES = 10_000
_ROUNDS = 5
_SECONDS_A_LEVEL = 8.0
_OVERLOAD = 10  # times what can be done
_OVERLOAD_SECONDS = 60.0
_TRAJECTORIES_UNDER_OVERLOAD = 16  # a request; refusing many small ones would measure this process


def measure() -> dict[str, Any]:
    """Every part in turn, on one endpoint."""
    potentials = _potentials()
    torch.set_num_threads(1)
    with _served() as endpoint:
        result = {
            "what": f"`neural-hamilton serve {_MODEL}`: one replica on one core, the load from another process",
            "seconds_to_first_prediction": endpoint.seconds_to_first_prediction,
            "megabytes": endpoint.megabytes(),
        }
        single = _latency(endpoint, potentials)
        batch = _batches(endpoint, potentials)
        result |= {"comparisons": [batch["comparison"]], "one_trajectory": single, "arrow_batch": batch}
        result["clients"] = asyncio.run(_levels(endpoint, potentials))
        result["overload"] = asyncio.run(_overload(endpoint, potentials))
        result["lost_replica"] = asyncio.run(_lose(endpoint, potentials, "ServeReplica"))
        result["lost_proxy"] = asyncio.run(_lose(endpoint, potentials, "ProxyActor"))
        result["megabytes_afterwards"] = endpoint.megabytes()
    with _served("serving.num_replicas=2") as endpoint:
        result["lost_replica_of_two"] = asyncio.run(_lose(endpoint, potentials, "ServeReplica"))
    return result


def measure_client() -> dict[str, Any]:
    """100,000 potentials in one call of the client, and the memory of both sides on the way."""
    some = _potentials()
    with _served(model=_CLIENT_MODEL) as endpoint:
        client, own = nh.connect(endpoint.url), psutil.Process()
        begun, memory = time.perf_counter(), []
        problems = (some[index % len(some)] for index in range(_CLIENT_ROWS))
        for count, orbit in enumerate(client.stream(problems, verify="none"), start=1):
            assert len(orbit) == 100
            if count % (_CLIENT_ROWS // 10) == 0:
                memory.append({"rows": count, "client": own.memory_info().rss >> 20, "endpoint": endpoint.megabytes()["all"]})
        seconds = time.perf_counter() - begun
        large = asyncio.run(_large_requests(endpoint, some))
    return {
        "what": f"{_CLIENT_ROWS:,} potentials in one call of nh.connect(...).stream, `neural-hamilton serve {_CLIENT_MODEL}`",
        "comparisons": [],
        "rows": _CLIENT_ROWS,
        "seconds": seconds,
        "megabytes": memory,
        "large_requests": large,
    }


async def _large_requests(endpoint: "_Endpoint", potentials: np.ndarray) -> dict[str, Any]:
    """Eight requests of the largest size at once: memory before, at most and afterwards, and how long small ones beside them take."""
    times = np.linspace(0.0, 2.0, _MOST_TIMES).tolist()
    large = json.dumps({"trajectories": [{"potential": values.tolist(), "times": times} for values in potentials[:100]]}).encode()
    small = _json_body(potentials[:1])
    peak, beside, statuses = endpoint.megabytes(), [], Counter[str]()
    before = dict(peak)

    async def send(session: aiohttp.ClientSession) -> None:
        for _ in range(60):
            status, _content = await _post(session, endpoint, large)
            statuses[str(status)] += 1
            if status == 200:
                return
            await asyncio.sleep(1.0)

    async with _session() as session:
        pending = [asyncio.create_task(send(session)) for _ in range(8)]
        while not all(task.done() for task in pending):
            begun = time.perf_counter()
            status, _content = await _post(session, endpoint, small)
            if status == 200:
                beside.append(time.perf_counter() - begun)
            for name, size in endpoint.megabytes().items():
                peak[name] = max(peak.get(name, 0), size)
            await asyncio.sleep(0.1)
        await asyncio.gather(*pending)
    await asyncio.sleep(5.0)
    after = endpoint.megabytes()
    names = ("ServeReplica", "ProxyActor")
    return {
        "statuses": dict(statuses),
        "megabytes_before_peak_after": {name: [sizes[name] for sizes in (before, peak, after)] for name in names},
        "small_beside_p50_ms": round(1e3 * float(np.median(beside)), 1),
        "small_beside_max_ms": round(1e3 * max(beside), 1),
    }


@dataclass
class _Endpoint:
    url: str
    process: psutil.Process
    seconds_to_first_prediction: float = float("nan")

    def processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def find(self, title: str) -> psutil.Process | None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if title in " ".join(process.cmdline()):
                    return process
        return None

    def megabytes(self) -> dict[str, int]:
        """Resident memory by kind of process; pages that several share are counted for each."""
        sizes: Counter[str] = Counter()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                title = (process.cmdline() or [process.name()])[0]
                name = title.split("::")[1].split(":")[0].split(".")[0] if "::" in title else os.path.basename(title)
                sizes[name] += process.memory_info().rss
        return {name: round(size / 2**20) for name, size in sizes.most_common()} | {"all": round(sum(sizes.values()) / 2**20)}


@contextlib.contextmanager
def _served(*settings: str, model: str = _MODEL) -> Iterator[_Endpoint]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "neural_hamilton.platform", "serve", model, "--port", str(port)]
    command += [word for setting in settings for word in ("--set", setting)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | {"RAY_AUTH_MODE": "disabled"})
    endpoint = _Endpoint(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
    try:
        body = {"trajectories": [{"expression": "8*(q-0.5)**2"}]}
        asyncio.run(_until_served(endpoint, body, process))
        endpoint.seconds_to_first_prediction = time.perf_counter() - begun
        yield endpoint
    finally:
        process.terminate()
        process.wait(timeout=60)


async def _until_served(endpoint: _Endpoint, body: Any, process: "subprocess.Popen[bytes]") -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            if process.poll() is not None:
                assert process.stderr is not None
                raise RuntimeError(f"the endpoint ended: {process.stderr.read().decode()[-2000:]}")
            with contextlib.suppress(aiohttp.ClientError):
                async with session.post(f"{endpoint.url}/v1/trajectories", json=body) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)


def _potentials() -> np.ndarray:
    """V at the sensors of unseen potentials, (N, S)."""
    well = get_system("well")
    rows, _ = draw_rows(well, well.get_ensemble("paper")(), 0, "test", np.arange(_NUM_ROWS))
    return rows.hamiltonians.sense((100,))["potential"]


def _latency(endpoint: _Endpoint, potentials: np.ndarray) -> dict[str, float]:
    """Milliseconds of one trajectory, by JSON and by the network alone, in turns."""
    forward = _forward(potentials[:1])
    body = _json_body(potentials[:1])

    async def run() -> tuple[list[float], list[float]]:
        ours, theirs = [], []
        async with aiohttp.ClientSession() as session:
            for turn in range(220):
                begun = time.perf_counter()
                status, _ = await _post(session, endpoint, body)
                middle = time.perf_counter()
                assert status == 200
                forward()
                if turn >= 20:
                    ours.append(middle - begun)
                    theirs.append(time.perf_counter() - middle)
        return ours, theirs

    ours, theirs = asyncio.run(run())
    http, bare = (1e3 * statistics.median(seconds) for seconds in (ours, theirs))
    return {"json_ms": http, "network_ms": bare, "above_the_network_ms": http - bare}


def _batches(endpoint: _Endpoint, potentials: np.ndarray) -> dict[str, Any]:
    """A batch by Arrow against the network on the same rows, one core each, in turns."""
    forward = _forward(potentials)
    table = pa.table({"potential": list(potentials)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body = sink.getvalue().to_pybytes()

    async def run() -> dict[str, list[float]]:
        seconds: dict[str, list[float]] = {"Arrow": [], "network": []}
        async with aiohttp.ClientSession() as session:
            for turn in range(_ROUNDS + 1):
                begun = time.perf_counter()
                status, content = await _post(session, endpoint, body, MEDIA_TYPE)
                middle = time.perf_counter()
                assert status == 200
                forward()
                if turn:
                    seconds["Arrow"].append(middle - begun)
                    seconds["network"].append(time.perf_counter() - middle)
        assert pa.ipc.open_stream(content).read_all().num_rows == _NUM_ROWS
        return seconds

    comparison = compare(asyncio.run(run()), "Arrow", "network")
    return {"rows": _NUM_ROWS, "part_of_the_networks_throughput": comparison["speedup"], "comparison": comparison}


def _forward(potentials: np.ndarray) -> Callable[[], None]:
    """The bare network, in passes of 50 rows, on one thread."""
    network = load_model(SHIPPED_MODELS / _MODEL)
    fields = torch.as_tensor(potentials, dtype=network.dtype)
    times = torch.linspace(0.0, 2.0, 100, dtype=network.dtype).repeat(len(fields), 1)
    initial = torch.zeros(len(fields), 2, dtype=network.dtype)

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, len(fields), 50):
                part = slice(start, start + 50)
                network(fields[part], times[part], initial[part])

    return run


@dataclass
class _Tally:
    """What came back: statuses, seconds of the successes, and successes whose content was wrong."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    last_success: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        spread = {}
        if self.seconds:
            spread = {f"p{p}_ms": round(1e3 * float(np.percentile(self.seconds, p)), 1) for p in (50, 99)}
        return {"statuses": dict(self.statuses), "wrong": self.wrong, **spread}


class _Load:
    """Requests with different potentials, each checked against what came back for it while nothing else was asked."""

    def __init__(self, endpoint: _Endpoint, potentials: np.ndarray, each: int) -> None:
        self._endpoint = endpoint
        self._bodies = [_json_body(potentials[start : start + each]) for start in range(0, 8 * each, each)]
        self._expected: list[Any] = []
        self._turn = 0

    async def prepare(self, session: aiohttp.ClientSession) -> None:
        for body in self._bodies:
            status, content = await _post(session, self._endpoint, body)
            assert status == 200
            self._expected.append(json.loads(content)["trajectories"])

    async def send(self, session: aiohttp.ClientSession, tally: _Tally) -> None:
        self._turn += 1
        which = self._turn % len(self._bodies)
        begun = time.perf_counter()
        try:
            status, content = await _post(session, self._endpoint, self._bodies[which])
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            tally.statuses[type(error).__name__] += 1
            return
        tally.statuses[str(status)] += 1
        if status == 200:
            tally.last_success = time.perf_counter()
            tally.seconds.append(tally.last_success - begun)
            tally.wrong += json.loads(content)["trajectories"] != self._expected[which]


async def _levels(endpoint: _Endpoint, potentials: np.ndarray) -> dict[str, Any]:
    """Clients that ask for one trajectory after the other: throughput and latency at 1, 8 and 64 of them."""
    load = _Load(endpoint, potentials, 1)
    levels: dict[str, Any] = {}
    async with _session() as session:
        await load.prepare(session)
        for clients in (1, 8, 64):
            tally = _Tally()
            deadline = time.perf_counter() + _SECONDS_A_LEVEL

            async def client(tally: _Tally = tally, deadline: float = deadline) -> None:
                while time.perf_counter() < deadline:
                    await load.send(session, tally)

            await asyncio.gather(*(client() for _ in range(clients)))
            levels[str(clients)] = {"per_second": round(tally.statuses["200"] / _SECONDS_A_LEVEL, 1), **tally.as_dict()}
    return levels


async def _overload(endpoint: _Endpoint, potentials: np.ndarray) -> dict[str, Any]:
    """Requests at a fixed rate, far above what can be done; probes meanwhile; and how soon all is well afterwards."""
    load = _Load(endpoint, potentials, _TRAJECTORIES_UNDER_OVERLOAD)
    async with _session() as session:
        await load.prepare(session)
        capacity = await _capacity(load, session)
        before, tally, probes = endpoint.megabytes()["all"], _Tally(), _Tally()
        peak, tasks = before, set()
        probing = asyncio.create_task(_probe(endpoint, probes))
        begun, sent = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - begun) < _OVERLOAD_SECONDS:
            while sent < elapsed * _OVERLOAD * capacity:
                sent += 1
                task = asyncio.create_task(load.send(session, tally))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            if sent % 500 < 20:
                peak = max(peak, endpoint.megabytes()["all"])
            await asyncio.sleep(0.01)
        goodput = tally.statuses["200"] / _OVERLOAD_SECONDS
        probing.cancel()
        ended = time.perf_counter()
        recovery = await _until_quick(load, session)
        await asyncio.gather(*tasks)
    return {
        "capacity_per_second": round(capacity, 1),
        "offered_per_second": round(sent / _OVERLOAD_SECONDS, 1),
        "goodput_of_capacity": round(goodput / capacity, 3),
        **tally.as_dict(),
        "healthz": probes.as_dict(),
        "seconds_to_full_service": round(recovery - ended, 2),
        "megabytes_before_peak": [before, peak],
    }


async def _capacity(load: _Load, session: aiohttp.ClientSession) -> float:
    """Requests a second with eight clients."""
    tally, deadline = _Tally(), time.perf_counter() + 6.0

    async def client() -> None:
        while time.perf_counter() < deadline:
            await load.send(session, tally)

    await asyncio.gather(*(client() for _ in range(8)))
    return tally.statuses["200"] / 6.0


async def _until_quick(load: _Load, session: aiohttp.ClientSession) -> float:
    """When five requests in a row had come back well."""
    row = 0
    while row < 5:
        tally = _Tally()
        await load.send(session, tally)
        row = row + 1 if tally.statuses["200"] else 0
    return time.perf_counter()


async def _probe(endpoint: _Endpoint, tally: _Tally) -> None:
    async with _session() as session:
        while True:
            begun = time.perf_counter()
            try:
                async with session.get(f"{endpoint.url}/healthz", timeout=aiohttp.ClientTimeout(5.0)) as response:
                    tally.statuses[str(response.status)] += 1
                    tally.seconds.append(time.perf_counter() - begun)
            except (aiohttp.ClientError, TimeoutError) as error:
                tally.statuses[type(error).__name__] += 1
            await asyncio.sleep(0.25)


async def _lose(endpoint: _Endpoint, potentials: np.ndarray, title: str) -> dict[str, Any]:
    """Eight clients while a process is killed with signal 9, and until successes have come back for two seconds."""
    load, tally = _Load(endpoint, potentials, 1), _Tally()
    async with _session() as session:
        await load.prepare(session)
        begun, killed, back = time.perf_counter(), None, None

        async def client() -> None:
            while back is None and time.perf_counter() < begun + 60.0:
                before = sum(tally.statuses.values())
                await load.send(session, tally)
                if sum(tally.statuses.values()) == before or not tally.last_success or time.perf_counter() - tally.last_success > 0.2:
                    await asyncio.sleep(0.05)  # a client that is refused waits before it tries again

        clients = [asyncio.create_task(client()) for _ in range(8)]
        await asyncio.sleep(2.0)
        process = endpoint.find(title)
        assert process is not None
        process.kill()
        killed = time.perf_counter()
        gap_end = None
        while time.perf_counter() < begun + 60.0:
            await asyncio.sleep(0.05)
            if gap_end is None and tally.last_success > killed + 0.5:
                gap_end = tally.last_success
            if gap_end is not None and time.perf_counter() > gap_end + 2.0:
                break
        back = time.perf_counter()
        await asyncio.gather(*clients)
    return {"seconds_until_back": None if gap_end is None else round(gap_end - killed, 2), **tally.as_dict()}


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(90.0))


async def _post(
    session: aiohttp.ClientSession, endpoint: _Endpoint, body: bytes, media_type: str = "application/json"
) -> tuple[int, bytes]:
    async with session.post(f"{endpoint.url}/v1/trajectories", data=body, headers={"Content-Type": media_type}) as response:
        return response.status, await response.read()


def _json_body(potentials: np.ndarray) -> bytes:
    return json.dumps({"trajectories": [{"potential": values.tolist()} for values in potentials]}).encode()
