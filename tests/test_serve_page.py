"""The web page as a person meets it: a real browser, and the HTTP application on a server of one process, without Ray Serve."""

import csv
import io
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import uvicorn
from serving import FROM_REST, HARMONIC, api_of, free_port, save_plane, save_tiny

import neural_hamilton as nh
from neural_hamilton.physics.potentials.expressions import Expression

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the PATH: the web page is not tested")

DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
MORSE = {"V": "D*(1-exp(-a*(q-r)))**2", "parameters": "D=4.618, a=1.869, r=1.2746", "domain": "0.7,4", "mass": 0.98, "q0": 1.5, "p0": 0.3}
SPRING = {"V": "(q-0.5)**2", "domain": "0,1", "mass": 1, "q0": 0.2, "p0": 0}
DOUBLE_WELL = "625/8*(q-0.2)**2*(q-0.8)**2"
NARROW = "2-3*exp(-((q-0.5)/0.01)**2)"
SADDLE = "2 - 32*q1*(1-q1)*q2*(1-q2)*exp(q1-q2)"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Good models for one initial state (the default) and for any, a random one, whose predictions are wrong, and one for a plane."""
    random, plane = save_tiny(tmp_path_factory.mktemp("random"), FROM_REST), save_plane(tmp_path_factory.mktemp("plane"))
    api = api_of(orbitnet=nh.load("orbitnet"), free=nh.load("orbitnet-phase-space"), random=random, plane=plane)
    server = uvicorn.Server(uvicorn.Config(api, port=free_port(), log_level="error"))
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
def visit(browser: Any, endpoint: str) -> Iterator[Callable[..., Any]]:
    """`visit(fragment, prepare=..., **options of the browser)`: the page, when it has done what it does by itself.

    Whatever the console complains of, but for the refusals provoked, fails the test; so does a request to anywhere else.
    """
    contexts: list[Any] = []
    complaints: list[str] = []

    def open_page(fragment: str = "", prepare: Callable[[Any], None] = lambda page: None, **options: Any) -> Any:
        contexts.append(browser.new_context(**(DESKTOP | options)))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("request", lambda request: None if request.url.startswith((endpoint, "blob:", "data:")) else complaints.append(request.url))
        prepare(page)
        page.goto(f"{endpoint}/#{fragment}")
        settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [complaint for complaint in complaints if not re.search("status of (422|503|401)", complaint)] == []


@pytest.fixture
def page(visit: Callable[..., Any]) -> Any:
    return visit()


def link(**state: Any) -> str:
    return "&".join(f"{name.replace('_', '.')}={quote(str(value))}" for name, value in state.items())


def own(problem: dict[str, Any], **others: Any) -> str:
    return link(units="own", **(problem | others))


def settle(page: Any) -> None:
    """Wait until nothing is asked, and what is shown belongs to what the forms say."""
    page.wait_for_function(
        """() => window.app && (!document.querySelector("#notice").hidden
        || (app.cards.length > 0 && app.cards.every(card => !card.isBusy && (card.shown || card.isOld))))"""
    )


def enter(page: Any, expression: str, card: str = "A") -> None:
    """Type an expression, by keyboard alone."""
    field = f"[data-name={card}] .expression"
    page.fill(field, expression)
    page.press(field, "Enter")
    settle(page)


def shown(page: Any, card: int = 0) -> dict[str, Any]:
    """The trajectory that a card shows, with the reference."""
    return page.evaluate(f"({{...app.cards[{card}].shown, reference: app.cards[{card}].reference}})")


def problem(page: Any, card: int = 0) -> dict[str, Any]:
    return page.evaluate(f"app.cards[{card}].problem")


def curves(page: Any, panel: str) -> list[Any]:
    """What a plot draws: x, then each curve."""
    return [np.array(column, dtype=float) for column in page.evaluate(f"app.panels.{panel}.data.map(column => [...column])")]


def middle(page: Any, selector: str) -> tuple[float, float]:
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page: Any, selector: str, by: tuple[float, float]) -> None:
    x, y = middle(page, selector)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by[0], y + by[1], steps=5)
    page.mouse.up()
    settle(page)


def numbers(text: str) -> list[float]:
    """The numbers of a sentence, a typographic minus and all."""
    return [float(number) for number in re.findall(r"-?[0-9]+(?:[.][0-9]+)?(?:e-?[0-9]+)?", text.replace("−", "-"))]


class TestPrediction:
    def test_typing_an_expression_draws_what_the_api_returns(self, page: Any, endpoint: str) -> None:
        enter(page, DOUBLE_WELL)
        body = {"trajectories": [{"expression": DOUBLE_WELL, "times": np.linspace(0, 2, 201).tolist()}], "reference": True}
        expected = httpx.post(f"{endpoint}/v1/trajectories", json=body, trust_env=False).json()["trajectories"][0]
        V = Expression(DOUBLE_WELL).value
        for panel, name in (("position", "q"), ("momentum", "p")):
            times, predicted, solved = curves(page, panel)
            np.testing.assert_allclose(times, np.linspace(0, 2, 201), atol=1e-12)
            np.testing.assert_allclose(predicted, expected[name], atol=1e-12)
            np.testing.assert_allclose(solved, expected["reference"][name], atol=1e-12)
        _, whole, kinetic, potential = curves(page, "energy")
        np.testing.assert_allclose(whole, expected["reference"]["energies"], rtol=1e-12)
        np.testing.assert_allclose(kinetic + potential, whole, rtol=1e-12)
        np.testing.assert_allclose(potential, V(np.array(expected["q"])), atol=1e-12)
        (_, difference) = curves(page, "difference")
        largest = [np.abs(np.subtract(expected[name], expected["reference"][name])) for name in ("q", "p")]
        np.testing.assert_allclose(10.0**difference, np.maximum(np.maximum(*largest), 1e-8), rtol=1e-5)
        places, values = page.evaluate("app.cards[0].stage.plot.data.map(column => [...column])")
        np.testing.assert_allclose(values, V(np.array(places)), atol=1e-12)

    def test_the_status_is_the_trust_returned(self, page: Any) -> None:
        orbit = shown(page)
        text = page.inner_text(".status")
        off = max(np.abs(np.subtract(orbit[name], orbit["reference"][name])).max() for name in ("q", "p"))
        assert text.startswith("Predicted by orbitnet. It differs from the solver by at most ")
        assert numbers(text)[0] == pytest.approx(off, rel=0.06)  # two digits
        assert "less than 0.01 % of the depth of the well" in text and orbit["trust"]["energy_drift"] < 1e-4
        assert numbers(text)[-1] >= 1 and text.endswith(" ms.")
        assert "good" in page.get_attribute(".status", "class")

    def test_a_wrong_prediction_is_called_so(self, visit: Callable[..., Any]) -> None:
        page = visit("model=random&V=4*abs(q-0.5)&q0=0&p0=0")
        text, kind = page.inner_text(".status"), page.get_attribute(".status", "class")
        orbit = shown(page)
        assert ("replaced" in kind, "doubtful" in kind) == (orbit["trust"]["source"] == "solver", orbit["trust"]["source"] == "model")
        assert "did not pass the check" in text or "differs from the solver" in text
        off = next(number for number in numbers(text) if 0 < number < 100)
        assert off > 0.05

    def test_what_the_sensors_cannot_resolve_is_stated(self, visit: Callable[..., Any]) -> None:
        page = visit(link(model="orbitnet", V="8*(q-0.5)**2 - sin(2*pi*99*q)"))
        assert shown(page)["trust"]["sensor_error"] > 0.1
        assert "Between the sensors V differs from what the network reads by " in page.inner_text(".status")

    @pytest.mark.parametrize(
        ("threshold", "start"),
        [
            (0, "The check of orbitnet accepts no prediction: no energy drift was found below which"),
            (0.01, "The network’s prediction did not pass the check"),
        ],
    )
    def test_a_check_that_accepts_nothing_is_explained(self, visit: Callable[..., Any], threshold: float, start: str) -> None:
        def replace(route: Any) -> None:
            """The server's response, as if the check had refused a good prediction."""
            response = route.fetch()
            body = response.json()
            body["model"]["drift_threshold"] = threshold
            if route.request.post_data_json.get("verify") != "none":
                body["trajectories"][0]["trust"]["source"] = "solver"
            route.fulfill(response=response, json=body)

        page = visit("model=orbitnet", lambda page: page.route("**/v1/trajectories", replace))
        assert page.inner_text(".status").startswith(start) and "is off by" in page.inner_text(".status")
        assert page.get_attribute(".status", "class") == "status solved"

    def test_momentum_has_a_scale(self, visit: Callable[..., Any]) -> None:
        for fragment, options in (("model=plane", {}), ("model=plane", PHONE), (own(MORSE), PHONE)):
            page = visit(fragment, **options)
            assert page.evaluate("app.panels.momentum.u.axes[1]._splits.length") >= 3

    def test_every_example_is_predicted(self, page: Any, endpoint: str) -> None:
        examples = httpx.get(f"{endpoint}/v1/model", trust_env=False).json()["examples"]
        assert page.locator(".picks button").all_inner_texts() == list(examples) != []
        for name, expression in examples.items():
            page.get_by_role("button", name=name, exact=True).click()
            page.wait_for_selector(f".picks button[aria-pressed=true]:has-text('{name}')")
            settle(page)
            assert page.input_value(".expression") == expression
            places, values = page.evaluate("app.cards[0].stage.plot.data.map(column => [...column])")
            np.testing.assert_allclose(values, Expression(expression).value(np.array(places)), rtol=1e-12)
            assert page.is_hidden(".error")

    def test_a_particle_at_rest_looks_at_rest(self, visit: Callable[..., Any]) -> None:
        page = visit(link(model="free", V=NARROW, q0=0.2, p0=0))
        noise = np.abs(page.evaluate("app.cards[0].predicted.p")).max()
        assert 0 < noise < 0.02
        spots = []
        for moment in np.linspace(0, 2, 9):
            page.evaluate(f"app.seek({moment})")
            spots.append([*middle(page, ".ball"), *middle(page, "#phase .dot")])
        assert np.ptp(spots, axis=0).max() < 3.0  # pixels
        for panel in ("momentum", "phase"):
            low, high = page.evaluate(f"app.panels.{panel}.y")
            assert low < -2 and high > 2  # what V could do to it: sqrt(2 * 3)
        assert page.evaluate("app.panels.position.y") == pytest.approx([-0.05, 1.05])
        assert page.evaluate("app.panels.difference.y")[1] > 0  # a scale that follows nothing


