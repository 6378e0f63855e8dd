"""The pad to draw on: its JavaScript computes what the library does, and people can use it."""

import base64
import io
import json
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.browser import Pages, sticking_out
from numpy.typing import NDArray

from parallel_lenet import (
    Adam,
    AvgPool2d,
    Conv2d,
    Coordinator,
    Dataset,
    Dense,
    Flatten,
    Images,
    MaxPool2d,
    ReLU,
    Sequential,
    Tanh,
    lenet5,
    load_dataset,
)
from parallel_lenet.network.layers import Layer
from parallel_lenet.pictures import in_unit
from parallel_lenet.pictures.digit import digit
from parallel_lenet.report import pad

Image = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.slow

Array = NDArray[Any]

HOSTILE = "</script><script>document.title = 'taken'</script>"

# With what a network of layers may be: sides that differ, channels, strides, padding, overlaps, units.
NETWORKS: dict[str, tuple[Images, tuple[Layer, ...]]] = {
    "dense": (Images(image_size=(5, 7), size=1), (Flatten(), Dense(4))),
    "flip": (Images(12, size=15), (Conv2d(3, 4, flip=True), Tanh(amplitude=0.7), Flatten(), Dense(5))),
    "stride": (Images((14, 9), size=1), (Conv2d(4, 3, stride=2, padding=2), ReLU(), Flatten(), Dense(3), Tanh())),
    "pools": (
        Images(20, size=21, pixel_max=1.0),
        (Conv2d(2, 2), MaxPool2d(3, stride=2), Conv2d(3, 3), AvgPool2d(3, stride=1), Flatten(), Dense(6), ReLU()),
    ),
    "colours": (
        Images(10, channels=3, size=12, pixel_min=-1, pixel_max=1, mean=(0.4, 0.5, 0.3), std=(0.2, 0.3, 0.25)),
        (MaxPool2d(2), Conv2d(5, 3, padding=1), Tanh(), Flatten(), Dense(12), ReLU(), Dense(2)),
    ),
    "standardised": (Images(9, size=16, mean=0, std=1, pixel_max=None), (AvgPool2d(3), Flatten(), Dense(10))),
}


def parameters_of(model: Sequential) -> Array:
    """Some that are not 0, biases neither."""
    rng = np.random.default_rng(3)
    return (model.initial_parameters(rng) + rng.normal(0, 0.1, model.layout.size)).astype(np.float32)


