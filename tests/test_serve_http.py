"""The HTTP contract against a real Ray Serve endpoint on 127.0.0.1, and the two commands."""

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import HARMONIC, SENSORS, free_port

from neural_hamilton.physics import InputError
from neural_hamilton.serve.arrow_stream import MEDIA_TYPE
from neural_hamilton.serve.commands import predict_command
from neural_hamilton.serve.orbit import TRUST_FIELDS

JSON = "application/json"
_MAX = 32 * 2**20  # bytes of a body
Post = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def client(endpoint: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=endpoint, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def post(client: httpx.Client) -> Post:
    def send(content: Any, media_type: str = JSON, **options: Any) -> httpx.Response:
        body = content if isinstance(content, (bytes, str)) or not isinstance(content, dict) else json.dumps(content)
        return client.post("/v1/trajectories", content=body, headers={"Content-Type": media_type}, **options)

    return send


def refuse_constant(name: str) -> None:
    raise AssertionError(f"the response holds {name}")


def parse(response: httpx.Response) -> Any:
    """JSON without the NaN and Infinity that Python would let through."""
    return json.loads(response.content, parse_constant=refuse_constant)


def arrow(**columns: Any) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_page_model_health_and_description(client: httpx.Client, served_model: Path) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    card, model = json.loads((served_model / "model.json").read_text()), parse(client.get("/v1/model"))
    assert card.items() <= model.items()
    asked = ("system", "ensemble", "initial_state", "sensors", "domain", "horizon")
    assert {name: model[name] for name in asked} == {name: card["trained_for"][name] for name in asked}
    assert (model["system"], model["sensors"], model["domain"], model["horizon"]) == ("well", [100], [[0.0, 1.0]], 2.0)
    assert model["examples"]["Harmonic"] == HARMONIC
    assert parse(client.get("/healthz"))["status"] == "ok"
    assert parse(client.get("/readyz"))["status"] == "ready"
    assert client.get("/nothing").status_code == 404
    for path in ("/", "/v1/model", "/v1/models", "/healthz", "/readyz", "/openapi.json"):
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
    assert client.get("/v1/trajectories").status_code == 405


def test_openapi_describes_the_request_and_every_reference_resolves(client: httpx.Client) -> None:
    document = parse(client.get("/openapi.json"))
    operation = document["paths"]["/v1/trajectories"]["post"]
    assert set(operation["requestBody"]["content"]) == {JSON, MEDIA_TYPE}
    assert {"200", "413", "422", "503"} <= set(operation["responses"])
    references = {part.split('"')[0] for part in json.dumps(document).split('"$ref": "#/components/schemas/')[1:]}
    assert references <= set(document["components"]["schemas"])
    assert {"TrajectoriesRequest", "TrajectoryRequest"} <= references


@pytest.mark.parametrize("verify", ["none", "energy", "solver"])
def test_trust_holds_what_verify_asks_for(post: Post, verify: str) -> None:
    moving = {"potential": SENSORS.tolist(), "q0": 0.5, "p0": 1, "times": [2, 0.5]}
    response = post({"trajectories": [{"expression": HARMONIC}, moving], "verify": verify})
    assert response.status_code == 200
    first, second = parse(response)["trajectories"]
    assert first["times"] == np.linspace(0, 2, 100).tolist()
    assert second["times"] == [2.0, 0.5]
    trust = first["trust"]
    assert trust.keys() == set(TRUST_FIELDS) - (set() if verify == "solver" else {"solver_error"})
    assert (trust["energy_drift"] is None) == (verify == "none")
    if verify == "solver":
        assert trust["source"] == "solver"  # the model is random
        np.testing.assert_allclose(first["q"], 0.5 - 0.5 * np.cos(4 * np.array(first["times"])), atol=1e-9)
        np.testing.assert_allclose(second["q"], 0.5 + 0.25 * np.sin([8.0, 2.0]), atol=1e-6)


def test_json_and_arrow_agree(post: Post) -> None:
    rng = np.random.default_rng(0)
    starts = [(0.0, 0.0), (0.5, 1.0), (0.3, -0.5)]
    times = [np.sort(rng.uniform(0, 2, count)) for count in (4, 7, 4)]
    rows = zip(starts, times, strict=True)
    trajectories = [{"potential": SENSORS.tolist(), "q0": q0, "p0": p0, "times": t.tolist()} for (q0, p0), t in rows]
    by_json = parse(post({"trajectories": trajectories, "verify": "solver"}))["trajectories"]
    q0, p0 = zip(*starts, strict=True)
    stacked = np.stack([SENSORS] * 3)
    fixed_size = pa.array(list(stacked), pa.list_(pa.float64(), 100))
    for potential in (pa.array(list(stacked)), fixed_size, pa.FixedShapeTensorArray.from_numpy_ndarray(stacked)):
        body = arrow(potential=potential, q0=q0, p0=p0, times=pa.array(times))
        response = post(body, MEDIA_TYPE, params={"verify": "solver"})
        assert response.headers["content-type"] == MEDIA_TYPE
        table = pa.ipc.open_stream(response.content).read_all()
        assert table.column_names == ["times", "q", "p", *TRUST_FIELDS]
        for row, trajectory in zip(table.to_pylist(), by_json, strict=True):
            trust = {name: row.pop(name) for name in TRUST_FIELDS}
            assert row | {"trust": trust} == trajectory


def test_arrow_defaults_to_energy(post: Post) -> None:
    row = pa.ipc.open_stream(post(arrow(potential=[SENSORS]), MEDIA_TYPE).content).read_all().to_pylist()[0]
    assert row["solver_error"] is None
    assert row["energy_drift"] is not None
    assert len(row["q"]) == 100


def one(text: str) -> str:
    return f'{{"trajectories": [{{"expression": "{HARMONIC}"}}, {{{text}}}]}}'


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("", "body"),
        ("{", "body"),
        ("[]", "body"),
        (b"\xff\xfe\x00", "body"),
        ("[" * 100_000, "body"),
        ("{}", "trajectories"),
        ('{"trajectories": []}', "trajectories"),
        (json.dumps({"trajectories": [{"expression": "q"}] * 1025}), "trajectories"),
        (one('"expression": "q", "colour": 1'), "trajectories[1].colour"),
        (one(""), "trajectories[1]"),
        (one('"expression": "q", "potential": [1]'), "trajectories[1]"),
        (one('"expression": "q", "q0": NaN'), "trajectories[1].q0"),
        (one('"potential": [2, Infinity]'), "trajectories[1].potential[1]"),
        (one('"potential": [2, -Infinity]'), "trajectories[1].potential[1]"),
        (one('"potential": [2, 1e999]'), "trajectories[1].potential[1]"),
        (one('"expression": "q", "p0": 1' + "0" * 400), "trajectories[1].p0"),
        (one('"potential": [1' + "0" * 5000 + "]"), "body"),
        (one('"potential": [2, null]'), "trajectories[1].potential[1]"),
        (one('"potential": [2, "2"]'), "trajectories[1].potential[1]"),
        (one('"expression": "q", "q0": true'), "trajectories[1].q0"),
        (one('"expression": "q", "q0": [true]'), "trajectories[1].q0[0]"),
        (one('"expression": "q", "q0": [[0.5]]'), "trajectories[1].q0[0]"),
        (one('"expression": "q", "q0": []'), "trajectories[1].q0"),
        (one('"potential": [[2, 0], [0, "2"]]'), "trajectories[1].potential[1][1]"),
        (one('"potential": [[2, 0], 2]'), "trajectories[1].potential[1]"),
        (one('"potential": [[2, 0], [2]]'), "trajectories[1].potential"),
        (one('"potential": []'), "trajectories[1].potential"),
        (one('"potential": [2, 2]'), "trajectories[1].potential"),
        (one('"expression": "__import__(1)"'), "trajectories[1].expression"),
        (one('"expression": "\\u0000"'), "trajectories[1].expression"),
        (one('"expression": "\\ud800"'), "body"),
        (one(f'"expression": "{"-" * 499}q"'), "trajectories[1].expression"),
        (one(f'"expression": "{"(" * 249}q{")" * 249}"'), "trajectories[1].expression"),
        (one(f'"expression": "{HARMONIC}", "times": [3]'), "trajectories[1].times[0]"),
        (one(f'"expression": "{HARMONIC}", "times": []'), "trajectories[1].times"),
        (one(f'"expression": "{HARMONIC}", "p0": 1e308'), "trajectories[1].p0"),
        (one('"expression": "2", "expression": "q"'), "trajectories[1].expression"),
        ('{"trajectories": [{"expression": "q"}], "verify": "twice"}', "verify"),
    ],
)
def test_bad_json_is_422_and_names_the_field(post: Post, body: Any, field: str) -> None:
    response = post(body)
    assert response.status_code == 422
    detail = parse(response)["detail"]
    assert field in detail
    assert len(detail) < 1000


