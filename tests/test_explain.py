"""The lesson's page: every number computed once more, to the last bit, by other means, and the page in a browser."""

import inspect
import re
import struct
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.browser import sticking_out
from kits.lesson_numbers import (
    SIZES,
    Page,
    adam_steps,
    bits_of,
    convolution_backward,
    details,
    forward_and_backward,
    in_parallel,
    same_numbers,
    slopes,
)

from parallel_lenet import Dataset, Sequential, lenet5, load_dataset
from parallel_lenet.explain import Lesson, explain, page, slides
from parallel_lenet.explain.figures import forward
from parallel_lenet.explain.numbers import places_of_sum, short
from parallel_lenet.kernels import naive
from parallel_lenet.network.images import Images
from parallel_lenet.network.layers import AvgPool2d, Conv2d, Dense, Flatten, MaxPool2d, ReLU, Tanh
from parallel_lenet.random import generator

pytest.importorskip("jinja2")

STORY = [  # The chapters, in order.
    *("image", "convolution", "output-shape", "channels", "activation", "pooling", "dense", "softmax", "error"),
    *(
        "dense-backward",
        "activation-backward",
        "pooling-backward",
        "layer-gradient",
        "kernel-gradient",
        "difference",
        "adam",
        "blocks",
    ),
    *("tree", "unequal", "orders", "death", "map"),
]
SIX = ("conv2d", "avg_pool2d", "dense", "avg_pool2d_gradient", "conv2d_input_gradient", "conv2d_weight_gradient")
ELEVEN = (  # Eleven pictures: flatten and dense are one.
    *("convolution", "output-shape", "channels", "pooling", "flatten", "dense", "architecture"),
    *("dense-backward", "pooling-backward", "scatter", "kernel-gradient", "mismatch"),
)


@pytest.fixture(scope="module")
def network() -> Sequential:
    return lenet5(kernel="naive")


