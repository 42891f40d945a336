"""What those who run an endpoint depend on: limits, a key, probes, metrics, swapping models, and processes that die."""

import asyncio
import contextlib
import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from fastapi.testclient import TestClient
from serving import FROM_REST, HARMONIC, api_of, free_port, save_plane, save_tiny

from neural_hamilton.architectures import record_examples
from neural_hamilton.physics import InputError
from neural_hamilton.physics.files import write_json
from neural_hamilton.serve.catalogue import Catalogue, load_catalogue
from neural_hamilton.serve.proxy import Gate, ProxyLimits
from neural_hamilton.serve.service import Limits, read_api_key
from neural_hamilton.serve.shipped import SHIPPED_MODELS

ROOT = Path(__file__).resolve().parent.parent
ONE = {"trajectories": [{"expression": HARMONIC}]}
KEY = "correct-horse-battery"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {"rest": save_tiny(base / "rest", FROM_REST), "any": save_tiny(base / "any"), "plane": save_plane(base / "plane")}


@pytest.fixture(scope="module")
def several(folders: dict[str, Path]) -> TestClient:
    return TestClient(api_of(**folders))


@pytest.fixture(scope="module")
def small(folders: dict[str, Path]) -> TestClient:
    """It takes 10,485 bytes."""
    return TestClient(api_of(limits=Limits(max_body_mb=0.01), rest=folders["rest"]))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"first": save_tiny(tmp_path_factory.mktemp("swapped") / "first", FROM_REST)}


@pytest.fixture(scope="module")
def url(ray_session: Any, models: dict[str, Path]) -> Iterator[str]:
    """One endpoint of Ray Serve."""
    from neural_hamilton.serve import application

    yield application.start(models, port=free_port())
    assert application.stop(30)


class TestModels:
    def test_they_are_listed_and_described(self, several: TestClient) -> None:
        listed = several.get("/v1/models").json()
        assert listed["default"] == "rest"
        assert [(model["name"], model["system"], model["predicts_motions"]) for model in listed["models"]] == [
            ("rest", "well", True),
            ("any", "well", True),
            ("plane", "surface", False),
        ]
        assert several.get("/v1/models/plane").json()["system"] == "surface"
        assert several.get("/v1/models/rest").json() == several.get("/v1/model").json()
        missing = several.get("/v1/models/none")
        assert (missing.status_code, missing.json()["detail"]) == (404, "model is 'none'; this endpoint has rest, any, plane")

    @pytest.mark.parametrize(
        ("trajectory", "asked", "chosen"),
        [
            ({"expression": HARMONIC}, None, "rest"),
            ({"expression": HARMONIC}, "any", "any"),
            ({"expression": HARMONIC, "q0": 0.3}, None, "any"),  # the default predicts from rest at the wall only
            ({"expression": HARMONIC, "q0": 0.3, "p0": 0.5}, None, "any"),
            ({"expression": "2 - 48*q1*(1-q1)*q2*(1-q2)", "q0": [0.5, 0.4]}, None, "plane"),
            ({"expression": "q**2", "domain": [-1, 1], "q0": 0.5}, None, "rest"),
        ],
    )
    def test_one_is_chosen_by_name_or_by_what_is_asked(self, several: TestClient, trajectory: Any, asked: Any, chosen: str) -> None:
        body = {"trajectories": [trajectory]} | ({"model": asked} if asked else {})
        response = several.post("/v1/trajectories", json=body)
        assert response.json()["model"]["name"] == chosen
        if asked:
            assert several.post(f"/v1/trajectories?model={asked}", json={"trajectories": [trajectory]}).json() == response.json()

    def test_the_most_accurate_is_chosen_and_the_number_of_sensors_counts(self) -> None:
        names = ("mambonet", "orbitnet", "orbitnet-25-sensors")
        client = TestClient(api_of(**{name: SHIPPED_MODELS / name for name in names}))
        assert client.get("/v1/models").json()["default"] == "mambonet"
        few = (8 * (np.linspace(0, 1, 25) - 0.5) ** 2).tolist()
        for potential, chosen in (({"expression": HARMONIC}, "orbitnet"), ({"potential": few}, "orbitnet-25-sensors")):
            assert client.post("/v1/trajectories", json={"trajectories": [potential]}).json()["model"]["name"] == chosen

    def test_one_that_is_broken_leaves_the_others(self, folders: dict[str, Path], tmp_path: Path) -> None:
        loaded = load_catalogue({"a": tmp_path / "nowhere", "b": folders["rest"], "c": Path("x" * 5000)}, 0.05, Catalogue({}))
        assert (list(loaded.models), sorted(loaded.rejected)) == (["b"], ["a", "c"])
        with pytest.raises(InputError, match="does not exist"):
            load_catalogue({"a": tmp_path / "nowhere"}, 0.05, Catalogue({}))

    def test_a_wrong_choice_is_refused_with_the_names(self, several: TestClient) -> None:
        response = several.post("/v1/trajectories", json=ONE | {"model": "x"})
        assert (response.status_code, response.json()["detail"]) == (422, "model is 'x'; this endpoint has rest, any, plane")


