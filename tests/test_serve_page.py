"""The web page as a person meets it: a real browser, and the HTTP application on a server of one process, without Ray Serve."""

import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from serving import HARMONIC, free_port

from neural_hamilton.physics.potentials.expressions import Expression
from neural_hamilton.serve.http_api import build_api
from neural_hamilton.serve.model import Model

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the PATH: the web page is not tested")


@pytest.fixture(scope="module")
def endpoint(served_model: Path) -> Iterator[str]:
    model = Model(served_model)
    server = uvicorn.Server(uvicorn.Config(build_api(lambda: model), port=free_port(), log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])  # a fresh profile
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, endpoint: str) -> Iterator[Any]:
    """The page with its first orbit; whatever the console complains of, but for the 422s provoked, fails the test."""
    context = browser.new_context()
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.goto(endpoint)
    page.wait_for_selector("#plot-q path.curve")
    yield page
    context.close()
    assert [complaint for complaint in complaints if "422" not in complaint] == []


def enter(page: Any, expression: str) -> Any:
    """Type an expression, by keyboard alone; the trajectory that the server returns."""
    page.fill("#expression", expression)
    with page.expect_response("**/v1/trajectories") as response:
        page.press("#expression", "Enter")
    trajectory = response.value.json()["trajectories"][0]
    page.wait_for_function("p => shown && shown.orbit.p[100] === p", arg=trajectory["p"][100])
    return trajectory


def drawn(page: Any, plot: str) -> np.ndarray:
    """The points (N, 2) of a curve, in the units of the drawing."""
    path = page.get_attribute(f"#plot-{plot} path.curve", "d")
    return np.array([[float(number) for number in point.split(",")] for point in re.split("[ML]", path)[1:]])


def assert_proportional(points: np.ndarray, values: Any) -> None:
    """Whether the points are the values but for a scale and a shift, to the digits of the drawing."""
    slope, shift = np.polyfit(values, points, 1)
    assert abs(slope) > 1.0
    np.testing.assert_allclose(points, slope * np.array(values) + shift, atol=0.01)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[0-9]+(?:[.][0-9]+)?(?:e[-+][0-9]+)?", text)]


def test_typing_an_expression_draws_what_the_api_returns(page: Any) -> None:
    trajectory = enter(page, "4*abs(q-0.5)")
    q, p, times = (np.array(trajectory[name]) for name in ("q", "p", "times"))
    for plot, (x, y) in {"phase": (q, p), "q": (times, q), "p": (times, p)}.items():
        points = drawn(page, plot)
        assert_proportional(points[:, 0], x)
        assert_proportional(points[:, 1], y)
    places = np.linspace(0, 1, 201)
    assert_proportional(drawn(page, "v")[:, 0], places)
    assert_proportional(drawn(page, "v")[:, 1], 4 * abs(places - 0.5))
    assert numbers(page.text_content("#plot-v .energy-label")) == [2.0]


def test_the_trust_shown_is_the_trust_returned(page: Any) -> None:
    trust = enter(page, "4*abs(q-0.5)")["trust"]
    assert trust["source"] == "solver"  # the model is random
    prediction, drift = page.locator("#trust p").all_inner_texts()
    assert numbers(prediction) == [pytest.approx(trust["solver_error"], rel=5e-3)]
    assert "this is the solver’s trajectory" in prediction
    (percent,) = numbers(drift)
    assert percent == pytest.approx(max(100 * trust["energy_drift"], 0.01), rel=5e-3)
    assert "the depth of the well" in drift


def test_every_example_is_predicted(page: Any, endpoint: str) -> None:
    examples = httpx.get(f"{endpoint}/v1/model", trust_env=False).json()["examples"]
    assert page.locator("#picks button").all_inner_texts() == list(examples) != []
    for name, expression in examples.items():
        page.fill("#expression", "")
        with page.expect_response("**/v1/trajectories") as response:
            page.get_by_role("button", name=name, exact=True).click()
        assert response.value.status == 200
        page.wait_for_selector(f"button[aria-pressed=true]:has-text('{name}')")
        # The page reads the expression itself to draw it; the server's own reader must agree.
        places = np.linspace(0, 1, 11)
        read = page.evaluate("q => q.map(compile(document.querySelector('#expression').value))", places.tolist())
        np.testing.assert_allclose(read, Expression(expression).value(places), rtol=1e-12, atol=1e-14)


