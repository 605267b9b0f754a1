"""A real headless Chromium with our page in it: what the tests of the page share.

Every test has a server of its own. The system may give it a port that an earlier test had, which to the browser is the
same site: so a new `Page` empties that site's storage.
Debian's packages are `chromium` and `chromium-driver`; where they are absent, the tests skip.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from support.engines.fake_engine import FakeEngine

PATIENCE = 30.0  # seconds; only a failing test waits so long
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root in a container has none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,800",
)


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """A browser with a fresh profile."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    manager = {"credentials_enable_service": False, "profile.password_manager_enabled": False}
    options.add_experimental_option("prefs", manager)  # it would look the key up among leaked ones, in the network
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=Service(executable_path=driver))
    try:
        yield chrome
    finally:
        chrome.quit()


class Page:
    """The page, as a user sees it who was never at this address before."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        self.url = url
        driver.get_log("browser")  # what came before is another test's
        self.cdp("Storage.clearDataForOrigin", origin=url.rstrip("/"), storageTypes="all")
        self.viewport(1280, 800)
        self.language("en-US")
        self.colours("light")

    def open(self) -> Page:
        self.driver.get(self.url)
        return self

    def viewport(self, width: int, height: int, scale: float = 1) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 700}
        self.cdp("Emulation.setDeviceMetricsOverride", **metrics)

    def language(self, tag: str) -> None:
        agent = self.driver.execute_script("return navigator.userAgent")
        self.cdp("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=tag)

    def colours(self, scheme: str) -> None:
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        named = [{"name": name, "value": value} for name, value in features.items()]
        self.cdp("Emulation.setEmulatedMedia", features=named)

    def cdp(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def shown(self, css: str) -> bool:
        return any(element.is_displayed() for element in self.all(css))

    def texts(self, css: str) -> list[str]:
        texts: list[str] = self.js("return [...document.querySelectorAll(arguments[0])].map(n => n.innerText)", css)
        return texts

    def until(self, condition: Callable[[], Any], what: str) -> None:
        WebDriverWait(self.driver, PATIENCE, 0.02).until(lambda _: condition(), what)

    def type(self, text: str) -> None:
        self.find("#input").send_keys(text)

    def ask(self, text: str) -> None:
        """Type a question, send it by Enter, and wait for the end of its answer."""
        before = len(self.all("article.user"))
        self.type(text + "\n")
        self.until(lambda: len(self.all("article.user")) > before and self.shown("#send"), "the answer")

    def click(self, css: str) -> None:
        self.find(css).click()

    def press(self, words: str, within: str = "body") -> None:
        """Click the visible button with these words."""
        for element in self.all(f"{within} button"):
            if element.is_displayed() and element.text == words:
                return element.click()
        raise AssertionError(f"no button says {words!r}")

    def stored(self, area: str) -> dict[str, Any]:
        pairs: dict[str, str] = self.js(f"return {{...{area}}}")
        return {name: json.loads(value) for name, value in pairs.items()}

    def complaints(self) -> list[str]:
        """What the browser's console has, but for requests that were refused or broke off."""
        entries = [str(entry["message"]) for entry in self.driver.get_log("browser")]
        return [entry for entry in entries if "Failed to load resource" not in entry]


Open = Callable[[FakeEngine], Page]  # opens the page of a server with this engine
