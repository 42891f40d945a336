"""Whatever is sent, the endpoint responds as its own description promises: no fault of its own, and only finite numbers."""

import io
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving import FROM_REST, HARMONIC, SENSORS, api_of, save_plane, save_tiny

from neural_hamilton.serve.arrow_stream import MEDIA_TYPE
from neural_hamilton.serve.service import Limits

JSON = "application/json"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    base = tmp_path_factory.mktemp("fuzz")
    models = {"rest": save_tiny(base / "rest", FROM_REST), "any": save_tiny(base / "any"), "plane": save_plane(base / "plane")}
    return api_of(limits=Limits(max_body_mb=1.0), **models)


def test_responses_are_as_described(api: FastAPI) -> None:
    check_responses(api, 20)


@pytest.mark.slow
def test_many_responses_are_as_described(api: FastAPI) -> None:
    check_responses(api, 500)


def check_responses(api: FastAPI, count: int) -> None:
    """Requests that the OpenAPI document allows and requests that it forbids, for every operation."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", api)
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            # What fits the schema may still make no sense: two potentials, a particle outside the walls.
            case.validate_response(case.call(), excluded_checks=[positive_data_acceptance])

        check()


def test_damaged_bodies_are_refused(api: FastAPI) -> None:
    send_damaged(api, 600)


@pytest.mark.slow
def test_many_damaged_bodies_are_refused(api: FastAPI) -> None:
    send_damaged(api, 20_000)


def send_damaged(api: FastAPI, count: int) -> None:
    client, chance = TestClient(api, raise_server_exceptions=False), random.Random(0)
    sound = bodies()
    statuses: Counter[int] = Counter()
    for _ in range(count):
        media_type, body = chance.choice(sound)
        for _ in range(chance.choice([1, 1, 2, 5])):
            body = chance.choice(DAMAGES)(body, chance)
        query = chance.choice(["", "?verify=none", "?verify=solver"])
        response = client.post(f"/v1/trajectories{query}", content=body, headers={"Content-Type": media_type})
        statuses[response.status_code] += 1
        assert response.status_code in (200, 413, 422, 503), (response.status_code, body)
        if response.headers["content-type"] == JSON:
            json.loads(response.content, parse_constant=not_finite)
        else:
            table = pa.ipc.open_stream(response.content).read_all()
            for name in ("q", "p"):
                assert np.isfinite(flat(table.column(name))).all()
    assert statuses[200] > count // 100
    assert statuses[422] > count // 2


def not_finite(name: str) -> None:
    raise AssertionError(f"the response holds {name}")


def flat(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    while pa.types.is_nested(array.type):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False)


def bodies() -> list[tuple[str, bytes]]:
    """Sound requests of each kind."""
    few = [0.0, 0.5, 1.0]
    trajectories: list[Any] = [
        [{"expression": HARMONIC, "times": few}, {"potential": SENSORS.tolist(), "times": [2.0]}],
        [{"expression": HARMONIC, "q0": 0.3, "p0": 0.1, "times": few}],
        [
            {
                "expression": "D*(1-exp(-a*(q-r)))**2",
                "parameters": {"D": 4.6, "a": 1.9, "r": 1.3},
                "domain": [0.7, 4.0],
                "q0": 1.5,
                "mass": 2.0,
            }
        ],
        [{"table": [[x / 4, x * x / 16] for x in range(-5, 6)], "q0": 0.5, "times": few}],
        [{"expression": "2 - 48*q1*(1-q1)*q2*(1-q2)", "q0": [0.4, 0.5], "p0": [0.1, 0.0], "times": few}],
    ]
    texts = [json.dumps({"trajectories": one, "verify": verify}).encode() for one in trajectories for verify in ("energy", "solver")]
    texts += [json.dumps({"trajectories": one}).encode() for one in trajectories]
    tables = [pa.table({"potential": [SENSORS, SENSORS], "times": [few, [2.0]]}), pa.table({"potential": [SENSORS], "q0": [0.0]})]
    return [(JSON, text) for text in texts] + [(MEDIA_TYPE, stream(table)) for table in tables for _ in range(3)]


def stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def flip(body: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(max(1, len(body)))
    return body[:place] + bytes([chance.randrange(256)]) + body[place + 1 :]


def cut(body: bytes, chance: random.Random) -> bytes:
    first, last = sorted(chance.randrange(len(body) + 1) for _ in range(2))
    return body[:first] + body[last if chance.random() < 0.7 else first :]


def insert(body: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(body) + 1)
    return body[:place] + chance.choice(PIECES) + body[place:]


def replace_number(body: bytes, chance: random.Random) -> bytes:
    """Another number or value in the place of one, which leaves JSON in order."""
    starts = [place for place in range(1, len(body)) if body[place : place + 1].isdigit() and not body[place - 1 : place].isalnum()]
    if not starts:
        return body
    first = last = chance.choice(starts)
    while last < len(body) and body[last : last + 1] in b"0123456789.e-+":
        last += 1
    return body[:first] + chance.choice(PIECES) + body[last:]


def repeat(body: bytes, chance: random.Random) -> bytes:
    first, last = sorted(chance.randrange(len(body) + 1) for _ in range(2))
    return body[:last] + body[first:last][:200] + body[last:]


DAMAGES: list[Callable[[bytes, random.Random], bytes]] = [flip, cut, insert, replace_number, replace_number, replace_number, repeat]
PIECES = [
    *(b"0", b"-1", b"1e999", b"-1e308", b"5e-324", b"1e-200", b"NaN", b"Infinity", b"null", b"true", b"[]", b"{}", b'""', b"[[[1]]]"),
    *(b"2.0000000000000004", b"1e16", b"0.1", b"9" * 400, b'"\\ud800"', b"\x00", b"\xff\xfe"),
    *(b"q**9**9", b"sqrt(q)", b"1/(q-0.5)", b"exp(q*1000)", b"log(0)", b",", b"}", b"]"),
]
