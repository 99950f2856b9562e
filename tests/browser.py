"""A browser without a window: Debian's chromium, driven by its chromedriver."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from effort import CI

PROGRAMS = ("chromium", "chromedriver")


@contextmanager
def browser() -> Iterator[Chrome]:
    """Start a browser. Skips the test if there is none, and fails it in CI."""
    found = [shutil.which(name) for name in PROGRAMS]
    if None in found:
        reason = "needs chromium and chromedriver: apt-get install chromium chromium-driver"
        if CI:
            pytest.fail(reason)
        pytest.skip(reason)
    options = ChromeOptions()
    options.binary_location = str(found[0])
    for argument in ("headless=new", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    if os.geteuid() == 0:  # chromium has no sandbox for root
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(str(found[1])))
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver: Chrome, width: int, height: int, *, dark: bool = False, scale: int = 1) -> None:
    """Set the size of the window, of a phone if it is narrow, and the colours."""
    size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def wait(driver: Chrome, script: str, *arguments: Any) -> Any:
    """Wait until a script returns something that is true, and return it."""
    asked: Callable[[Chrome], Any] = lambda each: each.execute_script(script, *arguments)  # noqa: E731
    return WebDriverWait(driver, 20, 0.05).until(asked)
