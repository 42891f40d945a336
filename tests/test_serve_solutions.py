"""The solver's solution beside a prediction, and V in units of one's own, over HTTP."""

import json
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from serving import SENSORS, api_of, save_plane

import neural_hamilton as nh
from neural_hamilton.physics.potentials.expressions import Expression

MORSE = {
    "expression": "D*(1-exp(-a*(q-r)))**2",
    "parameters": {"D": 4.618, "a": 1.869, "r": 1.2746},
    "domain": [0.7, 4.0],
    "mass": 0.98,
    "q0": 1.5,
    "p0": 0.3,
}
TIMES = np.linspace(0, 2, 41).tolist()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    models = {"orbitnet": nh.load("orbitnet"), "free": nh.load("orbitnet-phase-space")}
    planes = {name: save_plane(tmp_path_factory.mktemp(name), name) for name in ("surface", "double-pendulum")}
    return TestClient(api_of(**models, **{name.replace("-", "_"): folder for name, folder in planes.items()}))


def predict(client: TestClient, trajectory: dict[str, Any], **options: Any) -> Any:
    response = client.post("/v1/trajectories", json={"trajectories": [trajectory], "reference": True, **options})
    assert response.status_code == 200, response.text
    return response.json()["trajectories"][0]


class TestReference:
    @pytest.mark.parametrize(
        ("model", "trajectory", "exact"),
        [
            ("orbitnet", {"expression": "8*(q-0.5)**2"}, lambda t: (0.5 - 0.5 * np.cos(4 * t), 2 * np.sin(4 * t))),
            ("orbitnet", {"potential": SENSORS.tolist()}, lambda t: (0.5 - 0.5 * np.cos(4 * t), 2 * np.sin(4 * t))),
            ("free", {"expression": "8*(q-0.5)**2", "q0": 0.5, "p0": -1}, lambda t: (0.5 - 0.25 * np.sin(4 * t), -np.cos(4 * t))),
            ("free", {"expression": "2-3*exp(-((q-0.5)/0.01)**2)", "q0": 0.2, "p0": 0}, lambda t: (0.2 + 0 * t, 0 * t)),
            ("orbitnet", {"expression": "4*abs(q-0.5)"}, lambda t: (2 * t**2, 4 * t)),
        ],
        ids=["a formula", "sensors", "another start", "at rest", "a kink"],
    )  # fmt: skip
    def test_it_is_the_exact_motion_within_its_bound(self, client: TestClient, model: str, trajectory: dict[str, Any], exact: Any) -> None:
        times = TIMES if "abs" not in str(trajectory) else [0, 0.1, 0.3, 0.49]  # to the kink, where the formula ends
        reference = predict(client, trajectory | {"times": times}, model=model)["reference"]
        q, p = exact(np.array(times))
        assert reference["refusal"] is None
        assert 0 <= reference["error_bound"] < 1e-3
        np.testing.assert_allclose(reference["q"], q, atol=reference["error_bound"] + 1e-12)
        np.testing.assert_allclose(reference["p"], p, atol=reference["error_bound"] + 1e-12)

    def test_a_wall_between_two_sensors_is_seen(self, client: TestClient) -> None:
        wall = {"expression": "8*(q-0.5)**2 + 5*exp(-((q-0.5)/0.0008)**2)", "times": TIMES}
        body = predict(client, wall, model="orbitnet", verify="none")
        assert max(body["q"]) > 0.9
        assert max(body["reference"]["q"]) < 0.5

    def test_energies_are_those_of_the_prediction_in_the_exact_potential(self, client: TestClient) -> None:
        body = predict(client, {"expression": "4*abs(q-0.5)", "times": TIMES}, model="orbitnet", verify="none")
        q, p = np.array(body["q"]), np.array(body["p"])
        np.testing.assert_allclose(body["reference"]["energies"], p**2 / 2 + 4 * abs(q - 0.5), rtol=1e-12)

    def test_in_your_own_units_it_is_the_quadrature(self, client: TestClient) -> None:
        body = predict(client, MORSE | {"times": TIMES})
        motion = nh.motion(MORSE["expression"], 1.5, 0.3, TIMES, mass=0.98, domain=(0.7, 4.0), parameters=MORSE["parameters"])
        q, p = motion.bounded.solve(np.array(TIMES))
        np.testing.assert_allclose(body["reference"]["q"], q, rtol=1e-12)
        np.testing.assert_allclose(body["reference"]["p"], p, atol=1e-12)
        assert body["reference"]["error_bound"] is None
        np.testing.assert_allclose(body["reference"]["energies"], body["energy"], rtol=1e-4)

    @pytest.mark.parametrize(
        ("model", "potential", "system"),
        [("surface", "2 - 48*q1*(1-q1)*q2*(1-q2)", "surface"), ("double_pendulum", "mass=1, length=0.8", "double-pendulum")],
    )
    def test_two_degrees_of_freedom(self, client: TestClient, model: str, potential: str, system: str) -> None:
        start, times = {"q0": [0.3, 0.4], "p0": [0.2, -0.1]}, [0.0, 0.7, 0.3]
        reference = predict(client, {"expression": potential, "times": times, **start}, model=model)["reference"]
        exact = nh.solve(potential, start["q0"], start["p0"], times, system=system)
        np.testing.assert_allclose(reference["q"], exact.q, atol=reference["error_bound"] + 1e-9)
        np.testing.assert_allclose(reference["p"], exact.p, atol=reference["error_bound"] + 1e-9)

    def test_what_cannot_be_resolved_is_refused_in_words(self, client: TestClient) -> None:
        rough = "2 - 48*q1*(1-q1)*q2*(1-q2) + 0.2*sin(900*q1)*q1*(1-q1)*q2*(1-q2)"
        trajectory = {"expression": rough, "q0": [0.3, 0.4], "p0": [0.2, -0.1], "times": TIMES}
        reference = predict(client, trajectory, model="surface")["reference"]
        assert reference["q"] is None and reference["error_bound"] is None
        assert reference["refusal"].startswith("the solver has no reference: ")

    def test_there_is_none_unless_asked_for(self, client: TestClient) -> None:
        response = client.post("/v1/trajectories", json={"trajectories": [{"expression": "8*(q-0.5)**2"}]})
        assert "reference" not in response.json()["trajectories"][0]

    def test_too_many_are_refused(self, client: TestClient) -> None:
        response = client.post("/v1/trajectories", json={"trajectories": [{"expression": "8*(q-0.5)**2"}] * 17, "reference": True})
        assert response.status_code == 422
        assert response.json()["detail"] == "reference is for at most 16 trajectories; this request has 17, so split it"


