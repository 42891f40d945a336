"""The web page as a person meets it: a real browser, and the HTTP application on a server of one process, without Ray Serve."""

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from serving import HARMONIC, api_of, free_port, save_plane

from neural_hamilton.physics.potentials.expressions import Expression

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the PATH: the web page is not tested")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(api_of(model=folder), port=free_port(), log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def endpoint(served_model: Path) -> Iterator[str]:
    with served(served_model) as url:
        yield url


@pytest.fixture(scope="module")
def plane_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model of particles on surfaces."""
    with served(save_plane(tmp_path_factory.mktemp("plane"))) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])  # a fresh profile
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """`visit(url, **options of the browser)`: the page with its first orbit.

    Whatever the console complains of, but for the 422s provoked, fails the test.
    """
    contexts: list[Any] = []
    complaints: list[str] = []

    def open_page(url: str, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.goto(url)
        page.wait_for_selector("#plot-q path.curve, #plot-q1 path.curve")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [complaint for complaint in complaints if "422" not in complaint] == []


@pytest.fixture
def page(visit: Callable[..., Any], endpoint: str) -> Any:
    return visit(endpoint)


@pytest.fixture
def plane(visit: Callable[..., Any], plane_endpoint: str) -> Any:
    return visit(plane_endpoint)


def enter(page: Any, expression: str) -> Any:
    """Type an expression, by keyboard alone; the trajectory that the server returns."""
    page.fill("#expression", expression)
    with page.expect_response("**/v1/trajectories") as response:
        page.press("#expression", "Enter")
    trajectory = response.value.json()["trajectories"][0]
    page.wait_for_function("p => shown && String(shown.orbit.p[100]) === String(p)", arg=trajectory["p"][100])
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
    percent, latency = numbers(drift)
    assert latency >= 1
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
        orbit = response.value.json()["trajectories"][0]
        page.wait_for_function("p => shown && shown.orbit.p[100] === p", arg=orbit["p"][100])
        assert_proportional(drawn(page, "v")[:, 1], Expression(expression).value(np.linspace(0, 1, 201)))


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
    "fields": {"potential": 1}, "has_unit_mass": True,
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

    values = (np.linspace(-1, 3, 201) ** 2).tolist()
    page.route("**/v1/model", lambda route: route.fulfill(json=MODEL))
    page.route("**/v1/trajectories", predict)
    page.route("**/v1/potential", lambda route: route.fulfill(json={"domain": MODEL["domain"], "values": values, "energy": 0.28125}))
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


def test_a_model_with_three_degrees_of_freedom_is_pointed_elsewhere(browser: Any, endpoint: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    three = MODEL | {"domain": [[0.0, 1.0]] * 3, "sensors": [8, 8, 8], "initial_state": None}
    page.route("**/v1/model", lambda route: route.fulfill(json=three))
    page.goto(endpoint)
    page.wait_for_selector("#error:not([hidden])")
    assert "draws one or two degrees of freedom" in page.inner_text("#error")
    assert page.is_hidden("#form")
    assert page.is_hidden("#result")
    context.close()


SADDLE = "2 - 32*q1*(1-q1)*q2*(1-q2)*exp(q1-q2)"


def settle(page: Any) -> None:
    """Wait until nothing is asked, and what is shown belongs to what the form says."""
    page.wait_for_function("() => !asking && latest === null")


def state(page: Any) -> list[float]:
    """q1, q2, p1, p2 at the start, in the number inputs."""
    return [float(page.input_value(f"#{name}")) for name in ("q0-1", "q0-2", "p0-1", "p0-2")]


def middle(page: Any, selector: str) -> tuple[float, float]:
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_an_expression_in_two_coordinates_draws_what_the_server_returns(plane: Any) -> None:
    with plane.expect_response("**/v1/potential") as response:
        orbit = enter(plane, SADDLE)
    settle(plane)
    for axis in (0, 1):
        points = drawn(plane, f"q{axis + 1}")
        assert_proportional(points[:, 0], orbit["times"])
        assert_proportional(points[:, 1], np.array(orbit["q"])[:, axis])
    body = response.value.json()
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 65)] * 2, indexing="ij"), axis=-1)
    np.testing.assert_allclose(body["values"], Expression(SADDLE, 2).value(grid), rtol=1e-12)
    shown = numbers(plane.inner_text("#levels").replace("-", ""))
    np.testing.assert_allclose(shown, np.abs([np.min(body["values"]), np.max(body["values"]), body["energy"]]), rtol=5e-3)
    prediction, _ = plane.locator("#trust p").all_inner_texts()
    assert numbers(prediction) == [pytest.approx(orbit["trust"]["solver_error"], rel=5e-3)]
    # Blue where V is low, the colour of the card where it is high: a pixel of the deepest place, and one of the rim.
    deepest = np.unravel_index(np.argmin(body["values"]), (65, 65))
    colours = plane.evaluate(
        """spots => { const { width, height } = backdrop, { data } = backdrop.getContext("2d").getImageData(0, 0, width, height);
        return spots.map(q => { const [x, y] = toPixels(q).map(v => Math.round(v * devicePixelRatio)), first = 4 * (y * width + x);
        return [...data.slice(first, first + 4)]; }); }""",
        [[index / 64 for index in deepest], [0.98, 0.02]],
    )
    assert colours[0][0] < 100 < 200 < colours[0][2]
    assert min(colours[1][:3]) > 200


def test_dragging_the_start_and_the_arrow_sets_the_initial_state(plane: Any) -> None:
    settle(plane)
    before = state(plane)
    x, y = middle(plane, "#start")
    plane.mouse.move(x, y)
    plane.mouse.down()
    plane.mouse.move(x + 20, y - 40, steps=4)
    plane.wait_for_function("() => !asking")  # the path follows before the release
    live = plane.evaluate("shown.orbit.q[0]")
    with plane.expect_response("**/v1/potential"):
        plane.mouse.up()
    settle(plane)
    q1, q2, p1, p2 = state(plane)
    assert (p1, p2) == tuple(before[2:])
    assert q1 > before[0] and q2 > before[1]
    np.testing.assert_allclose(live, [q1, q2], atol=1e-6)
    width, height = plane.evaluate("inner()")
    np.testing.assert_allclose([q1 - before[0], q2 - before[1]], [20 / width, 40 / height], atol=2e-3)

    x, y = middle(plane, "#tip")
    plane.mouse.move(x, y)
    plane.mouse.down()
    plane.mouse.move(x - 5, y - 60, steps=4)
    with plane.expect_response("**/v1/potential") as response:  # asked for on release alone
        plane.mouse.up()
    settle(plane)
    pushed = state(plane)
    assert pushed[:2] == [q1, q2] and pushed[3] > p2
    sent = response.value.request.post_data_json
    assert [*sent["q0"], *sent["p0"]] == pushed
    np.testing.assert_allclose(plane.evaluate("[...shown.orbit.q[0], ...shown.orbit.p[0]]"), pushed, atol=1e-6)
    # The arrow's end is where it was dropped.
    np.testing.assert_allclose(middle(plane, "#tip"), (x - 5, y - 60), atol=1.5)


def test_a_click_on_the_surface_puts_the_start_there(plane: Any) -> None:
    settle(plane)
    spot = plane.evaluate("toPixels([0.25, 0.75])")
    with plane.expect_response("**/v1/potential"):
        plane.click("#map", position={"x": spot[0], "y": spot[1]})
    settle(plane)
    np.testing.assert_allclose(state(plane)[:2], [0.25, 0.75], atol=2e-3)


def test_the_keyboard_moves_start_arrow_and_time(plane: Any) -> None:
    settle(plane)
    before = state(plane)
    plane.focus("#start")
    plane.keyboard.press("ArrowRight")
    plane.keyboard.press("Shift+ArrowUp")
    plane.keyboard.press("Tab")
    assert plane.evaluate("document.activeElement.id") == "tip"
    plane.keyboard.press("ArrowDown")
    settle(plane)
    np.testing.assert_allclose(state(plane), [before[0] + 0.01, before[1] + 0.1, before[2], before[3] - 0.01], atol=1e-9)
    assert (
        plane.get_attribute("#start", "aria-label")
        == f"Initial position, q₁ {state(plane)[0]:g}, q₂ {state(plane)[1]:g}; arrow keys move it"
    )
    plane.focus("#q0-1")
    plane.keyboard.press("ArrowUp")
    settle(plane)
    np.testing.assert_allclose(plane.evaluate("shown.orbit.q[0]"), state(plane)[:2], atol=1e-6)
    plane.focus("#moment")
    plane.keyboard.press("End")
    assert numbers(plane.inner_text("#clock")) == [2.0]
    np.testing.assert_allclose(float(plane.get_attribute("#plot-q2 .dot", "cy")), drawn(plane, "q2")[-1, 1], atol=0.01)


def test_play_moves_the_particle_and_pause_stops_it(plane: Any) -> None:
    settle(plane)
    plane.focus("#play")
    plane.keyboard.press("Enter")
    assert plane.inner_text("#play") == "Pause"
    plane.wait_for_function("() => now > 5")
    plane.keyboard.press("Enter")
    assert plane.inner_text("#play") == "Play"
    stopped = plane.evaluate("now")
    assert plane.evaluate("() => new Promise(done => setTimeout(() => done(now), 100))") == stopped
    # From the end it starts again.
    plane.evaluate("now = 200")
    plane.click("#play")
    plane.wait_for_function("() => now > 0 && now < 100")


def test_where_motion_is_unwanted_the_particle_jumps(visit: Callable[..., Any], plane_endpoint: str) -> None:
    page = visit(plane_endpoint, reduced_motion="reduce", color_scheme="dark")
    page.click("#play")
    seen = page.evaluate(
        """() => new Promise(done => { const seen = new Set(), until = performance.now() + 800;
        (function look() { seen.add(now); performance.now() < until ? requestAnimationFrame(look) : done([...seen]); })(); })"""
    )
    assert len(seen) <= 3
    assert page.evaluate("getComputedStyle(document.querySelector('#trust')).transitionDuration") == "0s"


def test_a_refused_state_shows_the_servers_sentence_and_recovers(plane: Any) -> None:
    plane.fill("#p0-1", "9")
    plane.press("#p0-1", "Enter")
    plane.wait_for_function("() => document.querySelector('#error').textContent.includes('the particle can cross the rim')")
    settle(plane)
    assert "energy is 39.9" in plane.inner_text("#levels")
    assert "old" in plane.get_attribute("#result", "class")
    assert plane.is_visible("#start")  # where it can be taken back
    plane.fill("#p0-1", "0")
    plane.press("#p0-1", "Enter")
    plane.wait_for_selector("#error", state="hidden")
    plane.fill("#expression", "q1+")
    plane.press("#expression", "Enter")
    plane.wait_for_function("() => document.querySelector('#error').textContent.includes('cannot be read')")
    assert plane.get_attribute("#expression", "aria-invalid") == "true"


def swipe(page: Any, start: tuple[float, float], way: tuple[float, float]) -> None:
    """A finger from `start` in ten steps."""
    session = page.context.new_cdp_session(page)
    for step in range(11):
        points = [{"x": start[0] + way[0] * step / 10, "y": start[1] + way[1] * step / 10}]
        session.send("Input.dispatchTouchEvent", {"type": "touchMove" if step else "touchStart", "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settle(page)


def test_a_finger_taps_the_surface_and_drags_the_start_on_a_phone(visit: Callable[..., Any], plane_endpoint: str) -> None:
    page = visit(plane_endpoint, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    spot = page.evaluate("toPixels([0.6, 0.6])")
    with page.expect_response("**/v1/potential"):
        page.locator("#map").tap(position={"x": spot[0], "y": spot[1]})
    settle(page)
    np.testing.assert_allclose(state(page)[:2], [0.6, 0.6], atol=5e-3)
    # A finger that starts on a handle moves it; one that starts elsewhere on the surface scrolls the page.
    before, scrolled = state(page), page.evaluate("scrollY")
    swipe(page, middle(page, "#start"), (24, -36))
    assert page.evaluate("scrollY") == scrolled
    width, height = page.evaluate("inner()")
    np.testing.assert_allclose(np.subtract(state(page)[:2], before[:2]), [24 / width, 36 / height], atol=3e-3)
    before = state(page)
    x, y = middle(page, "#map")
    swipe(page, (x - 60, y + 60), (0, -60))
    page.wait_for_function("before => scrollY > before", arg=scrolled)
    assert state(page) == before
