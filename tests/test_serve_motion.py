"""Motion in a user's own units: worked examples over fifty periods, from Python, the shell and HTTP."""

import json
import math

import numpy as np
import pytest
from fastapi.testclient import TestClient
from serving import api_of

import neural_hamilton as nh
from neural_hamilton.physics.potentials.tables import TablePotential, read_table
from neural_hamilton.platform.cli import main
from neural_hamilton.serve.motion import MotionProblem, predict_motions

MORSE = {
    "potential": "D*(1-exp(-a*(q-r)))**2",  # HCl, in eV and ångström
    "parameters": {"D": 4.618, "a": 1.869, "r": 1.2746},
    "domain": (0.7, 4.0),
    "mass": 0.98,
    "q0": 1.5,
    "p0": 0.3,
}


def measured_points():
    """57 unequally spaced points of a quartic."""
    x = np.sort(np.random.default_rng(0).uniform(-2.0, 2.0, 57))
    return np.stack([x, 0.5 * x**2 + 0.1 * x**4], axis=1)


EXAMPLES = {
    "Lennard-Jones": {"potential": "4*eps*((s/q)**12-(s/q)**6)", "parameters": {"eps": 1.0, "s": 1.0}, "domain": (0.85, 3.0), "q0": 1.3},
    "Morse": MORSE,
    "double well, over the barrier": {"potential": "(q*q-1)**2", "domain": (-3.0, 3.0), "mass": 3.0, "q0": 0.2, "p0": 3.1},
    "double well, in one of them": {"potential": "(q*q-1)**2", "domain": (-3.0, 3.0), "mass": 3.0, "q0": 0.5},
    "a function": {"potential": lambda x: 1.0 - np.cos(x), "domain": (-3.0, 3.0), "q0": 1.0, "p0": -0.4},
    "measured points": {"potential": measured_points(), "q0": 1.2, "p0": -0.3},
}


@pytest.fixture(scope="module")
def model():
    return nh.load("orbitnet")


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_motion_is_still_right_after_fifty_periods(model, name):
    period = nh.motion(**EXAMPLES[name], model=model).period
    motion = nh.motion(**EXAMPLES[name], times=np.linspace(0.0, 50.0 * period, 400), model=model, verify="solver")
    assert motion.trust.source == "model"
    assert motion.trust.solver_error < 1e-4
    left, right = motion.turning_points
    q, p = motion.bounded.solve(motion.times)
    np.testing.assert_allclose(motion.q, q, atol=1e-4 * (right - left))
    np.testing.assert_allclose(motion.p, p, atol=1e-4 * motion.mass * (right - left) / motion.time_scale)


def test_the_most_accurate_shipped_model_is_used_and_named():
    assert nh.motion(**MORSE).model.name == "orbitnet"


def test_motions_do_not_depend_on_what_else_is_asked(model):
    problems = [MotionProblem(**example) for example in EXAMPLES.values()]
    together = predict_motions(model, problems)
    for problem, motion in zip(problems, together, strict=True):
        (alone,) = predict_motions(model, [problem])
        np.testing.assert_allclose(motion.q, alone.q, atol=1e-6 * (alone.turning_points[1] - alone.turning_points[0]))


def test_a_spike_between_two_sensors_is_noticed_by_the_energy(model):
    spike = {"potential": "8*(q-0.5)**2+1.5*exp(-((q-0.504)/0.0008)**2)", "domain": (-1.0, 2.0), "q0": 0.0}
    motion = nh.motion(**spike, model=model, verify="solver")
    assert motion.trust.solver_error > 0.01
    trusting = nh.motion(**spike, model=model, times=np.linspace(0.0, 3.0, 2000))
    assert trusting.trust.source == "solver"


def test_a_motion_unlike_those_of_training_is_solved_instead(model):
    slow = {"potential": "0.02*q**2-exp(-(q/0.1)**2)", "domain": (-2.0, 2.0), "q0": 1.0, "model": model}
    motion = nh.motion(**slow)
    assert motion.trust.source == "solver" and motion.trust.energy_drift < 1e-7
    with pytest.raises(nh.InputError, match="q0 and p0 give a motion of energy 0.02 that is too slow for the network"):
        nh.motion(**slow, verify="none")


def test_a_swing_that_comes_too_late_is_noticed(model):
    slow = {"potential": "(q*q-1)**2", "domain": (-3.0, 3.0), "q0": 0.0, "p0": 1e-2, "model": model}
    assert nh.motion(**slow, verify="none").trust.source == "model"
    assert nh.motion(**slow, verify="energy").trust.source == "solver"


