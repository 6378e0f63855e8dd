"""Pages in a real browser: Debian's Chromium, driven by playwright. Tests skip where either is missing.

A test takes the fixture `open_page`. It fails if the page writes an error to the console, raises one, or asks for
anything outside the page's own file.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
OUTSIDE = re.compile(r"^(?!(file|data|blob|about):)")

STICKING_OUT = """() => [...document.querySelectorAll("body *")].filter(element => {
    const {left, right, width} = element.getBoundingClientRect();
    if (!width || (right <= document.documentElement.clientWidth + 1 && left >= -1)) return false;
    for (let box = element.parentElement; box; box = box.parentElement)  // Inside a box that scrolls or cuts it off?
        if (box !== document.documentElement && box !== document.body
            && getComputedStyle(box).overflowX !== "visible") return false;
    return true;
}).map(element => element.outerHTML.slice(0, 100))"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser, started once per module of tests."""
    library = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium")
    with library.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


class Pages:
    """Opens HTML files, each in a window of its own, and keeps what was wrong with them in ``faults``."""

    def __init__(self, browser: Any) -> None:
        self.faults: list[str] = []
        self.contexts: list[Any] = []
        self._browser = browser

    def __call__(
        self, file: Path, *, width: int = 1400, dark: bool = False, touch: bool = False, **settings: Any
    ) -> Any:
        """Playwright's page, loaded.

        ``width`` is the window's, ``dark`` the colour scheme that the reader prefers, ``touch`` whether there is a
        touch screen. Other settings are those of playwright's ``new_context``.
        """
        context = self._browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            has_touch=touch,
            **settings,
        )
        self.contexts.append(context)
        context.route(OUTSIDE, lambda route: route.abort())
        context.on("request", lambda request: self._asked(file, request.url))
        context.on("console", lambda message: self._said(message.type, message.text))
        context.on("weberror", lambda error: self.faults.append(f"error: {error.error}"))
        page = context.new_page()
        page.goto(file.as_uri())
        return page

    def _asked(self, file: Path, url: str) -> None:
        if not url.startswith(("data:", "blob:", "about:")) and url.partition("#")[0] != file.as_uri():
            self.faults.append(f"request: {url}")

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.faults.append(f"console: {text}")


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Pages]:
    """What opens a test's pages, and fails the test at its end if something was wrong with one of them."""
    pages = Pages(chromium)
    yield pages
    for context in pages.contexts:
        context.close()
    assert pages.faults == []


def sticking_out(page: Any) -> list[str]:
    """The beginnings of the elements that are wider than the window, outside boxes that scroll."""
    return list(page.evaluate(STICKING_OUT))
