"""The lesson's page: every number on it computed once more, to the last bit, by other means; and in a browser."""

import inspect
import itertools
import json
import math
import os
import re
import struct
from collections import defaultdict
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.browser import sticking_out
from kits.models import Softmax

from parallel_lenet import SGD, Adam, Coordinator, Dataset, Sequential, lenet5, load_dataset, load_model, read_digit
from parallel_lenet.batching import epoch_order
from parallel_lenet.cli import main
from parallel_lenet.explain import Lesson, explain, page, slides
from parallel_lenet.kernels import naive
from parallel_lenet.network.layers import AvgPool2d, Conv2d, Dense, Flatten, Images, MaxPool2d, ReLU, Tanh
from parallel_lenet.parameters import sha256
from parallel_lenet.random import generator

pytest.importorskip("jinja2")

Arrays = dict[str, np.ndarray]
AMPLITUDE = 1.7159
RATE = 0.0001
SIZES = [1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003, 0.00001, 0.000003, 0.000001, 0.0000003]
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
ELEVEN = (  # Pictures; flatten and dense are one.
    *("convolution", "output-shape", "channels", "pooling", "flatten", "dense", "architecture"),
    *("dense-backward", "pooling-backward", "scatter", "kernel-gradient", "mismatch"),
)


class Page(HTMLParser):
    """The numbers of a page with their names and bits, its text, and the text of its code."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str, str]] = []
        self.untagged: list[str] = []
        self.code: dict[str, str] = defaultdict(str)
        self.ids: list[str] = []
        self.links: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.ids += [str(named["id"])] if "id" in named else []
        self.links += [str(named["href"])] if tag == "a" else []
        if tag not in ("meta", "link"):
            self._open.append((tag, named))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.ids += [str(named["id"])] if "id" in named else []

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, text: str) -> None:
        if not self._open:
            return
        tags = [tag for tag, _ in self._open]
        named = self._open[-1][1]
        if "pre" in tags:
            owner = next(str(each["id"]) for tag, each in self._open if tag == "details")
            self.code[owner.removeprefix("code-")] += text
        elif "data-of" in named:
            self.numbers.append((str(named["data-of"]), str(named["data-bits"]), text))
        elif (
            text.strip() and not {"script", "style", "math", "code"} & set(tags) and named.get("class") != "code start"
        ):
            self.untagged.append(text)


def value_of(bits: str, like: np.ndarray) -> float | int:
    if np.issubdtype(like.dtype, np.integer):
        return int(bits)
    return float(struct.unpack(">f" if like.dtype == np.float32 else ">d", bytes.fromhex(bits))[0])


def same_numbers(found: Page, expected: Arrays) -> set[str]:
    """The names on the page, each of whose numbers has the bits that are expected, and says so in its text."""
    seen = set()
    for of, bits, text in found.numbers:
        name, _, place = of.partition("[")
        index = tuple(map(int, place.removesuffix("]").split(","))) if place else ()
        value = np.asarray(expected[name][index])
        ours = value_of(bits, value)
        assert np.float64(ours).tobytes() == np.float64(value).tobytes(), (of, ours, value)
        if name != "death.hashes":
            shown = float(text.replace("−", "-").replace(",", ""))
            assert math.isclose(shown, float(value), rel_tol=0.06, abs_tol=0.00051 * (abs(value) > 0.0009)), (of, text)
            assert len(text) <= 8 or name.startswith(("order.", "death."))
        seen.add(name)
    return seen


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


def bits_of(array: Any) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def forward_and_backward(network: Sequential, parameters: np.ndarray, image: np.ndarray, label: int) -> Arrays:
    """LeNet-5 by hand: the kernel's functions one after the other."""
    p = network.layout.views(parameters)
    found: Arrays = {"pixels": image[np.newaxis]}
    x = np.empty((1, 32, 32, 1), np.float32)
    naive.prepare_images(image[np.newaxis, np.newaxis], 1 / (255 * 0.3081), -0.1307 / 0.3081, x)
    outputs = {"input": x}

    def layer(name: str, shape: tuple[int, ...], function: Any, *arguments: Any) -> np.ndarray:
        outputs[name] = np.empty((*shape, 1), np.float32)
        function(*arguments, outputs[name])
        return outputs[name]

    def tanh(name: str, x: np.ndarray) -> np.ndarray:
        return layer(name, x.shape[:-1], naive.tanh, x, AMPLITUDE)

    y = layer("conv1", (6, 28, 28), naive.conv2d, x, p["conv1.weight"], p["conv1.bias"], 1, 0)
    y = layer("avgpool1", (6, 14, 14), naive.avg_pool2d, tanh("tanh1", y), 2, 2)
    y = layer("conv2", (16, 10, 10), naive.conv2d, y, p["conv2.weight"], p["conv2.bias"], 1, 0)
    y = layer("avgpool2", (16, 5, 5), naive.avg_pool2d, tanh("tanh2", y), 2, 2)
    outputs["flatten1"] = y = y.reshape(400, 1)
    for k, units in ((1, 120), (2, 84)):
        y = layer(f"dense{k}", (units,), naive.dense, y, p[f"dense{k}.weight"], p[f"dense{k}.bias"])
        y = tanh(f"tanh{k + 2}", y)
    y = layer("dense3", (10,), naive.dense, y, p["dense3.weight"], p["dense3.bias"])
    errors = {"dense3": np.empty_like(y)}
    found["loss"] = np.float64(naive.softmax_cross_entropy(y, np.array([label]), errors["dense3"])[0])

    def back(name: str, function: Any, *arguments: Any) -> None:
        errors[name] = np.empty_like(outputs[name])
        function(*arguments, errors[name])

    for k, below, tanh_below in ((3, "tanh4", "dense2"), (2, "tanh3", "dense1")):
        back(below, naive.dense_input_gradient, errors[f"dense{k}"], p[f"dense{k}.weight"])
        back(tanh_below, naive.tanh_gradient, outputs[below], errors[below], AMPLITUDE)
    back("flatten1", naive.dense_input_gradient, errors["dense1"], p["dense1.weight"])
    errors["avgpool2"] = errors["flatten1"].reshape(16, 5, 5, 1)
    for k in (2, 1):
        back(f"tanh{k}", naive.avg_pool2d_gradient, errors[f"avgpool{k}"], 2, 2)
        back(f"conv{k}", naive.tanh_gradient, outputs[f"tanh{k}"], errors[f"tanh{k}"], AMPLITUDE)
        before = "avgpool1" if k == 2 else "input"
        back(before, naive.conv2d_input_gradient, errors[f"conv{k}"], p[f"conv{k}.weight"], 1, 0)
    gradient = np.empty_like(parameters)
    network.loss_and_gradient(parameters, image[np.newaxis], np.array([label]), gradient)
    found |= {name: array[..., 0] for name, array in outputs.items()}
    found |= {f"{name}.error": array[..., 0] for name, array in errors.items()}
    found |= p
    found |= {f"{name}.gradient": values for name, values in network.layout.views(gradient).items()}
    return found