class TestDrawing:
    def test_dragging_a_control_point_makes_the_potential(self, page: Any) -> None:
        before = middle(page, ".point >> nth=4")
        with page.expect_request("**/v1/trajectories") as request:
            drag(page, ".point >> nth=4", (0, -90))
        assert len(request.value.post_data_json["trajectories"][0].get("potential", [])) == 100  # drawn in the model's units
        points = problem(page)["points"]
        assert len(points) == 9 and points[4][0] == pytest.approx(0.5, abs=1e-3) and points[4][1] > 0.4
        assert (points[0], points[8]) == ([0, 2], [1, 2])  # the walls stay
        places, values = map(np.array, page.evaluate("app.cards[0].stage.plot.data.map(column => [...column])"))
        np.testing.assert_allclose(np.interp([q for q, _ in points], places, values), [value for _, value in points], atol=1e-3)
        np.testing.assert_allclose(middle(page, ".point >> nth=4"), (before[0], before[1] - 90), atol=25)  # the scale may follow on release
        assert page.get_attribute(".expression", "placeholder") == "drawn by hand" and page.input_value(".expression") == ""
        orbit = shown(page)
        assert max(np.abs(np.subtract(orbit["q"], orbit["reference"]["q"]))) < 5e-3
        page.get_by_role("button", name="Back to the formula").click()
        settle(page)
        assert page.input_value(".expression") == HARMONIC and problem(page)["points"] is None

    def test_the_potential_follows_before_the_release(self, page: Any) -> None:
        x, y = middle(page, ".point >> nth=4")
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x, y - 60, steps=6)
        page.wait_for_function("() => !app.cards[0].isBusy")
        held = page.evaluate("app.cards[0].problem.points[4][1]")
        assert page.evaluate("app.cards[0].valueAt(0.5)") == pytest.approx(held, abs=2e-2) and held > 0.2
        page.mouse.up()
        settle(page)

    def test_a_control_point_moves_by_keyboard(self, visit: Callable[..., Any]) -> None:
        page = visit(own(SPRING))
        page.focus(".point >> nth=8")
        page.keyboard.press("Shift+ArrowUp")
        settle(page)
        points = problem(page)["points"]
        assert points[8][0] == 1 and points[8][1] > 0.25  # in your own units the ends move too, up and down
        assert "Control point 9 of V" in page.get_attribute(".point >> nth=8", "aria-label")
        page.focus(".point >> nth=3")
        page.keyboard.press("ArrowRight")
        settle(page)
        assert problem(page)["points"][3][0] > points[3][0]