def page(model: Sequential, parameters: Array, script: str = "") -> str:
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Pad</title>
<meta name="viewport" content="width=device-width"><style>:root {{ color-scheme: light dark }}{pad.pad_style()}</style>
</head><body><main><h1>Pad</h1>{pad.pad_html(model, parameters)}</main>
<script type="module">{pad.pad_script()}{script}</script></body></html>"""


EXPOSED = "Object.assign(window, {Network, digit, softmax});"  # A module's names are its own.

SCORES = """({description, parameters, images, dtype}) => {
    const bytes = text => Uint8Array.from(atob(text), character => character.charCodeAt(0)).buffer;
    const network = new Network(description, new Float32Array(bytes(parameters)));
    const pixels = new (dtype === "u" ? Uint8Array : Float32Array)(bytes(images));
    const {image_size: [rows, columns], channels} = description.images, size = rows * columns * channels;
    const all = [];
    for (let i = 0; i < pixels.length; i += size) all.push([...network.scores(pixels.subarray(i, i + size))]);
    return all;
}"""


def encoded(array: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def scores_in_browser(browser_page: Any, model: Sequential, parameters: Array, images: Array) -> Array:
    told = {
        "description": model.description,
        "parameters": encoded(parameters.astype("<f4")),
        "images": encoded(images),
        "dtype": images.dtype.kind,
    }
    return np.array(browser_page.evaluate(SCORES, told))


@pytest.fixture(scope="module")
def trained() -> Coordinator:
    """A network that knows the bundled digits."""
    train, _ = load_dataset()
    with Coordinator(lenet5(), Adam(0.002), batch_size=64, engine="serial") as coordinator:
        coordinator.fit(Dataset(train.inputs[:2000], train.targets[:2000]), epochs=5)
    return coordinator


@pytest.fixture
def drawing_page(open_page: Pages, trained: Coordinator, tmp_path: Path) -> Any:
    """Opens the page of the trained network, in any window."""
    file = tmp_path / "pad.html"
    file.write_text(page(trained.model, trained.parameters, EXPOSED))
    return lambda **window: open_page(file, **window)


def test_the_browser_agrees_with_predict_on_all_bundled_test_digits(drawing_page: Any, trained: Coordinator) -> None:
    _, test = load_dataset()
    ours = trained.model.scores(trained.parameters, test.inputs)
    theirs = scores_in_browser(drawing_page(), trained.model, trained.parameters, test.inputs)
    assert np.abs(theirs - ours).max() < 1e-4
    assert (theirs.argmax(axis=1) == trained.predict(test.inputs)).all()


def test_the_browser_computes_every_network_of_this_packages_layers(drawing_page: Any) -> None:
    tab = drawing_page()
    rng = np.random.default_rng(0)
    for name, (images, layers) in NETWORKS.items():
        model = Sequential(images, layers, kernel="naive", dtype="float64")
        parameters = parameters_of(model)
        white = 3 if images.pixel_max is None else images.pixel_max
        pixels = rng.uniform(images.pixel_min, white, (5, images.channels, *images.height_and_width))
        pixels = pixels.astype(np.float32)
        ours = model.scores(parameters.astype(float), pixels)
        assert np.abs(scores_in_browser(tab, model, parameters, pixels) - ours).max() < 1e-9, name


def test_the_browser_prepares_a_drawing_as_the_library_does(drawing_page: Any) -> None:
    tab = drawing_page()
    rng = np.random.default_rng(1)
    drawings, expected = [], []
    for i in range(60):
        height, width = (int(side) for side in rng.integers(1, 90, 2))
        rows, columns = (28, 28) if i % 2 else (int(side) for side in rng.integers(1, 40, 2))
        ink = rng.integers(0, 256, (height, width)) * (rng.random((height, width)) < rng.choice([0.001, 0.02, 0.5, 1]))
        ink = np.where(rng.random() < 0.2, ink // 200, ink).astype(np.uint8)
        drawings.append([ink.ravel().tolist(), height, width, rows, columns])
        ours = digit(ink, (rows, columns))
        expected.append(None if ours is None else ours.ravel().tolist())
    assert 0 < expected.count(None) < 20
    _, test = load_dataset()
    for image in test.inputs[:50]:
        drawings.append([image.ravel().tolist(), 28, 28, 28, 28])
        ours = digit(image)
        assert ours is not None
        expected.append(ours.ravel().tolist())
    theirs = tab.evaluate("all => all.map(each => { const d = digit(...each); return d && [...d]; })", drawings)
    assert theirs == expected


def draw(tab: Any, *lines: list[tuple[float, float]]) -> None:
    """Draw with the mouse. The pad's side is 1."""
    box = tab.locator(".pad-canvas").bounding_box()
    for line in lines:
        for i, (x, y) in enumerate(line):
            tab.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
            if i == 0:
                tab.mouse.down()
        tab.mouse.up()


SEVEN = [(0.3, 0.25), (0.7, 0.25), (0.45, 0.8)]
ONE = [(0.5, 0.2), (0.5, 0.8)]


def answer(tab: Any) -> str:
    """What the page says when the hand rests."""
    tab.wait_for_timeout(600)
    return str(tab.locator(".pad-status").inner_text())


def seen(tab: Any) -> Array:
    """The pixels that the page shows of what the network sees."""
    url = tab.locator(".pad-seen canvas").evaluate("canvas => canvas.toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGBA"))


def test_a_mouse_draws_and_the_network_answers(drawing_page: Any, trained: Coordinator) -> None:
    tab = drawing_page()
    assert answer(tab) == "Nothing is drawn yet."
    draw(tab, SEVEN)
    assert answer(tab).startswith("It is a 7 (9")
    rows = tab.locator(".pad-bars li").all_inner_texts()
    assert [row.split()[0] for row in rows] == [str(label) for label in range(10)]
    image = seen(tab)
    probabilities = trained.predict_proba(image[np.newaxis, ..., 0])[0]
    assert [float(row.split()[1]) for row in rows] == pytest.approx((100 * probabilities).tolist(), abs=0.06)
    assert (image[..., 0] == image[..., 1]).all()
    assert (image[..., 3] == 255).all()
    assert np.abs(digit(image[..., 0].copy()) - image[..., 0].astype(int)).max() <= 1  # It is prepared already.
    tab.get_by_role("button", name="Clear").click()
    assert answer(tab) == "Nothing is drawn yet."
    assert not seen(tab)[..., :3].any()


def test_strokes_are_taken_back_one_by_one(drawing_page: Any) -> None:
    tab = drawing_page()
    draw(tab, ONE)
    tab.wait_for_timeout(50)
    one = seen(tab)
    draw(tab, [(0.1, 0.1), (0.9, 0.9)])
    tab.wait_for_timeout(50)
    assert (seen(tab) != one).any()
    tab.get_by_role("button", name="Undo").click()
    tab.wait_for_timeout(50)
    assert (seen(tab) == one).all()