def test_a_bad_expression_shows_the_servers_sentence_and_recovers(page: Any) -> None:
    for expression, sentence in (("8*(q-0.5)**", "cannot be read"), ("3*q", "a well has V = 2 at both walls")):
        page.fill("#expression", expression)
        page.press("#expression", "Enter")
        page.wait_for_function("text => document.querySelector('#error').textContent.includes(text)", arg=sentence)
        assert page.is_visible("#error")
        assert page.get_attribute("#expression", "aria-invalid") == "true"
    page.fill("#expression", HARMONIC)
    page.press("#expression", "Enter")
    page.wait_for_selector("#error", state="hidden")


def test_a_hostile_expression_stays_text(page: Any) -> None:
    page.fill("#expression", "<img src=x onerror=alert(1)>")
    page.press("#expression", "Enter")
    page.wait_for_selector("#error:not([hidden])")
    assert page.locator("img").count() == 0


def test_the_slider_moves_the_particle_by_keyboard(page: Any) -> None:
    page.focus("#moment")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    position = [float(page.get_attribute("#plot-phase .dot", name)) for name in ("cx", "cy")]
    np.testing.assert_allclose(position, drawn(page, "phase")[5], atol=0.01)
    assert numbers(page.inner_text("#clock")) == [pytest.approx(5 * 2.0 / 200)]


def test_a_phone_needs_no_sideways_scrolling(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


MODEL = {
    "architecture": {"name": "mambonet"}, "num_parameters": 1234, "system": "bowl", "sensors": [20], "domain": [[-1.0, 3.0]],
    "horizon": 5.0, "initial_state": [[0.5], [-0.25]], "requirements": "", "examples": {"Bowl": "q**2"}, "energy_scale": "the rim",
}  # fmt: skip


def test_domain_horizon_and_initial_state_are_the_models(browser: Any, endpoint: str) -> None:
    """A model of another system: nothing on the page is particular to the well."""
    context = browser.new_context()
    page = context.new_page()
    requests: list[Any] = []

    def predict(route: Any) -> None:
        requests.append(route.request.post_data_json["trajectories"][0])
        times = np.array(requests[-1]["times"])
        orbit = {"times": times.tolist(), "q": np.cos(times).tolist(), "p": np.sin(times).tolist()}
        route.fulfill(json={"trajectories": [orbit | {"trust": {"energy_drift": 0.5, "solver_error": 0.001, "source": "model"}}]})

    page.route("**/v1/model", lambda route: route.fulfill(json=MODEL))
    page.route("**/v1/trajectories", predict)
    page.goto(endpoint)
    page.wait_for_selector("#plot-q path.curve")
    (problem,) = requests
    np.testing.assert_allclose(problem["times"], np.linspace(0, 5, 201), atol=1e-12)
    assert (problem["expression"], problem["q0"], problem["p0"]) == ("q**2", 0.5, -0.25)
    assert page.is_disabled("#q0")
    assert page.is_disabled("#p0")
    assert numbers(page.inner_text("#note").replace("₀", "").replace("-", "")) == [0.5, 0.25]
    assert (page.get_attribute("#q0", "min"), page.get_attribute("#q0", "max")) == ("-1", "3")
    assert numbers(page.text_content("#plot-v .energy-label")) == [pytest.approx(0.25 + 0.25**2 / 2, rel=5e-3)]
    assert "50 % of the rim" in page.inner_text("#trust")
    context.close()


def test_a_model_with_two_degrees_of_freedom_is_pointed_elsewhere(browser: Any, endpoint: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    two = MODEL | {"domain": [[0.0, 1.0], [0.0, 2.0]], "sensors": [8, 8], "initial_state": None}
    page.route("**/v1/model", lambda route: route.fulfill(json=two))
    page.goto(endpoint)
    page.wait_for_selector("#error:not([hidden])")
    assert "draws one degree of freedom" in page.inner_text("#error")
    assert page.is_hidden("#form")
    assert page.is_hidden("#result")
    context.close()