@pytest.fixture(scope="module")
def parameters(network: Sequential) -> np.ndarray:
    """Not trained, but with biases that are not 0."""
    noise = np.random.default_rng(5).normal(0, 0.02, network.layout.size)
    return (network.initial_parameters(generator(3)) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def batch() -> Dataset:
    train, test = load_dataset()
    inputs = np.concatenate([test.inputs[[17]], train.inputs[:6]])
    return Dataset(inputs, np.concatenate([test.targets[[17]], train.targets[:6]]))


@pytest.fixture(scope="module")
def lesson(network: Sequential, parameters: np.ndarray, batch: Dataset) -> Lesson:
    return explain(
        network, parameters, batch.inputs[0], int(batch.targets[0]), batch.inputs[1:], batch.targets[1:], "a <digit>"
    )


@pytest.fixture(scope="module")
def html(lesson: Lesson) -> str:
    return page.page(lesson, "a <b>network</b> & more", "parallel-lenet explain 'x y'")


@pytest.mark.slow
def test_every_number_on_the_page_is_the_one_that_the_kernels_compute(
    network: Sequential, parameters: np.ndarray, batch: Dataset, lesson: Lesson, html: str
) -> None:
    expected = forward_and_backward(network, parameters, batch.inputs[0], int(batch.targets[0]))
    expected |= details(expected, lesson)
    expected |= convolution_backward(expected, lesson)
    expected |= slopes(network, parameters, lesson, batch)
    expected |= adam_steps(network, parameters, lesson, batch)
    expected |= in_parallel(network, parameters, lesson, batch)
    found = Page(html)
    seen = same_numbers(found, expected)
    assert len(found.numbers) > 500
    unseen = set(lesson.numbers.arrays) - seen
    places = {
        "dense.order",
        "dense.unit",
        "deep.place",
        "kernel.place",
        "order.index",
        "batch.labels",
        "difference.step",
    }
    drawn = {"pixels", "correlated"}
    layers = {
        name
        for name in unseen
        if re.match(r"(conv|dense|tanh|avgpool|flatten|input)\d?(\.(weight|bias|error)|$)", name)
    }
    assert unseen - layers == places | drawn
    assert bits_of(lesson.numbers["gathered"]) == bits_of(expected["avgpool1.error"])
    for name in layers & set(expected):
        assert bits_of(lesson.numbers[name]) == bits_of(expected[name]), name


@pytest.mark.slow
def test_no_fraction_stands_on_the_page_without_its_bits(html: str) -> None:
    fractions = [text for text in Page(html).untagged if re.search(r"\d\.\d|\de−\d", text)]
    steps = {f"{h:.7f}".rstrip("0").rstrip(".") for h in SIZES}
    allowed = steps | {f"{h:g}".replace("-0", "−").replace("-", "−") for h in SIZES} | {f"1e−{k}" for k in (3, 6, 9)}
    rest = [text.strip() for text in fractions if text.strip() not in allowed]
    prose = (
        "Very small numbers are written like 3e−4",
        "the learning rate, here 0.0001",
        "The divisions by 1 − 0.9",
        "and 1 − 0.999",
        "The exponential exp(z) is the number e, about 2.718",
        "LeNet-5",
    )
    assert [text for text in rest if not any(words in text for words in prose)] == []


@pytest.mark.slow
def test_the_page_tells_the_whole_story_in_order_with_each_picture_and_each_missing_implementation(html: str) -> None:
    found = Page(html)
    chapters = [name for name in found.ids if name in STORY]
    assert chapters == STORY
    assert {f"figure-{name}" for name in ELEVEN} <= set(found.ids)
    for name in (
        *SIX,
        "max_pool2d",
        "max_pool2d_gradient",
        "dense_input_gradient",
        "dense_weight_gradient",
        "_tree_sum",
    ):
        code = found.code[name]
        assert code == inspect.getsource(getattr(naive, name)).rstrip("\n")
    assert len(found.ids) == len(set(found.ids))
    assert {link[1:] for link in found.links} <= set(found.ids)
    for shape in ("32×32×1", "28×28×6", "14×14×6", "10×10×16", "5×5×16"):
        assert shape in html


@pytest.mark.slow
def test_the_page_is_small_strict_and_escapes_what_it_is_given(html: str) -> None:
    assert len(html.encode()) < 600_000
    assert "default-src 'none'; img-src data:;" in unescape(html)
    assert "a &lt;b&gt;network&lt;/b&gt; &amp; more" in html
    assert "a &lt;digit&gt;" in html
    assert "<b>network" not in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
    assert "http" not in re.sub(r"Content-Security-Policy|http-equiv", "", html)


NETWORKS = {
    "stride and padding": (
        Images((12, 14), size=12),
        (Conv2d(4, 3, stride=2, padding=1), ReLU(), Conv2d(5, 3, 2, 2), Tanh(), Flatten(), Dense(7)),
    ),
    "overlapping max pooling": (Images(16, 3, size=16), (Conv2d(3, 7), Tanh(), MaxPool2d(3, 2), Flatten(), Dense(2))),
    "turned filters": (
        Images(12, size=12),
        (Conv2d(3, 3, flip=True), Tanh(), AvgPool2d(2), Conv2d(4, 3, padding=1, flip=True), Flatten(), Dense(14)),
    ),
    "no convolution": (Images(8, size=8), (AvgPool2d(2), Flatten(), Dense(5))),
    "no dense layer": (Images(6, size=6), (Conv2d(4, 6), Flatten())),
}


@pytest.mark.slow
def test_classes_are_called_by_their_names(lesson: Lesson) -> None:
    pytest.importorskip("matplotlib")
    long = "$\\frac$ & a name that is too long"
    names = ("<b>", "$\\wrong{$", "猫", "שלום", "", "cat", "dog", long, "x\ny", "owl")
    named = replace(lesson, class_names=names, label=7)
    html = page.page(named)
    column = [each.text for each in forward.softmax(named).parts[0].shapes if getattr(each, "title", "")]
    assert column == ["<b>", names[1], "猫", "שלום", "4", "cat", "dog", "$\\frac$ & a nam…", "x y", "owl"]
    for text in column:
        assert f"</title>{escape(text, quote=False)}</text>" in html
    assert f"<title>How this network reads an image of class {escape(long)}</title>" in html
    drawn = slides.drawable(named)
    assert drawn.class_names == ("<b>", names[1], "", "", "4", "cat", "dog", long, "x y", "owl")
    assert slides.picture(forward.softmax(drawn)).startswith(b"\x89PNG")  # No warning of a sign that the font lacks.


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_networks_are_explained_with_their_own_numbers(name: str, dtype: str) -> None:
    images, layers = NETWORKS[name]
    network = Sequential(images, layers, "naive", dtype)
    rng = np.random.default_rng(8)
    shape = (images.channels,) * (images.channels > 1) + images.height_and_width
    inputs = rng.integers(0, 256, (4, *shape)).astype(np.uint8)
    targets = rng.integers(0, network.classes, 4)
    parameters = rng.normal(0, 0.2, network.layout.size).astype(dtype)
    lesson = explain(network, parameters, inputs[0], None, inputs[1:], targets[1:])
    assert lesson.label == lesson.prediction == network.predict(parameters, inputs[:1])[0]
    html = page.page(lesson)
    found = Page(html)
    same_numbers(found, lesson.numbers.arrays)  # The registry. Its content is compared with the model below.
    assert [name for name in found.ids if name in STORY] == STORY
    assert not [text for text in found.untagged if re.search(r"\bnan\b|\binf\b|None|undefined", text)]
    gradient = np.empty_like(parameters)
    targets[0] = lesson.label
    metrics = network.loss_and_gradient(parameters, inputs[:1], targets[:1], gradient)
    assert lesson.numbers["loss"] == metrics.loss_sum
    for part, values in network.layout.views(gradient).items():
        assert bits_of(lesson.numbers[f"{part}.gradient"]) == bits_of(values)
    network.loss_and_gradient(parameters, inputs, targets, gradient)
    assert lesson.numbers["batch.mean"] == gradient[lesson.weight_index] / gradient.dtype.type(4)
    if lesson.roles.deep is not None:
        assert lesson.numbers["gathered.same"] == lesson.roles.deep.x.size
        assert lesson.numbers["correlated.difference"] < 1e-5 * np.abs(lesson.roles.deep.dx).max() + 1e-12
    close = np.abs(lesson.numbers["difference64.slope"] - lesson.numbers["difference64.gradient"]).min()
    assert close < 1e-6 * max(1, abs(float(lesson.numbers["difference64.gradient"])))


def test_a_network_too_large_for_loops_is_explained_by_its_own_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parallel_lenet.explain.LARGEST", 10)
    network = Sequential(*NETWORKS["stride and padding"], "im2col")  # type: ignore[arg-type]
    inputs = np.random.default_rng(1).integers(0, 256, (3, 12, 14)).astype(np.uint8)
    lesson = explain(network, network.initial_parameters(generator(0)), inputs[0], 2, inputs[1:], [0, 1])
    assert lesson.model.kernel == "im2col"
    html = page.page(lesson)
    assert "too large for the plain loops" in html
    same_numbers(Page(html), lesson.numbers.arrays)


def test_what_cannot_be_explained_is_refused(network: Sequential, parameters: np.ndarray, batch: Dataset) -> None:
    rest = (batch.inputs[1:], batch.targets[1:])
    with pytest.raises(ValueError, match="not finite"):
        explain(network, parameters * np.float32(np.nan), batch.inputs[0], 1, *rest)
    with pytest.raises(ValueError, match="label 10 is out of range"):
        explain(network, parameters, batch.inputs[0], 10, *rest)
    with pytest.raises(ValueError, match="images of shape"):
        explain(network, parameters, batch.inputs[0, 1:], 1, *rest)
    with pytest.raises(ValueError, match="at least 2 more images"):
        explain(network, parameters, batch.inputs[0], 1, batch.inputs[1:2], batch.targets[1:2])


# In the browser.


def said(opened: Any, name: str) -> str:
    return str(opened.inner_text(f"#play-{name} .said"))


def shown(opened: Any, prefix: str, size: int = 5) -> np.ndarray:
    """The bits of a table of numbers in the page."""
    bits = opened.evaluate(
        "([prefix, n]) => Array.from({length: n * n}, (_, i) => document.getElementById("
        "`${prefix}-${Math.floor(i / n)}-${i % n}`).dataset.bits)",
        [prefix, size],
    )
    return np.array([struct.unpack(">f", bytes.fromhex(each))[0] for each in bits], np.float32).reshape(size, size)


@pytest.fixture(scope="module")
def file(html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "explain.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "dark"), [(380, False), (380, True), (1400, False), (1400, True)])
def test_nothing_sticks_out_in_a_narrow_or_a_wide_window(open_page: Any, file: Path, width: int, dark: bool) -> None:
    opened = open_page(file, width=width, dark=dark)
    assert sticking_out(opened) == []
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) < 60) is dark
    smallest = opened.evaluate(
        "Math.min(...[...document.querySelectorAll('.drawing text')].map(t => parseFloat(getComputedStyle(t).fontSize)"
        " * t.closest('svg').getBoundingClientRect().width / t.closest('svg').viewBox.baseVal.width))"
    )
    assert smallest > 7.5