def test_bad_arrow_content_types_and_parameters_are_422(post: Post, client: httpx.Client) -> None:
    good = arrow(potential=[SENSORS])
    for body in (b"", b"ARROW1", good[:-200], good[:100], b"\xff" * 64):
        assert "Arrow stream" in parse(post(body, MEDIA_TYPE))["detail"]
    cases = {
        "column potential": arrow(potential=["x"]),
        "trajectories[0].potential has 3 sensors": arrow(potential=[[2.0, 0.0, 2.0]]),
        "trajectories[0].potential is null": arrow(potential=[[2.0, None]]),
        "trajectories[0].potential[0] is nan": arrow(potential=[SENSORS * np.nan]),
        "trajectories[0].q0 is nan": arrow(potential=[SENSORS], q0=[float("nan")]),
        "columns are potential, extra": arrow(potential=[SENSORS], extra=[1]),
        "trajectories has 0 rows": arrow(potential=pa.array([], pa.list_(pa.float64()))),
        "trajectories has 1025 rows": arrow(potential=[[2.0]] * 1025),
        "dictionary": arrow(potential=pa.array(["x"]).dictionary_encode()),
    }
    sink = pa.BufferOutputStream()
    table = pa.table({"potential": [np.zeros(10_000)]})
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    cases["compressed"] = sink.getvalue().to_pybytes()
    for sentence, body in cases.items():
        response = post(body, MEDIA_TYPE)
        assert response.status_code == 422
        assert sentence in parse(response)["detail"]
    assert "verify" in parse(post(good, MEDIA_TYPE, params={"verify": "x"}))["detail"]
    twice = post(one('"expression": "q"')[:-1] + ', "verify": "none"}', params={"verify": "solver"})
    assert "verify is given in the query and in the body" in parse(twice)["detail"]
    assert "only verify and model are known" in parse(post(good, MEDIA_TYPE, params={"x": "1"}))["detail"]
    assert "model is 'x'; this endpoint has served" in parse(post(good, MEDIA_TYPE, params={"model": "x"}))["detail"]
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        response = post("{}", media_type)
        assert response.status_code == 422
        assert "Content-Type" in parse(response)["detail"]
    assert client.post("/v1/trajectories", content=one('"expression": "q"')).status_code == 422  # no type: read as JSON
    assert "charset 'utf-16'; send UTF-8" in parse(post("{}", f"{JSON}; charset=utf-16"))["detail"]
    assert "trajectories: missing" in parse(post("{}", f'{JSON}; charset="UTF-8"'))["detail"]
    assert (
        "verify is given 2 times in the query" in parse(post(good, MEDIA_TYPE, params=[("verify", "none"), ("verify", "solver")]))["detail"]
    )