class TestInitialState:
    def test_a_fixed_one_is_explained_and_remedied(self, visit: Callable[..., Any]) -> None:
        page = visit("model=orbitnet")
        assert page.is_disabled("[name=q0]") and page.is_disabled("[name=p0]")
        assert page.inner_text(".note").startswith("Fixed: this model was trained for this one initial state. To start elsewhere, ")
        drag(page, ".ball", (80, 0))
        page.wait_for_selector(".note.flash")  # who tries is shown why
        assert (problem(page)["q0"], problem(page)["units"]) == (0, "model")
        page.get_by_role("button", name="use your own units").click()
        settle(page)
        assert (problem(page)["units"], problem(page)["domain"]) == ("own", [0, 1])
        assert page.is_hidden(".note") and page.is_enabled("[name=q0]")
        assert shown(page)["period"] == pytest.approx(np.pi / 2, rel=1e-6)

    def test_another_model_is_offered(self, visit: Callable[..., Any]) -> None:
        page = visit("model=orbitnet")
        page.get_by_role("button", name="use free").click()
        settle(page)
        page.wait_for_function("() => app.modelName === 'free'")
        settle(page)
        assert page.input_value("#model") == "free" and page.is_enabled("[name=q0]") and page.is_hidden(".note")
        assert "Predicted by free." in page.inner_text(".status")

    def test_without_a_choice_the_server_chooses_by_the_problem(self, page: Any) -> None:
        assert page.input_value("#model") == "" and page.is_enabled("[name=q0]") and page.is_hidden(".note")
        assert "Predicted by orbitnet." in page.inner_text(".status")
        drag(page, ".ball", (120, 0))
        assert "Predicted by free." in page.inner_text(".status")
        assert "model=" not in page.evaluate("location.hash")

    @pytest.mark.parametrize("fragment", [own(SPRING), link(model="free", V=HARMONIC, q0=0.3, p0=0.5)], ids=["own units", "free"])
    def test_the_particle_and_its_arrow_are_dragged(self, visit: Callable[..., Any], fragment: str) -> None:
        page = visit(fragment)
        before, (low, high) = problem(page), page.evaluate("app.cards[0].stage.plot.x")
        width = page.evaluate("app.cards[0].stage.plot.width") / (high - low)
        drag(page, ".ball", (60, -20))
        after = problem(page)
        assert after["q0"] == pytest.approx(before["q0"] + 60 / width, abs=2e-3) and after["p0"] == before["p0"]
        assert float(page.input_value("[name=q0]")) == after["q0"]
        drag(page, ".tip", (-160, 0))
        assert problem(page)["p0"] < 0 and problem(page)["q0"] == after["q0"]
        orbit = shown(page)
        assert (orbit["q"][0], orbit["p"][0]) == (pytest.approx(after["q0"], abs=2e-3), pytest.approx(problem(page)["p0"], abs=4e-3))
        # The energy shown is that of this state.
        V = Expression(after["expression"]).value(np.array([after["q0"]]))[0]
        assert page.evaluate("app.cards[0].energy") == pytest.approx(V + problem(page)["p0"] ** 2 / 2, abs=1e-6)

    def test_it_is_dragged_in_the_phase_portrait(self, visit: Callable[..., Any]) -> None:
        page = visit(own(SPRING))
        x, y = middle(page, "#phase .start")
        target = page.evaluate("app.panels.phase.fromPixels(app.panels.phase.toPixels(0.35, 0.2))")
        wanted = page.evaluate("app.panels.phase.toPixels(0.35, 0.2)")
        here = page.evaluate("app.panels.phase.toPixels(0.2, 0)")
        drag(page, "#phase .start", (wanted[0] - here[0], wanted[1] - here[1]))
        assert (problem(page)["q0"], problem(page)["p0"]) == pytest.approx(target, abs=5e-3)
        assert middle(page, "#phase .start") != (x, y)
        box = page.locator("#phase .layer").bounding_box()
        spot = page.evaluate("app.panels.phase.toPixels(0.4, -0.1)")
        page.mouse.click(box["x"] + spot[0], box["y"] + spot[1])
        settle(page)
        assert (problem(page)["q0"], problem(page)["p0"]) == pytest.approx((0.4, -0.1), abs=5e-3)

    def test_the_keyboard_moves_all_of_it(self, visit: Callable[..., Any]) -> None:
        page = visit(own(SPRING, q0=0.2, p0=0))
        page.focus(".stage .start")
        page.keyboard.press("Shift+ArrowRight")
        page.focus(".stage .tip")
        page.keyboard.press("Shift+ArrowLeft")
        settle(page)
        state = problem(page)
        assert state["q0"] == pytest.approx(0.3) and state["p0"] < 0
        assert page.get_attribute(".stage .start", "aria-label") == "Initial position A, q 0.3; arrow keys move it"
        page.focus("#phase .start")
        page.keyboard.press("ArrowUp")
        settle(page)
        assert problem(page)["p0"] > state["p0"]
        page.fill("[name=q0]", "0.25")
        page.press("[name=q0]", "Enter")
        settle(page)
        assert shown(page)["q"][0] == pytest.approx(0.25, abs=1e-4)