class TestPotentialInYourOwnUnits:
    def test_values_and_energy(self, client: TestClient) -> None:
        body = client.post("/v1/potential", json=MORSE | {"places": 7}).json()
        places = np.linspace(0.7, 4.0, 7)
        potential = Expression(MORSE["expression"], parameters=MORSE["parameters"])
        np.testing.assert_allclose(body["values"], potential.value(places), rtol=1e-12)
        assert body["domain"] == [[0.7, 4.0]]
        assert body["energy"] == pytest.approx(0.3**2 / 2 / 0.98 + potential.value(np.array([1.5]))[0])

    def test_a_table_is_its_spline(self, client: TestClient) -> None:
        x = np.linspace(-1, 2, 9)
        body = client.post("/v1/potential", json={"table": np.stack([x, x**3], axis=1).tolist(), "places": 5}).json()
        places = np.linspace(-1, 2, 5)
        np.testing.assert_allclose(body["values"], places**3, atol=1e-12)  # a cubic spline is exact on cubics
        assert (body["domain"], body["energy"]) == ([[-1, 2]], None)

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            ({"expression": "q", "table": [[0, 0], [1, 1]]}, "give exactly one of expression and table"),
            ({"expression": "q", "mass": 2}, "mass is for your own units; give domain too"),
            ({"expression": "q", "domain": [1, 0]}, "domain is (1, 0); give two numbers, the smaller first"),
            ({"expression": "q", "domain": [0, 1], "q0": 2}, "q0 is 2; it must lie in the domain, from 0 to 1"),
            ({"expression": "q", "domain": [0, 1], "q0": 0, "mass": 0}, "mass is 0; it must be positive and finite"),
            ({"expression": "q", "domain": [0, 1], "q0": 0, "p0": 1e200}, "p0 is too large"),
            ({"expression": "a*q", "domain": [0, 1]}, "expression 'a*q' cannot be read"),
            ({"expression": "1/q", "domain": [0, 1]}, "expression '1/q' is not finite at q = 0"),
            ({"expression": "q", "domain": [-1e308, 1e308]}, "domain is (-1e+308, 1e+308) and mass 1; choose units"),
        ],
    )
    def test_refusals_name_the_field(self, client: TestClient, body: Any, sentence: str) -> None:
        response = client.post("/v1/potential", content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert response.status_code == 422
        assert sentence in response.json()["detail"]