def looked_into(found: Arrays, lesson: Lesson) -> Arrays:
    """What the figures look into, from the layers' arrays, with plain NumPy and loops."""
    roles = lesson.roles
    mean, std = np.float64(0.1307), np.float64(0.3081)
    f, row, col = roles.conv_at
    window = found["input"][:, row : row + 5, col : col + 5].copy()
    kernel = found["conv1.weight"][f]
    more: Arrays = {"window": window, "filter": kernel, "products": window * kernel}
    more |= {"pixels.mean": mean, "pixels.std": std}
    more["products.sum"] = (window * kernel).sum()
    g, r, c = roles.deep_at
    seen = found["avgpool1"][:, r : r + 5, c : c + 5].copy()
    more["channel.sums"] = np.array([(seen[k] * found["conv2.weight"][g, k]).sum() for k in range(6)])
    ch, r, c = roles.pool_at
    pooled = found["tanh1"][ch, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].copy()
    more |= {"pool.window": pooled, "pool.average": pooled.sum() / np.float32(4), "pool.maximum": pooled.max()}
    more["dense.products"] = found["dense3.weight"][lesson.label] * found["tanh4"]
    logits = found["dense3"]
    more["shifted"] = logits - logits.max()
    more["exponentials"] = np.exp(more["shifted"])
    more["exponentials.sum"] = more["exponentials"].sum()
    more["probabilities"] = more["exponentials"] / more["exponentials.sum"]
    unit = int(np.abs(found["tanh4.error"]).argmax())
    more["dense.back"] = found["dense3.weight"][:, unit] * found["dense3.error"]
    y = found["tanh1"][roles.activation_at]
    more["activation.slope"] = np.float32(AMPLITUDE) - y * y / np.float32(AMPLITUDE)
    ch, r, c = roles.last_pool_at
    error = found["avgpool2.error"][ch, r, c]
    places = found["tanh2"][ch, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2]
    first_largest = np.arange(4).reshape(2, 2) == places.argmax()
    more["unpool.window"] = places
    more["unpool.average"] = np.full((2, 2), error / np.float32(4))
    more["unpool.maximum"] = np.where(first_largest, error, np.float32(0))
    return more


