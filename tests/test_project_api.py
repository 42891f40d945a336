"""The public API, as a notebook uses it: `import neural_hamilton as nh`."""

import builtins
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from serving import HARMONIC, SENSORS, api_of, exact_harmonic, save_tiny

import neural_hamilton as nh
from neural_hamilton.architectures import Task, TrainedFor, build_operator, parse_architecture, save_model
from neural_hamilton.physics.potentials.expressions import Expression
from neural_hamilton.physics.potentials.functions import FunctionPotential
from neural_hamilton.physics.systems import System
from neural_hamilton.physics.systems.generic import SplineHamiltonians

TIMES = np.linspace(0.0, 2.0, 41)


@pytest.fixture(scope="module")
def model() -> nh.Model:
    return nh.load("orbitnet-phase-space")


def test_names_are_lazy_listed_and_known():
    code = "import sys, neural_hamilton as nh; print(*dir(nh)); print(sorted({'numpy', 'torch', 'ray'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, loaded = done.stdout.splitlines()
    assert set(nh.__all__) <= set(names.split())
    assert loaded == "[]"
    assert all(callable(getattr(nh, name)) for name in nh.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        nh.lod  # noqa: B018
    assert not hasattr(nh, "ray")


class TestPredictions:
    def test_a_shipped_model_predicts_the_motion(self, model):
        orbit = model(HARMONIC, q0=0.0, p0=0.0, times=TIMES)
        q, p = exact_harmonic(TIMES)
        assert max(abs(orbit.q - q).max(), abs(orbit.p - p).max()) < 0.01
        assert orbit.trust.source == "model" and orbit.trust.solver_error is None and orbit.trust.energy_drift < 1e-3
        assert (orbit.times.tolist(), float(orbit.q0), float(orbit.p0)) == (TIMES.tolist(), 0.0, 0.0)
        again = nh.predict("orbitnet-phase-space", HARMONIC, times=TIMES, verify="solver")
        np.testing.assert_array_equal(again.q, orbit.q)
        assert again.trust.solver_error == pytest.approx(max(abs(orbit.q - q).max(), abs(orbit.p - p).max()), abs=1e-7)

    @pytest.mark.parametrize("potential", [lambda q: 8 * (q - 0.5) ** 2, SENSORS, SENSORS.tolist(), {"potential": SENSORS}])
    def test_a_potential_in_any_form(self, model, potential):
        expected = model(HARMONIC, 0.3, 0.1, TIMES)
        np.testing.assert_array_equal(model(potential, 0.3, 0.1, TIMES).q, expected.q)
        exact = nh.predict(model, expected.hamiltonian, 0.3, 0.1, TIMES)
        np.testing.assert_allclose(exact.q, expected.q, atol=1e-6)

    def test_batches(self, model):
        alone = model(HARMONIC, 0.3, 0.0, TIMES)
        batches = [
            model([HARMONIC, SENSORS], 0.3, 0.0, TIMES),
            model(HARMONIC, [0.3, 0.3], 0.0, TIMES),
            model(np.stack([SENSORS, SENSORS]), np.array([0.3, 0.3]), 0.0, TIMES),
            model(SENSORS, 0.3, 0.0, np.stack([TIMES, TIMES])),
        ]
        for batch in batches:
            assert isinstance(batch, list) and len(batch) == 2
            for orbit in batch:
                np.testing.assert_allclose(orbit.q, alone.q, atol=1e-6)
        assert [orbit.times.size for orbit in model(HARMONIC, 0.3, 0.0, [[0.0, 1.0], [2.0]])] == [2, 1]
        assert isinstance(model([HARMONIC], 0.3), list)
        with pytest.raises(nh.InputError, match="equally many .* 2 of potential, 3 of q0"):
            model([HARMONIC, HARMONIC], [0.1, 0.2, 0.3])
        with pytest.raises(nh.InputError, match=r"^q0\[1\] is 2; it must be between 0 and 1"):
            model(HARMONIC, [0.1, 2.0])
        with pytest.raises(nh.InputError, match=r"^potential\[1\] is 0 at q = 0"):
            model([HARMONIC, "q"])

    def test_mistakes_name_the_argument(self, model):
        for arguments, message in (
            ({"potential": "q+"}, r"^potential 'q\+' cannot be read"),
            ({"potential": SENSORS[:7]}, "^potential has 7 sensors; this model expects 100"),
            ({"potential": lambda q: 1 / (q - 0.5) if q else 0}, "^potential <lambda> does not take arrays"),
            ({"potential": lambda q: np.log(q)}, "^potential <lambda> is -inf at q = 0"),
            ({"potential": None}, "^potential is 'None'|^potential has no sensors"),
            ({"potential": HARMONIC, "p0": 9.0}, "above 2 the particle leaves the walls"),
            ({"potential": HARMONIC, "times": [3.0]}, r"^times\[0\] is 3"),
        ):
            with pytest.raises(nh.InputError, match=message):
                model(**arguments)
        with pytest.raises(nh.InputError, match="neither a model folder nor a shipped model; shipped are .*orbitnet"):
            nh.load("orbit-net")
        with pytest.raises(nh.InputError, match="^device is 'abacus', which cannot be used here"):
            nh.load("orbitnet", device="abacus")

    def test_a_model_describes_itself(self, model):
        assert "orbitnet" in repr(model) and "100 sensors" in repr(model) and "any admissible initial state" in repr(model)
        assert (model.task.sensors, model.task.horizon, model.task.domain) == ((100,), 2.0, ((0.0, 1.0),))
        assert model.card["trained_for"]["system"] == model.system.name == "well"
        assert "orbitnet" in nh.shipped_models()


class TestOrbits:
    def test_plot_and_table(self, model, tmp_path, monkeypatch):
        orbit = model(HARMONIC, 0.3, 0.1, TIMES[::-1])
        figure = orbit.plot("$not mathematics")
        assert isinstance(figure, Figure)
        potential, phase, q_of_t, p_of_t = figure.axes
        np.testing.assert_allclose(potential.lines[0].get_ydata(), 8 * (potential.lines[0].get_xdata() - 0.5) ** 2, atol=1e-9)
        assert potential.lines[1].get_ydata()[0] == pytest.approx(0.1**2 / 2 + 8 * 0.2**2)
        for axes, x, y in ((phase, orbit.q, orbit.p), (q_of_t, orbit.times, orbit.q), (p_of_t, orbit.times, orbit.p)):
            np.testing.assert_array_equal(axes.lines[0].get_xdata(), x[::-1])  # in the order of time
            np.testing.assert_array_equal(axes.lines[0].get_ydata(), y[::-1])
        figure.savefig(tmp_path / "orbit.png")
        frame = orbit.to_pandas()
        assert list(frame.columns) == ["t", "q", "p"]
        np.testing.assert_array_equal(frame.to_numpy(), np.stack([orbit.times, orbit.q, orbit.p], axis=1))

        def without_pandas(name, *rest):
            if name == "pandas":
                raise ImportError(name)
            return real_import(name, *rest)

        real_import = builtins.__import__
        monkeypatch.setattr(builtins, "__import__", without_pandas)
        with pytest.raises(ImportError, match="pip install pandas"):
            orbit.to_pandas()


class TestSolve:
    @pytest.mark.parametrize("potential", [HARMONIC, lambda q: 8 * (q - 0.5) ** 2, SENSORS], ids=["text", "function", "sensors"])
    def test_the_bound_holds_against_the_exact_motion(self, potential):
        times = np.array([2.0, 0.3, 0.0, 1.7, 0.3])  # any order, repeated
        orbit = nh.solve(potential, 0, 0, times)
        q, p = exact_harmonic(times)
        assert 0 < orbit.integration_error <= 1e-9
        assert max(abs(orbit.q - q).max(), abs(orbit.p - p).max()) <= orbit.integration_error + 1e-15
        assert orbit.trust.source == "solver" and orbit.trust.energy_drift < 1e-9
        np.testing.assert_array_equal(orbit.times, times)

    def test_text_is_exact_and_not_read_through_sensors(self):
        text = "8*(q-0.5)**2 + 0.01*cos(100*q)"  # six sensors to a wave
        exact = nh.solve(text, 0.3, 0.1, TIMES, tolerance=1e-10)
        by_function = nh.solve(lambda q: 8 * (q - 0.5) ** 2 + 0.01 * np.cos(100 * q), 0.3, 0.1, TIMES, tolerance=1e-6)
        assert abs(exact.q - by_function.q).max() <= exact.integration_error + by_function.integration_error
        sensed = nh.solve(Expression(text).value(np.linspace(0, 1, 100)), 0.3, 0.1, TIMES)
        assert abs(exact.q - sensed.q).max() > 100 * (exact.integration_error + sensed.integration_error)

    def test_any_potential_beyond_those_of_the_well(self, monkeypatch):
        monkeypatch.setattr("neural_hamilton.physics.systems.generic._MAX_HALVINGS", 2)  # refuse sooner
        orbit = nh.solve("3*q", 0.9, 0.0, [0.0, 0.5])  # without walls, while the particle stays inside
        np.testing.assert_allclose(orbit.q, [0.9, 0.9 - 1.5 * 0.25], atol=1e-12)
        with pytest.raises(nh.InputError, match="cannot be certified .*position_out_of_range"):
            nh.solve("3*q", 0.1, 0.0, [2.0])
        with pytest.raises(nh.InputError, match="q0 is 1.2; it must be between 0 and 1"):
            nh.solve(HARMONIC, 1.2)
        with pytest.raises(nh.InputError, match="cannot be certified"):
            nh.solve("abs(q-0.5)**0.5", 0.1, 0.0, tolerance=1e-12)
        with pytest.raises(nh.InputError, match="method is 'taylor'"):
            nh.solve(HARMONIC, method="taylor")
        with pytest.raises(nh.InputError, match="^system is 3; choose one of .*well"):
            nh.solve(HARMONIC, system=3)

    @pytest.mark.parametrize("method", ["taylor", "dop853", "rk4"])
    def test_exact_hamiltonians_of_a_dataset(self, tiny_dataset, method):
        split = nh.read_dataset(tiny_dataset, "test")
        assert split.system.name == "well" and split.ensemble.name == "paper"
        assert split.q.shape == split.p.shape == split.times.shape == (16, 20) and split.initial.shape == (16, 2)
        sensed = split.hamiltonians.sense((20,))["potential"]
        np.testing.assert_allclose(sensed, split.fields["potential"], atol=1e-6)
        orbit = nh.solve(split.hamiltonians.take(np.array([3])), *split.initial[3], split.times[3], method=method)
        np.testing.assert_allclose(orbit.q, split.q[3], atol=1e-6)
        assert orbit.integration_error <= 1e-9


@pytest.mark.parametrize(
    "text", ["sin(3*q)**2/q", "abs(q-2)**3", "exp(-q)*log(q)+tanh(q)", "q^0.5 - sqrt(q+1)", "-cosh(q)**-1", "2"], ids=str
)
def test_gradients_of_expressions_and_of_functions_agree(text):
    q = np.linspace(0.3, 0.9, 13)
    expression = Expression(text)
    by_differences = FunctionPotential(expression.value, (0.002,))
    np.testing.assert_allclose(expression.gradient(q), by_differences.gradient(q), rtol=1e-10, atol=1e-11)


def test_expressions_in_two_coordinates():
    expression = Expression("q1**2*q2 + sin(q2)", 2)
    q = np.random.default_rng(0).uniform(-1, 1, (5, 3, 2))
    x, y = q[..., 0], q[..., 1]
    np.testing.assert_allclose(expression.value(q), x**2 * y + np.sin(y), rtol=1e-14)
    np.testing.assert_allclose(expression.gradient(q), np.stack([2 * x * y, x**2 + np.cos(y)], axis=-1), rtol=1e-13)
    np.testing.assert_allclose(
        FunctionPotential(lambda a, b: a**2 * b + np.sin(b), (0.01, 0.01)).gradient(q), expression.gradient(q), atol=1e-11
    )
    with pytest.raises(nh.InputError, match=r"'q' is not a name known here; allowed are numbers, q1, q2, pi, e"):
        Expression("q+1", 2).value(q)
    with pytest.raises(nh.InputError, match=r"is not finite at q1 = .*, q2 = "):
        Expression("log(q1-7)", 2).value(q)


class Bowl(System):
    """H = p²/2 + V(q1, q2) on a square."""

    name = "bowl"
    title = "A bowl"
    equations = "H = p²/2 + V(q1, q2)"
    domain = ((-1.0, 1.0), (-2.0, 2.0))
    horizon = 3.0
    columns = ()
    ensembles = {}  # noqa: RUF012

    def rebuild(self, columns):
        raise NotImplementedError

    def energy_scale(self, hamiltonians: SplineHamiltonians) -> np.ndarray:
        return np.ones(len(hamiltonians))


class TestTwoDegreesOfFreedom:
    SENSORS = (9, 12)
    TEXT = "q1**2/2 + 2*q2**2"

    @pytest.fixture(scope="class")
    @classmethod
    def bowl(cls, tmp_path_factory: pytest.TempPathFactory) -> nh.Model:
        folder = tmp_path_factory.mktemp("bowl")
        system = Bowl()
        task = Task(cls.SENSORS, system.domain, system.horizon)
        torch.manual_seed(0)
        network = build_operator(parse_architecture({"name": "deeponet", "width": 16, "num_layers": 1}), task)
        save_model(network, folder, TrainedFor.of(task, system="bowl", ensemble={"name": "any"}, initial_state=None), {})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("neural_hamilton.serve.model.get_system", lambda _: system)
            return nh.load(folder)

    def exact(self, times):
        """From (0.5, -0.4) with momentum (0, 1): frequencies 1 and 2."""
        q = np.stack([0.5 * np.cos(times), -0.4 * np.cos(2 * times) + 0.5 * np.sin(2 * times)], axis=1)
        return q, np.stack([-0.5 * np.sin(times), 0.8 * np.sin(2 * times) + np.cos(2 * times)], axis=1)

    def test_predict_verify_plot_and_table(self, bowl, tmp_path):
        times = np.random.default_rng(0).permutation(np.linspace(0, 3, 7))
        orbit = bowl(self.TEXT, [0.5, -0.4], [0, 1], times, verify="solver")
        q, p = self.exact(times)
        assert orbit.trust.source == "solver"  # the model is random
        np.testing.assert_allclose(orbit.q, q, atol=1e-8)
        np.testing.assert_allclose(orbit.p, p, atol=1e-8)
        assert list(orbit.columns) == ["t", "q1", "q2", "p1", "p2"]
        assert orbit.to_pandas().shape == (7, 5)
        assert {axes.get_ylabel() for axes in orbit.plot().axes} >= {"$q_1$", "$q_2$", "$p_1$", "$p_2$"}

    def test_every_form_and_batches(self, bowl):
        grid = np.stack(np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-2, 2, 12), indexing="ij"), axis=-1)
        values = Expression(self.TEXT, 2).value(grid)
        expected = bowl(self.TEXT, [0.5, -0.4], [0, 1], verify="none").q
        assert expected.shape == (100, 2)
        for potential in (values, values.tolist(), lambda a, b: a**2 / 2 + 2 * b**2):
            np.testing.assert_allclose(bowl(potential, [0.5, -0.4], [0, 1], verify="none").q, expected, atol=1e-6)
        batch = bowl(np.stack([values, values]), [[0.5, -0.4], [0.1, 0.2]], [0, 1], verify="none")
        np.testing.assert_allclose(batch[0].q, expected, atol=1e-6)
        np.testing.assert_allclose([orbit.q0 for orbit in batch], [[0.5, -0.4], [0.1, 0.2]])
        for arguments, message in (
            ((values[:5], [0, 0], [0, 0]), r"^potential has 5 x 12 sensors; this model expects 9 x 12"),
            ((self.TEXT, 0.5, [0, 0]), "^q0 is 0.5; give 2 numbers, one for each coordinate"),
            ((self.TEXT, [0, 2.5], [0, 0]), r"^q0\[1\] is 2.5; it must be between -2 and 2"),
            ((values * np.nan, [0, 0], [0, 0]), r"^potential\[0\]\[0\] is nan; it must be finite"),
        ):
            with pytest.raises(nh.InputError, match=message):
                bowl(*arguments)

    @pytest.mark.parametrize("form", ["text", "function", "sensors"])
    def test_solve(self, form):
        grid = np.stack(np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-2, 2, 12), indexing="ij"), axis=-1)
        potential = {"text": self.TEXT, "function": lambda a, b: a**2 / 2 + 2 * b**2, "sensors": Expression(self.TEXT, 2).value(grid)}
        times = np.linspace(0, 3, 11)
        orbit = nh.solve(potential[form], [0.5, -0.4], [0, 1], times, system=Bowl())
        q, p = self.exact(times)
        assert max(abs(orbit.q - q).max(), abs(orbit.p - p).max()) <= orbit.integration_error + 1e-14 <= 1e-9

    def test_over_http(self, bowl):
        from fastapi.testclient import TestClient

        client = TestClient(api_of(bowl=bowl))
        problem = {"expression": self.TEXT, "q0": [0.5, -0.4], "p0": [0, 1], "times": [0.0, 1.0, 3.0]}
        body = client.post("/v1/trajectories", json={"trajectories": [problem], "verify": "solver"}).json()
        np.testing.assert_allclose(body["trajectories"][0]["q"], self.exact(np.array([0.0, 1.0, 3.0]))[0], atol=1e-8)
        values = Expression(self.TEXT, 2).value(np.zeros((9, 12, 2)))
        assert (
            client.post(
                "/v1/trajectories", json={"trajectories": [problem | {"expression": None, "potential": values.tolist()}]}
            ).status_code
            == 200
        )
        wrong = client.post("/v1/trajectories", json={"trajectories": [problem | {"q0": 0.5}]})
        assert wrong.status_code == 422 and "trajectories[0].q0 is 0.5; give 2 numbers" in wrong.json()["detail"]
        assert client.get("/v1/model").json()["domain"] == [[-1.0, 1.0], [-2.0, 2.0]]


def test_a_run_folder_suggests_its_model(tmp_path: Path):
    save_tiny(tmp_path / "model")
    with pytest.raises(nh.InputError, match="is a run folder; its model is '.*model'"):
        nh.load(tmp_path)
    assert nh.load(tmp_path / "model").card["trained_for"]["system"] == "well"