class TestOwnUnits:
    def test_an_example_is_the_motion_of_the_python_interface(self, page: Any) -> None:
        page.select_option(".units-choice", "own")
        settle(page)
        page.get_by_role("button", name="HCl molecule").click()
        settle(page)
        parameters = {"D": 4.618, "a": 1.869, "r": 1.2746}
        orbit = shown(page)
        motion = nh.motion(MORSE["V"], 1.5, 0.3, orbit["times"], mass=0.98, domain=(0.7, 4), parameters=parameters, model="orbitnet")
        np.testing.assert_allclose(orbit["q"], motion.q, atol=1e-6)
        assert orbit["times"][-1] == pytest.approx(2 * motion.period)
        text = page.inner_text(".status")
        assert f"Period {motion.period:.5g}" in text and f"energy {motion.energy:.4g}" in text
        np.testing.assert_allclose(10 ** curves(page, "difference")[1].max(), max(orbit["trust"]["energy_drift"], 1e-5), rtol=10)
        page.fill(".until", "40")
        page.press(".until", "Enter")
        settle(page)
        times = shown(page)["times"]
        assert (times[0], times[-1]) == (0, 40) and len(times) > 40 / motion.period * 100

    def test_a_potential_that_is_no_well_of_the_model_is_one_click_away(self, page: Any) -> None:
        enter(page, "(q-0.5)**2")
        assert "0.25 at q = 0 and 0.25 at q = 1; a well has V = 2 at both walls" in page.inner_text(".error .sentence")
        assert page.evaluate("app.cards[0].field.values[0]") == 0.25  # it is drawn all the same
        page.click(".remedy")
        settle(page)
        assert page.is_hidden(".error")
        assert shown(page)["period"] == pytest.approx(np.sqrt(2) * np.pi, rel=1e-6)
        assert shown(page)["turning_points"] == pytest.approx([0, 1], abs=1e-9)

    @pytest.mark.parametrize(
        ("expression", "label"),
        [("q*(q-0.7)", "Predict it in your own units"), ("(q-0.5)**2-q", "from −0.5 to 1.5"), ("cos(6*q)", "start at q₀ = ")],
    )
    def test_remedies_work_when_they_are_clicked(self, page: Any, expression: str, label: str) -> None:
        enter(page, expression)
        page.wait_for_selector(".remedy")
        assert label in page.inner_text(".remedy")
        page.click(".remedy")
        settle(page)
        assert page.is_hidden(".error") and shown(page)["period"] > 0

    def test_where_nothing_is_bounded_that_is_said(self, page: Any) -> None:
        enter(page, "3*q")
        page.wait_for_function("() => document.querySelector('.remedies').textContent.includes('No bounded motion')")

    def test_a_particle_that_leaves_is_refused_with_the_energy_and_another_start(self, visit: Callable[..., Any]) -> None:
        page = visit(own(SPRING, p0=5))
        assert "with which the particle leaves the domain at q = " in page.inner_text(".error .sentence")
        page.click(".remedy")
        settle(page)
        assert page.is_hidden(".error") and problem(page)["p0"] in (0, 5)

    def test_parameters_that_cannot_be_read_are_named(self, visit: Callable[..., Any]) -> None:
        page = visit(own(MORSE))
        for text, part in (("D=4, a", "“a”"), ("D=x", "“D=x”"), ("D=1=2", "“D=1=2”")):
            page.fill(".parameters", text)
            page.press(".parameters", "Enter")
            settle(page)
            assert f"parameters has {part}; give each as a name and a number" in page.inner_text(".error .sentence")
        page.fill(".low", "")
        page.press(".low", "Enter")
        settle(page)
        assert "“from” is empty; give a number" in page.inner_text(".error .sentence")