def convolution_backward(found: Arrays, lesson: Lesson) -> Arrays:
    """Scatter, gather and the kernel gradient of the second convolution, number by number."""
    dy, w, x = found["conv2.error"], found["conv2.weight"], found["avgpool1"]
    f, row, col = lesson.roles.deep_at
    more: Arrays = {"scattered": dy[f, row, col] * w[f], "deep.filter": w[f], "deep.turned": w[f, :, ::-1, ::-1]}
    channel, i, j = np.unravel_index(np.abs(found["avgpool1.error"]).argmax(), x.shape)
    gathered = np.zeros_like(x)
    for g, r, c in itertools.product(
        range(16), range(14), range(14)
    ):  # From each input's side, in the order of outputs.
        for a, b in itertools.product(range(4, -1, -1), repeat=2):
            if 0 <= r - a < 10 and 0 <= c - b < 10:
                gathered[:, r, c] += dy[g, r - a, c - b] * w[g, :, a, b]
    more |= {"gathered": gathered, "gathered.same": np.int64((gathered == found["avgpool1.error"]).sum())}
    field = np.pad(dy, ((0, 0), (4, 4), (4, 4)))
    more["gather.window"] = field[:, i : i + 5, j : j + 5]
    more["gather.products"] = more["gather.window"] * w[:, channel, ::-1, ::-1]
    turned = np.ascontiguousarray(w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
    correlated = np.empty((6, 14, 14, 1), np.float32)
    naive.conv2d(field[..., np.newaxis], turned, np.zeros(6, np.float32), 1, 0, correlated)
    more["correlated.difference"] = np.abs(correlated[..., 0] - found["avgpool1.error"]).max()
    name, place = lesson.weight
    assert name == "conv2.weight"
    assert abs(found["conv2.weight.gradient"][place]) == np.abs(found["conv2.weight.gradient"]).max()
    g = place[0]
    row, col = np.unravel_index(np.abs(dy[g]).argmax(), dy[g].shape)
    window = x[:, row : row + 5, col : col + 5]
    more |= {"kernel.window": window, "kernel.weighted": dy[g, row, col] * window}
    total = np.zeros((6, 5, 5), np.float32)
    for r, c in itertools.product(range(10), range(10)):
        total += dy[g, r, c] * x[:, r : r + 5, c : c + 5]
    assert bits_of(total) == bits_of(found["conv2.weight.gradient"][g])
    more["kernel.sum"] = found["conv2.weight.gradient"]
    return more


def slopes(network: Sequential, parameters: np.ndarray, lesson: Lesson, batch: Dataset) -> Arrays:
    """Finite differences of the followed weight, by the model."""
    found: Arrays = {}
    for name, dtype in (("difference", np.float32), ("difference64", np.float64)):
        model = replace(network, dtype=np.dtype(dtype).name)
        losses = {1: np.empty(len(SIZES)), -1: np.empty(len(SIZES))}
        slope = np.empty(len(SIZES))
        for k, h in enumerate(SIZES):
            ends = {}
            for sign in (1, -1):
                moved = parameters.astype(dtype)
                moved[lesson.weight_index] += dtype(sign * h)
                ends[sign] = float(moved[lesson.weight_index])
                losses[sign][k] = model.loss_and_gradient(moved, batch.inputs[:1], batch.targets[:1], None).loss_sum
            slope[k] = (losses[1][k] - losses[-1][k]) / (ends[1] - ends[-1])
        found |= {f"{name}.above": losses[1], f"{name}.below": losses[-1], f"{name}.slope": slope}
    gradient = np.empty(network.layout.size)
    model.loss_and_gradient(parameters.astype(float), batch.inputs[:1], batch.targets[:1], gradient)
    found["difference64.gradient"] = gradient[lesson.weight_index]
    return found


def trained_by_adam(network: Sequential, parameters: np.ndarray, lesson: Lesson, batch: Dataset) -> Arrays:
    """Five steps on the one image, by the coordinator."""
    index = lesson.weight_index
    rows: dict[str, list[Any]] = defaultdict(list)
    one = Dataset(batch.inputs[:1], batch.targets[:1])
    with Coordinator(network, Adam(RATE), parameters=parameters, batch_size=1, engine="serial") as coordinator:
        for _ in range(5):
            before = coordinator.parameters[index]
            gradient = np.empty_like(parameters)
            network.loss_and_gradient(coordinator.parameters, one.inputs, one.targets, gradient)
            (report, _) = coordinator.iterate(one)
            rows["weight"].append(before)
            rows["loss"].append(report.loss)  # type: ignore[union-attr]
            rows["gradient"].append(gradient[index])
            rows["change"].append(coordinator.parameters[index] - before)
            slots = coordinator._state.optimizer.slots
            rows["first"].append(slots["first_moment"][index])
            rows["second"].append(slots["second_moment"][index])
        rows["weight"].append(coordinator.parameters[index])
        rows["loss"].append(coordinator.evaluate(one).loss)
        scores = network.scores(coordinator.parameters, one.inputs)[0]
    exponentials = np.exp(scores - scores.max())
    found = {f"adam.{name}": np.array(values) for name, values in rows.items()}
    return found | {"adam.probabilities": exponentials / exponentials.sum()}


class Noted(SGD):
    """Gradient descent that keeps the mean gradient it is given."""

    def update(self, parameters: Any, gradient: Any, state: Any) -> Any:
        object.__setattr__(self, "gradient", gradient.copy())
        return super().update(parameters, gradient, state)


def in_parallel(network: Sequential, parameters: np.ndarray, lesson: Lesson, batch: Dataset) -> Arrays:
    """The batch's mean gradient by two worker processes, and sums in other orders."""
    order = epoch_order(0, 0, len(batch))
    inputs, targets = np.empty_like(batch.inputs), np.empty_like(batch.targets)
    inputs[order], targets[order] = batch.inputs, batch.targets  # So that the epoch's order is the lesson's.
    optimizer = Noted(0.1)
    with Coordinator(network, optimizer, parameters=parameters, batch_size=7, shard_size=2, n_workers=2) as coordinator:
        coordinator.fit((inputs, targets))
    mean: np.ndarray = optimizer.gradient  # type: ignore[attr-defined]
    leaves = np.empty((7, network.layout.size), np.float32)
    for i in range(7):
        network.loss_and_gradient(parameters, batch.inputs[i : i + 1], batch.targets[i : i + 1], leaves[i])
    g = leaves[:, lesson.weight_index]
    ((a, b), (c, d)), (e, f), last = (((g[0], g[1]), (g[2], g[3])), (g[4], g[5]), g[6])
    found: Arrays = {
        "tree0": g,
        "tree1": np.array([a + b, c + d, e + f, last]),
        "tree2": np.array([(a + b) + (c + d), (e + f) + last]),
        "tree3": np.array([((a + b) + (c + d)) + ((e + f) + last)]),
        "batch.mean": mean[lesson.weight_index],
    }
    large = ((a + b) + (c + d)) + e
    found["shard.means"] = np.array([large / np.float32(5), (f + last) / np.float32(2)])
    found["shard.wrong"] = (found["shard.means"][0] + found["shard.means"][1]) / np.float32(2)
    rising, falling = leaves[0], leaves[6]
    for i in range(1, 7):
        rising, falling = rising + leaves[i], falling + leaves[6 - i]
    halves = (leaves[0] + leaves[1]) + (leaves[2] + leaves[3]), (leaves[4] + leaves[5]) + leaves[6]
    tree = halves[0] + halves[1]
    assert bits_of(tree / np.float32(7)) == bits_of(mean)
    index = int(lesson.numbers["order.index"])
    found |= {"order.forward": rising[index], "order.backward": falling[index], "order.tree": tree[index]}
    found["order.leaves"] = leaves[:, index]
    found["order.different"] = np.int64(((rising != tree) | (falling != tree)).sum())
    found["order.weights"] = np.int64(network.layout.size)
    found |= {"death.before": e + f, "death.after": e + f}
    found["death.hashes"] = np.array([int(sha256(mean)[:16], 16)] * 2, np.uint64)
    return found


def test_every_number_on_the_page_is_the_one_that_the_kernels_compute(
    network: Sequential, parameters: np.ndarray, batch: Dataset, lesson: Lesson, html: str
) -> None:
    expected = forward_and_backward(network, parameters, batch.inputs[0], int(batch.targets[0]))
    expected |= looked_into(expected, lesson)
    expected |= convolution_backward(expected, lesson)
    expected |= slopes(network, parameters, lesson, batch)
    expected |= trained_by_adam(network, parameters, lesson, batch)
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
    drawn = {"pixels", "correlated", "difference64.gradient"}  # The last one in the browser.
    layers = {
        name
        for name in unseen
        if re.match(r"(conv|dense|tanh|avgpool|flatten|input)\d?(\.(weight|bias|error)|$)", name)
    }
    assert unseen - layers == places | drawn
    assert bits_of(lesson.numbers["gathered"]) == bits_of(expected["avgpool1.error"])
    for name in layers & set(expected):
        assert bits_of(lesson.numbers[name]) == bits_of(expected[name]), name


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
        "LeNet-5",
    )
    assert [text for text in rest if not any(words in text for words in prose)] == []


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


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_networks_are_explained_with_their_own_numbers(name: str, dtype: str) -> None:
    images, layers = NETWORKS[name]
    network = Sequential(images, layers, "naive", dtype)
    rng = np.random.default_rng(8)
    shape = (images.channels,) * (images.channels > 1) + images.height_and_width
    inputs, targets = rng.integers(0, 256, (4, *shape)).astype(np.uint8), rng.integers(0, network.classes, 4)
    parameters = rng.normal(0, 0.2, network.layout.size).astype(dtype)
    lesson = explain(network, parameters, inputs[0], None, inputs[1:], targets[1:])
    assert lesson.label == lesson.predicted == network.predict(parameters, inputs[:1])[0]
    html = page.page(lesson)
    found = Page(html)
    same_numbers(found, lesson.numbers.arrays)  # The registry; what is in it is compared with the model below.
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
    products, running = (window * kernel).ravel(), np.float32(0)
    for n in range(3):
        opened.get_by_role("button", name="Next product").press("Enter")
        running = running + products[n]
        number = opened.locator("#play-convolution data").last
        assert number.get_attribute("data-bits") == struct.pack(">f", running).hex()
    assert "Product 3 of 25" in said(opened, "convolution")
    opened.select_option("#play-convolution select", "4")
    assert bits_of(shown(opened, "conv-w")) == bits_of(lesson.numbers["conv1.weight"][4, 0])
    opened.get_by_role("button", name="Add number by number").click()
    opened.wait_for_selector("#play-convolution .said:has-text('Product 2 of 25')")


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


