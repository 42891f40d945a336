"""`python docs/images/page.py`: the pictures of the web page. Needs playwright and a Chromium on the PATH."""

import shutil
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import uvicorn
from playwright.sync_api import sync_playwright

import neural_hamilton as nh
from neural_hamilton.serve.catalogue import Catalogue
from neural_hamilton.serve.http_api import build_api
from neural_hamilton.serve.service import Service

PORT = 8777
DOUBLE_WELL = {"V": "(q**2-1)**2", "units": "own", "domain": "-1.8,1.8", "mass": 3, "q0": -1.5, "p0": 1.2}
SURFACE = {"model": "mambonet-surface", "V": "2 - 3*16*q1*(1-q1)*q2*(1-q2)", "q0": "0.25,0.6", "p0": "0.6,1"}
DESKTOP = {"viewport": {"width": 1280, "height": 866}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1.5, "is_mobile": True, "color_scheme": "dark"}
IS_DONE = "() => window.app && app.cards.length && app.cards.every(card => card.reference)"


def main() -> None:
    names = ("orbitnet", "mambonet", "orbitnet-phase-space", "mambonet-surface")
    api = build_api(Service(Catalogue({name: nh.load(name) for name in names})))
    server = uvicorn.Server(uvicorn.Config(api, port=PORT, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, state, part, options in (("page", DOUBLE_WELL, 0.42, DESKTOP), ("page-phone", SURFACE, 0.6, PHONE)):
            page = browser.new_context(**options).new_page()
            page.goto(f"http://127.0.0.1:{PORT}/#{urlencode(state)}")
            page.wait_for_function(IS_DONE)
            page.evaluate(f"app.seek({part} * app.clock.end)")
            page.wait_for_timeout(300)  # a frame or two
            page.screenshot(path=Path(__file__).parent / f"{name}.png")
        browser.close()
    server.should_exit = True
    thread.join()


if __name__ == "__main__":
    main()
