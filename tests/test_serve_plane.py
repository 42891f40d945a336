"""Two degrees of freedom: `predict`, the figure of an orbit, parameters in place of a formula, and V on a grid over HTTP."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from serving import HARMONIC, api_of, save_plane

import neural_hamilton as nh
from neural_hamilton.physics import InputError
from neural_hamilton.physics.potential_map import spread_levels
from neural_hamilton.physics.potentials.expressions import Expression
from neural_hamilton.physics.systems import get_system
from neural_hamilton.physics.systems.double_pendulum import DoublePendulums
from neural_hamilton.serve.commands import predict_command
from neural_hamilton.serve.model import Model
from neural_hamilton.serve.orbit import Orbit
from neural_hamilton.serve.problems import Problem

BOWL = "2 - 48*q1*(1-q1)*q2*(1-q2)"
ROUND = "(q1**2+q2**2)/2"


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_plane(tmp_path_factory.mktemp("surface"))


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_plane(tmp_path_factory.mktemp("pendulum"), "double-pendulum")


@pytest.fixture(scope="module")
def client(surface: Path) -> TestClient:
    return TestClient(api_of(surface=surface))


def run_predict(folder: Path, *arguments: str) -> str:
    result = CliRunner().invoke(predict_command, [str(folder), *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_predict_writes_each_format(surface: Path, tmp_path: Path) -> None:
    given = ("--potential", BOWL, "--q0", "0.3,0.4", "--p0", "0.5,0", "--times", "5")
    for name in ("f.json", "f.csv", "f.png"):
        summary = run_predict(surface, *given, "--out", str(tmp_path / name))
        for part in ("5 times on [0, 2]; q1 in [", "p2 in [", "energy drift", "the depth of the surface below its rim"):
            assert part in summary
    record = json.loads((tmp_path / "f.json").read_text())
    assert (record["q0"], record["p0"]) == ([0.3, 0.4], [0.5, 0.0])
    rows = list(csv.reader((tmp_path / "f.csv").open()))
    assert rows[0] == ["t", "q1", "q2", "p1", "p2"]
    table = np.array(rows[1:], dtype=float)
    np.testing.assert_array_equal(table, np.column_stack([record[name] for name in ("times", "q", "p")]))
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("system", "potential", "title"),
    [
        ("surface", BOWL, f"V(q1, q2) = {BOWL}   (computed by the solver)"),
        ("surface", BOWL + "+0*(q1+q2)" * 8, f"V(q1, q2) = {(BOWL + '+0*(q1+q2)' * 8)[:79]}…   (computed by the solver)"),
        ("pendulum", "mass=1, length=0.8", "The double pendulum, mass=1, length=0.8   (computed by the solver)"),
    ],
)
def test_the_title_says_what_was_given(
    system: str, potential: str, title: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(Orbit, "plot", lambda self, title, plot=Orbit.plot: titles.append(title) or plot(self, title))
    run_predict(request.getfixturevalue(system), "--potential", potential, "--q0", "0.3,0.4", "--out", str(tmp_path / "f.png"))
    assert titles == [title]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--p0", "5,0"], r"--q0 and --p0 give \|p0\|\*\*2/2 \+ V\(q0\) = 12\.\d+; from 2 on the particle can cross the rim"),
        (["--potential", "q1+q2"], r"--potential is [02](\.\d+)? on the rim of the square; a surface has V = 2 there"),
        (
            ["--potential", HARMONIC],
            r"--potential '8.*' cannot be read at character 4: 'q' is not a name known here; allowed are .* q1, q2",
        ),
        (["--potential", "mass=1"], r"--potential 'mass=1' cannot be read at character 1"),
        (["--potential", "1/(q1-0.5)+0*q2"], r"--potential is .* on the rim"),
        (["--q0", "0.3"], r"--q0 is \(0\.3,\); give 2 numbers, one for each coordinate"),
        (["--q0", "0.3,1.5"], r"--q0\[1\] is 1\.5; it must be between 0 and 1"),
        (["--p0", "nan,0"], r"--p0 is nan, 0; it must be finite"),
    ],
)
def test_predict_refuses_with_the_option_named(surface: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_predict(surface, "--potential", BOWL, "--q0", "0.3,0.4", *arguments)


def test_another_grid_of_sensors_is_refused(surface: Path) -> None:
    with pytest.raises(InputError, match="potential has 10 x 12 sensors; this model expects 12 x 12"):
        Model(surface)(np.full((10, 12), 2.0), (0.5, 0.5), (0.0, 0.0))


def test_without_an_initial_position_the_particle_starts_at_the_centre(surface: Path) -> None:
    orbit = Model(surface)(BOWL, p0=(0.1, 0.0))
    np.testing.assert_array_equal(orbit.q0, (0.5, 0.5))
    assert orbit.energy == pytest.approx(0.1**2 / 2 - 1.0, abs=1e-3)


class TestParameters:
    """A system whose rows are a few numbers takes them as text, and needs them where V alone does not describe it."""

    def test_they_make_the_exact_hamiltonian(self, pendulum: Path) -> None:
        model, state = Model(pendulum), ((0.5, -0.3), (0.1, 0.2))
        named, exact = model("length=0.8 , mass = 1", *state), model(DoublePendulums(np.array([[1.0, 0.8]])), *state)
        np.testing.assert_array_equal(named.q, exact.q)
        assert named.trust == exact.trust

    def test_they_stand_beside_formulas(self) -> None:
        system = get_system("henon-heiles")
        formula, named = (nh.solve(text, (0.0, 0.1), (0.3, 0.2), system=system) for text in (f"{ROUND} + q1**2*q2 - q2**3/3", "coupling=1"))
        np.testing.assert_allclose(named.q, formula.q, atol=1e-8)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("cos(q1)", "--potential is a formula for V, but .* has the fields .*; give its parameters, such as 'mass=1, length=1'"),
            ("mass=1", "--potential is 'mass=1'; give each parameter of system 'double-pendulum' once, such as 'mass=1, length=1'"),
            ("mass=1, length=1, mass=1", "give each parameter"),
            ("mass=1, length=x", "give each parameter"),
            ("mass=1, length=1,", "give each parameter"),
            ("mass=1, width=1", "give each parameter"),
            ("mass=1, length=3", "--potential has length = 3; it must be between 0.5 and 2"),
            ("mass=nan, length=1", "--potential has mass = nan; it must be between 0.5 and 2"),
        ],
    )  # fmt: skip
    def test_others_are_refused(self, pendulum: Path, text: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            run_predict(pendulum, "--potential", text)

    def test_the_card_offers_them_as_the_example(self, pendulum: Path, surface: Path) -> None:
        described = Model(pendulum).description
        assert (described["examples"], described["has_unit_mass"]) == ({"mass=1, length=1": "mass=1, length=1"}, False)
        described = Model(surface).description
        assert (described["examples"].keys(), described["has_unit_mass"]) == ({"One well", "Two wells"}, True)


class TestFigure:
    def test_the_section_shows_where_the_exact_motion_crosses(self) -> None:
        orbit = nh.solve(ROUND, (0.3, -0.2), (0.1, 0.35), system="henon-heiles")
        figure = orbit.plot("two oscillators")
        panels = {axes.get_ylabel(): axes for axes in figure.axes}
        assert panels.keys() >= {"$q_1$", "$q_2$", "$p_1$", "$p_2$"}
        (section,) = (axes for axes in figure.axes if axes.get_title().startswith("section $q_2$ = 0"))
        q1, p1 = section.lines[0].get_data()
        # q2 = A sin(t - t0) crosses upwards at t0 and a period later: there q1 and p1 have turned by the same angle.
        first = np.arctan2(0.2, 0.35)
        crossed = np.array([time for time in (first, first + 2 * np.pi) if time <= 10.0])
        np.testing.assert_allclose(q1, 0.3 * np.cos(crossed) + 0.1 * np.sin(crossed), atol=1e-5)
        np.testing.assert_allclose(p1, 0.1 * np.cos(crossed) - 0.3 * np.sin(crossed), atol=1e-5)
        assert not section.texts
        path = next(line for axes in figure.axes for line in axes.lines if line.get_label() == "path")
        np.testing.assert_array_equal(path.get_xydata(), orbit.q)

    def test_an_orbit_that_never_crosses_says_so(self, surface: Path) -> None:
        figure = Model(surface)(BOWL, (0.3, 0.3), (0.0, 0.0), [0.01, 0.0, 0.01]).plot()
        (section,) = (axes for axes in figure.axes if axes.get_title().startswith("section $q_2$ = 0.5"))
        assert [text.get_text() for text in section.texts] == ["no crossing up to $t$ = 0.01"]

    def test_the_bounds_are_where_v_is_the_energy(self) -> None:
        orbit = nh.solve(ROUND, (0.6, 0.0), (0.0, 0.3), system="henon-heiles")
        bounds = [
            collection.get_paths()[0].vertices
            for axes in orbit.plot().axes
            for collection in axes.collections
            if collection.get_edgecolor().size and np.allclose(collection.get_edgecolor()[0], to_rgba("tab:red"))
        ]
        assert len(bounds) == 2  # on the surface and in the section, where the motion is one of the same circle
        for line in bounds:
            np.testing.assert_allclose(np.hypot(*line.T), np.sqrt(0.6**2 + 0.3**2), atol=2e-3)

    def test_a_flat_potential_and_a_pendulum_can_be_drawn(self, pendulum: Path) -> None:
        assert nh.solve("0*q1", (0.0, 0.0), (0.1, 0.0), [0.0, 1.0], system="henon-heiles").plot()._repr_png_().startswith(b"\x89PNG")
        assert Model(pendulum)("mass=1, length=1", (0.5, 0.2)).plot()._repr_png_().startswith(b"\x89PNG")

    def test_levels(self) -> None:
        np.testing.assert_allclose(spread_levels(1.0, 5.0, 3), [1.0, 2.0, 5.0])
        assert spread_levels(1.0, 1.0, 3).size == 0


class TestPotentialOverHttp:
    def ask(self, client: TestClient, body: Any) -> Any:
        return client.post("/v1/potential", content=body if isinstance(body, str) else json.dumps(body))

    def test_values_and_energy_are_those_of_the_expression(self, client: TestClient) -> None:
        body = self.ask(client, {"expression": BOWL, "q0": [0.25, 0.5], "p0": [0.3, 0.4], "places": 9}).json()
        grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 9)] * 2, indexing="ij"), axis=-1)
        np.testing.assert_allclose(body["values"], Expression(BOWL, 2).value(grid), rtol=1e-12)
        assert body["domain"] == [[0, 1], [0, 1]]
        assert body["energy"] == pytest.approx(0.125 + 2 - 48 * 0.25 * 0.75 * 0.25)

    def test_a_particle_that_no_model_accepts_has_an_energy_all_the_same(self, client: TestClient) -> None:
        response = self.ask(client, {"expression": "q1+q2", "p0": [10, 0]})
        assert response.status_code == 200
        assert response.json()["energy"] == pytest.approx(51.0)
        assert np.shape(response.json()["values"]) == (65, 65)

    def test_one_degree_of_freedom(self, served_model: Path) -> None:
        body = self.ask(TestClient(api_of(model=served_model)), {"expression": HARMONIC, "q0": 0.25, "p0": 1, "places": 5}).json()
        assert body == {"domain": [[0, 1]], "values": [2, 0.5, 0, 0.5, 2], "energy": 1.0}
        values, energy = Model(served_model).map_potential(Problem(np.full(100, 2.0), 0.5, 1.0), 3)  # at sensors, which make no well
        np.testing.assert_allclose([*values, energy], [2, 2, 2, 2.5])

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            ("{", "body"),
            ({}, "give exactly one of expression and table"),
            ({"expression": "q1+"}, "expression 'q1+' cannot be read at character 4"),
            ({"expression": "1/(q1-0.5)+q2"}, "expression '1/(q1-0.5)+q2' is not finite at q1 = 0.5"),
            ({"expression": BOWL, "places": 1}, "places: input should be greater than or equal to 2"),
            ({"expression": BOWL, "places": 202}, "places: input should be less than or equal to 201"),
            ({"expression": BOWL, "q0": [2, 0]}, "q0[0] is 2; it must be between 0 and 1"),
            ({"expression": BOWL, "q0": 0.5}, "q0 is 0.5; give 2 numbers"),
            ({"expression": BOWL, "p0": [1e200, 0]}, "p0 is too large"),
            ({"expression": BOWL, "colour": 1}, "colour"),
            ('{"expression": "q1", "q0": [NaN, 0]}', "q0"),
        ],
    )
    def test_refusals_name_the_field(self, client: TestClient, body: Any, sentence: str) -> None:
        response = self.ask(client, body)
        assert response.status_code == 422
        assert sentence in response.json()["detail"]

    def test_other_content_and_query_parameters_are_refused(self, client: TestClient) -> None:
        response = client.post("/v1/potential", content="q1", headers={"Content-Type": "text/plain"})
        assert (response.status_code, response.json()["detail"]) == (422, "Content-Type is 'text/plain'; send application/json")
        assert client.post("/v1/potential?places=3", json={"expression": BOWL}).status_code == 422

    @settings(max_examples=60)
    @given(text=st.text(alphabet="q12+-*/^().= expsin,e0", max_size=20), state=st.lists(st.floats(), max_size=3) | st.floats())
    def test_no_input_makes_a_500(self, client: TestClient, text: str, state: Any) -> None:
        response = self.ask(client, {"expression": text, "p0": state, "places": 3})
        assert response.status_code in (200, 422)
        json.loads(response.content, parse_constant=pytest.fail)

    def test_it_is_documented(self, client: TestClient) -> None:
        document = client.get("/openapi.json").json()
        operation = document["paths"]["/v1/potential"]["post"]
        assert {"200", "413", "422", "503"} <= set(operation["responses"])
        body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert body.rsplit("/", 1)[1] == "PotentialRequest" in document["components"]["schemas"]