def test_the_window_moves_with_the_keyboard_and_shows_the_numbers_under_it(
    open_page: Any, file: Path, lesson: Lesson
) -> None:
    opened = open_page(file)
    opened.focus("#play-convolution input")
    opened.keyboard.press("Home")
    for _ in range(3):
        opened.keyboard.press("ArrowRight")
    f, _, _ = lesson.roles.conv_at
    image = lesson.numbers["input"][0]
    kernel = lesson.numbers["conv1.weight"][f, 0]
    assert bits_of(shown(opened, "conv-x")) == bits_of(image[0:5, 3:8])
    assert bits_of(shown(opened, "conv-p")) == bits_of(image[0:5, 3:8] * kernel)
    opened.focus("svg[role=application]")
    for key in ("ArrowDown", "ArrowDown", "ArrowLeft"):
        opened.keyboard.press(key)
    window = image[2:7, 2:7]
    assert bits_of(shown(opened, "conv-x")) == bits_of(window)
    bits = opened.get_attribute(f"#play-convolution data[data-of='output({f},2,2)']", "data-bits")
    assert bits == struct.pack(">f", lesson.numbers["conv1"][f, 2, 2]).hex()
    products = (window * kernel).ravel()
    running = np.float32(0)
    for n in range(3):
        opened.get_by_role("button", name="Next product").press("Enter")
        running = running + products[n]
        number = opened.locator("#play-convolution data").last
        assert number.get_attribute("data-bits") == struct.pack(">f", running).hex()
    assert "Product 3 of 25" in said(opened, "convolution")
    opened.select_option("#play-convolution select", "4")
    assert bits_of(shown(opened, "conv-w")) == bits_of(lesson.numbers["conv1.weight"][4, 0])
    assert "map 4 of 28×28×6" in opened.inner_text("#figure-convolution")
    opened.get_by_role("button", name="Add number by number").click()
    opened.wait_for_selector("#play-convolution .said:has-text('sum so far')")