@pytest.mark.parametrize("verify", ["energy", "solver"])
def test_a_time_so_far_that_the_phase_is_lost_is_undecided(model, verify):
    assert nh.motion(**MORSE, times=[1e6], model=model, verify=verify).trust.verdict == "accepted"
    trust = nh.motion(**MORSE, times=[1e300], model=model, verify=verify).trust
    assert (trust.verdict, trust.source) == ("undecided", "model") and trust.reference_error > 1e200


def test_only_models_of_wells_predict_motions():
    with pytest.raises(nh.InputError, match="was not trained for particles that start at rest at the wall of a well.*such as orbitnet"):
        nh.motion(**MORSE, model="mambonet-surface")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"domain": None}, "domain is None; give two numbers"),
        ({"parameters": {"D": 4.0}}, "potential 'D.*'a' is not a name known here; allowed are numbers, q, D, pi, e"),
        ({"parameters": {"pi": 3.0}}, "parameters 'pi' has a meaning already"),
        ({"parameters": {"D": math.inf}}, "parameters D is inf; it must be a finite number"),
        ({"potential": measured_points()}, "parameters are D, a, r; they belong to a potential given as text"),
        ({"potential": measured_points(), "parameters": {}, "domain": (-5.0, 1.0)}, "domain is .-5, 1.; the table has points from"),
        ({"potential": [[0.0, 1.0]] * 3, "parameters": {}}, "potential has 3 points; an interpolation needs at least 4"),
        ({"mass": "heavy"}, "mass is 'heavy'; give numbers"),
        ({"q0": "here"}, "q0 is 'here'; give numbers"),
        ({"domain": ("a", "b")}, "domain is .*; give numbers"),
        ({"domain": (1.0, math.nan)}, "domain is .1, nan.; give two numbers"),
        ({"q0": (1.0, 2.0)}, "q0 is .1.0, 2.0.; give one number"),
        ({"times": [-1.0]}, r"times\[0\] is -1; times must be finite and not negative"),
    ],
)
def test_a_wrong_argument_is_named(model, change, words):
    with pytest.raises(nh.InputError, match=words):
        nh.motion(**(MORSE | change), model=model)


@pytest.mark.parametrize("form", ["commas", "semicolons", "blanks", "npy"])
def test_a_table_is_read_from_a_file(tmp_path, form):
    points = measured_points()
    if form == "npy":
        path = tmp_path / "points.npy"
        np.save(path, points[::-1])
    else:
        path = tmp_path / "points.csv"
        separator = {"commas": ",", "semicolons": "; ", "blanks": "  "}[form]
        path.write_text("# measured\nx" + separator + "U\n" + "\n".join(f"{x!r}{separator}{u!r}" for x, u in points.tolist()) + "\n")
    table = read_table(path)
    assert table.domain == (points[0, 0], points[-1, 0])
    np.testing.assert_allclose(table.value(points[:, 0]), points[:, 1], rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(table.gradient(np.array([0.3])), 0.3 + 0.4 * 0.3**3, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2\n3,4\n", "has 2 points"),
        ("1,2\nx,U\n3,4\n", "has 'x U' in line 2; give two numbers"),
        ("1,2\n3\n", "has 1 numbers in line 2"),
        ("x,U\n1,2\n1,3\n2,2\n3,1\n", "has two values at x = 1"),
        ("x,U\n1,2\n2,nan\n3,2\n4,1\n", "in row 2; all numbers must be finite"),
        ("", "give .N, 2., rows of two numbers"),
    ],
)
def test_a_broken_table_is_refused(tmp_path, text, words):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(nh.InputError, match=words):
        read_table(tmp_path / "points.csv")


def test_a_table_interpolates_without_wiggles_of_its_own_order():
    x = np.linspace(-1.0, 1.0, 9)
    table = TablePotential(np.stack([x, 2.0 * x**3 - x], axis=1))
    places = np.linspace(-1.0, 1.0, 101)
    np.testing.assert_allclose(table.value(places), 2.0 * places**3 - places, atol=1e-14)


