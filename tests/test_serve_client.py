"""The client against a real endpoint in this process, whole and faulty, and the Arrow form of every kind of problem."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import HARMONIC, SENSORS, api_of, save_plane, save_tiny

import neural_hamilton as nh
from neural_hamilton.physics.systems import get_system
from neural_hamilton.serve.arrow_stream import MEDIA_TYPE, read_problems, read_trajectories, write_problems
from neural_hamilton.serve.catalogue import Catalogue
from neural_hamilton.serve.client import Client
from neural_hamilton.serve.endpoint import Endpoint
from neural_hamilton.serve.http_api import build_api
from neural_hamilton.serve.motion import MotionProblem
from neural_hamilton.serve.service import Limits, Service

ROOT = Path(__file__).resolve().parent.parent
MORSE = {
    "potential": "D*(1-exp(-a*(q-r)))**2",
    "parameters": {"D": 4.618, "a": 1.869, "r": 1.2746},
    "domain": (0.7, 4.0),
    "mass": 0.98,
    "q0": 1.5,
    "p0": 0.3,
}
TIMES = np.array([2.0, 0.0, 0.3, 1.7])
OWN = {"expression": ["q*q"], "domain": [[-1.0, 1.0]], "q0": [0.5]}
TRUST = tuple(one.name for one in fields(nh.Trust))
MAP = pa.map_(pa.string(), pa.float64())


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The URL of an ASGI application on a free port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = server.force_exit = True
        thread.join()


class Scripted:
    """An ASGI application in front of another, which answers the next requests for trajectories as a script tells it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.script: list[tuple[int, dict[str, str], bytes]] = []
        self.arrivals: list[float] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/v1/trajectories":
            self.arrivals.append(time.monotonic())
            if self.script:
                status, headers, body = self.script.pop(0)
                pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
                await send({"type": "http.response.start", "status": status, "headers": pairs})
                await send({"type": "http.response.body", "body": body})
                return
        await self._app(scope, receive, send)


