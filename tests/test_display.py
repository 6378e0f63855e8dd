"""How objects show themselves: short lines, tables, and HTML that needs nothing else, in any state."""

import base64
import io
import math
import re
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kits.models import Softmax

from parallel_lenet import (
    SGD,
    Adam,
    Cluster,
    Coordinator,
    Cosine,
    Dataset,
    EpochReport,
    History,
    Metrics,
    Sequential,
    TrainedModel,
    Warmup,
    lenet5,
    load_model,
)
from parallel_lenet.display import Displayed, Table, call, shorten
from parallel_lenet.display.curves import LARGEST, MOST_POINTS, curves
from parallel_lenet.display.thumbnails import thumbnails

EPOCH = EpochReport(1, 29, 0.6817, 0.7869, 0.25, 16000.0, 0.3243, 0.9075)
HOSTILE = "<script>alert('1')</script><img src=http://example.com/x>&\"\x1b[2J\ud800"
VOID = {"img", "br", "hr"}


class Page(HTMLParser):
    """Fails unless every tag is closed in order. Collects tags with attributes, and texts."""

    def __init__(self, text: str | None) -> None:
        super().__init__()
        assert text is not None
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page(shown: Displayed) -> Page:
    """The object's HTML, which is safe, complete in itself, and as long as a page may be."""
    text = shown._repr_html_()
    found = Page(text)
    assert text is not None
    assert len(text) < 200_000
    text.encode()  # No lone surrogates, which a notebook could not be saved with.
    for tag, attributes in found.tags:
        assert tag not in ("script", "link", "iframe", "style", "object", "a"), tag
        assert not any(name.startswith("on") for name in attributes)
        assert re.match("data:image/png;base64,", attributes.get("src") or "data:image/png;base64,")
        assert "url(" not in (attributes.get("style") or "")
        # Readable on white and on black: no colour of text or ground of its own but those of curves.
        assert not re.search(r"(?<![-\w])(?:color|background):(?!inherit|none)", attributes.get("style") or "")
    return found


def one_line(shown: object) -> str:
    text = repr(shown)
    assert len(text.splitlines()) == 1
    assert len(text) < 250
    assert text.isprintable()
    return text


def test_a_network_shows_its_layers_with_shapes_and_parameters() -> None:
    model = lenet5(kernel="im2col")
    assert one_line(model) == ("Sequential(28x28 images, 12 layers, 10 classes, 61,706 parameters, kernel='im2col')")
    rows = [line.split("  ") for line in str(model).splitlines()]
    assert [[cell.strip() for cell in row if cell] for row in rows[3:6]] == [
        ["Images()", "(1, 32, 32)"],
        ["conv1", "Conv2d(filters=6, kernel_size=5)", "(6, 28, 28)", "156"],
        ["Tanh()", "(6, 28, 28)"],
    ]
    assert rows[-1][-1].strip() == "61,706"
    texts = page(model).texts
    assert all(text in texts for text in ("conv2", "(16, 10, 10)", "2,416", "dense3", "850", "61,706"))
    parameters = [int(text.replace(",", "")) for text in texts if re.fullmatch(r"[\d,]+", text)]
    assert sum(parameters[:-1]) == parameters[-1] == model.layout.size
    assert "dtype='float64'" in repr(lenet5(kernel="im2col", dtype="float64"))


def test_history_shows_curves_and_a_table() -> None:
    epochs = tuple(replace(EPOCH, epoch=i, train_loss=1 / i) for i in range(1, 4))
    found = page(History(epochs))
    assert [tag for tag, _ in found.tags].count("svg") == 2
    loss, accuracy = (attributes for tag, attributes in found.tags if tag == "svg")
    assert loss["aria-label"] == "loss: train from 1 to 0.3333; validation from 0.3243 to 0.3243"
    assert accuracy["aria-label"] == "accuracy: train from 0.7869 to 0.7869; validation from 0.9075 to 0.9075"
    assert {"90.75%", "0.3333", "validation loss"} <= set(found.texts)
    assert one_line(History(epochs)) == ("History(3 epochs; train loss 0.3333, 78.69%; validation loss 0.3243, 90.75%)")
    plain = History(tuple(replace(epoch, validation_loss=None, validation_accuracy=None) for epoch in epochs))
    assert "validation" not in str(plain) + str(plain._repr_html_())
    assert repr(History()) == str(History()) == "History(no epochs)"
    page(History())


def test_a_long_history_stays_short() -> None:
    epochs = tuple(replace(EPOCH, epoch=i + 1, train_loss=2.0 if i == 7777 else 1.0) for i in range(20_000))
    found = page(History(epochs))
    assert len(str(History(epochs)).splitlines()) < 30
    assert {"1", "20000", "..."} <= set(found.texts)
    lines = [attributes["points"] for tag, attributes in found.tags if tag == "polyline"]
    heights = {point.split(",")[1] for point in str(lines[0]).split()}
    assert len(heights) == 2  # The one epoch with another loss is not lost.