def test_the_keyboard_draws(drawing_page: Any) -> None:
    tab = drawing_page()
    tab.keyboard.press("Tab")
    assert tab.locator(".pad-canvas").evaluate("canvas => canvas === document.activeElement")
    tab.keyboard.press("Space")
    for _ in range(8):
        tab.keyboard.press("Shift+ArrowDown")
    tab.keyboard.press("Space")
    tab.keyboard.press("ArrowRight")  # The pen is up: this draws nothing.
    assert answer(tab).startswith("It is a 1 (")
    tab.keyboard.press("Backspace")
    assert answer(tab) == "Nothing is drawn yet."
    assert tab.evaluate("scrollY") == 0
    tab.keyboard.press("Tab")  # Out of the pad again.
    assert tab.get_by_role("button", name="Undo").evaluate("button => button === document.activeElement")


def test_a_finger_draws_and_does_not_scroll(drawing_page: Any) -> None:
    tab = drawing_page(width=380, touch=True)
    box = tab.locator(".pad-canvas").bounding_box()
    finger = tab.context.new_cdp_session(tab)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in points]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    touch("touchStart", SEVEN[0])
    for (x, y), (next_x, next_y) in pairwise(SEVEN):
        for part in np.linspace(0, 1, 8).tolist():
            touch("touchMove", (x + part * (next_x - x), y + part * (next_y - y)))
    touch("touchEnd")
    assert answer(tab).startswith("It is a 7 (")
    assert tab.evaluate("scrollY") == 0


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_telephone_and_its_ink_is_legible(drawing_page: Any, dark: bool) -> None:
    tab = drawing_page(width=380, dark=dark)
    draw(tab, ONE)
    tab.wait_for_timeout(50)
    assert sticking_out(tab) == []
    ink = tab.locator(".pad-canvas").evaluate(
        'canvas => [...canvas.getContext("2d").getImageData(280, 280, 1, 1).data]'
    )
    assert ink[3] == 255
    assert (ink[0] > 128) is dark


def test_a_network_of_more_classes_shows_the_most_probable(open_page: Pages, tmp_path: Path) -> None:
    model = lenet5(classes=26)
    file = tmp_path / "pad.html"
    file.write_text(page(model, parameters_of(model)))
    tab = open_page(file)
    draw(tab, ONE)
    tab.wait_for_timeout(100)
    shares = [float(row.split()[1]) for row in tab.locator(".pad-bars li").all_inner_texts()]
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)


def test_a_pixel_has_the_unit_of_the_network() -> None:
    ink = np.array([[0, 51], [255, 102]], np.uint8)
    for images, expected in [
        (Images(2), [[0, 51], [255, 102]]),
        (Images(2, pixel_max=1), [[0, 0.2], [1, 0.4]]),
        (Images(2, pixel_min=-1, pixel_max=1), [[-1, -0.6], [1, -0.2]]),
        (Images(2, mean=0, std=1, pixel_max=None), [[-0.4242, 0.2249], [2.8215, 0.8740]]),
    ]:
        image = in_unit(ink, images)
        images.check(image)
        np.testing.assert_allclose(image[0, 0], expected, atol=1e-4)


def test_nothing_in_the_page_ends_its_script() -> None:
    model = lenet5()
    html = pad.pad_html(model, parameters_of(model))
    assert html.count("<script") == html.count("</script>") == 1
    told = json.loads(html.partition('<script type="application/json">')[2].partition("</script>")[0])
    assert told["description"] == model.description
    assert "</" not in pad.pad_style()
    assert "</script" not in pad.pad_script()
    assert len(html.encode()) < 350_000
    assert hasattr(html, "__html__")  # A template does not escape it again.


def test_a_network_without_a_pad_says_why() -> None:
    class Mine(ReLU):
        """With a name that is HTML."""

    Mine.__name__ = HOSTILE
    strange = Sequential(Images(), (Flatten(), Dense(10), Mine()))
    assert "<script" not in pad.pad_html(strange, parameters_of(strange))
    large = lenet5(image_size=100)
    assert "parameters, too many for a page" in str(pad.why_not(large))
    assert "<script" not in pad.pad_html(large, parameters_of(large))
    assert pad.why_not(lenet5()) is None


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="parameter vector"):
        pad.pad_html(lenet5(), np.zeros(10, np.float32))


def test_the_files_of_the_pad_are_in_the_package() -> None:
    for name in (*pad.SCRIPTS, "pad.css"):
        assert files("parallel_lenet.report.pad").joinpath(name).read_bytes()
    assert files("parallel_lenet.report").joinpath("templates", "pad.html").read_bytes()