def test_the_backward_figures_play_to_the_bits_of_the_kernels(open_page: Any, file: Path, lesson: Lesson) -> None:
    opened = open_page(file, width=380)
    for name in ("scatter", "kernel-gradient"):
        opened.focus(f"#play-{name} input")
        opened.keyboard.press("Home")
        opened.keyboard.press("ArrowRight")
    window = lesson.numbers["avgpool1"][lesson.weight[1][1], 0:5, 1:6]
    error = lesson.numbers["conv2.error"][lesson.weight[1][0], 0]
    assert bits_of(shown(opened, "kernel-p")) == bits_of(window)
    assert bits_of(shown(opened, "kernel-w")) == bits_of(error[1] * window)
    first = error[0] * lesson.numbers["avgpool1"][lesson.weight[1][1], 0:5, 0:5]
    assert bits_of(shown(opened, "kernel-sum")) == bits_of(first + error[1] * window)
    channel = int(lesson.numbers["deep.place"][0])
    assert "map 0 of 10×10×16" in opened.inner_text("#figure-scatter")
    weighted = lesson.numbers["conv2.error"][0, 0, 1] * lesson.numbers["conv2.weight"][0, channel]
    assert bits_of(shown(opened, "scatter-p")) == bits_of(weighted)
    before = opened.get_attribute("#scatter-dx", "href")
    for name in ("scatter", "kernel-gradient"):
        opened.focus(f"#play-{name} input")
        opened.keyboard.press("End")
    assert opened.get_attribute("#scatter-dx", "href") != before
    assert "196 of 196 numbers are those of the network's code" in said(opened, "scatter")
    assert "25 of 25 numbers are those of the network's code" in said(opened, "kernel-gradient")
    name, place = lesson.weight
    assert bits_of(shown(opened, "kernel-sum")) == bits_of(lesson.numbers[f"{name}.gradient"][place[:2]])