class TestTime:
    def test_play_moves_the_particle_and_pause_stops_it(self, page: Any) -> None:
        start = middle(page, ".ball")
        page.focus("#play")
        page.keyboard.press("Enter")
        assert page.inner_text("#play") == "Pause"
        page.wait_for_function("() => app.clock.t > 0.1")
        page.keyboard.press("Enter")
        assert page.inner_text("#play") == "Play"
        stopped = page.evaluate("app.clock.t")
        assert page.evaluate("() => new Promise(done => setTimeout(() => done(app.clock.t), 100))") == stopped
        q = np.interp(stopped, shown(page)["times"], shown(page)["q"])
        x, y = page.evaluate(f"app.cards[0].stage.plot.toPixels({q}, {8 * (q - 0.5) ** 2})")
        box = page.locator(".stage .layer").bounding_box()
        np.testing.assert_allclose(middle(page, ".ball"), (box["x"] + x, box["y"] + y), atol=1.5)
        assert middle(page, ".ball") != start
        page.evaluate("app.clock.set(1.999)")
        page.keyboard.press("Enter")
        page.wait_for_function("() => app.clock.t < 1")  # and again

    def test_space_plays(self, page: Any) -> None:
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("Space")
        page.wait_for_function("() => app.clock.playing && app.clock.t > 0")

    def test_the_slider_moves_it_by_keyboard(self, page: Any) -> None:
        page.focus("#moment")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("app.clock.t") == pytest.approx(0.01)
        page.keyboard.press("End")
        assert numbers(page.inner_text("#clock")) == [2.0]
        x, y = page.evaluate(f"app.panels.phase.toPixels({shown(page)['q'][-1]}, {shown(page)['p'][-1]})")
        box = page.locator("#phase .layer").bounding_box()
        np.testing.assert_allclose(middle(page, "#phase .dot"), (box["x"] + x, box["y"] + y), atol=1.0)
        assert page.get_attribute("#moment", "aria-valuetext").startswith("t 2.00, q ")

    def test_a_click_on_a_curve_sets_the_time(self, page: Any) -> None:
        box = page.locator("#position .layer").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert page.evaluate("app.clock.t") == pytest.approx(1.0, abs=0.02)

    @pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])
    @pytest.mark.parametrize("fragment", ["", own(MORSE), "model=plane"], ids=["well", "own units", "plane"])
    def test_the_slider_is_on_the_screen(self, visit: Callable[..., Any], options: Any, fragment: str) -> None:
        page = visit(fragment, **options)
        for selector in ("#moment", "#play"):
            box = page.locator(selector).bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= options["viewport"]["height"]
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    def test_where_motion_is_unwanted_the_particle_jumps(self, visit: Callable[..., Any]) -> None:
        page = visit(reduced_motion="reduce", color_scheme="dark")
        page.click("#play")
        seen = page.evaluate(
            """() => new Promise(done => { const seen = new Set(), until = performance.now() + 800;
            (function look() { seen.add(app.clock.t); performance.now() < until ? requestAnimationFrame(look) : done([...seen]); })(); })"""
        )
        assert len(seen) <= 3
        assert page.evaluate("getComputedStyle(document.querySelector('.status')).transitionDuration") == "0s"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 26)"


class TestSideBySide:
    def test_the_second_differs_and_is_seen(self, visit: Callable[..., Any]) -> None:
        for fragment in (own(MORSE), "model=free&V=8*(q-0.5)**2&q0=0.2&p0=0.5"):
            page = visit(fragment, reduced_motion="reduce", **PHONE)
            page.click("#compare")
            settle(page)
            first, second = (shown(page, card) for card in (0, 1))
            assert np.abs(np.interp(first["times"], second["times"], second["q"]) - first["q"]).max() > 0.05
            assert page.locator("[data-name=B]").bounding_box()["y"] < PHONE["viewport"]["height"] / 2

    def test_two_potentials_are_predicted_and_compared(self, page: Any) -> None:
        page.click("#compare")
        settle(page)
        assert page.locator(".card").count() == 2
        enter(page, DOUBLE_WELL, "B")
        left, right = (page.locator(f".card >> nth={k}").bounding_box() for k in (0, 1))
        assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
        _, *positions = curves(page, "position")
        assert len(positions) == 4
        np.testing.assert_allclose(positions[0], shown(page, 0)["q"], atol=1e-12)
        np.testing.assert_allclose(positions[2], shown(page, 1)["q"], atol=1e-12)
        assert len(curves(page, "difference")) == 3
        assert page.locator("#phase .dot").count() == 2
        again = page.evaluate("location.hash")
        assert "B.V=" in again
        page.click("#compare")
        settle(page)
        assert page.locator(".card").count() == 1 and len(curves(page, "position")) == 3
        assert "B.V" not in page.evaluate("location.hash")

    def test_motions_of_different_periods_last_equally_long(self, visit: Callable[..., Any]) -> None:
        page = visit(own(SPRING) + "&" + link(B_V="20*(q-0.5)**2", B_units="own", B_domain="0,1", B_mass=1, B_q0=0.3, B_p0=0))
        page.wait_for_function("() => new Set(app.cards.map(card => card.shown?.times.at(-1))).size === 1")
        settle(page)
        assert shown(page, 1)["times"][-1] == pytest.approx(2 * np.sqrt(2) * np.pi, rel=1e-6)
        for k in (0, 1):
            assert len(shown(page, k)["times"]) >= 100 * shown(page, k)["times"][-1] / shown(page, k)["period"]