@pytest.fixture
def predict(capfd):
    """Run `predict` in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        capfd.readouterr()
        code = main(["predict", *map(str, arguments)])
        return code, *capfd.readouterr()

    return run


def test_the_shell_predicts_a_motion(predict, tmp_path):
    options = ["--param", "D=4.618", "--param", "a=1.869", "--param", "r=1.2746", "--mass", 0.98, "--q0", 1.5, "--p0", 0.3]
    options += ["--domain", 0.7, 4, "--until", 40, "--times", 50]
    for suffix in ("json", "csv", "png"):
        code, out, err = predict("--potential", MORSE["potential"], *options, "--out", tmp_path / f"morse.{suffix}")
        assert code == 0, err
        assert "predicted by the model in" in out and "period 1.17278066, between q = 1.11088557 and 1.51167967" in out
    record = json.loads((tmp_path / "morse.json").read_text())
    assert {"times", "q", "p", "period", "turning_points", "trust", "model", "energy"} <= set(record)
    motion = nh.motion(**MORSE, times=np.linspace(0.0, 40.0, 50), verify="solver")
    assert record["period"] == motion.period and record["turning_points"] == list(motion.turning_points)
    np.testing.assert_allclose(record["q"], motion.q, atol=1e-6)
    assert (tmp_path / "morse.csv").read_text().startswith("t,q,p\n0.0,1.5")
    assert (tmp_path / "morse.png").read_bytes().startswith(b"\x89PNG")


def test_the_phase_portrait_is_the_curve_of_the_energy(model):
    motion = nh.motion(**MORSE, times=np.linspace(0.0, 300.0, 50), model=model)
    curve, states = motion.plot().axes[1].lines
    q, p = curve.get_data()
    exact_q, exact_p = motion.bounded.solve(np.linspace(0.0, motion.period, 100))
    nearest = np.hypot((exact_q[:, None] - q) / np.ptp(q), (exact_p[:, None] - p) / np.ptp(p)).min(axis=1)
    assert nearest.max() < 0.005 and (q[0], p[0]) == pytest.approx((q[-1], p[-1]), abs=1e-3)
    assert states.get_linestyle() == "None" and len(states.get_xdata()) == 50


def test_the_shell_reads_a_table(predict, tmp_path):
    np.savetxt(tmp_path / "points.csv", measured_points(), delimiter=",", header="x,U")
    code, out, err = predict("--potential", tmp_path / "points.csv", "--q0", 1.2, "--p0", -0.3)
    assert code == 0 and "period" in out, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--potential", "q*q", "--mass", 2], "--mass is for your own units; give --domain A B too"),
        (["--potential", "k*q*q", "--param", "k=1"], "--param is for your own units"),
        (["--potential", "q*q", "--domain", -1, 1], "--q0 is missing"),
        (["--potential", "q*q", "--domain", -1, 1, "--q0", 0.5, "--until", -1], "--until is -1; it must be positive"),
        (["--potential", "nowhere.csv", "--q0", 0.5], "--potential 'nowhere.csv' cannot be read: No such file"),
        (["--potential", "q*q", "--domain", -1, 1, "--q0", 0.5, "--p0", 5], "--q0 and p0 give energy 12.75"),
    ],
)
def test_the_shell_names_the_option(predict, arguments, words):
    code, _, err = predict(*arguments)
    assert code == 2 and words in err and err.count("\n") == 1


def test_the_endpoint_predicts_motions_between_other_problems(model):
    body = {name: value for name, value in MORSE.items() if name != "potential"} | {"expression": MORSE["potential"], "times": [0, 100, 5]}
    table = {"table": measured_points().tolist(), "q0": 1.2}
    client = TestClient(api_of(model=model))
    response = client.post("/v1/trajectories", json={"trajectories": [body, {"expression": "8*(q-0.5)**2"}, table], "verify": "solver"})
    assert response.status_code == 200, response.text
    morse, plain, points = response.json()["trajectories"]
    motion = nh.motion(**MORSE, times=[0.0, 100.0, 5.0], model=model, verify="solver")
    assert (morse["period"], morse["turning_points"]) == (motion.period, list(motion.turning_points))
    np.testing.assert_allclose(morse["q"], motion.q, atol=1e-6)
    assert morse["trust"]["source"] == "model" and len(points["times"]) == 100
    assert "period" not in plain


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"q0": None}, "trajectories[0]: q0 is missing; in your own units"),
        ({"domain": [4.0, 0.7]}, "trajectories[0].domain is (4, 0.7); give two numbers, the smaller first"),
        ({"mass": -1}, "trajectories[0].mass is -1; it must be positive"),
        ({"domain": None}, "trajectories[0]: parameters is for your own units; give domain too"),
        ({"expression": None, "table": [[0, 1], [1, 2], [2]]}, "trajectories[0].table[2]: has 1 entries; give 2 or more"),
        ({"p0": 1e300}, "trajectories[0].q0 and p0 give energy inf"),
    ],
)
def test_the_endpoint_names_the_field(model, change, words):
    body = {name: value for name, value in MORSE.items() if name != "potential"} | {"expression": MORSE["potential"]} | change
    response = TestClient(api_of(model=model)).post("/v1/trajectories", json={"trajectories": [body]})
    assert response.status_code == 422 and words in response.json()["detail"], response.text