class TestRequests:
    def test_bodies_may_be_packed_and_have_a_byte_order_mark(self, small: TestClient) -> None:
        body = json.dumps(ONE).encode()
        headers = {"Content-Type": "application/json"}
        plain = small.post("/v1/trajectories", content=body, headers=headers)
        assert plain.status_code == 200
        marked = small.post("/v1/trajectories", content=b"\xef\xbb\xbf" + body, headers=headers)
        packed = small.post("/v1/trajectories", content=gzip.compress(body), headers=headers | {"Content-Encoding": "gzip"})
        assert plain.json() == marked.json() == packed.json()

    def test_what_is_packed_counts_unpacked(self, small: TestClient) -> None:
        bomb = gzip.compress(b" " * 10**7)
        assert len(bomb) < 10_486
        response = small.post("/v1/trajectories", content=bomb, headers={"Content-Encoding": "gzip"})
        assert (response.status_code, response.json()["detail"][:26]) == (413, "body is larger than 0.0099")

    def test_millions_of_errors_take_no_time(self, folders: dict[str, Path]) -> None:
        client, begun = TestClient(api_of(rest=folders["rest"])), time.perf_counter()
        body = b'{"trajectories":[{"potential":[' + b'"",' * 1_500_000 + b"0]}]}"
        assert client.post("/v1/trajectories", content=body).status_code == 422
        assert time.perf_counter() - begun < 5

    @pytest.mark.parametrize("damage", [lambda packed: packed[:-4], lambda packed: packed + b"{}"])
    def test_part_of_a_gzip_stream_is_no_body(self, small: TestClient, damage: Any) -> None:
        packed = damage(gzip.compress(json.dumps(ONE).encode()))
        response = small.post("/v1/trajectories", content=packed, headers={"Content-Encoding": "gzip"})
        assert response.status_code == 422
        assert "not one whole gzip stream" in response.json()["detail"]

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            (ONE | {"verfy": "none"}, "verfy is not a known key; did you mean verify?"),
            ({"trajectories": [{"expresion": "q"}]}, "trajectories[0].expresion is not a known key; did you mean expression?"),
        ],
    )
    def test_a_key_that_there_is_not_is_compared_with_those_that_there_are(self, small: TestClient, body: Any, sentence: str) -> None:
        response = small.post("/v1/trajectories", json=body)
        assert response.status_code == 422
        assert response.json()["detail"].startswith(sentence)

    def test_a_momentum_whose_energy_overflows_is_refused(self, folders: dict[str, Path]) -> None:
        client = TestClient(api_of(plane=folders["plane"]))
        body = {"trajectories": [{"expression": "2 - 48*q1*(1-q1)*q2*(1-q2)", "q0": [0.4, 0.5], "p0": [0.1, -1e308]}]}
        response = client.post("/v1/trajectories", json=body)
        assert response.status_code == 422
        assert "= inf" in response.json()["detail"]

    def test_a_path_with_a_slash_too_many_leads_nowhere_else(self, small: TestClient) -> None:
        assert small.get("/v1/models/", headers={"Host": "elsewhere.example"}, follow_redirects=False).status_code == 404

    @pytest.mark.parametrize(("encoding", "sentence"), [("br", "send gzip or none"), ("gzip", "is not gzip")])
    def test_other_packing_is_refused(self, small: TestClient, encoding: str, sentence: str) -> None:
        response = small.post("/v1/trajectories", content=b"{}", headers={"Content-Encoding": encoding})
        assert response.status_code == 422
        assert sentence in response.json()["detail"]

    def test_the_key_is_needed_for_v1_only(self, folders: dict[str, Path]) -> None:
        client = TestClient(api_of(limits=Limits(api_key=KEY), rest=folders["rest"]))
        for path in ("/", "/healthz", "/readyz", "/openapi.json"):
            assert client.get(path).status_code == 200
        for headers in ({}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": KEY}, {"Authorization": "Bearer ä".encode()}):
            for response in (client.get("/v1/models", headers=headers), client.post("/v1/trajectories", json=ONE, headers=headers)):
                assert response.status_code == 401
                assert "Authorization: Bearer KEY" in response.json()["detail"]
        assert client.post("/v1/trajectories", json=ONE, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        behind = TestClient(api_of(limits=Limits(api_key=KEY), rest=folders["rest"]), root_path="/second")
        assert [behind.get(f"/second{path}").status_code for path in ("/v1/models", "/healthz")] == [401, 200]

    def test_pages_from_elsewhere_are_allowed_by_name(self, folders: dict[str, Path]) -> None:
        client = TestClient(api_of(limits=Limits(cors_origins=("https://a.example",), api_key=KEY), rest=folders["rest"]))
        for origin, allowed in (("https://a.example", True), ("https://b.example", False)):
            preflight = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
            response = client.options("/v1/trajectories", headers=preflight)
            assert (response.status_code == 200) is allowed
            assert (client.get("/healthz", headers={"Origin": origin}).headers.get("access-control-allow-origin") == origin) is allowed

    def test_a_request_that_takes_too_long_is_503(self, folders: dict[str, Path]) -> None:
        client = TestClient(api_of(limits=Limits(request_timeout_seconds=0.05), plane=folders["plane"]))
        body = {"trajectories": [{"expression": "2 - 48*q1*(1-q1)*q2*(1-q2)", "q0": [0.5, 0.4]}] * 1000}
        response = client.post("/v1/trajectories", json=body)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "was not done after 0.05 s" in response.json()["detail"]


class TestGate:
    """The proxy's own limits, on an application that takes its time."""

    @staticmethod
    def send(gate: Gate, pieces: list[bytes], pause: float = 0.0, headers: tuple[Any, ...] = ()) -> Any:
        async def run() -> tuple[int, Any, dict[bytes, bytes]]:
            left, sent = list(pieces), []

            async def receive() -> dict[str, Any]:
                await asyncio.sleep(pause)
                return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

            async def note(message: Any) -> None:
                sent.append(message)

            await gate({"type": "http", "method": "POST", "path": "/v1/trajectories", "headers": headers}, receive, note)
            body = b"".join(message.get("body", b"") for message in sent)
            return sent[0]["status"], body, dict(sent[0]["headers"])

        return run()

    @staticmethod
    async def echo(_: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        await asyncio.sleep(0.1)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    def test_a_body_arrives_in_one_piece(self) -> None:
        status, body, _ = asyncio.run(self.send(Gate(self.echo, ProxyLimits()), [b"a", b"", b"bc"]))
        assert (status, body) == (200, b"abc")

    def test_too_many_at_once_are_503_and_slow_senders_take_no_place(self) -> None:
        gate = Gate(self.echo, ProxyLimits(max_requests=2))

        async def run() -> tuple[Any, Any]:
            slow = [asyncio.create_task(self.send(gate, [b"x"] * 4, pause=0.1)) for _ in range(5)]
            await asyncio.sleep(0.05)
            quick = await asyncio.gather(*(self.send(gate, [b"x"]) for _ in range(5)))
            return quick, await asyncio.gather(*slow)

        quick, _ = asyncio.run(run())
        assert Counter(status for status, _, _ in quick) == {200: 2, 503: 3}
        assert all(headers[b"retry-after"] == b"1" for status, _, headers in quick if status == 503)
        assert (gate._places._sizes, gate._num_bytes) == ([], 0)

    def test_a_slow_reader_takes_no_place_and_not_for_ever(self) -> None:
        gate = Gate(self.echo, ProxyLimits(max_requests=1, request_timeout_seconds=0.5))

        async def blocked(_: Any) -> None:
            await asyncio.sleep(60)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x", "more_body": False}

        async def run() -> Any:
            scope = {"type": "http", "method": "POST", "path": "/v1/trajectories", "headers": []}
            slow = [asyncio.create_task(gate(scope, receive, blocked))]
            await asyncio.sleep(0.2)
            assert gate._places._sizes == []
            quick = await self.send(gate, [b"x"])
            return quick[0], await asyncio.gather(*slow, return_exceptions=True)

        status, ends = asyncio.run(run())
        assert status == 200
        assert isinstance(ends[0], TimeoutError)

    def test_large_bodies_that_do_not_end_stop_no_small_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("neural_hamilton.serve.proxy._MAX_BYTES_AT_ONCE", 2**19)
        gate = Gate(self.echo, ProxyLimits())

        async def run() -> tuple[Any, Any]:
            stalled = asyncio.create_task(self.send(gate, [b"x" * 2**19, b"", b""], pause=0.1))
            await asyncio.sleep(0.15)
            responses = await self.send(gate, [b"x" * 100]), await self.send(gate, [b"x" * (2**18 + 1)])
            await stalled
            return responses

        small, large = asyncio.run(run())
        assert (small[0], large[0]) == (200, 503)

    def test_headers_that_would_steer_ray_do_not_pass(self) -> None:
        seen: list[Any] = []

        async def note(scope: Any, receive: Any, send: Any) -> None:
            seen.extend(name for name, _ in scope["headers"])
            await self.echo(scope, receive, send)

        headers = ((b"X-Request-Timeout-Seconds", b"0"), (b"X-Request-ID", b"\xff"), (b"x-request-id", b"ok"), (b"accept", b"*/*"))
        assert asyncio.run(self.send(Gate(note, ProxyLimits()), [b"x"], headers=headers))[0] == 200
        assert seen == [b"x-request-id", b"accept"]

    def test_as_many_pass_as_replicas_were_found_to_take_and_then_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("neural_hamilton.serve.proxy._DOUBLING_SECONDS", 0.2)
        sizes: list[int] = []
        capacity = 4

        async def replica(_: Any, receive: Any, send: Any) -> None:
            sizes.append(len((await receive())["body"]))
            replica.now += 1
            status = 200 if replica.now <= capacity else 503
            await asyncio.sleep(0.05 if status == 200 else 0.001)
            replica.now -= 1
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": b"{}"})

        replica.now = 0
        gate = Gate(replica, ProxyLimits())

        async def at_once(*lengths: int) -> Counter[int]:
            return Counter([status for status, _, _ in await asyncio.gather(*(self.send(gate, [b"x" * length]) for length in lengths))])

        async def run() -> None:
            nonlocal capacity
            assert await at_once(*[10] * 6) == {200: 4, 503: 2}
            assert len(sizes) == 6  # nothing was known of the replica
            sizes.clear()
            assert (await at_once(*[10] * 8, *[4] * 2))[503] >= 4
            assert Counter(sizes)[4] == 2  # smaller ones may still be taken
            assert 4 <= Counter(sizes)[10] < 8
            capacity = 100
            await asyncio.sleep(0.5)
            assert await at_once(*[10] * 8) == {200: 8}

        asyncio.run(run())
        assert gate._places._sizes == []

    def test_what_is_too_much_is_refused_before_its_body_is_read(self) -> None:
        gate = Gate(self.echo, ProxyLimits(max_requests=1))

        async def run() -> tuple[float, int]:
            first = asyncio.create_task(self.send(gate, [b"x"]))
            await asyncio.sleep(0.02)
            begun = time.perf_counter()
            status, _, _ = await self.send(gate, [b"x"] * 4, pause=1.0, headers=((b"content-length", b"4"),))
            await first
            return time.perf_counter() - begun, status

        seconds, status = asyncio.run(run())
        assert status == 503 and seconds < 0.5

    def test_bodies_too_large_too_slow_or_too_many_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gate = Gate(self.echo, ProxyLimits(max_body_mb=1e-5, request_timeout_seconds=0.2))
        assert asyncio.run(self.send(gate, [b"x" * 11]))[0] == 413
        assert asyncio.run(self.send(gate, [b""], headers=((b"content-length", b"11"),)))[0] == 413
        status, body, _ = asyncio.run(self.send(gate, [b"x"] * 5, pause=0.1))
        assert (status, json.loads(body)["detail"]) == (408, "the body did not arrive within 0.2 s; send it faster")
        monkeypatch.setattr("neural_hamilton.serve.proxy._MAX_BYTES_AT_ONCE", 5)
        monkeypatch.setattr("neural_hamilton.serve.proxy._SMALL_BYTES", 1)
        assert asyncio.run(self.send(gate, [b"x" * 6]))[0] == 503
        assert gate._num_bytes == 0

    @pytest.mark.parametrize("status", [404, 408, 500, 503])
    def test_plain_text_of_the_proxy_and_silence_become_503_in_json(self, status: int) -> None:
        async def plain(_: Any, __: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"Internal"})

        async def silent(*_: Any) -> None:
            return

        for app in (plain, silent):
            got, body, headers = asyncio.run(self.send(Gate(app, ProxyLimits()), [b""]))
            assert (got, headers[b"retry-after"]) == (503, b"1")
            assert "try again" in json.loads(body)["detail"]

    @pytest.mark.parametrize(
        ("routes_status", "routes", "expected"),
        [
            (200, {"/a": "one", "/b": "two"}, (404, "there is no endpoint at /v1/trajectories; those here are at /a, /b")),
            (200, {}, (503, "the process that worked on this request was lost, or is not there yet; try again")),
            (503, "not yet", (503, "the process that worked on this request was lost, or is not there yet; try again")),
        ],
    )
    def test_an_address_outside_all_endpoints_is_404_once_the_proxy_has_their_routes(self, routes_status, routes, expected) -> None:
        async def ray_proxy(scope: Any, _: Any, send: Any) -> None:
            status, body = (routes_status, json.dumps(routes)) if scope["path"] == "/-/routes" else (404, "Path not found")
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": body.encode()})

        status, body, _ = asyncio.run(self.send(Gate(ray_proxy, ProxyLimits()), [b""]))
        assert (status, json.loads(body)["detail"]) == expected

    def test_pages_from_elsewhere_may_read_refusals(self) -> None:
        async def headers_for(origins: list[str]) -> dict[bytes, bytes]:
            gate = Gate(self.echo, ProxyLimits(max_body_mb=1e-5, cors_origins=origins))
            return (await self.send(gate, [b"x" * 11], headers=((b"origin", b"https://a.example"),)))[2]

        allowed = b"access-control-allow-origin"
        assert asyncio.run(headers_for(["https://a.example"]))[allowed] == b"https://a.example"
        assert asyncio.run(headers_for(["*"]))[allowed] == b"*"
        assert allowed not in asyncio.run(headers_for(["https://b.example"]))

    def test_refusals_of_the_application_pass(self) -> None:
        async def refuse(_: Any, __: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": b"{}"})

        assert asyncio.run(self.send(Gate(refuse, ProxyLimits()), [b""]))[:2] == (404, b"{}")


class TestEndpoint:
    def test_slow_uploads_hold_up_nobody(self, url: str) -> None:
        address = (httpx.URL(url).host, httpx.URL(url).port)
        head = b"POST /v1/trajectories HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"
        with contextlib.ExitStack() as stack:
            for _ in range(300):  # more than may be worked on
                stack.enter_context(socket.create_connection(address, timeout=10)).sendall(head)
            begun = time.perf_counter()
            assert httpx.post(f"{url}/v1/trajectories", json=ONE, trust_env=False, timeout=20).status_code == 200
            assert time.perf_counter() - begun < 10

    def test_probes_respond_while_the_queue_is_full(self, url: str) -> None:
        body = json.dumps({"trajectories": [{"expression": HARMONIC}] * 300, "verify": "none"})
        done = threading.Event()

        def ask() -> Counter[int]:
            statuses: Counter[int] = Counter()
            while not done.is_set():
                statuses[httpx.post(f"{url}/v1/trajectories", content=body, trust_env=False, timeout=60).status_code] += 1
            return statuses

        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask) for _ in range(8)]
            time.sleep(1.0)
            try:
                probes = [httpx.get(f"{url}/{path}", trust_env=False, timeout=5).status_code for path in ("healthz", "readyz") * 5]
            finally:
                done.set()
        assert set(probes) == {200}
        assert set(sum((future.result() for future in asking), Counter())) <= {200, 503}

    def test_metrics_count_what_was_asked(self, url: str) -> None:
        for expression in (HARMONIC, "q/0"):
            httpx.post(f"{url}/v1/trajectories", json={"trajectories": [{"expression": expression}]}, trust_env=False, timeout=60)
        wanted = {
            'requests_total{route="/v1/trajectories",status="200"}',
            'requests_total{route="/v1/trajectories",status="422"}',
            'rejections_total{reason="invalid"}',
            "request_seconds_count",
            "pass_trajectories_count",
            "pass_requests_count",
            "energy_drift_count",
        }
        deadline = time.monotonic() + 30
        while missing := {name for name in wanted if not is_counted(httpx.get(f"{url}/metrics", trust_env=False, timeout=20).text, name)}:
            assert time.monotonic() < deadline, missing
            time.sleep(0.5)

    def test_models_are_swapped_under_load_and_a_broken_one_is_rejected(self, url: str, models: dict[str, Path], tmp_path: Path) -> None:
        second = save_other(tmp_path / "second", models["first"])
        broken = Path(shutil.copytree(second, tmp_path / "broken"))
        (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-10])
        changed = Path(shutil.copytree(second, tmp_path / "changed"))
        card = json.loads((changed / "model.json").read_text())
        moved = {name: [1.0 + value for value in card["example_predictions"][name]] for name in "qp"}
        write_json(changed / "model.json", card | {"example_predictions": moved})
        done, statuses = threading.Event(), Counter[int]()

        def ask() -> None:
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
                while not done.is_set():
                    statuses[client.post("/v1/trajectories", json=ONE).status_code] += 1

        def push(**folders: Path) -> Any:
            deploy({name: str(folder) for name, folder in folders.items()})
            return httpx.get(f"{url}/v1/models", trust_env=False).json()

        push(first=models["first"])  # from now on as by `serve deploy`
        asking = threading.Thread(target=ask)
        asking.start()
        try:
            before = httpx.get(f"{url}/v1/models", trust_env=False).json()["models"][0]["weights_sha256"]
            for folder, reason in (
                (broken, "damaged or from another model"),
                (changed, "no longer predicts what its card has on record for q"),
                (tmp_path / "nowhere", "does not exist"),
            ):
                after = push(first=folder)
                assert reason in after["rejected"]["first"]
                assert after["models"][0]["weights_sha256"] == before
            after = push(first=second, more=models["first"])
            assert after["rejected"] == {}
            assert [model["name"] for model in after["models"]] == ["first", "more"]
            assert after["models"][0]["weights_sha256"] != before == after["models"][1]["weights_sha256"]
        finally:
            done.set()
            asking.join()
        assert set(statuses) == {200}
        assert statuses[200] > 20

    def test_several_share_a_cluster(self, url: str, folders: dict[str, Path]) -> None:
        from neural_hamilton.serve import application

        port = httpx.URL(url).port or 0
        second = application.start({"any": folders["any"]}, port=port, route="/second")
        try:
            assert second == f"{url}/second"
            with pytest.raises(InputError, match="serving.route is '/second', which the application 'neural-hamilton-second' of this"):
                application.start({"any": folders["any"]}, port=port, route="/second")
            names = [list_models(each) for each in (url, second)]
            assert names[1] == ["any"] != names[0]
            assert "<html" in httpx.get(f"{second}/", trust_env=False).text
            assert httpx.get(f"{second}/page/app.js", trust_env=False).status_code == 200
            assert httpx.post(f"{second}/v1/trajectories", json=ONE, trust_env=False).status_code == 200
            wait_for(lambda: is_counted(httpx.get(f"{second}/metrics", trust_env=False).text, 'predictions_total{model="any"}'), 30)
            assert 'application="neural-hamilton"' not in httpx.get(f"{second}/metrics", trust_env=False).text
        finally:
            assert application.stop(30, route="/second")
        assert list_models(url) == names[0]

    def test_a_key_file_must_hold_a_key(self, url: str, models: dict[str, Path], tmp_path: Path) -> None:
        from neural_hamilton.serve import application

        for text, sentence in ((None, "cannot be read"), ("short", "no key of at least 16"), ("with spaces in it it is not", "no key of")):
            if text is not None:
                (tmp_path / "key").write_text(text)
            with pytest.raises(InputError, match=sentence):
                application.start(models, port=free_port(), api_key_file=str(tmp_path / "key"))
        (tmp_path / "key").write_text(f" {KEY}\n")
        assert read_api_key(str(tmp_path / "key")) == KEY

    def test_more_replicas_than_cores_are_refused(self, models: dict[str, Path], ray_session: Any) -> None:
        from neural_hamilton.serve import application

        for options in ({"num_replicas": 3}, {"max_replicas": 3}):
            with pytest.raises(InputError, match="3 replicas need a core each, and this cluster has 2; ask for at most 2"):
                application._check_cores(application.ServeOptions(**options))