KEYS = st.sampled_from(["trajectories", "potential", "expression", "q0", "p0", "times", "verify"]) | st.text(max_size=3)
JUNK = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=10) | st.just(HARMONIC),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
TRAJECTORY = st.fixed_dictionaries({}, optional={name: JUNK for name in ("potential", "expression", "q0", "p0", "times")})


@settings(max_examples=60)
@given(body=st.fixed_dictionaries({"trajectories": st.lists(TRAJECTORY | JUNK, max_size=3)}, optional={"verify": JUNK}) | JUNK)
def test_no_json_makes_a_500(post: Post, body: Any) -> None:
    response = post(json.dumps(body))
    assert response.status_code in (200, 422)
    parse(response)


@settings(max_examples=60)
@given(data=st.data())
def test_no_damage_to_a_stream_makes_a_500(post: Post, data: st.DataObject) -> None:
    body = bytearray(arrow(potential=[SENSORS[:10]], q0=[0.5], times=[[0.0, 1.0]]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert post(bytes(body), MEDIA_TYPE).status_code == 422  # undamaged, it has too few sensors


def test_a_body_over_the_limit_is_413_declared_or_streamed(post: Post) -> None:
    def stream() -> Iterator[bytes]:
        for _ in range(_MAX // 2**20 + 2):
            yield b" " * 2**20

    for media_type in (JSON, MEDIA_TYPE):
        for body in (b" " * (_MAX + 1), stream()):
            response = post(body, media_type)
            assert response.status_code == 413
            assert "body is larger than 32 MiB" in parse(response)["detail"]
    assert post(b" " * _MAX).status_code == 422  # at the limit it is read: all of it is white space


def test_who_sends_all_of_a_large_body_first_receives_the_refusal(endpoint: str) -> None:
    """As many clients do: a connection closed meanwhile would be all that they see."""
    import urllib.error
    import urllib.request

    request = urllib.request.Request(f"{endpoint}/v1/trajectories", b" " * (4 * _MAX), {"Content-Type": JSON})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60)
    assert refused.value.code == 413 and "send fewer" in json.load(refused.value)["detail"]


def test_addresses_and_methods_that_there_are_not(client: httpx.Client) -> None:
    nothing = client.get("/v2/trajectories")
    assert nothing.status_code == 404
    assert parse(nothing) == {"detail": "there is nothing at /v2/trajectories; GET /openapi.json describes what there is"}
    for method, path, allowed in (
        ("GET", "/v1/trajectories", "POST"),
        ("OPTIONS", "/v1/models", "GET, HEAD"),
        ("PATCH", "/healthz", "GET, HEAD"),
        ("DELETE", "/", "GET, HEAD"),
    ):
        refused = client.request(method, path)
        assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
        assert parse(refused)["detail"] == f"{method} is no method of {path}; use {allowed}"


def test_a_client_that_hangs_up_harms_nobody(endpoint: str, client: httpx.Client) -> None:
    address = (httpx.URL(endpoint).host, httpx.URL(endpoint).port)
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"POST /v1/trajectories HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
    assert client.get("/healthz").status_code == 200


def test_overload_is_503_with_retry_after_and_passes(endpoint: str, post: Post) -> None:
    body = json.dumps({"trajectories": [{"expression": HARMONIC}] * 400, "verify": "none"})

    def send(_: int) -> httpx.Response:
        return httpx.post(f"{endpoint}/v1/trajectories", content=body, headers={"Content-Type": JSON}, timeout=60, trust_env=False)

    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(send, range(16)))
    assert {response.status_code for response in responses} == {200, 503}
    assert all(int(response.headers["retry-after"]) >= 1 for response in responses if response.status_code == 503)
    assert len(parse(next(response for response in responses if response.status_code == 200))["trajectories"]) == 400
    assert post(body).status_code == 200


def test_start_refuses_a_taken_port_a_second_endpoint_and_a_missing_model(endpoint: str, served_model: Path, tmp_path: Path) -> None:
    from neural_hamilton.serve import application

    with pytest.raises(InputError, match=r"serving.route is '/', which the application 'neural-hamilton' of this cluster has"):
        application.start(served_model, port=httpx.URL(endpoint).port or 0)
    with pytest.raises(InputError, match=r"listens at '127.0.0.1' and \d+ for all its endpoints: give these, and a serving.route"):
        application.start(served_model, port=free_port())
    with pytest.raises(InputError, match="no readable"):
        application.start(tmp_path, port=free_port())
    assert httpx.get(f"{endpoint}/healthz", trust_env=False).status_code == 200


def test_predict_writes_each_format(served_model: Path, tmp_path: Path) -> None:
    for name in ("f.json", "f.csv", "f.png"):
        out = tmp_path / name
        arguments = [str(served_model), "--potential", HARMONIC, "--times", "5", "--out", str(out), "--json"]
        result = CliRunner().invoke(predict_command, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        record = json.loads(result.stdout.splitlines()[-1])
        assert record["out"] == str(out)
        assert len(record["q"]) == 5
    assert json.loads((tmp_path / "f.json").read_text())["q"] == record["q"]
    rows = np.loadtxt(tmp_path / "f.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(rows, np.stack([record["times"], record["q"], record["p"]], axis=1))
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 3  # no temporary files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "f.gif"], r"--out is 'f\.gif'; its suffix must be one of \.png, \.csv, \.json"),
        (["--out", "absent/f.csv"], r"--out is 'absent/f\.csv', which cannot be written"),
        (["--q0", "2"], r"--q0 is 2; it must be between 0 and 1"),
        (["--p0", "nan"], r"--p0 is nan"),
        (["--q0", "0.1,0.2"], r"--q0 is \(0\.1, 0\.2\); give one number"),
        (["--potential", "q+"], r"--potential 'q\+' cannot be read"),
    ],
)
def test_predict_refuses_with_the_option_named(served_model: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(predict_command, [str(served_model), "--potential", HARMONIC, *arguments], catch_exceptions=False)


@pytest.mark.parametrize(("arguments", "name"), [([], "mambonet"), (["--q0", "0.3"], "orbitnet-phase-space")])
def test_predict_takes_the_shipped_model_for_the_initial_state(arguments: list[str], name: str) -> None:
    result = CliRunner().invoke(predict_command, [*arguments, "--potential", HARMONIC], catch_exceptions=False)
    assert "predicted by the model in " in result.stdout and f"models/{name}\n" in result.stdout
    assert "of the depth of the well" in result.stdout


def test_an_initial_state_a_model_was_not_trained_for_is_refused_with_the_models_that_were() -> None:
    others = "other initial states: 'mambonet-phase-space', 'orbitnet-phase-space'"
    with pytest.raises(InputError, match=rf"--q0 and --p0 are \(0\.3, 0\); .* {others}"):
        CliRunner().invoke(predict_command, ["orbitnet", "--q0", "0.3", "--potential", HARMONIC], catch_exceptions=False)