class TestLinksAndFiles:
    @pytest.mark.parametrize(
        "fragment",
        [own(MORSE, until=5), link(model="free", V=HARMONIC, q0=0.3, p0=-0.5) + "&" + link(B_V="4*abs(q-0.5)", B_q0=0.2, B_p0=0)],
        ids=["own units", "two"],
    )
    def test_a_link_brings_back_what_was_shown(self, visit: Callable[..., Any], fragment: str) -> None:
        page = visit(fragment, permissions=["clipboard-read", "clipboard-write"])
        if "own" in fragment:
            drag(page, ".point >> nth=3", (0, 30))  # what is drawn is part of it
        page.click("#share")
        page.wait_for_function("() => document.querySelector('#share').textContent === 'Copied'")
        copied = page.evaluate("navigator.clipboard.readText()")
        again = visit(copied.split("#", 1)[1])
        assert again.evaluate("app.cards.map(c => c.problem)") == page.evaluate("app.cards.map(c => c.problem)")
        assert again.evaluate("app.modelName") == page.evaluate("app.modelName")
        np.testing.assert_allclose(shown(again)["q"], shown(page)["q"], atol=1e-12)

    def test_where_nothing_can_be_copied_the_link_is_shown(self, visit: Callable[..., Any]) -> None:
        page = visit(prepare=lambda page: page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})"))
        page.click("#share")
        assert page.input_value("#link input") == page.url

    @pytest.mark.parametrize(
        ("fragment", "sentence"),
        [
            ("V=q&q0=abc", "The link has q0 = abc, which is not a list of numbers."),
            ("V=q&units=own&domain=1", "The link has domain = 1, which is not 2 numbers."),
            ("points=1:2,x:3", "The link has points with x:3, which is not two numbers."),
            ("model=none&V=8*(q-0.5)**2", "The link asks for the model “none”; this server has orbitnet, free, random, plane."),
        ],
    )
    def test_a_damaged_link_is_reported_and_the_page_works(self, visit: Callable[..., Any], fragment: str, sentence: str) -> None:
        page = visit(fragment)
        assert page.inner_text("#notice") == sentence
        page.wait_for_function("() => app.cards.length && app.cards[0].shown")
        settle(page)

    def test_a_hostile_link_or_expression_stays_text(self, visit: Callable[..., Any]) -> None:
        page = visit(link(V="<img src=x onerror=alert(1)>", model="<b>x</b>"))
        settle(page)
        page.wait_for_selector(".error:not([hidden])")
        enter(page, "<img src=y>")
        assert page.locator("img").count() == 0 and page.locator("#notice b").count() == 0

    def test_the_table_is_what_is_shown(self, visit: Callable[..., Any]) -> None:
        page = visit(own(MORSE))
        with page.expect_download() as download:
            page.click("#csv")
        assert download.value.suggested_filename == "neural-hamilton.csv"
        rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
        assert rows[0] == ["t", "q", "p", "energy", "q_solver", "p_solver"]
        orbit = shown(page)
        reference = orbit["reference"]
        expected = [orbit["times"], orbit["q"], orbit["p"], reference["energies"], reference["q"], reference["p"]]
        np.testing.assert_array_equal(np.array(rows[1:], dtype=float), np.transpose(expected))

    def test_the_table_of_two_tells_them_apart(self, visit: Callable[..., Any]) -> None:
        page = visit("V=8*(q-0.5)**2&B.V=4*abs(q-0.5)")
        with page.expect_download() as download:
            page.click("#csv")
        rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
        assert rows[0][:2] == ["problem", "t"] and [row[0] for row in rows[1:]] == ["A"] * 201 + ["B"] * 201

    def test_the_image_shows_the_plots(self, page: Any) -> None:
        from matplotlib import image

        with page.expect_download() as download:
            page.click("#png")
        pixels = image.imread(Path(download.value.path()), format="png")
        width = page.evaluate("document.querySelector('#scene').clientWidth")
        assert pixels.shape[1] == pytest.approx(2 * (width + 32), abs=3)
        assert (pixels[:, [0, -1]] == pixels[0, 0]).all() and (pixels[[0, -1]] == pixels[0, 0]).all()  # nothing is cut
        assert page.is_visible(".picks") and page.is_hidden(".facts")
        assert page.text_content(".facts") == "q₀ = 0, p₀ = 0"
        blue = (abs(pixels[..., :3] - np.array([0x1F, 0x55, 0xC4]) / 255) < 0.02).all(axis=-1)
        assert blue.sum() > 300  # dots, energies, the difference


class TestServersSentences:
    def test_a_bad_expression_shows_the_sentence_and_recovers(self, page: Any) -> None:
        enter(page, "8*(q-0.5)**")
        assert "cannot be read" in page.inner_text(".error .sentence")
        assert page.get_attribute(".expression", "aria-invalid") == "true"
        assert "old" in page.get_attribute(".card", "class")
        assert page.locator(".remedy").count() == 0  # another start would not help
        enter(page, HARMONIC)
        assert page.is_hidden(".error") and page.get_attribute(".expression", "aria-invalid") is None

    def test_a_busy_server_and_one_that_is_gone(self, page: Any) -> None:
        page.route("**/v1/trajectories", lambda route: route.fulfill(status=503, headers={"Retry-After": "2"}, body="busy"))
        enter(page, "8*(q-0.5)**2 ")
        assert page.inner_text(".error .sentence") == "The server is busy; try again in 2 s."
        page.unroute("**/v1/trajectories")
        page.evaluate("() => { window.fetch = () => Promise.reject(new TypeError('Failed to fetch')); }")
        enter(page, "8*(q-0.5)**2")
        assert page.inner_text(".error .sentence") == "The server did not respond. Is it still running?"

    def test_an_api_key_is_asked_for(self, visit: Callable[..., Any]) -> None:
        def guard(page: Any) -> None:
            def check(route: Any) -> None:
                if route.request.headers.get("authorization") == "Bearer sesame":
                    route.continue_()
                else:
                    route.fulfill(status=401, json={"detail": "this endpoint has an API key; send it"})

            page.route("**/v1/**", check)

        page = visit(prepare=guard)
        assert page.inner_text("#notice") == "this endpoint has an API key; send it"
        page.fill("#key input", "sesame")
        page.press("#key input", "Enter")
        page.wait_for_function("() => app.cards.length && app.cards[0].shown")
        settle(page)
        assert page.is_hidden("#key") and page.is_hidden("#notice")


MODEL = {
    "architecture": {"name": "mambonet"}, "num_parameters": 1234, "system": "bowl", "sensors": [20], "domain": [[-1.0, 3.0]],
    "horizon": 5.0, "initial_state": [[0.5], [-0.25]], "requirements": "", "examples": {"Bowl": "q**2"}, "energy_scale": "the rim",
    "fields": {"potential": 1}, "has_unit_mass": True,
}  # fmt: skip