def test_metrics_name_loss_and_accuracy() -> None:
    metrics = Metrics(213.01, 940, 1000)
    assert (metrics.loss, metrics.accuracy) == (213.01 / 1000, 0.94)
    assert math.isnan(Metrics().loss)
    assert math.isnan(Metrics().accuracy)
    assert repr(metrics) == str(metrics) == "Metrics(loss=0.213, accuracy=0.94, correct=940, count=1000)"
    assert {"0.213", "94.00%", "940 of 1,000"} <= set(page(metrics).texts)
    assert repr(Metrics(math.nan, 0, 1)).startswith("Metrics(loss=nan")


def numbers_of(svg: str) -> list[float]:
    root = ET.fromstring(svg)
    values = [node.get("points", "") for node in root.iter() if node.tag.endswith("polyline")]
    return [float(number) for points in values for number in re.split("[ ,]", points)]


@given(values=st.lists(st.none() | st.floats(), max_size=60), percent=st.booleans())
@example(values=[1.7e308, -1.7e308, 0.0], percent=True)
@example(values=[0.0, 5e-324], percent=False)
@example(values=[3.0, 3.0000000000000004], percent=False)
@example(values=[2e-290, -2e-290], percent=True)
@settings(deadline=None)
def test_any_values_give_a_curve_within_its_picture(values: list[float | None], percent: bool) -> None:
    svg = curves(HOSTILE[:-1].replace("\x1b", ""), [("train", values), ("other", [])], percent=percent)
    root = ET.fromstring(svg)
    _, _, width, height = map(float, root.get("viewBox", "").split())
    assert all(0 <= number <= max(width, height) for number in numbers_of(svg))
    finite = [value for value in values if value is not None and abs(value) < LARGEST]
    assert len(numbers_of(svg)) == 2 * len(finite)


def test_labels_tell_ticks_apart() -> None:
    for low, high in ((0, 1), (0.25, 0.5), (0.99, 0.995), (1e-9, 2e-9), (0, 1e12), (-3, 50), (0.1, 0.35)):
        svg = curves("loss", [("train", [low, high])])
        texts = [node.text for node in ET.fromstring(svg).iter() if node.get("text-anchor") == "end"][1:]
        assert 3 <= len(set(texts)) == len(texts) <= 7, texts
        assert float(str(texts[0])) <= low
        assert float(str(texts[-1])) >= high


def test_curves_are_thinned_by_what_can_be_seen() -> None:
    assert len(numbers_of(curves("loss", [("train", [math.sin(i) for i in range(100_000)])]))) <= 2 * MOST_POINTS


def picture(text: str) -> np.ndarray[Any, Any]:
    from PIL import Image

    found = re.findall(r"base64,([^\"]+)", text)
    return np.concatenate([np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("L")) for one in found])


def test_a_dataset_shows_its_first_images(digits: Dataset) -> None:
    assert one_line(digits) == "Dataset('150 digits', 150 samples, inputs uint8 (28, 28), targets int64)"
    found = page(digits)
    html = str(digits._repr_html_())
    assert np.array_equal(picture(html), digits.inputs[:10].reshape(-1, 28))
    assert [attributes["alt"] for tag, attributes in found.tags if tag == "img"] == [
        str(t) for t in digits.targets[:10]
    ]


@pytest.mark.parametrize(
    ("shape", "dtype", "pictures"),
    [
        ((3, 1, 8, 9), "float32", True),
        ((3, 3, 8, 9), "uint8", True),
        ((3, 8, 9, 3), "uint16", True),
        ((3, 900, 700), "bool", True),
        ((3, 8, 9, 2), "uint8", False),
        ((3, 100_000, 1), "uint8", False),
        ((3, 5), "float64", False),
        ((3,), "float64", False),
        ((3, 2, 2, 2, 2), "uint8", False),
        ((3, 0, 4), "uint8", False),
    ],
)
def test_images_of_any_kind_become_pictures_or_none(shape: tuple[int, ...], dtype: str, pictures: bool) -> None:
    inputs = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    text = thumbnails(inputs, np.arange(3) / 2)
    assert bool(text) == pictures
    if pictures:
        assert max(picture(text).shape[1:]) <= 64
        assert picture(text).max() == 255


def test_images_near_the_largest_number_are_shown() -> None:
    inputs = np.full((1, 2, 2), 1e308)
    inputs[0, 0, 0] = -1e308
    assert thumbnails(inputs, np.zeros(1)) != ""


def test_huge_data_are_not_read(tmp_path: Path) -> None:
    """A file with a hole of 4 TB, of which the first images are read."""
    inputs = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (2**32, 28, 28))
    data = Dataset.__new__(Dataset)  # Whose check reads everything.
    for name, value in (("inputs", inputs), ("targets", np.broadcast_to(np.int64(3), 2**32)), ("name", "huge")):
        object.__setattr__(data, name, value)
    assert "4,294,967,296 samples" in one_line(data)
    page(data)


def made(**changes: Any) -> Coordinator:
    options: dict[str, Any] = {"n_workers": 2, "batch_size": 50, "shard_size": 16} | changes
    return Coordinator(lenet5(kernel="im2col"), Adam(0.002), **options)


