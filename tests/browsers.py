"""A real headless Chromium for tests of pages, and what they do and see in it.

Skipped where there is no Chromium, chromedriver or selenium; with OVSEG_NEEDS_BROWSER set, that is a failure instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

try:
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys as Keys
    from selenium.webdriver.support.wait import WebDriverWait
except ImportError:
    webdriver = ActionChains = By = Keys = WebDriverWait = None

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    absent = [
        name
        for name, there in [("selenium", webdriver), ("chromium", CHROMIUM), ("chromedriver", CHROMEDRIVER)]
        if not there
    ]
    if absent:
        reason = f"no {', '.join(absent)} here: the pages are not tried in a browser"
        if os.environ.get("OVSEG_NEEDS_BROWSER"):
            pytest.fail(f"{reason}, but OVSEG_NEEDS_BROWSER is set")
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """What the tests do and see."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path | str, *, width: int = 1200, height: int = 800, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        self.driver.get("about:blank")  # a page that differs in its fragment alone would not be loaded anew
        self.driver.get_log("browser")
        self.driver.get(page if isinstance(page, str) else page.as_uri())

    def js(self, code: str, *arguments: object) -> object:
        return self.driver.execute_script(f"return {code}", *arguments)

    def all(self, selector: str) -> list:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.js("document.querySelector(arguments[0]).textContent", selector)

    def wait(self, code: str, *arguments: object) -> None:
        WebDriverWait(self.driver, 60).until(lambda driver: driver.execute_script(f"return {code}", *arguments), code)

    def ids(self) -> list[str]:
        return [card.text for card in self.all(".card .id")]

    def look_at(self, id: str) -> None:
        """Click the card of an image and wait until its maps are drawn."""
        self.one(f".card:nth-child({self.ids().index(id) + 1}) a").click()
        self.wait_for(id)

    def wait_for(self, id: str) -> None:
        self.wait("document.getElementById('detail-title').textContent === arguments[0] && detail.maps !== null", id)

    def keys(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def pixel(self, x: float, y: float) -> list[int]:
        """RGBA of the overlay at a place of the image, x and y in 0..1."""
        canvas = "document.getElementById('canvas')"
        place = f"Math.floor({x} * {canvas}.width), Math.floor({y} * {canvas}.height), 1, 1"
        return self.js(f"[...{canvas}.getContext('2d').getImageData({place}).data]")

    def point_at(self, x: float, y: float) -> str:
        """Move the pointer to a place of the image; returns what the page says of it."""
        stack = self.one("#stack")
        right, down = (x - 0.5) * stack.size["width"], (y - 0.5) * stack.size["height"]
        ActionChains(self.driver).move_to_element_with_offset(stack, round(right), round(down)).perform()
        return " | ".join(part.text for part in self.all("#hover > *"))

    def view(self, name: str) -> None:
        next(button for button in self.all("#views button") if button.text == name).click()

    def chip(self, name: str):
        return next(chip for chip in self.all(".chip") if chip.find_element(By.CLASS_NAME, "chip-name").text == name)

    def complaints(self) -> list[str]:
        """What the console says, but for advice about these tests' own reading of canvases."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        return [message for message in messages if "willReadFrequently" not in message]