def pretend(page: Any, model: dict[str, Any]) -> None:
    """A server of one model."""
    listed = {"name": "other", "system": model["system"], "architecture": "mambonet", "predicts_motions": False}
    page.route("**/v1/models", lambda route: route.fulfill(json={"default": "other", "models": [listed]}))
    page.route("**/v1/models/other", lambda route: route.fulfill(json=model))


class TestOtherModels:
    def test_domain_horizon_and_initial_state_are_the_models(self, visit: Callable[..., Any]) -> None:
        """A model of another system: nothing on the page is particular to the well."""
        requests: list[Any] = []

        def predict(route: Any) -> None:
            requests.append(route.request.post_data_json["trajectories"][0])
            times = np.array(requests[-1]["times"])
            orbit = {"times": times.tolist(), "q": np.cos(times).tolist(), "p": np.sin(times).tolist()}
            trust = {"energy_drift": 0.5, "source": "model"}
            reference = {"q": orbit["q"], "p": orbit["p"], "error_bound": 0, "energies": [0.25] * times.size, "refusal": None}
            route.fulfill(json={"model": {"name": "other"}, "trajectories": [orbit | {"trust": trust, "reference": reference}]})

        def prepare(page: Any) -> None:
            values = (np.linspace(-1, 3, 201) ** 2).tolist()
            pretend(page, MODEL)
            page.route("**/v1/trajectories", predict)
            field = {"domain": MODEL["domain"], "values": values, "energy": 0.28125}
            page.route("**/v1/potential", lambda route: route.fulfill(json=field))

        page = visit(prepare=prepare)
        assert len(requests) == 2  # the second with the reference
        np.testing.assert_allclose(requests[0]["times"], np.linspace(0, 5, 201), atol=1e-12)
        assert (requests[0]["expression"], requests[0]["q0"], requests[0]["p0"]) == ("q**2", 0.5, -0.25)
        assert page.is_disabled("[name=q0]") and page.is_disabled("[name=p0]")
        assert page.is_hidden(".units") and page.is_hidden("#chooser")
        assert "serve a model that was trained for any" in page.inner_text(".note")
        assert (page.get_attribute("[name=q0]", "min"), page.get_attribute("[name=q0]", "max")) == ("-1", "3")
        assert "50 % of the rim" in page.inner_text(".status")

    def test_a_model_with_three_degrees_of_freedom_is_pointed_elsewhere(self, visit: Callable[..., Any]) -> None:
        three = MODEL | {"domain": [[0.0, 1.0]] * 3, "sensors": [8, 8, 8], "initial_state": None}
        page = visit(prepare=lambda page: pretend(page, three))
        assert "draws one or two degrees of freedom" in page.inner_text("#notice")
        assert page.is_hidden("#scene") and page.is_hidden("#transport")

    def test_another_model_of_the_server_is_chosen(self, page: Any) -> None:
        assert page.locator("#model option").all_inner_texts() == ["automatic", "orbitnet", "free", "random", "plane"]
        enter(page, "4*abs(q-0.5)")
        page.select_option("#model", "free")
        page.wait_for_function("() => app.model.initial_state === null && app.cards.length && app.cards[0].shown")
        settle(page)
        assert page.input_value(".expression") == "4*abs(q-0.5)"  # of the same system: kept
        page.select_option("#model", "plane")
        page.wait_for_function("() => app.isPlane && app.cards.length && app.cards[0].shown")
        settle(page)
        assert "q1" in page.input_value(".expression") and page.locator(".stage > canvas").count() == 1
        page.select_option("#model", "automatic")
        page.wait_for_function("() => !app.isPlane && app.cards.length && app.cards[0].shown")
        settle(page)
        assert page.is_visible("#phase") and page.input_value(".expression") == HARMONIC


def state(page: Any) -> list[float]:
    """q1, q2, p1, p2 at the start, in the number inputs."""
    return [float(page.input_value(f"[name={name}]")) for name in ("q0-1", "q0-2", "p0-1", "p0-2")]


def to_pixels(page: Any, q: list[float]) -> list[float]:
    return page.evaluate(f"app.cards[0].stage.toPixels({q})")


@pytest.fixture
def plane(visit: Callable[..., Any]) -> Any:
    return visit("model=plane")