# The command.


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, whose network is small."""
    folder = tmp_path_factory.mktemp("explained")
    network = Sequential(
        Images(28, size=28), (Conv2d(2, 5, stride=5), Tanh(), AvgPool2d(2, 2), Flatten(), Dense(10)), "naive"
    )
    coordinator = Coordinator(network, SGD(), engine="serial")
    for number, name in enumerate(("older", "newer")):
        (folder / "runs" / name).mkdir(parents=True)
        file = folder / "runs" / name / "checkpoint.npz"
        coordinator.save(file, {"dataset": "mnist-5k"})
        os.utime(file, (1_000_000 + number, 1_000_000 + number))
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["explain", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_explains_the_newest_run_beside_its_checkpoint(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(saved)
    code, out, _ = call(capsys)
    assert code == 0
    assert "wrote runs/newer/explain.html" in out
    written = (saved / "runs" / "newer" / "explain.html").read_text("utf-8")
    same = set(saved.rglob("*")) - {saved / "runs" / "newer" / "explain.html"}
    assert not [path for path in same if path.suffix not in ("", ".npz")], "nothing else is left behind"
    assert "parallel-lenet explain runs/newer/checkpoint.npz" in written
    code, out, _ = call(capsys, "runs/older", "--json", "--index", "5", "--out", "other.html")
    assert code == 0
    result = json.loads(out)
    _, test = load_dataset()
    assert (result["label"], result["label_known"], result["page"]) == (int(test.targets[5]), True, "other.html")
    assert result["checkpoint"] == "runs/older/checkpoint.npz"
    code, out, _ = call(capsys, "runs/older", "--json", "--digit", "7", "--out", "seven.html")
    assert (code, json.loads(out)["label"]) == (0, 7)


def test_the_most_instructive_image_is_chosen(saved: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trained = load_model(saved / "runs" / "newer" / "checkpoint.npz")
    _, test = load_dataset()
    right = trained.predict_proba(test.inputs)[np.arange(1000), test.targets]
    code, out, _ = call(capsys, str(saved / "runs" / "newer"), "--out", str(tmp_path / "page.html"))
    assert code == 0
    assert f"image {np.abs(right - 0.75).argmin()} of" in out


def test_a_picture_of_ones_own_is_explained_as_the_class_that_the_network_says_or_the_user(
    saved: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image")
    ink = np.full((90, 70, 3), 240, np.uint8)
    ink[20:70, 30:38] = 20  # A dark stroke on light paper.
    file = tmp_path / "my <i>one</i>.png"
    image.fromarray(ink).save(file)
    options = (str(saved / "runs" / "newer"), "--image", str(file), "--out", str(tmp_path / "page.html"), "--json")
    code, out, _ = call(capsys, *options)
    result = json.loads(out)
    assert (code, result["image"], result["label_known"]) == (0, "my <i>one</i>.png", False)
    assert result["label"] == result["predicted"]
    html = (tmp_path / "page.html").read_text("utf-8")
    assert "my &lt;i&gt;one&lt;/i&gt;.png" in html
    assert "<i>one" not in html
    assert "Nobody said what the image shows" in html
    code, out, _ = call(capsys, *options, "--label", "1")
    result = json.loads(out)
    assert (code, result["label"], result["label_known"]) == (0, 1, True)
    network = load_model(saved / "runs" / "newer" / "checkpoint.npz")
    digit = read_digit(file)
    assert result["predicted"] == network.predict(digit[np.newaxis])[0]
    expected = network.model.loss_and_gradient(network.parameters, digit[np.newaxis], np.array([1]), None).loss_sum
    assert result["loss"] == expected


def test_pictures_for_slides_are_1600_pixels_wide(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    every = slides.figures
    monkeypatch.setattr(slides, "figures", lambda lesson: every(lesson)[2:4])
    folder = tmp_path / "deep" / "slides"
    code, out, _ = call(
        capsys, str(saved / "runs" / "newer"), "--out", str(tmp_path / "page.html"), "--png", str(folder)
    )
    assert code == 0
    assert f"wrote 2 pictures to {folder}" in out
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["01-convolution.png", "02-output-shape.png"]
    for name in names:
        with image.open(folder / name) as picture:
            assert picture.width == 1600
            assert 300 < picture.height < 2000
            assert len(picture.convert("RGB").resize((160, 90)).getcolors(100_000)) > 20


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["missing.npz"], 2, "missing.npz does not exist"),
        (["."], 2, ". is a folder: name a checkpoint"),
        (["runs/newer", "--index", "1000"], 2, "--index must be from 0 to 999, got 1,000"),
        (["runs/newer", "--digit", "-1"], 2, "--digit must be from 0 to 9, got -1"),
        (["runs/newer", "--digit", "1", "--index", "1"], 2, "not allowed with argument"),
        (["runs/newer", "--label", "3"], 2, "--label is for --image"),
        (["runs/newer", "--image", "missing.png"], 2, "--image missing.png does not exist"),
        (["runs/newer", "--image", "empty.npz"], 1, "empty.npz: can't be read: it is empty"),
        (["runs/newer", "--image", "runs", "--index", "3"], 2, "not allowed with argument"),
        (["runs/newer", "--out", "runs"], 2, "--out must name a file, got runs, a folder"),
        (["runs/newer", "--out", "nowhere/page.html"], 2, "the folder nowhere does not exist"),
        (["runs/newer", "--png", "runs/newer/checkpoint.npz"], 2, "--png must name a folder"),
        (["own.npz"], 1, "own.npz: can't be explained: its model is not made of this package's layers"),
        (["nan.npz", "--index", "3"], 1, "nan.npz: can't be explained: the network's scores are not finite"),
        (["empty.npz"], 1, "empty.npz: is damaged"),
    ],
)
def test_mistakes_get_one_sentence_and_leave_nothing(
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(saved)
    (saved / "empty.npz").write_bytes(b"")
    if arguments[0] == "own.npz":
        Coordinator(Softmax(), SGD(), engine="serial").save("own.npz")
    if arguments[0] == "nan.npz":
        model = load_model("runs/newer/checkpoint.npz").model
        bad = np.full(model.layout.size, np.nan, np.float32)
        Coordinator(model, SGD(), engine="serial", parameters=bad).save("nan.npz", {"dataset": "mnist-5k"})
    before = set(saved.rglob("*"))
    found, out, err = call(capsys, *arguments)
    assert (found, out) == (code, "")
    lines = [line for line in err.splitlines() if line.startswith("parallel-lenet:")]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert set(saved.rglob("*")) == before


def test_without_a_run_the_command_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys)
    assert code == 2
    assert "there is no run in the folder runs: train a network with parallel-lenet train, or name a checkpoint" in err