def test_figures_play_pause_and_step(open_page: Any, file: Path, lesson: Lesson) -> None:
    opened = open_page(file)
    step = opened.locator("#play-tree").get_by_role("button", name="step back")
    step.click()
    hidden = "[...document.querySelectorAll('#figure-tree [data-step]')].filter(e => e.matches('.later')).length"
    assert opened.evaluate(hidden) > 0
    opened.locator("#play-tree").get_by_role("button", name="last step").click()
    assert opened.evaluate(hidden) == 0
    play = opened.locator("#play-death").get_by_role("button", name="play")
    play.focus()
    opened.keyboard.press("Enter")
    opened.wait_for_selector("#play-death .said:has-text('given out: 1')")
    opened.keyboard.press("Enter")
    stopped = said(opened, "death")
    opened.wait_for_timeout(800)
    assert said(opened, "death") == stopped
    opened.focus("#play-difference input")
    opened.keyboard.press("End")
    slope = opened.get_attribute("#play-difference data[data-of='difference64.slope[13]']", "data-bits")
    assert slope == struct.pack(">d", lesson.numbers["difference64.slope"][13]).hex()
    opened.locator("#map a[href='#code-conv2d']").first.click()
    opened.wait_for_selector("#code-conv2d[open] pre")
    opened.hover("#conv-x-1-1")
    number = lesson.numbers("window", 0, 1, 1)
    opened.wait_for_selector(".tooltip:visible")
    assert number.bits in opened.inner_text(".tooltip")


def test_without_javascript_the_page_is_complete(open_page: Any, file: Path) -> None:
    opened = open_page(file, java_script_enabled=False)
    assert opened.locator(".player").count() == 0
    assert opened.locator("p.scripted:visible").count() == 0
    assert "The products add up to" in opened.inner_text("#convolution")
    opened.emulate_media(media="print")
    assert opened.locator("#figure-tree svg").is_visible()


@pytest.mark.parametrize("value", [0.0, 0.42, -0.01234, 9.996, 1234.5, 99_999.0, 123_456.0, 0.00099996, -2.7e-5, 1e-30])
def test_a_number_has_three_digits(value: float) -> None:
    shown = short(np.float64(value))
    assert float(shown.replace("−", "-")) == float(f"{value:.2e}") or abs(value) >= 999.5
    assert len(re.sub(r"^−?0?\.?0*|e.*|\.", "", shown)) >= 3 or value == 0


def test_the_browser_writes_numbers_as_python_does(open_page: Any, file: Path) -> None:
    opened = open_page(file)
    opened.focus("#play-scatter input")
    opened.keyboard.press("ArrowLeft")
    drawn = opened.evaluate(
        "[...document.querySelectorAll('#figure-convolution text, #figure-scatter text, #figure-kernel-gradient text')]"
        ".filter(text => text.dataset.bits).map(text => [text.dataset.bits, text.textContent])"
    )
    assert len(drawn) > 150
    assert [text for _, text in drawn] == [short(struct.unpack(">f", bytes.fromhex(bits))[0]) for bits, _ in drawn]


@pytest.mark.slow
def test_a_sum_is_shown_with_digits_that_fit(html: str, lesson: Lesson) -> None:
    assert places_of_sum(-7.5412, 0.0024, -7.5388) == 5
    assert places_of_sum(0.0, 0.0) == 0
    sentence = re.search(r"The products add up to (.*?)</p>", html, re.DOTALL)
    assert sentence
    texts = re.findall(r">(−?[\d.]+)</data>", sentence[1])
    products, bias, output = (float(text.replace("−", "-")) for text in texts)
    assert abs(products + bias - output) <= 2.1 * 10.0 ** -len(texts[2].partition(".")[2])
    assert output == pytest.approx(lesson.numbers["conv1"].max(), rel=1e-4)


def test_equations_stand_in_one_row_in_a_wide_window(open_page: Any, file: Path) -> None:
    opened = open_page(file, width=1385)
    for name in ("convolution", "scatter", "gather", "kernel-gradient"):
        middles = opened.evaluate(
            f"[...document.querySelectorAll('#figure-{name} .panels > *')].map(part => {{"
            " const box = part.getBoundingClientRect(); return (box.top + box.bottom) / 2; })"
        )
        assert max(middles) - min(middles) < 2, name
