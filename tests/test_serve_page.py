"""The web page as a person meets it: a real browser, a real endpoint."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from test_serve_http import free_port
from test_serve_predictor import save_tiny

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the PATH: the web page is not tested")


@pytest.fixture(scope="module")
def url(ray_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from neural_hamilton.serve import application

    yield application.start(save_tiny(tmp_path_factory.mktemp("model"), "phase-space"), port=free_port())
    application.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])  # a fresh profile
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """The page with its first answer; whatever the console complains of, but for the 422s asked for, fails the test."""
    context = browser.new_context()
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.goto(url)
    page.wait_for_selector("#plot-q path.curve")
    yield page
    context.close()
    assert [complaint for complaint in complaints if "422" not in complaint] == []


def curve(page: Any, plot: str = "q") -> str:
    return str(page.get_attribute(f"#plot-{plot} path.curve", "d"))


def test_typing_an_expression_draws_every_plot_and_tells_trust(page: Any) -> None:
    before = {plot: curve(page, plot) for plot in ("v", "phase", "q", "p")}
    page.fill("#expression", "4*abs(q-0.5)")
    page.press("#expression", "Enter")  # by keyboard alone
    page.wait_for_function("before => document.querySelector('#plot-q path.curve').getAttribute('d') !== before", arg=before["q"])
    for plot, old in before.items():
        drawn = curve(page, plot)
        assert drawn.count("L") == 200
        assert "NaN" not in drawn
        assert drawn != old
    assert "energy 2" in page.text_content("#plot-v .energy-label")
    trust = page.inner_text("#trust")
    assert "so this is the solver’s answer" in trust  # the model is random
    assert "Energy drifts by" in trust


@pytest.mark.parametrize("name", ["Harmonic", "Double well", "Morse", "Pendulum"])
def test_every_textbook_potential_is_answered(page: Any, name: str) -> None:
    page.fill("#expression", "")
    with page.expect_response("**/v1/trajectories") as answered:
        page.get_by_role("button", name=name, exact=True).click()
    assert answered.value.status == 200
    page.wait_for_selector(f"button[aria-pressed=true]:has-text('{name}')")
    # The page's own reading of the expression, used for drawing, must agree with V = 2 at the wall.
    assert page.evaluate("Math.abs(compile(document.querySelector('#expression').value)(0) - 2) < 1e-9")


def test_a_bad_expression_shows_the_servers_sentence_and_recovers(page: Any) -> None:
    for expression, sentence in (("8*(q-0.5)**", "cannot be read"), ("3*q", "trained with V = 2 at both walls")):
        page.fill("#expression", expression)
        page.press("#expression", "Enter")
        page.wait_for_function("text => document.querySelector('#error').textContent.includes(text)", arg=sentence)
        assert page.is_visible("#error")
        assert page.get_attribute("#expression", "aria-invalid") == "true"
    page.fill("#expression", "8*(q-0.5)**2")
    page.press("#expression", "Enter")
    page.wait_for_selector("#error", state="hidden")


def test_a_hostile_expression_stays_text(page: Any) -> None:
    page.fill("#expression", "<img src=x onerror=alert(1)>")
    page.press("#expression", "Enter")
    page.wait_for_selector("#error:not([hidden])")
    assert page.locator("img").count() == 0


def test_the_slider_moves_the_particle_by_keyboard(page: Any) -> None:
    page.focus("#moment")
    before = page.get_attribute("#plot-phase .dot", "cx")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.get_attribute("#plot-phase .dot", "cx") != before
    assert page.inner_text("#clock") == "t = 0.05"


def test_a_phone_needs_no_sideways_scrolling(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_paper_model_offers_its_one_start_only(browser: Any, url: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    trained_for = {"sensors": [100], "initial_state": [[0.0], [0.0]]}
    card = {"architecture": {"name": "mambonet"}, "num_parameters": 1, "trained_for": trained_for, "provenance": {}}
    page.route("**/v1/model", lambda route: route.fulfill(json=card))
    page.goto(url)
    page.wait_for_selector("#note:not([hidden])")
    assert page.is_disabled("#q0")
    assert page.is_disabled("#p0")
    context.close()