def list_models(url: str) -> list[str]:
    return [model["name"] for model in httpx.get(f"{url}/v1/models", trust_env=False).json()["models"]]


def deploy(models: dict[str, str]) -> None:
    """As `serve deploy` does, and until it is done."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    from neural_hamilton.serve.application import NAME

    deployment = {"name": "trajectories", "user_config": {"models": models}}
    app = {"name": NAME, "route_prefix": "/", "import_path": "neural_hamilton.serve.application:application", "deployments": [deployment]}
    client = _get_global_client()
    assert client is not None
    client.deploy_apps(ServeDeploySchema.model_validate({"applications": [app]}))
    time.sleep(0.5)
    wait_for(lambda: serve.status().applications[NAME].status == "RUNNING", 60)


def is_counted(text: str, name: str) -> bool:
    """Whether a metric has a value above 0; labels, if given, are among those it has."""
    name, _, labels = name.partition("{")
    wanted = labels.rstrip("}").split(",") if labels else []
    return any(
        line.startswith(f"ray_neural_hamilton_{name}{{") and all(label in line for label in wanted) and float(line.rsplit(" ", 1)[1]) > 0
        for line in text.splitlines()
    )


def save_other(folder: Path, like: Path) -> Path:
    """A model with other weights."""
    from safetensors.numpy import load_file, save

    shutil.copytree(like, folder)
    weights = load_file(folder / "model.safetensors")
    weights = {name: value * np.float32(1.01) if "head" in name else value for name, value in weights.items()}
    content = save(weights)
    (folder / "model.safetensors").write_bytes(content)
    import hashlib

    card = json.loads((folder / "model.json").read_text())
    write_json(folder / "model.json", card | {"weights_sha256": hashlib.sha256(content).hexdigest()})
    record_examples(folder)
    return folder


class Process:
    """`neural-hamilton serve` as a user starts it, in a process group of its own."""

    def __init__(self, *words: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "neural_hamilton.platform", "serve", *words, "--port", str(httpx.URL(self.url).port)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.popen = subprocess.Popen(command, cwd=ROOT, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)
        self._family: list[psutil.Process] = []

    def wait(self) -> "Process":
        assert self.popen.stdout is not None
        assert "serving" in self.popen.stdout.readline()
        return self

    def ask(self, count: int = 1) -> httpx.Response:
        body = {"trajectories": [{"expression": HARMONIC}] * count}
        return httpx.post(f"{self.url}/v1/trajectories", json=body, trust_env=False, timeout=60)

    def find(self, title: str) -> psutil.Process:
        while True:  # a moment after it was lost there is none
            for process in self.family():
                with contextlib.suppress(psutil.Error):
                    if title in " ".join(process.cmdline()):
                        return process
            time.sleep(0.1)

    def family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family += [child for child in psutil.Process(self.popen.pid).children(recursive=True) if child not in self._family]
        return [process for process in self._family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    def ended(self) -> tuple[int, str, float]:
        begun = time.monotonic()
        _, errors = self.popen.communicate(timeout=60)
        return self.popen.returncode, errors, time.monotonic() - begun

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self.family(), self.popen]:
            with contextlib.suppress(psutil.Error):
                process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("to_group", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_requests_finish_and_leaves_nothing_behind(folders: dict[str, Path], number: int, to_group: bool) -> None:
    with Process(f"rest={folders['rest']}") as served:
        served.wait()
        served.family()
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(served.ask, 300) for _ in range(2)]
            time.sleep(0.5)
            (os.killpg if to_group else os.kill)(served.popen.pid, number)
            code, errors, seconds = served.ended()
            if not to_group:  # else Ray's own processes get the signal as well
                assert [future.result().status_code for future in asked] == [200, 200]
        assert (code, errors.splitlines()[-1]) == (0, "stopped")
        assert seconds < 10
        wait_for(lambda: not served.family(), 5)


def test_two_signals_at_once_are_one() -> None:
    """As a terminal and a supervisor may send them. With threads of a library, half the time no handler ran."""
    code = """import numpy, time