class TestPlane:
    def test_an_expression_in_two_coordinates_draws_what_the_server_returns(self, plane: Any) -> None:
        with plane.expect_response("**/v1/potential") as response:
            enter(plane, SADDLE)
        body, orbit = response.value.json(), shown(plane)
        _, *positions = curves(plane, "position")
        np.testing.assert_allclose(positions[-2:], np.transpose(orbit["reference"]["q"]), atol=1e-12)  # the last are the solver's
        grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 65)] * 2, indexing="ij"), axis=-1)
        np.testing.assert_allclose(body["values"], Expression(SADDLE, 2).value(grid), rtol=1e-12)
        levels = numbers(plane.inner_text(".levels"))
        np.testing.assert_allclose(levels, [np.min(body["values"]), np.max(body["values"]), body["energy"]], rtol=5e-3)
        # Blue where V is low, the colour of the card where it is high: a pixel of the deepest place, and one of the rim.
        deepest = np.unravel_index(np.argmin(body["values"]), (65, 65))
        colours = plane.evaluate(
            """spots => { const { stage } = app.cards[0], { width, height } = stage.backdrop;
            const { data } = stage.backdrop.getContext("2d").getImageData(0, 0, width, height);
            return spots.map(q => { const [x, y] = stage.toPixels(q).map(v => Math.round(v * devicePixelRatio));
            const first = 4 * (y * width + x); return [...data.slice(first, first + 4)]; }); }""",
            [[index / 64 for index in deepest], [0.98, 0.02]],
        )
        assert colours[0][0] < 100 < 200 < colours[0][2]
        assert min(colours[1][:3]) > 200

    def test_dragging_the_start_and_the_arrow_sets_the_initial_state(self, plane: Any) -> None:
        before = state(plane)
        x, y = middle(plane, ".stage .start")
        plane.mouse.move(x, y)
        plane.mouse.down()
        plane.mouse.move(x + 20, y - 40, steps=4)
        plane.wait_for_function("() => !app.cards[0].isBusy")  # the path follows before the release
        live = shown(plane)["times"][-1]
        plane.mouse.up()
        settle(plane)
        q1, q2, p1, p2 = state(plane)
        assert live == 2 and (p1, p2) == tuple(before[2:])
        spot = to_pixels(plane, before[:2])
        np.testing.assert_allclose(to_pixels(plane, [q1, q2]), [spot[0] + 20, spot[1] - 40], atol=1.0)
        x, y = middle(plane, ".stage .tip")
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
        np.testing.assert_allclose(middle(plane, ".stage .tip"), (x - 5, y - 60), atol=1.5)  # the arrow's end is where it was dropped

    def test_a_click_on_the_surface_puts_the_start_there(self, plane: Any) -> None:
        x, y = to_pixels(plane, [0.25, 0.75])
        plane.click(".stage > canvas", position={"x": x, "y": y})
        settle(plane)
        np.testing.assert_allclose(state(plane)[:2], [0.25, 0.75], atol=4e-3)

    def test_the_keyboard_moves_start_and_arrow(self, plane: Any) -> None:
        before = state(plane)
        plane.focus(".stage .start")
        plane.keyboard.press("ArrowRight")
        plane.keyboard.press("Shift+ArrowUp")
        plane.focus(".stage .tip")
        plane.keyboard.press("ArrowDown")
        settle(plane)
        np.testing.assert_allclose(state(plane), [before[0] + 0.01, before[1] + 0.1, before[2], before[3] - 0.01], atol=1e-9)
        label = f"Initial position A, q₁ {state(plane)[0]:g}, q₂ {state(plane)[1]:g}; arrow keys move it"
        assert plane.get_attribute(".stage .start", "aria-label") == label
        plane.focus("[name=q0-1]")
        plane.keyboard.press("ArrowUp")
        settle(plane)
        assert problem(plane)["q0"][0] == pytest.approx(state(plane)[0])

    def test_a_refused_state_shows_the_servers_sentence_and_recovers(self, plane: Any) -> None:
        plane.fill("[name=p0-1]", "9")
        plane.press("[name=p0-1]", "Enter")
        settle(plane)
        assert "the particle can cross the rim" in plane.inner_text(".error .sentence")
        assert "energy is 39.9" in plane.inner_text(".levels")
        assert plane.is_visible(".stage .start")  # where it can be taken back
        plane.fill("[name=p0-1]", "0")
        plane.press("[name=p0-1]", "Enter")
        settle(plane)
        assert plane.is_hidden(".error")

    def test_a_finger_taps_the_surface_and_drags_the_start_on_a_phone(self, visit: Callable[..., Any]) -> None:
        page = visit("model=plane", **PHONE)
        page.locator(".stage > canvas").scroll_into_view_if_needed()
        x, y = to_pixels(page, [0.6, 0.6])
        page.locator(".stage > canvas").tap(position={"x": x, "y": y})
        settle(page)
        np.testing.assert_allclose(state(page)[:2], [0.6, 0.6], atol=1e-2)
        # A finger that starts on a handle moves it; one that starts elsewhere on the surface scrolls the page.
        before, scrolled = to_pixels(page, state(page)[:2]), page.evaluate("scrollY")
        swipe(page, middle(page, ".stage .start"), (24, -36))
        assert page.evaluate("scrollY") == scrolled
        np.testing.assert_allclose(to_pixels(page, state(page)[:2]), [before[0] + 24, before[1] - 36], atol=1.5)
        kept = state(page)
        x, y = middle(page, ".stage > canvas")
        swipe(page, (x - 60, y + 60), (0, -60))
        page.wait_for_function("before => scrollY > before", arg=scrolled)
        assert state(page) == kept


def swipe(page: Any, start: tuple[float, float], way: tuple[float, float]) -> None:
    """A finger from `start` in ten steps."""
    session = page.context.new_cdp_session(page)
    for step in range(11):
        points = [{"x": start[0] + way[0] * step / 10, "y": start[1] + way[1] * step / 10}]
        session.send("Input.dispatchTouchEvent", {"type": "touchMove" if step else "touchStart", "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settle(page)


def test_a_finger_drags_the_particle_on_a_phone(visit: Callable[..., Any]) -> None:
    page = visit(own(SPRING), **PHONE)
    page.locator(".stage").scroll_into_view_if_needed()
    swipe(page, middle(page, ".ball"), (40, 0))
    assert problem(page)["q0"] > 0.25


def test_nothing_but_its_own_files_may_be_loaded(endpoint: str) -> None:
    response = httpx.get(endpoint, trust_env=False)
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    files = re.findall(r'(?:href|src)="(page/[^"]+)"', response.text)
    assert {"page/app.js", "page/style.css", "page/uplot/uPlot.iife.min.js"} <= set(files)
    for name in files:
        answer = httpx.get(f"{endpoint}/{name}", trust_env=False)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(("text/javascript", "text/css"))
        assert httpx.head(f"{endpoint}/{name}", trust_env=False).status_code == 200
    assert httpx.get(f"{endpoint}/page/../schema.py", trust_env=False).status_code == 404
    missing = httpx.get(f"{endpoint}/page/none.js", trust_env=False)
    assert (missing.status_code, missing.json()["detail"]) == (404, "the page has no file 'none.js'")