class Wire:
    """A TCP relay to an endpoint that treats each connection as the next word of `script` says, and passes those after it on."""

    def __init__(self, target: str) -> None:
        url = httpx.URL(target)
        self._target = (url.host, url.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._kept: list[socket.socket] = []
        self.script: list[str] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in (self._listener, *self._kept):
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._kept.append(connection)
                fault = self.script.pop(0) if self.script else "pass"
                if fault == "die":
                    connection.close()
                elif fault != "hang":
                    threading.Thread(target=self._relay, args=(connection, fault), daemon=True).start()

    def _relay(self, near: socket.socket, fault: str) -> None:
        with suppress(OSError), near, socket.create_connection(self._target) as far:
            threading.Thread(target=self._copy, args=(near, far), daemon=True).start()
            if fault == "cut":  # the head of a response and the beginning of its body
                near.sendall(far.recv(1 << 16)[:400])
                near.shutdown(socket.SHUT_RDWR)
            elif fault == "drip":
                head, _, body = far.recv(1 << 16).partition(b"\r\n\r\n")
                near.sendall(head + b"\r\n\r\n")
                for byte in body:
                    near.sendall(bytes([byte]))
                    time.sleep(0.05)
            else:
                self._copy(far, near)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(1 << 16):
                target.sendall(piece)


@contextmanager
def raw_server(head: bytes, piece: bytes = b"", every: float = 0.0) -> Iterator[str]:
    """The URL of a server that sends each client a head and, if there is one, a piece again and again, seconds apart."""

    def respond(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(1 << 16)
            connection.sendall(head)
            while piece:
                connection.sendall(piece)
                time.sleep(every)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=respond, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts


def with_length(body: bytes, status: str = "200 OK") -> bytes:
    """A whole response."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> nh.Model:
    return nh.load(save_tiny(tmp_path_factory.mktemp("client")))


@pytest.fixture(scope="module")
def orbitnet() -> nh.Model:
    return nh.load("orbitnet")


@pytest.fixture(scope="module")
def app(model: nh.Model) -> Scripted:
    return Scripted(api_of(tiny=model))


@pytest.fixture(scope="module")
def url(app: Scripted) -> Iterator[str]:
    with listening(app) as url:
        yield url


@pytest.fixture(scope="module")
def orbitnet_url(orbitnet: nh.Model) -> Iterator[str]:
    with listening(api_of(orbitnet=orbitnet)) as url:
        yield url


@pytest.fixture
def wire(url: str) -> Iterator[Wire]:
    wire = Wire(url)
    yield wire
    wire.close()


def same(one: Any, other: Any) -> None:
    for name in ("times", "q", "p"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.trust == other.trust


@pytest.mark.parametrize("encoding", ["arrow", "json"])
class TestLikeALocalModel:
    def test_every_form_of_a_potential(self, url, model, encoding):
        client = nh.connect(url, encoding=encoding)
        for potential in (HARMONIC, lambda q: 8 * (q - 0.5) ** 2, SENSORS, SENSORS.tolist(), {"potential": SENSORS}):
            seen = SENSORS if callable(potential) else potential  # an endpoint sees a function at the sensors only
            for verify in ("none", "energy", "solver"):
                same(client(potential, 0.3, -0.2, TIMES, verify=verify), model(seen, 0.3, -0.2, TIMES, verify=verify))
        orbit, local = client(HARMONIC), model(HARMONIC)
        same(orbit, local)
        assert orbit.energy == local.energy and float(orbit.q0) == float(local.q0) == 0.0
        assert orbit.columns.keys() == {"t", "q", "p"} and orbit.plot().axes

    def test_batches_and_descriptions(self, url, model, encoding):
        client = nh.connect(url, encoding=encoding)
        batch, local = (one([SENSORS, HARMONIC], q0=[0.1, 0.2], times=TIMES, verify="none") for one in (client, model))
        assert len(batch) == len(local) == 2
        for pair in zip(batch, local, strict=True):
            same(*pair)
        assert client.description == json.loads(json.dumps(model.description)) and client.card["architecture"]["name"] == "mambonet"
        assert client.system is model.system and client.drift_threshold == model.drift_threshold
        for name in ("sensors", "domain", "horizon", "channels", "num_sensors", "degrees_of_freedom"):
            assert getattr(client.task, name) == getattr(model.task, name)
        for name in ("system", "ensemble", "initial_state", "any_initial_state", "noise"):
            assert getattr(client.trained_for, name) == getattr(model.trained_for, name)
        assert client.predict([]) == []

    def test_own_units(self, orbitnet_url, orbitnet, encoding):
        client = nh.connect(orbitnet_url, encoding=encoding)
        examples = (
            MORSE,
            {"potential": lambda x: 1.0 - np.cos(x), "domain": (-3.0, 3.0), "q0": 1.0, "p0": -0.4},
            {"potential": np.stack([np.linspace(-2, 2, 57), np.linspace(-2, 2, 57) ** 2], axis=1), "q0": 1.2},
        )
        for example in examples:
            for verify in ("energy", "solver"):
                remote, local = (nh.motion(**example, times=[0.0, 33.3, 4.0], model=one, verify=verify) for one in (client, orbitnet))
                same(remote, local)
                assert (remote.period, remote.turning_points, remote.energy) == (local.period, local.turning_points, local.energy)
        assert remote.model == f"orbitnet at {orbitnet_url}" and remote.plot().axes
        mixed = client.predict([nh.Problem(HARMONIC), MotionProblem(**MORSE), nh.Problem(SENSORS, times=TIMES)])
        assert [type(one).__name__ for one in mixed] == ["Orbit", "Motion", "Orbit"]
        same(mixed[1], nh.motion(**MORSE, model=orbitnet))

    def test_the_words_of_refusals(self, url, model, orbitnet_url, orbitnet, encoding):
        client = nh.connect(url, encoding=encoding)
        for arguments in (
            ("q+",),
            (SENSORS[:50],),
            (HARMONIC, 2.0),
            (HARMONIC, 0.0, 1e308),
            (HARMONIC, 0.0, 0.0, [3.0]),
            ([SENSORS, "1/0"],),
        ):
            with pytest.raises(nh.InputError) as local:
                model(*arguments)
            with pytest.raises(nh.InputError) as remote:
                client(*arguments)
            assert str(remote.value) == str(local.value)
        for arguments, name in (((SENSORS * np.nan,), r"potential\[0\]"), ((HARMONIC, np.nan), "q0"), ((HARMONIC, 0.0, np.inf), "p0")):
            with pytest.raises(nh.InputError, match=name):
                client(*arguments)
        with pytest.raises(nh.InputError, match="verify is 'twice'"):
            client(HARMONIC, verify="twice")
        with pytest.raises(nh.InputError, match=r"\(0\.3, 0\); this model was trained for \(0, 0\) only"):
            nh.connect(orbitnet_url, encoding=encoding)(HARMONIC, 0.3)
        leaving = {"potential": "q", "domain": (0.0, 1.0), "q0": 0.5}
        with pytest.raises(nh.InputError) as local:
            nh.motion(**leaving, model=orbitnet)
        with pytest.raises(nh.InputError) as remote:
            nh.motion(**leaving, model=nh.connect(orbitnet_url, encoding=encoding))
        assert str(remote.value) == str(local.value)


BOWL_TEXT = "2 - 48*q1*(1-q1)*q2*(1-q2)"


def bowl(a, b):
    return 2 - 48 * a * (1 - a) * b * (1 - b)


@pytest.mark.parametrize("encoding", ["arrow", "json"])
def test_two_degrees_of_freedom(tmp_path, encoding):
    model = nh.load(save_plane(tmp_path / "surface"))
    with listening(api_of(tiny=model)) as url:
        client = nh.connect(url, encoding=encoding)
        axis = np.linspace(0.0, 1.0, 12)
        for potential in (BOWL_TEXT, bowl):
            orbit = client(potential, [0.3, 0.4], [0.5, 0.0], TIMES, verify="solver")
            seen = bowl(axis[:, None], axis) if callable(potential) else potential
            same(orbit, model(seen, [0.3, 0.4], [0.5, 0.0], TIMES, verify="solver"))
            assert orbit.q.shape == (4, 2) and list(orbit.columns) == ["t", "q1", "q2", "p1", "p2"]
    pendulum = nh.load(save_plane(tmp_path / "pendulum", "double-pendulum"))
    with listening(api_of(pendulum=pendulum)) as url:
        client = nh.connect(url, encoding=encoding)
        same(client("mass=1, length=0.8", [0.5, -0.3]), pendulum("mass=1, length=0.8", [0.5, -0.3]))
        with pytest.raises(
            nh.InputError, match="potential is not text; of system 'double-pendulum', an endpoint takes the parameters only"
        ):
            client({"potential": np.zeros((12, 12)), "inverse_mass": np.zeros((3, 12, 12))})


class TestStreams:
    def test_results_keep_their_order_and_equal_those_of_one_request(self, url, model):
        client = Client(url, rows_per_request=7, connections=3)
        problems = [nh.Problem(SENSORS, 0.5, 0.01 * k, np.linspace(0, 2, 1 + k % 5)) for k in range(100)]
        for orbit, local in zip(client.stream(problems, "none"), model.predict(problems, "none"), strict=True):
            same(orbit, local)
            assert orbit.p0 == local.p0

    def test_any_number_of_problems_in_constant_memory(self):
        """A stub endpoint, so that what is measured is the client: how many problems are read ahead of the results."""
        body = None
        most = 0

        async def stub(scope: Any, receive: Any, send: Any) -> None:
            nonlocal body, most
            while (event := await receive())["type"] == "http.request" and event["more_body"]:
                pass
            described = json.dumps(card if scope["path"].endswith("/stub") else catalogue).encode()
            content, kind = (described, b"application/json") if scope["method"] == "GET" else (body, MEDIA_TYPE.encode())
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
            await send({"type": "http.response.body", "body": content})

        task = {"sensors": [100], "domain": [[0.0, 1.0]], "horizon": 2.0, "channels": 1, "noise": 0.0, "initial_state": None}
        card = {"trained_for": task | {"system": "well", "ensemble": {"name": "phase-space"}}}
        catalogue = {"default": "stub", "models": [{"name": "other"}, {"name": "stub"}]}
        row = {"times": [0.0], "q": [0.5], "p": [0.0], "energy_drift": 0.0, "solver_error": None, "source": "model"}
        columns = {name: [value] * 1000 for name, value in row.items()}
        sink = pa.BufferOutputStream()
        table = pa.table(columns)
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        body, drawn, done = sink.getvalue().to_pybytes(), 0, 0

        def potentials() -> Iterator[np.ndarray]:
            nonlocal drawn
            for drawn in range(1, 100_001):  # noqa: B007
                yield SENSORS

        with listening(stub) as url:
            client = Client(url, rows_per_request=1000, connections=3)
            for orbit in client.stream(potentials(), "none"):
                done += 1
                most = max(most, drawn - done)
                assert orbit.q.size == 1
        assert done == drawn == 100_000
        assert most <= 5 * 1000  # of three requests in flight, the results at hand and the request being made

    def test_a_stream_may_be_left_and_an_array_is_one_of_potentials(self, url):
        client = Client(url, rows_per_request=2)
        stream = client.stream(np.stack([SENSORS] * 1000), "none")
        assert next(stream).q.size == 100
        stream.close()
        assert client(HARMONIC, verify="none").q.size == 100

    def test_what_is_wrong_is_named_by_its_index_after_the_results_before_it(self, url):
        client = Client(url, rows_per_request=2)
        for bad, name in (
            (SENSORS[:4], r"problems\[5\]\.potential has 4 sensors"),
            ("1/0", r"problems\[5\]\.potential '1/0' is not finite"),
        ):
            results: list[Any] = []
            with pytest.raises(nh.InputError, match=name):
                results.extend(client.stream([SENSORS, SENSORS, SENSORS, SENSORS, SENSORS, bad, SENSORS], "none"))
            assert len(results) >= 4
        with pytest.raises(nh.InputError, match=r"^problems\[1\]\.times\[0\] is 3; times must be between 0 and 2"):
            list(client.stream([nh.Problem(SENSORS), nh.Problem(SENSORS, times=[3.0])]))
        with pytest.raises(nh.InputError, match=r"^q0 is 2; it must be between 0 and 1"):
            client.predict([nh.Problem(SENSORS, 2.0)])

    def test_a_request_too_large_for_the_endpoint_is_split(self, url, app, model):
        client = Client(url, encoding="json")
        app.script[:] = [(413, {}, b'{"detail": "body is too large"}')] * 2
        problems = [nh.Problem(SENSORS, 0.5, 0.1 * k) for k in range(3)] + [nh.Problem("1/0")]
        before = len(app.arrivals)
        with pytest.raises(nh.InputError, match="^potential '1/0' is not finite"):
            client.predict(problems, "none")
        assert [orbit.p0 for orbit in client.predict(problems[:3], "none")] == [0.0, 0.1, 0.2]
        assert len(app.arrivals) - before == 2 + 3 + 1
        app.script[:] = [(413, {}, b"")]
        with pytest.raises(nh.EndpointError, match="single problem too large"):
            client.predict(problems[:1])


class TestFaults:
    def test_503_is_tried_again_when_the_endpoint_asks(self, url, app, model):
        client = Client(url)
        client.description  # noqa: B018
        busy = b'{"detail": "8 requests are waiting; try again"}'
        app.script[:] = [(503, {"Retry-After": "1"}, busy), (503, {}, busy), (429, {"Retry-After": "soon"}, b""), (502, {}, b"<html>")]
        app.arrivals.clear()
        same(client(HARMONIC), model(HARMONIC))
        assert len(app.arrivals) == 5
        assert app.arrivals[1] - app.arrivals[0] >= 1.0

    def test_a_date_to_try_again(self, url, app):
        client = Client(url)
        client.description  # noqa: B018
        app.script[:] = [(503, {"Retry-After": formatdate(time.time() + 2.0, usegmt=True)}, b"")]
        app.arrivals.clear()
        client(HARMONIC, verify="none")
        assert app.arrivals[1] - app.arrivals[0] >= 0.9

    def test_the_time_limit(self, url, app):
        client = Client(url, time_limit=0.6)
        client.description  # noqa: B018
        app.script[:] = [(503, {}, b'{"detail": "busy"}')] * 100
        started = time.monotonic()
        with pytest.raises(nh.EndpointError, match=r"responded 503: busy; given up after the time limit of 0\.6 s") as failure:
            client(HARMONIC)
        assert failure.value.status == 503 and time.monotonic() - started < 2.0
        app.script[:] = [(503, {"Retry-After": "3600"}, b"")]
        with pytest.raises(nh.EndpointError, match="asks to wait 3600 s"):
            client(HARMONIC)
        app.script.clear()

    def test_an_endpoint_that_dies_hangs_drips_or_breaks_off(self, wire, model, caplog):
        client = Client(wire.url, timeout=0.5)
        wire.script[:] = ["die"]
        client.description  # noqa: B018
        client.close()
        wire.script[:] = ["die", "cut", "hang", "drip", "die"]
        same(client(HARMONIC, verify="none"), model(HARMONIC, verify="none"))
        assert not wire.script
        assert sum(record.levelname == "WARNING" for record in caplog.records) == 2  # once a request
        wire.script[:] = ["hang"] * 100
        client = Client(wire.url, timeout=0.2, time_limit=0.7)
        with pytest.raises(nh.EndpointError, match="gave no response.*given up after the time limit") as failure:
            client(HARMONIC)
        assert failure.value.status is None

    def test_addresses_where_nothing_is(self, url):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            with pytest.raises(nh.EndpointError, match="gave no response.*refused"):
                nh.connect(f"http://127.0.0.1:{unused.getsockname()[1]}", time_limit=0.3)
        started = time.monotonic()
        with pytest.raises(nh.EndpointError, match="check the address"):
            nh.connect("http://nowhere.invalid")
        with pytest.raises(nh.EndpointError, match="check the address"):
            nh.connect(url.replace("http", "https"))
        with pytest.raises(nh.EndpointError, match=r"responded 404: there is nothing at /elsewhere/v1/models.*; check the address"):
            nh.connect(f"{url}/elsewhere")
        with pytest.raises(nh.EndpointError, match=r"responded 404: there is nothing at .*; check the address"):
            nh.connect(f"{url}/elsewhere", "tiny")
        assert time.monotonic() - started < 10.0  # another attempt could not help

    @pytest.mark.parametrize(
        ("status", "body", "message"),
        [
            (401, b'{"detail": "give a key"}', "401: give a key; give a valid api_key"),
            (404, b'{"detail": "no model x"}', "404: no model x; check"),
            (500, b"Internal Server Error", "500: 'Internal Server Error'"),
            (302, b"", "302: nothing"),
        ],
    )
    def test_other_responses(self, url, app, status, body, message):
        client = Client(url)
        client.description  # noqa: B018
        app.script[:] = [(status, {"Location": "/elsewhere"}, body)]
        with pytest.raises(nh.EndpointError, match=message) as failure:
            client(HARMONIC)
        assert failure.value.status == status and not app.script

    @pytest.mark.parametrize("encoding", ["arrow", "json"])
    def test_garbled_responses(self, url, app, model, encoding):
        client = Client(url, encoding=encoding)
        media_type = MEDIA_TYPE if encoding == "arrow" else "application/json"
        problem = {"potential": SENSORS, "q0": 0.0, "p0": 0.0, "times": TIMES}
        body = (
            write_problems([problem])
            if encoding == "arrow"
            else json.dumps({"trajectories": [problem | {"potential": SENSORS.tolist(), "times": TIMES.tolist()}]})
        )
        good = httpx.post(f"{url}/v1/trajectories", content=body, headers={"Content-Type": media_type}, trust_env=False).content
        wrong = [
            b"",
            b"<html>Log in</html>",
            b"\xff" * 50,
            good[: len(good) // 2],
            b"[" * 100_000,
            b"{}",
            b'{"trajectories": []}',
            b'{"trajectories": [{"q": 1}]}',
        ]
        if encoding == "json":
            wrong += [
                good.replace(b'"q":[', b'"q":[NaN,'),
                good.replace(b'"q":[', b'"q":[1,'),
                good.replace(b'"times":[2.0', b'"times":[1.9'),
                good.replace(b'"source":"', b'"source":"x'),
            ]
            wrong += [good.replace(b'"times":[2.0', b'"times":[1' + b"0" * 400)]
        for content in wrong:
            app.script[:] = [(200, {"Content-Type": media_type}, content)]
            with pytest.raises(nh.EndpointError, match="return") as failure:
                client(SENSORS, times=TIMES)
            assert failure.value.status == 200
        same(client(SENSORS, times=TIMES), model(SENSORS, times=TIMES))

    @pytest.mark.parametrize(
        ("head", "piece"),
        [
            (b"HTTP/1.1 200 OK\r\n", b"x"),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
            (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        ],
        ids=["header", "continue", "chunk", "body"],
    )
    def test_the_timeout_is_that_of_a_whole_response(self, head, piece):
        with raw_server(head, piece, every=0.05) as url:
            started = time.monotonic()
            with pytest.raises(nh.EndpointError, match="gave no response: Read timed out.*given up after the time limit of 1 s"):
                nh.connect(url, timeout=0.4, time_limit=1.0)
            assert 0.4 < time.monotonic() - started < 3.0

    def test_a_client_that_waits_holds_up_no_other(self, url):
        def wait(client: Client) -> None:
            with suppress(nh.EndpointError):
                client.system  # noqa: B018

        with raw_server(b"HTTP/1.1 200 OK\r\n", b"x", every=0.05) as slow:
            waiting = threading.Thread(target=wait, args=(Client(slow, timeout=3.0, time_limit=3.0),))
            waiting.start()
            time.sleep(0.2)
            assert nh.connect(url).system.name == "well"
            assert waiting.is_alive()
            waiting.join()

    @pytest.mark.parametrize(
        ("response", "message"),
        [
            (with_length(b"[" * 100_000), r"/v1/models did not return JSON, but '\[\["),
            (with_length(b"[" * 100_000, "400 Bad Request"), r"responded 400: '\[\["),
            (with_length(b'{"models": [], "default": "x"}'), "/v1/models did not list models; check the address"),
            (with_length(b'{"models": [{}], "default": "x"}'), "/v1/models did not list models; check the address"),
        ],
    )
    def test_what_is_no_list_of_models(self, response, message):
        with raw_server(response) as url, pytest.raises(nh.EndpointError, match=message):
            nh.connect(url)

    def test_a_body_without_end(self, monkeypatch):
        monkeypatch.setattr("neural_hamilton.serve.endpoint._MAX_BODY", 1_000_000)
        with (
            raw_server(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536) as url,
            pytest.raises(nh.EndpointError, match="responded with more than 1,000,000 bytes; check the address") as failure,
        ):
            nh.connect(url)
        assert failure.value.status == 200

    def test_a_stream_survives_faults(self, wire, url, app):
        client = Client(wire.url, rows_per_request=3, timeout=2.0)
        wire.script[:] = ["pass", "die", "cut"]
        app.script[:] = [(503, {}, b"")] * 5
        assert sum(1 for _ in client.stream([SENSORS] * 30, "none")) == 30


@pytest.mark.parametrize("encoding", ["arrow", "json"])
def test_several_models_by_name_behind_a_key(model, orbitnet, encoding):
    models = Catalogue({"tiny": model, "orbitnet": orbitnet})
    with listening(build_api(Service(models, Limits(api_key="s3cret")))) as url:
        with pytest.raises(nh.EndpointError, match="401: .* has an API key.*; give a valid api_key"):
            nh.connect(url, encoding=encoding)
        options = {"encoding": encoding, "api_key": "s3cret"}
        client = nh.connect(url, **options)
        assert client.name == "tiny" and client.models == ["tiny", "orbitnet"] and "s3cret" not in repr(client)
        same(client(HARMONIC), model(HARMONIC))
        same(nh.connect(url, "orbitnet", **options)(HARMONIC), orbitnet(HARMONIC))
        with pytest.raises(nh.InputError, match="^model is 'other'; this endpoint has tiny, orbitnet$"):
            nh.connect(url, "other", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "127.0.0.1:8000"}, "^url is '127.0.0.1:8000'; give the address"),
        ({"url": "ftp://x"}, "^url is"),
        ({"encoding": "xml"}, "^encoding is 'xml'; choose one of arrow, json"),
        ({"timeout": 0}, "^timeout is 0"),
        ({"time_limit": float("nan")}, "^time_limit is nan"),
        ({"connections": 0}, "^connections is 0; give 1 to 64"),
        ({"rows_per_request": 1025}, "^rows_per_request is 1025; give 1 to 1024"),
        ({"api_key": "a\nb"}, "^api_key has characters"),
    ],
)
def test_arguments_that_make_no_sense(options, message):
    with pytest.raises(nh.InputError, match=message):
        Client(**({"url": "http://127.0.0.1:1"} | options))


def test_neither_torch_nor_ray_is_needed(orbitnet_url):
    code = f"""
import sys
sys.modules |= {{"torch": None, "ray": None, "fastapi": None}}  # an import of them fails
import neural_hamilton as nh
client = nh.connect({orbitnet_url!r})
print(client({HARMONIC!r}, times=[0.5]).q, nh.motion("q**4", 1.0, domain=(-2, 2), model=client).period)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


class TestArrow:
    """The binary form of POST /v1/trajectories, for every kind of problem."""

    @pytest.fixture(scope="class")
    @classmethod
    def post(cls, orbitnet_url: str) -> Callable[[bytes], httpx.Response]:
        return lambda body: httpx.post(
            f"{orbitnet_url}/v1/trajectories?verify=solver", content=body, headers={"Content-Type": MEDIA_TYPE}, trust_env=False, timeout=60
        )

    ROWS = (
        {"potential": SENSORS, "times": TIMES},
        {"expression": HARMONIC, "q0": 0.0},
        {"expression": MORSE["potential"], **{name: MORSE[name] for name in ("parameters", "domain", "mass", "q0", "p0")}, "times": TIMES},
        {"table": np.stack([np.linspace(-2, 2, 30), np.linspace(-2, 2, 30) ** 2], axis=1), "q0": 1.0, "times": np.array([7.5])},
    )

    def test_all_kinds_in_one_stream_as_in_json(self, post, orbitnet_url):
        def plain(row: dict[str, Any]) -> dict[str, Any]:
            return {
                name: value.tolist() if isinstance(value, np.ndarray) else list(value) if isinstance(value, tuple) else value
                for name, value in row.items()
            }

        response = post(write_problems(self.ROWS))
        assert response.status_code == 200
        rows = pa.ipc.open_stream(response.content).read_all().to_pylist()
        request = {"trajectories": [plain(row) for row in self.ROWS], "verify": "solver"}
        by_json = httpx.post(f"{orbitnet_url}/v1/trajectories", json=request, trust_env=False, timeout=60).json()["trajectories"]
        assert rows[0]["period"] is None and rows[2]["period"] > 1.0 and len(rows[3]["turning_points"]) == 2
        for row, expected in zip(rows, by_json, strict=True):
            trust = {name: row.pop(name) for name in TRUST}
            assert {name: value for name, value in row.items() if value is not None} | {"trust": trust} == expected
        one = read_trajectories(post(write_problems(self.ROWS[:2])).content)
        assert one[0].keys() == {"times", "q", "p", *TRUST}

    def test_every_layout_of_a_column(self):
        system = get_system("well")
        expected = {"parameters": {"D": 1.0, "a": 2.0}, "domain": [0.7, 4.0], "mass": 2.0, "q0": 1.5}
        points = [[0.0, 1.0], [1.0, 2.0], [2.0, 4.0], [3.0, 4.0]]
        layouts = {
            "parameters": [
                pa.array([[("D", 1.0), ("a", 2.0)]], MAP),
                pa.array([{"D": 1, "a": 2.0, "b": None}]),
            ],
            "domain": [
                pa.array([[0.7, 4.0]]),
                pa.array([[0.7, 4.0]], pa.list_(pa.float64(), 2)),
                pa.array([[0.7, 4.0]], pa.large_list(pa.float64())),
            ],
            "mass": [pa.array([2]), pa.array([2.0], pa.float32())],
        }
        for name, columns in layouts.items():
            for column in columns:
                usual = {"parameters": layouts["parameters"][0], "domain": layouts["domain"][0], "mass": layouts["mass"][0]}
                table = {"expression": ["D*q**2*a"], "q0": [1.5]} | usual | {name: column}
                (problem,) = read_problems(encode(pa.table(table)), system)
                assert {
                    key: np.asarray(getattr(problem, key)).tolist() if key == "domain" else getattr(problem, key) for key in expected
                } == expected
        for kind in (pa.list_(pa.list_(pa.float64())), pa.list_(pa.list_(pa.float64(), 2)), pa.large_list(pa.list_(pa.float32(), 2))):
            rows = pa.chunked_array([pa.array([points], kind), pa.array([None, points[:3]], kind)])
            first, second, third = read_problems(
                encode(pa.table({"table": rows, "expression": [None, "q", None], "q0": [1.0, None, 0.5]})), system
            )
            np.testing.assert_array_equal(first.potential, points)
            np.testing.assert_array_equal(third.potential, points[:3])
            assert second.potential == "q" and second.q0 is None and third.names.potential == "trajectories[2].table"
        sliced = pa.table(
            {"potential": pa.array([[9.0] * 3, None, [1.0, 2.0]], pa.list_(pa.float64())), "expression": ["x", "q", None]}
        ).slice(1)
        problems = read_problems(encode(sliced), system)
        assert problems[0].potential == "q" and problems[1].potential.tolist() == [1.0, 2.0]
        fixed = pa.table({"potential": pa.array([None, [1.0, 2.0]], pa.list_(pa.float64(), 2)), "expression": pa.array(["q", None])})
        assert read_problems(encode(fixed), system)[1].potential.tolist() == [1.0, 2.0]

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"q0": [0.5]}, "columns are q0; send potential, expression or table"),
            ({"expression": ["q"], "potential": [SENSORS]}, r"trajectories\[0\]: give exactly one of"),
            ({"expression": pa.array([None], pa.string())}, r"trajectories\[0\]: give exactly one of"),
            ({"expression": [1]}, "column expression has the type int64; send strings"),
            ({"expression": ["q"], "mass": [2.0]}, r"trajectories\[0\]: mass is for your own units"),
            ({"expression": ["q*q"], "domain": [[-1.0, 1.0]]}, r"trajectories\[0\]: q0 is missing"),
            ({"expression": ["q*q"], "domain": [[-1.0]], "q0": [0.5]}, r"trajectories\[0\].domain does not have two numbers"),
            ({"expression": ["q*q"], "domain": [[-1.0, np.inf]], "q0": [0.5]}, r"trajectories\[0\].domain is not finite"),
            (OWN | {"q0": [np.nan]}, r"trajectories\[0\].q0 is nan; it must be finite"),
            (OWN | {"mass": [np.inf]}, r"trajectories\[0\].mass is inf"),
            (OWN | {"mass": ["x"]}, "column mass has the type string; send numbers"),
            (OWN | {"parameters": ["x"]}, "column parameters has the type string"),
            (OWN | {"parameters": [{"k": np.nan}]}, r"trajectories\[0\].parameters is .*nan"),
            (OWN | {"parameters": pa.array([[("k", 1.0), ("k", 2.0)]], MAP)}, "each name once"),
            (OWN | {"parameters": pa.array([[(f"k{n}", 1.0) for n in range(101)]], MAP)}, "has 101 names"),
            ({"table": [[[0.0, 1.0, 2.0]]], "q0": [0.5]}, r"trajectories\[0\].table does not hold pairs"),
            ({"table": [[[0.0, 1.0], [2.0]]], "q0": [0.5]}, "column table has lists of different lengths"),
            ({"table": [[[0.0, 1.0], None]], "q0": [0.5]}, "column table has lists of different lengths"),
            ({"table": [[0.0, 1.0]], "q0": [0.5]}, r"trajectories\[0\].table does not hold pairs"),
            ({"table": [np.zeros((10_001, 2)).tolist()], "q0": [0.5]}, r"trajectories\[0\].table has 10001 values; at most 10000 are read"),
            ({"table": [[[float(k), np.nan] for k in range(5)]], "q0": [0.5]}, "must be finite"),
            ({"table": [[[0.0, 1.0]] * 5], "q0": [0.5]}, "two values at x = 0"),
            ({"table": [[[0.0, 1e308], [0.1, -1e308], [0.2, 1e308], [3.0, 1e308]]], "q0": [0.5]}, "spline through them overflows"),
            (OWN | {"mass": [1e308], "domain": [[-1e3, 1e3]], "expression": ["q*q/1e300"]}, "choose units in which these"),
        ],
    )  # fmt: skip
    def test_refusals(self, post, columns, message):
        import re

        response = post(encode(pa.table(columns)))
        assert response.status_code == 422
        assert re.search(message, response.json()["detail"]), response.json()["detail"]

    @settings(max_examples=150)
    @given(data=st.data())
    def test_damage_is_refused_or_read(self, data):
        body = bytearray(write_problems(self.ROWS))
        for _ in range(data.draw(st.integers(1, 4))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        with suppress(nh.InputError):
            read_problems(bytes(body), get_system("well"))


def encode(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_pauses_do_not_grow_without_bound(monkeypatch):
    pauses: list[float] = []
    endpoint = Endpoint("http://127.0.0.1:1", None, 1.0, 60.0, 1)
    clock = [0.0]
    monkeypatch.setattr("neural_hamilton.serve.endpoint.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(
        "neural_hamilton.serve.endpoint.time.sleep", lambda wait: (pauses.append(wait), clock.__setitem__(0, clock[0] + wait))
    )
    monkeypatch.setattr(Endpoint, "_attempt", lambda *_: (503, {}, b""))
    with pytest.raises(nh.EndpointError, match="given up"):
        endpoint.exchange("GET", "/", {})
    assert 10 < len(pauses) < 40 and max(pauses) <= 5.0 and pauses[0] <= 0.1 and sum(pauses) <= 60.0
