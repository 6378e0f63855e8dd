"""Calls of kernel functions to check them with: small arguments of unequal sizes, and the right results.

All sizes differ, so that an exchanged axis gives other results, and a wrong factor shows its cause.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels import naive

Array = NDArray[Any]
Results = dict[str, Any]
"""Results by name: the arrays that a function writes and, for `softmax_cross_entropy`, ``loss`` and ``correct``."""

IMAGES = 3
MANY = 67  # Images: more than a vector or a block holds, and not a multiple of one.
WIDE = 300  # More than a small integer counts.
MAPS = ("channel", "row", "column", "image")
FEATURES = ("feature", "image")
RETURN_VALUES = ("loss", "correct")


@dataclass(frozen=True)
class Call:
    """One call of a function of the kernels contract."""

    function: str
    inputs: dict[str, Any]
    """In the order of the contract. Arrays of numbers are float64."""
    outputs: dict[str, tuple[int, ...]]
    """Names and shapes of the arrays to write, in the order of the contract: they follow the inputs."""
    axes: dict[str, tuple[str, ...]]
    """What each axis of each output stands for, such as ``channel``."""
    setting: str = ""
    """What is special about the call, as the end of a sentence: `` with stride 2``."""
    options: dict[str, float] = field(default_factory=dict)
    """Arguments that are given by name, to functions that have such a parameter."""

    @property
    def images(self) -> int:
        if self.function == "prepare_images":
            return len(self.inputs["images"])
        return int(next(value for value in self.inputs.values() if isinstance(value, np.ndarray)).shape[-1])

    def arguments(self, dtype: str) -> dict[str, Any]:
        """Fresh copies of the inputs, with numbers of this dtype."""
        return {
            name: value.astype(dtype if value.dtype.kind == "f" else value.dtype)
            if isinstance(value, np.ndarray)
            else value
            for name, value in self.inputs.items()
        }

    def reference(self, **replacements: Any) -> Results:
        """What `naive` computes in float64, from these inputs, some of them replaced."""
        outputs = {name: np.zeros(shape) for name, shape in self.outputs.items()}
        inputs = {
            name: np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
            for name, value in (self.inputs | replacements).items()
        }
        with np.errstate(all="ignore"):
            return_values = getattr(naive, self.function)(*inputs.values(), *outputs.values(), **self.options)
        return outputs if return_values is None else outputs | dict(zip(RETURN_VALUES, return_values, strict=True))

    def part(self, images: slice) -> "Call":
        """The same for some of the images."""
        inputs = {
            name: (value[images] if name == "images" else value[..., images]).copy()
            if isinstance(value, np.ndarray) and name not in ("weight", "bias", "scale", "shift")
            else value
            for name, value in self.inputs.items()
        }
        n = len(range(*images.indices(self.images)))
        outputs = {
            name: (*shape[:-1], n) if self.axes[name][-1] == "image" else shape for name, shape in self.outputs.items()
        }
        return replace(self, inputs=inputs, outputs=outputs)


def calls(function: str) -> list[Call]:
    """The calls to check a function with, the simplest first."""
    rng = np.random.default_rng(0)
    return list(_MAKERS[function](function, rng))


def large_call(function: str) -> Call | None:
    """A call with numbers so large that careless formulas overflow, or None if that means nothing for the function."""
    first = calls(function)[0]
    if function == "tanh":
        return replace(first, inputs={**first.inputs, "x": first.inputs["x"] * 1e4})
    if function in ("softmax", "softmax_cross_entropy"):
        return replace(first, inputs={**first.inputs, "logits": first.inputs["logits"] * 1e3})
    return None


def _convolutions(function: str, rng: np.random.Generator) -> Iterator[Call]:
    variants = (
        ("", (6, 5), (3, 3), 1, 0, IMAGES),
        (" with stride 2", (7, 6), (3, 3), 2, 0, IMAGES),
        (" with padding 1", (6, 5), (3, 3), 1, 1, IMAGES),
        (" with stride 2 and padding 1", (7, 6), (3, 3), 2, 1, IMAGES),
        (" with filters of 3x2", (6, 5), (3, 2), 1, 0, IMAGES),
        (" with stride 3 and filters of 2x2", (7, 8), (2, 2), 3, 0, IMAGES),
        (" with one image", (6, 5), (3, 3), 1, 0, 1),
        (f" with {MANY} images", (4, 3), (3, 3), 1, 0, MANY),
        (f" with images of {WIDE} columns", (3, WIDE), (3, 3), 1, 0, 1),
    )
    for setting, (h, w), (kh, kw), stride, padding, n in variants:
        x = rng.standard_normal((5, h, w, n))
        weight = rng.standard_normal((4, 5, kh, kw))
        bias = rng.standard_normal(4)
        shape = (4, (h + 2 * padding - kh) // stride + 1, (w + 2 * padding - kw) // stride + 1, n)
        dy = rng.standard_normal(shape)
        geometry = {"stride": stride, "padding": padding}
        maps = ("filter", *MAPS[1:])
        if function == "conv2d":
            yield Call(
                function, {"x": x, "weight": weight, "bias": bias, **geometry}, {"out": shape}, {"out": maps}, setting
            )
        elif function == "conv2d_input_gradient":
            yield Call(function, {"dy": dy, "weight": weight, **geometry}, {"out": x.shape}, {"out": MAPS}, setting)
        else:
            axes = {"dw": ("filter", "channel", "row", "column"), "db": ("filter",)}
            outputs = {"dw": weight.shape, "db": bias.shape}
            yield Call(function, {"x": x, "dy": dy, **geometry}, outputs, axes, setting)


def _pools(function: str, rng: np.random.Generator) -> Iterator[Call]:
    variants = (
        ("", (6, 4), 2, 2, IMAGES),
        (" with overlapping windows", (7, 5), 3, 2, IMAGES),
        (" with rows and columns that no window covers", (7, 5), 2, 2, IMAGES),
        (" with gaps between the windows", (8, 6), 2, 3, IMAGES),
        (" with one image", (6, 4), 2, 2, 1),
        (f" with {MANY} images", (4, 2), 2, 2, MANY),
        (f" with images of {WIDE} columns", (2, WIDE), 2, 2, 1),
    )
    for setting, (h, w), size, stride, n in variants:
        x = rng.permutation(np.arange(2.0 * h * w * n)).reshape(2, h, w, n) / 10 - 3
        shape = (2, (h - size) // stride + 1, (w - size) // stride + 1, n)
        geometry = {"size": size, "stride": stride}
        if not function.endswith("gradient"):
            yield Call(function, {"x": x, **geometry}, {"out": shape}, {"out": MAPS}, setting)
            continue
        dy = rng.standard_normal(shape)
        arrays = {"x": x, "dy": dy} if function.startswith("max") else {"dy": dy}
        yield Call(function, {**arrays, **geometry}, {"out": x.shape}, {"out": MAPS}, setting)
    if function == "max_pool2d_gradient":
        x = rng.integers(0, 2, (2, 6, 4, IMAGES)).astype(float)
        dy = rng.standard_normal((2, 3, 2, IMAGES))
        inputs = {"x": x, "dy": dy, "size": 2, "stride": 2}
        yield Call(function, inputs, {"out": x.shape}, {"out": MAPS}, " with equal maxima")


def _activations(function: str, rng: np.random.Generator) -> Iterator[Call]:
    for setting, n in (("", IMAGES), (" with one image", 1), (f" with {MANY} images", MANY)):
        shape = (2, 4, 5, n)
        x = rng.standard_normal(shape)
        dy = rng.standard_normal(shape)
        inputs: dict[str, Any] = {"x": x}
        if function.endswith("gradient"):
            y = 1.7159 * np.tanh(x) if function.startswith("tanh") else np.maximum(x, 0)
            inputs = {"y": y, "dy": dy}
        if function.startswith("tanh"):
            inputs["amplitude"] = 1.7159
        yield Call(function, inputs, {"out": shape}, {"out": MAPS}, setting)


def _dense(function: str, rng: np.random.Generator) -> Iterator[Call]:
    variants = (
        ("", 5, IMAGES),
        (" with one image", 5, 1),
        (f" with {MANY} images", 5, MANY),
        (f" with {WIDE} inputs", WIDE, IMAGES),
    )
    for setting, inputs, n in variants:
        x = rng.standard_normal((inputs, n))
        dy = rng.standard_normal((4, n))
        weight = rng.standard_normal((4, inputs))
        bias = rng.standard_normal(4)
        if function == "dense":
            outputs: dict[str, tuple[int, ...]] = {"out": (4, n)}
            yield Call(function, {"x": x, "weight": weight, "bias": bias}, outputs, {"out": FEATURES}, setting)
        elif function == "dense_input_gradient":
            yield Call(function, {"dy": dy, "weight": weight}, {"out": (inputs, n)}, {"out": FEATURES}, setting)
        else:
            axes = {"dw": ("output", "input"), "db": ("output",)}
            yield Call(function, {"x": x, "dy": dy}, {"dw": (4, inputs), "db": (4,)}, axes, setting)


def _softmax(function: str, rng: np.random.Generator) -> Iterator[Call]:
    with_weights = " with weights other than 1"
    with_smoothing = " with a smoothing of 0.2"
    variants = (("", 4), (" with one image", 1), (f" with {MANY} images", MANY), (with_weights, 4), (with_smoothing, 4))
    for setting, n in variants:
        logits = rng.standard_normal((5, n))
        if function == "softmax":
            if setting not in (with_weights, with_smoothing):
                yield Call(function, {"logits": logits}, {"out": (5, n)}, {"out": ("class", "image")}, setting)
            continue
        # Some answers are right, and some wrong.
        targets = logits.argmax(axis=0) + np.arange(n) % 2
        targets[targets == 5] = 0
        weights = rng.uniform(0.5, 2, n) if setting in (with_weights, with_smoothing) else np.ones(n)
        inputs = {"logits": logits, "targets": targets.astype(np.int64), "weights": weights}
        options = {"smoothing": 0.2} if setting == with_smoothing else {}
        yield Call(function, inputs, {"d_logits": (5, n)}, {"d_logits": ("class", "image")}, setting, options)


def _images(function: str, rng: np.random.Generator) -> Iterator[Call]:
    one = (1 / 64, -0.5)
    each = (np.array([1 / 64, 1 / 50]), np.array([-0.5, -0.75]))
    variants = (
        ("", IMAGES, (8, 7), one),
        (" with one image", 1, (8, 7), one),
        (" with a scale and a shift for each channel", IMAGES, (8, 7), each),
        (" with no border", IMAGES, (4, 3), one),
        (" with a border that is wider on one side", IMAGES, (9, 8), one),
        (f" with {MANY} images", MANY, (8, 7), one),
        (" with pixels that are floats", IMAGES, (8, 7), one),
    )
    for setting, n, size, (scale, shift) in variants:
        images: Array = rng.integers(0, 256, (n, 2, 4, 3), np.uint8)
        if setting.endswith("floats"):
            images = images * 1.25 - 40
        inputs = {"images": images, "scale": scale, "shift": shift}
        yield Call(function, inputs, {"out": (2, *size, n)}, {"out": MAPS}, setting)


_MAKERS = {
    "prepare_images": _images,
    "conv2d": _convolutions,
    "conv2d_input_gradient": _convolutions,
    "conv2d_weight_gradient": _convolutions,
    "avg_pool2d": _pools,
    "avg_pool2d_gradient": _pools,
    "max_pool2d": _pools,
    "max_pool2d_gradient": _pools,
    "tanh": _activations,
    "tanh_gradient": _activations,
    "relu": _activations,
    "relu_gradient": _activations,
    "dense": _dense,
    "dense_input_gradient": _dense,
    "dense_weight_gradient": _dense,
    "softmax": _softmax,
    "softmax_cross_entropy": _softmax,
}
