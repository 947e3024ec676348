"""A headless Chromium with a microphone that plays a file, where there is one."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import soundfile

from tests.toy_speech import tone

Found = TypeVar("Found")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE_SECONDS = 60.0  # of a busy machine
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--window-size=1200,1000",
)


class Browser:
    """The page that is open, and what people do with it."""

    def __init__(self, driver: Any):
        self.driver = driver

    def open(self, address: str, ready: str) -> None:
        """Open a page, and wait until it is drawn."""
        self.driver.get(address)
        self.text(ready)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        """The first that is shown, as soon as there is one."""
        return until(
            lambda: next((one for one in self.all(selector) if one.is_displayed()), None), selector
        )

    def text(self, selector: str, part: str = "") -> str:
        """What stands there, as soon as something does that has this part."""

        def found() -> str | None:
            texts = (one.text for one in self.all(selector) if one.is_displayed())
            return next((text for text in texts if text and part in text), None)

        return until(found, f"{part!r} in {selector}")

    def click(self, selector: str) -> None:
        until(lambda: self.one(selector).is_enabled(), f"{selector} enabled")
        self.one(selector).click()

    def send(self, selector: str, keys: str) -> None:
        """Type, or choose a file, also where what takes it is hidden."""
        until(lambda: self.all(selector), selector)[0].send_keys(keys)

    def drag_to_start(self, selector: str) -> None:
        """Move a slider to its lowest value."""
        from selenium.webdriver import ActionChains

        slider = self.one(selector)
        width = slider.size["width"]
        ActionChains(self.driver).click_and_hold(slider).move_by_offset(
            -width, 0
        ).release().perform()

    def run(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)


def until(found: Callable[[], Found | None], what: str) -> Found:
    """What is found, as soon as it is; an element that went while it was looked at comes again."""
    from selenium.common.exceptions import WebDriverException

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if value := found():
                return value
        except WebDriverException:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.03)


@pytest.fixture(scope="session")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the microphone hears, over and over: a voice, and a pause."""
    path = tmp_path_factory.mktemp("microphone") / "voice.wav"
    sound = np.concatenate([tone(0.8, 48_000), np.zeros(9_600, np.float32)])
    soundfile.write(path, sound, 48_000)
    return path


@pytest.fixture(scope="session")
def browser(microphone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--use-file-for-fake-audio-capture={microphone}"):
        options.add_argument(flag)
    downloads = str(tmp_path_factory.mktemp("downloads"))
    options.add_experimental_option("prefs", {"download.default_directory": downloads})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.downloads = Path(downloads)
    yield Browser(driver)
    driver.quit()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