from neural_hamilton.serve.commands import _Signals
with _Signals() as signals:
    print(flush=True)
    signals.wait()
    time.sleep(0.5)  # the other one comes while the first is obeyed
"""
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as waiting:
            assert waiting.stdout is not None and waiting.stdout.readline()
            time.sleep(0.05)
            waiting.send_signal(signal.SIGINT)
            waiting.send_signal(signal.SIGTERM)
            try:
                assert waiting.wait(20) == 0
            finally:
                waiting.kill()


@pytest.mark.slow
def test_work_that_does_not_end_holds_up_the_shutdown_for_no_more_than_ten_seconds(folders: dict[str, Path]) -> None:
    body = {"trajectories": [{"expression": HARMONIC, "times": np.linspace(0.0, 2.0, 10_000).tolist()}] * 100, "verify": "solver"}
    with Process(f"rest={folders['rest']}") as served:
        served.wait()
        served.family()
        with ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                pool.submit(httpx.post, f"{served.url}/v1/trajectories", json=body, trust_env=False, timeout=60)
            time.sleep(2.0)
            os.kill(served.popen.pid, signal.SIGTERM)
            code, errors, seconds = served.ended()
        assert (code, errors.splitlines()[-1]) == (0, "stopped")
        assert seconds < 10
        wait_for(lambda: not served.family(), 5)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3.0, 6.0, 9.0])
def test_a_signal_while_it_starts_leaves_nothing_behind(folders: dict[str, Path], seconds: float) -> None:
    with Process(f"rest={folders['rest']}") as served:
        time.sleep(seconds)
        served.family()
        os.kill(served.popen.pid, signal.SIGTERM)
        code, errors, took = served.ended()
        assert code in (0, 128 + signal.SIGTERM, -signal.SIGTERM)
        assert "Traceback" not in errors
        assert took < 10
        wait_for(lambda: not served.family(), 5)


@pytest.mark.slow
@pytest.mark.parametrize("title", ["ServeReplica", "ProxyActor"])
def test_a_lost_process_is_replaced_and_no_prediction_is_wrong(folders: dict[str, Path], title: str) -> None:
    with Process(f"rest={folders['rest']}") as served:
        expected = served.wait().ask().json()["trajectories"]
        statuses: Counter[str] = Counter()
        for _ in range(2):
            served.find(title).kill()
            lost, row = time.monotonic(), 0
            while row < 10:
                assert time.monotonic() - lost < 40
                try:
                    response = served.ask()
                except httpx.TransportError:  # a proxy that is not there refuses connections
                    assert title == "ProxyActor"
                    time.sleep(0.1)
                    continue
                statuses[str(response.status_code)] += 1
                if response.status_code == 200:
                    assert response.json()["trajectories"] == expected
                    row += 1
                else:
                    assert response.headers["retry-after"]
                    assert response.json()["detail"]
                    row = 0
                    time.sleep(0.1)
        assert set(statuses) <= {"200", "503"}
        os.kill(served.popen.pid, signal.SIGTERM)
        assert served.ended()[0] == 0


@pytest.mark.slow
def test_under_load_a_replica_is_added(folders: dict[str, Path]) -> None:
    with Process(f"rest={folders['rest']}", "--set", "serving.max_replicas=2") as served:
        expected = served.wait().ask(20).json()["trajectories"]
        ended, statuses = threading.Event(), Counter[int]()

        def load() -> None:
            while not ended.is_set():
                response = served.ask(20)
                statuses[response.status_code] += 1
                assert response.status_code == 503 or response.json()["trajectories"] == expected

        def replicas() -> int:
            return sum("ServeReplica" in " ".join(process.cmdline()) for process in served.family())

        assert replicas() == 1
        with ThreadPoolExecutor(12) as pool:
            loads = [pool.submit(load) for _ in range(12)]
            wait_for(lambda: replicas() == 2, 120)
            before = statuses[200]
            wait_for(lambda: statuses[200] > before + 50, 60)
            ended.set()
            for each in loads:
                each.result()
        assert set(statuses) <= {200, 503}


@pytest.mark.slow
def test_a_private_cluster_listens_on_loopback(folders: dict[str, Path]) -> None:
    with Process(f"rest={folders['rest']}") as served:
        served.wait()
        listening = {
            (connection.laddr.ip, process.name())
            for process in [psutil.Process(served.popen.pid), *served.family()]
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        # The replica's port for other deployments, which Ray opens on all interfaces, is the one that cannot be configured.
        outside = {name for address, name in listening if not address.startswith(("127.", "::1", "::ffff:127."))}
        assert all(name.startswith("ray::ServeRepli") for name in outside), outside


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