def test_a_coordinator_in_every_state(digits: Dataset, tmp_path: Path) -> None:
    coordinator = made()
    assert one_line(coordinator) == (
        "Coordinator(Sequential, Adam, n_workers=2, engine=ProcessesEngine, batch_size=50, epoch=0, step=0)"
    )
    assert "processes" not in str(page(coordinator).texts)
    assert coordinator.worker_pids() == []  # Nothing was started.
    with coordinator:
        reports = coordinator.iterate(digits, 1, 0.2)
        next(reports)
        text = str(coordinator)
        assert re.search(r"unfinished epoch +50 samples", text)
        assert all(str(pid) in text for pid in coordinator.worker_pids())
        for _ in reports:
            pass
        assert re.search(r"finished +1 epoch, 3 steps", str(coordinator))
        assert [tag for tag, _ in page(coordinator).tags].count("svg") == 2
        coordinator.save(tmp_path / "c.npz", {HOSTILE[:-1]: HOSTILE[:-1]})
    assert "step=3" in repr(coordinator)
    page(coordinator)
    assert coordinator.worker_pids() == []
    trained = load_model(tmp_path / "c.npz", kernel="im2col")
    assert one_line(trained).startswith("TrainedModel(Sequential(28x28 images")
    page(trained)


def test_while_another_thread_trains(digits: Dataset) -> None:
    """Nothing waits for the other thread, and nothing is in its way."""
    with made(engine="serial") as coordinator:
        ended = threading.Event()

        def train() -> None:
            coordinator.fit(digits, 4)
            ended.set()

        thread = threading.Thread(target=train)
        thread.start()
        shown = 0
        while not ended.is_set() and thread.is_alive():
            assert repr(coordinator).startswith("Coordinator(")
            page(coordinator)
            shown += 1
        thread.join()
        assert ended.is_set()
        assert shown > 1
        assert coordinator.step == 12


class Strange:
    """Nothing about it can be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __call__(self, step: int) -> float:
        return 0.1


@pytest.mark.parametrize(
    "make",
    [
        lambda: object.__new__(Coordinator),
        lambda: object.__new__(Sequential),
        lambda: object.__new__(TrainedModel),
        lambda: object.__new__(Dataset),
        lambda: object.__new__(Metrics),
        lambda: object.__new__(Cluster),
        lambda: Metrics(None, "a", b"", 1.0),  # type: ignore[arg-type]
        lambda: History((None, 3)),  # type: ignore[arg-type]
        lambda: Coordinator(Softmax(), SGD(Strange()), engine="serial"),
        lambda: SGD(Strange()),
        lambda: object.__new__(Adam),
        lambda: Coordinator(Softmax(), SGD(), engine=Cluster("loky", n_workers=2)),
        lambda: TrainedModel(lenet5(kernel="im2col"), np.zeros(3), {"strange": Strange()}),
    ],
)
def test_nothing_raises(make: Callable[[], Displayed]) -> None:
    shown = make()
    assert isinstance(repr(shown), str)
    assert isinstance(str(shown), str)
    assert shown._repr_html_() is None or page(shown)


def test_hostile_texts_are_escaped() -> None:
    data = Dataset(np.zeros((1, 2)), np.zeros(1), HOSTILE)
    one_line(data)
    page(data)
    kind = type("<b>", (Softmax,), {})
    page(Coordinator(kind(), SGD(), engine="serial"))
    page(TrainedModel(lenet5(kernel="im2col"), np.zeros(3), {HOSTILE: HOSTILE}))


def test_clusters_start_nothing() -> None:
    cluster = Cluster("threading", n_workers=2)
    assert one_line(cluster) == "Cluster('threading', address=None, n_workers=2, step_timeout=300, max_tries=3)"
    page(cluster)
    assert cluster._parallel is None


def test_optimizers_show_what_is_not_their_default() -> None:
    assert one_line(Adam()) == "Adam()"
    assert one_line(SGD(0.1, nesterov=True, momentum=0.9)) == "SGD(learning_rate=0.1, momentum=0.9, nesterov=True)"
    warmup = Adam(Warmup(Cosine(0.1, 90), 5))
    assert one_line(warmup) == "Adam(learning_rate=Warmup(schedule=Cosine(learning_rate=0.1, total_steps=90), steps=5))"
    page(warmup)


def test_calls_and_long_tables() -> None:
    assert call(lenet5(kernel="im2col").layers[0]) == "Conv2d(filters=6, kernel_size=5)"
    rows = [(str(i), "x") for i in range(1000)]
    short = shorten(rows)
    assert (len(short), short[0], short[10], short[-1]) == (21, ("0", "x"), ["...", "..."], ("999", "x"))
    assert shorten(rows[:20]) == rows[:20]
    assert Table(("a", "bb"), [("x", "1"), ("yy", "22")]).text() == "a   bb\n--  --\nx    1\nyy  22"
    assert Table((), []).text() == ""
