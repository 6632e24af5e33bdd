"""Headless Chromium in front of a real TensorBoard."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from selenium import webdriver
from selenium.common.exceptions import JavascriptException, NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
PATIENCE = 60.0
"""Seconds that a page may take to come to what is expected, on a busy machine."""
Result = TypeVar("Result")

_QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    # It would look for updates, where there may be no network.
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
)


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """TensorBoard on a log directory; its address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    address = f"http://localhost:{port}/"
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                assert time.monotonic() < deadline, "TensorBoard does not answer"
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def chromium(width: int = 1400, height: int = 950) -> Iterator[webdriver.Chrome]:
    """A browser without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in (*_QUIET, f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The plugin's page, as somebody in front of it sees it."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        self.address = address

    def open(self, **view: object) -> None:
        """Open a view by its link; nothing given: the page as it first comes."""
        parts = [f"p.recalls.{name}={value}" for name, value in view.items()]
        # From one hash to another the browser would not load anything.
        self.driver.get("about:blank")
        self.driver.get(self.address + "#" + "&".join(["recalls", *parts]))
        self.enter()

    def enter(self) -> None:
        """Go into the plugin's frame, once it shows something."""
        frame = until(lambda: self.driver.find_element(By.TAG_NAME, "iframe"))
        self.driver.switch_to.frame(frame)
        until(lambda: self.text("main"))

    def run(self, script: str, *arguments: object) -> Any:
        """The value of an expression in the page."""
        return self.driver.execute_script(f"return {script}", *arguments)

    def text(self, selector: str) -> str:
        """What stands in the first element that fits."""
        return self.driver.find_element(By.CSS_SELECTOR, selector).text

    def texts(self, selector: str) -> list[str]:
        return [found.text for found in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def press(self, key: str, shift: bool = False) -> None:
        """Press a key somewhere on the page."""
        self.run(
            "window.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], shiftKey: arguments[1]}))",
            key,
            shift,
        )

    def choose(self, selector: str, value: str, event: str = "change") -> None:
        """Put a value into a control, as a hand would."""
        control = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.run(
            "arguments[0].value = arguments[1], arguments[0].dispatchEvent(new Event(arguments[2]))",
            control,
            value,
            event,
        )

    def link(self) -> dict[str, str]:
        """What the address bar holds of the view."""
        parts = self.run("window.parent.location.hash").lstrip("#").split("&")[1:]
        return dict(part.removeprefix("p.recalls.").split("=", 1) for part in parts)

    def corner(self, canvas: str) -> int:
        """The number that a picture of the tests tells in its corner."""
        script = "[...document.querySelector(arguments[0]).getContext('2d').getImageData(0, 0, 2, 1).data]"
        data = self.run(script, canvas)
        return 256 * data[0] + data[4]

    def complaints(self) -> list[str]:
        """Errors that the browser told of."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


def until(check: Callable[[], Result], patience: float = PATIENCE) -> Result:
    """What a check comes to, once that is something true."""
    deadline = time.monotonic() + patience
    while True:
        try:
            if found := check():
                return found
        except (NoSuchElementException, StaleElementReferenceException, JavascriptException):
            found = None
        assert time.monotonic() < deadline, f"it did not come; last was {found!r}"
        time.sleep(0.05)
