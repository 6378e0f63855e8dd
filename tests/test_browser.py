"""The fixture of the tests that look at pages: it notices what it is there to notice."""

from pathlib import Path

import pytest
from kits.browser import Pages, sticking_out

pytestmark = pytest.mark.slow

WRONG = {
    "<script>console.error('oh')</script>": "console: oh",
    "<script>missing()</script>": "missing is not defined",
    "<img src='https://example.org/picture.png' alt=''>": "request: https://example.org/picture.png",
    "<img src='other.png' alt=''>": "other.png",
    "<script>fetch('http://127.0.0.1:9/').catch(() => 0)</script>": "request: http://127.0.0.1:9/",
}


def test_a_page_without_faults_has_none(open_page: Pages, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(
        "<h1 id=top>Top</h1><img alt='' src='data:image/gif;base64,R0lGODlhAQABAAAAACw='><a href=#top>Up</a>"
    )
    open_page(file, dark=True).click("a")
    assert open_page.faults == []


def test_what_a_page_does_wrong_is_a_fault(open_page: Pages, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("".join(WRONG))
    page = open_page(file)
    for _ in range(500):
        missing = [fault for fault in WRONG.values() if not any(fault in each for each in open_page.faults)]
        if not missing:
            break
        page.wait_for_timeout(20)
    page.close()  # Nothing is added to the list after this.
    open_page.faults.clear()
    assert missing == []


def test_what_sticks_out_is_found(open_page: Pages, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    wide = "<p style='width: 500px'>wide</p>"
    file.write_text(f"<body>{wide}<div style='overflow: auto'>{wide}</div>")
    page = open_page(file, width=380)
    assert len(sticking_out(page)) == 1
    page.set_viewport_size({"width": 1400, "height": 900})
    assert sticking_out(page) == []
