"""Chromium for the page's tests: whole flows in a real browser, each person in a profile of their own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A mouse, which a machine without a screen lacks.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",
)


class Person:
    """Somebody at a browser.

    Args:
        profile: directory of the browser's own data; the same one again is the same browser after a restart.
        flags: further ones of Chromium.
    """

    def __init__(self, profile: Path, *flags: str) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for flag in (*_FLAGS, *flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.size(1280, 800)

    def size(self, width: int, height: int = 800, *, dark: bool = False) -> None:
        phone = width < 600
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone},
        )
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def enter(self, address: str, name: str | None = None) -> None:
        """Open the page; with ``name``, answer its first question."""
        for log in ("browser", "performance"):  # what came before is not this page's
            self.driver.get_log(log)
        self.driver.get(address)
        if name is not None:
            self.until("return document.activeElement.id === 'name'")
            self.driver.execute_script("document.getElementById('name').value = ''")
            self.keys(name, "\n")
        self.until("return document.querySelector('.place, .blank, .review') !== null")

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, *arguments: Any, seconds: float = 15) -> Any:
        """What ``script`` returns as soon as that is true."""
        return self.wait(lambda: self.driver.execute_script(script, *arguments), script, seconds)

    def wait(self, ready: Callable[[], Any], what: str, seconds: float = 15) -> Any:
        end = time.monotonic() + seconds
        while True:
            found = ready()
            if found:
                return found
            if time.monotonic() > end:
                raise AssertionError(f"never came true: {what}; the page says:\n{self.text('body')}")
            time.sleep(0.03)

    def keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def submit(self) -> None:
        """Ctrl-Enter."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        chain = ActionChains(self.driver, duration=0)
        chain.key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()

    def text(self, css: str) -> str:
        found = self.driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", css)
        return str(found)

    @property
    def prompt(self) -> str:
        """The prompt on the page."""
        return self.text(".turn:last-of-type .text, .turn.last .text")

    @property
    def answer(self) -> str:
        return str(self.driver.execute_script("return document.getElementById('text')?.value ?? ''"))

    def at(self, rank: int) -> None:
        """Wait until the page shows the prompt of this rank, ready to be answered."""
        self.until("return document.querySelector('.place span')?.textContent === `Prompt ${arguments[0]}`", rank)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def picture(self, path: Path) -> None:
        self.driver.save_screenshot(str(path))

    def quit(self) -> None:
        self.driver.quit()
