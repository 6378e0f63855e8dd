"""Pages are whole files of their own: escaped, readable in both schemes and at any width, and still in the browser."""

import base64
import hashlib
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.browser import sticking_out

from parallel_lenet import png
from parallel_lenet.report import page

pytestmark = pytest.mark.slow

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

HOSTILE = "<script>document.title = 'taken'</script>\"'><img src=x onerror=alert(1)>"


def lines(label: str = "loss", **style: Any) -> page.Html:
    with page.drawing():
        figure = page.figure()
        axes = figure.subplots()
        axes.plot([0, 1, 2], [3, 1, 2], color=page.SERIES[0], label=label, marker="o", **style)
        axes.legend()
        axes.set_xlim(0, 2)
        return page.svg(figure, f"A curve of the {label}")


@pytest.fixture
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of its own with a template that shows a bit of everything."""
    folder = tmp_path / "package_with_a_page" / "templates"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "example.html").write_text("""{% extends "base.html" %}
{% import "parts.html" as parts %}
{% block title %}{{ name }}{% endblock %}
{% block header %}<h1>{{ name }}</h1>{% endblock %}
{% block nav %}{{ parts.contents([("one", "One"), ("two", name)]) }}{% endblock %}
{% block content %}
{% call parts.section("one", "One", "The first.") %}
{{ parts.cards([("accuracy", "98 %", name), ("loss", 0.1, "")]) }}
<div class="figures">{% for picture in pictures %}{{ parts.figure(picture, name, "Loss") }}{% endfor %}</div>
{% endcall %}
{% call parts.section("two", "Two") %}
{{ parts.table("A wide table", names, [names, names]) }}
{{ parts.notes([name]) }}
{{ json }}<p id="answer"></p>
{% endcall %}
{% endblock %}
""")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


LOOKED_AT = (".chart path[style*=series-1]", ".chart text", "body")
SCRIPT = "document.getElementById('answer').textContent = JSON.parse(document.getElementById('values').textContent)[0];"


def example(**more: Any) -> str:
    picture = page.image(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), HOSTILE, 20, HOSTILE)
    values: dict[str, Any] = {
        "name": HOSTILE,
        "names": [f"column {i}" for i in range(30)],
        "json": page.data("values", [HOSTILE]),
    }
    return page.render(
        "example.html",
        package="package_with_a_page",
        scripts=[SCRIPT],
        pictures=[lines(), lines(HOSTILE), picture],
        **values | more,
    )


class Elements(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_page_is_still_whole_and_readable_in_a_browser(templates: Path, tmp_path: Path, open_page: Any) -> None:
    file = tmp_path / "page.html"
    file.write_text(example())
    colours = set()
    shown = open_page(file, width=380)
    for dark in (False, True):
        shown.emulate_media(color_scheme="dark" if dark else "light")
        for width in (380, 768, 1400):
            shown.set_viewport_size({"width": width, "height": 900})
            assert sticking_out(shown) == []
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
        style = (
            "element => { const s = getComputedStyle(element); return [s.stroke, s.color, s.backgroundColor, s.fill] }"
        )
        line, text, body = (shown.eval_on_selector(each, style) for each in LOOKED_AT)
        colours.add((line[0], body[1], body[2]))
        assert text[3] != body[2]
    assert shown.title() == HOSTILE
    assert shown.text_content("#answer") == HOSTILE
    assert len(colours) == 2
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.textContent") == "Skip to the content"


def test_what_is_inserted_is_escaped_and_only_the_pages_own_scripts_may_run(
    templates: Path, tmp_path: Path, open_page: Any
) -> None:
    text = example()
    elements = Elements(text).found
    assert [a for tag, a in elements if tag == "script"] == [
        {"type": "application/json", "id": "values"},
        {"type": "module"},
    ]
    assert not any(name.startswith("on") for _, attributes in elements for name in attributes)
    policy = next(a["content"] for _, a in elements if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in str(policy)
    # If something were not escaped after all, the policy would stop it.
    file = tmp_path / "page.html"
    taken = "<script>document.title = 'taken'</script><b onclick='document.title = 1'>x</b>"
    file.write_text(example(json=page.Html(page.data("values", [1]) + taken)))
    shown = open_page(file)
    shown.click("b")
    assert shown.title() == HOSTILE
    assert len(open_page.faults) == 2
    assert all("Content Security Policy" in fault for fault in open_page.faults)
    open_page.faults.clear()


def test_pictures_have_texts_for_those_who_cannot_see_them_and_ids_of_their_own(templates: Path) -> None:
    elements = Elements(example()).found
    pictures = [a for tag, a in elements if tag == "svg"]
    assert [a["aria-label"] for a in pictures] == ["A curve of the loss", f"A curve of the {HOSTILE}"]
    assert all(a["role"] == "img" for a in pictures)
    assert all("alt" in a for tag, a in elements if tag == "img")
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))
    referred = {
        str(value)[1:] for _, a in elements for name, value in a.items() if name == "href" and str(value)[0] == "#"
    }
    assert referred <= set(ids)


def test_a_drawing_is_the_same_each_time_with_any_settings_of_the_user() -> None:
    import matplotlib

    first = lines()
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.hashsalt": None, "font.size": 30}):
        again = lines()
        assert matplotlib.rcParams["lines.linewidth"] == 9
    assert first == again
    for unwanted in ("metadata", "<style", "xlink", "#0a01", "#0201", "font-family", "matplotlib"):
        assert unwanted not in first


@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (5, 7, 3), (4, 6, 4), (1, 300)])
def test_a_png_holds_the_array(shape: tuple[int, ...]) -> None:
    image = pytest.importorskip("PIL.Image")
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    with image.open(io.BytesIO(png.encode(array))) as read:
        np.testing.assert_array_equal(np.asarray(read), array)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2)), np.zeros((2, 2, 5), np.uint8), np.zeros((0, 2), np.uint8), np.zeros(3, np.uint8)]
)
def test_other_arrays_are_refused_as_images(array: Any) -> None:
    with pytest.raises(ValueError, match="an image must be uint8"):
        png.encode(array)


@pytest.mark.parametrize("script", ["x = '</SCRIPT>'", "<!-- <script"])
def test_a_script_that_would_end_its_element_is_refused(script: str, templates: Path) -> None:
    with pytest.raises(ValueError, match="a script must not hold"):
        page.render("example.html", package="package_with_a_page", scripts=[script])
