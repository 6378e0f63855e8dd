"""The numbers of a lesson's page, read from it, and computed once more without the package's lesson.

Layers are called by hand, sums are loops of NumPy, training is the coordinator's.
"""

import itertools
import math
import struct
from collections import defaultdict
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np

from parallel_lenet import SGD, Adam, Coordinator, Dataset, Sequential
from parallel_lenet.batching import epoch_order
from parallel_lenet.explain import Lesson
from parallel_lenet.kernels import naive
from parallel_lenet.parameters import sha256

Arrays = dict[str, np.ndarray]
AMPLITUDE = 1.7159
RATE = 0.0001
SIZES = [1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003, 0.00001, 0.000003, 0.000001, 0.0000003]


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
            assert math.isclose(shown, float(value), rel_tol=0.0051, abs_tol=5.1e-7 * (abs(value) > 1e-6)), (of, text)
            assert len(text) <= 12 or name.startswith(("order.", "death."))
        seen.add(name)
    return seen


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
    found["loss"] = np.float64(naive.softmax_cross_entropy(y, np.array([label]), np.ones(1), errors["dense3"])[0])

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


def details(found: Arrays, lesson: Lesson) -> Arrays:
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
    dy = found["conv2.error"]
    w = found["conv2.weight"]
    x = found["avgpool1"]
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


def adam_steps(network: Sequential, parameters: np.ndarray, lesson: Lesson, batch: Dataset) -> Arrays:
    """Five steps on the one image, by the coordinator."""
    index = lesson.weight_index
    rows: dict[str, list[Any]] = defaultdict(list)
    one = Dataset(batch.inputs[:1], batch.targets[:1])
    with Coordinator(
        network, Adam(RATE, fused=False), parameters=parameters, batch_size=1, engine="serial"
    ) as coordinator:
        for _ in range(5):
            before = coordinator.parameters[index]
            gradient = np.empty_like(parameters)
            network.loss_and_gradient(coordinator.parameters, one.inputs, one.targets, gradient)
            report, _ = coordinator.iterate(one)
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


class RecordingSGD(SGD):
    """Gradient descent that keeps the mean gradient it is given."""

    def update(self, parameters: Any, gradient: Any, state: Any) -> Any:
        object.__setattr__(self, "gradient", gradient.copy())
        return super().update(parameters, gradient, state)


def in_parallel(network: Sequential, parameters: np.ndarray, lesson: Lesson, batch: Dataset) -> Arrays:
    """The batch's mean gradient by two worker processes, and sums in other orders."""
    order = epoch_order(0, 0, len(batch))
    inputs, targets = np.empty_like(batch.inputs), np.empty_like(batch.targets)
    inputs[order], targets[order] = batch.inputs, batch.targets  # So that the epoch's order is the lesson's.
    optimizer = RecordingSGD(0.1)
    with Coordinator(network, optimizer, parameters=parameters, batch_size=7, shard_size=2, n_workers=2) as coordinator:
        coordinator.fit((inputs, targets))
    mean: np.ndarray = optimizer.gradient  # type: ignore[attr-defined]
    leaves = np.empty((7, network.layout.size), np.float32)
    for i in range(7):
        network.loss_and_gradient(parameters, batch.inputs[i : i + 1], batch.targets[i : i + 1], leaves[i])
    g = leaves[:, lesson.weight_index]
    a, b, c, d, e, f, last = g
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
