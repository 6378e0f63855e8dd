"""The numeric gradient check: a backward pass is compared with differences of the forward pass.

A layer is followed by the function ``F = sum(r * y)`` with a random r. For a value v of its input or parameters, the
backward pass (with ``dy = r``) computes dF/dv, and the central difference measures it::

    dF/dv  =  (F(v + h) - F(v - h)) / (2 h)  +  O(h^2)

A whole network has too many parameters for one difference each. Let L be the loss. For each array p of parameters the
derivative along a direction d, ``gradient . d``, is compared with ``(L(p + h d) - L(p - h d)) / (2 h)``. That takes two
forward passes and checks every entry. The vector d has the length 1. Its entries are random, and each has the sign of
the gradient's entry, so that the terms of ``gradient . d`` add up and do not cancel. A few single entries are compared
too.

The difference of two nearly equal numbers loses digits. Its error is about h^2 from the formula plus e / h from
rounding. The error is smallest near h = e^(1/3), and about e^(2/3) there. In float64 (e = 2e-16) that is h = 6e-6 and
an error of some 4e-11. In float32 the error would be 2e-5, which could hide a wrong gradient. So the check uses
float64. Source: Press, Teukolsky, Vetterling, Flannery, "Numerical Recipes" (3rd edition, 2007), 5.7.

A difference across a kink (ReLU at 0, two equal values under max pooling) is not a derivative. So a layer's input is a
shuffled row of evenly spaced numbers between -1 and 1 without 0, so far apart that no step changes a sign or an order.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import kernels
from parallel_lenet.kernels import Kernels
from parallel_lenet.model import Model, takes
from parallel_lenet.network.layers import (
    Activation,
    AvgPool2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MaxPool2d,
    ReLU,
    Shape,
    Tanh,
    Views,
)
from parallel_lenet.network.lenet5 import lenet5
from parallel_lenet.network.losses import softmax_cross_entropy
from parallel_lenet.sample_keys import SampleKeys

Array = NDArray[Any]

TOLERANCE = 1e-6  # Right gradients stay below 1e-9. A wrong one is seldom wrong in its seventh digit only.
STEP = 6e-6  # The cube root of float64's epsilon: see above.
FLOOR = 1e-3  # Gradients here are about 1. A gradient of 0 is not divided by its own rounding errors.
IMAGES = 2  # In every check: enough for sums over images, and the naive loops take seconds, not minutes.
SINGLE_ENTRIES = 2  # Entries per array of a network's parameters.

LAYERS: tuple[tuple[str, Layer, Shape], ...] = (
    ("Conv2d", Conv2d(3, 3), (2, 6, 5)),
    ("Conv2d, stride 2, padding 1", Conv2d(3, 3, stride=2, padding=1), (2, 6, 5)),
    ("Conv2d, flipped", Conv2d(3, 3, flip=True), (2, 6, 5)),
    ("AvgPool2d", AvgPool2d(2), (2, 6, 4)),
    ("AvgPool2d, overlapping", AvgPool2d(3, stride=2), (2, 7, 5)),
    ("MaxPool2d", MaxPool2d(2), (2, 6, 4)),
    ("MaxPool2d, overlapping", MaxPool2d(3, stride=2), (2, 7, 5)),
    ("Tanh", Tanh(), (2, 4, 3)),
    ("ReLU", ReLU(), (2, 4, 3)),
    ("Dense", Dense(4), (7,)),
    ("Dropout", Dropout(0.4), (9,)),
)


@dataclass(frozen=True)
class Check:
    """One comparison: the gradient ``of`` one array, in ``what`` (a layer, the loss, a network), by one kernel."""

    kernel: str
    what: str
    of: str
    error: float
    """``max |analytic - numeric| / max(|analytic|, |numeric|, FLOOR)``, or infinity if one of them isn't finite."""


def check_gradients(kernel: str, seed: int = 0) -> Iterator[Check]:
    """Check every layer, the loss, then LeNet-5 with ``kernel``, one array at a time. Random inputs follow ``seed``."""
    rng = np.random.default_rng(seed)
    for what, layer, shape in LAYERS:
        for of, error in layer_errors(kernels.load(kernel), layer, shape, rng):
            yield Check(kernel, what, of, error)
    module = kernels.load(kernel)
    yield Check(kernel, "softmax cross-entropy", "logits", _loss_error(module, 0.0, rng))
    if takes(module.softmax_cross_entropy, "smoothing"):
        yield Check(kernel, "softmax cross-entropy, smoothed", "logits", _loss_error(module, 0.1, rng))
    model = lenet5(kernel=kernel, dtype="float64")
    inputs = rng.integers(0, 256, (IMAGES, 28, 28), np.uint8)
    for of, error in model_errors(model, inputs, rng.integers(0, model.classes, IMAGES), rng):
        yield Check(kernel, "LeNet-5", of, error)


def layer_errors(kernel: Kernels, layer: Layer, shape: Shape, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """For the input, of ``shape``, and each parameter of ``layer``: its name and the largest error of its entries."""
    x = _without_kinks((*shape, IMAGES), rng)
    parameters = {name: rng.standard_normal(size) for name, size in layer.parameter_shapes(shape).items()}
    y = _forward(kernel, layer, parameters, x)
    r = rng.standard_normal(y.shape)

    # NaN, so that an entry that a gradient leaves out shows.
    gradients = {name: np.full_like(array, np.nan) for name, array in parameters.items()}
    layer.parameter_gradient(kernel, x, r, gradients, **_keys(layer.parameter_gradient))
    keys = _keys(layer.input_gradient)
    if isinstance(layer, Activation | Flatten):
        dx = r.copy().reshape(x.shape)
        layer.input_gradient(kernel, parameters, y.reshape(x.shape), y, dx.reshape(y.shape), dx, **keys)
    else:
        dx = np.full_like(x, np.nan)
        layer.input_gradient(kernel, parameters, x, y, r, dx, **keys)

    def output() -> Array:
        return _forward(kernel, layer, parameters, x)

    yield "input", _error(dx, _numeric_gradient(output, x, r))
    for name, array in parameters.items():
        yield name, _error(gradients[name], _numeric_gradient(output, array, r))


def model_errors(model: Model, inputs: Array, targets: Array, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """For each array of ``model``'s float64 parameters: its name and its error, along a direction and some entries."""
    parameters = model.initial_parameters(rng)
    gradient = np.full_like(parameters, np.nan)
    model.loss_and_gradient(parameters, inputs, targets, gradient)
    for name, place in model.layout.slices.items():
        size = place.stop - place.start
        directions = np.zeros((1 + min(SINGLE_ENTRIES, size), size))
        directions[0] = np.copysign(rng.standard_normal(size), gradient[place])
        directions[0] /= np.linalg.norm(directions[0])
        for direction, entry in zip(directions[1:], rng.choice(size, len(directions) - 1, replace=False), strict=True):
            direction[entry] = 1
        numeric = [_slope(model, parameters, place, direction, inputs, targets) for direction in directions]
        yield name, _error(directions @ gradient[place], np.array(numeric))


def _loss_error(kernel: Kernels, smoothing: float, rng: np.random.Generator) -> float:
    logits = rng.standard_normal((5, IMAGES))
    targets = rng.integers(0, 5, IMAGES)
    gradient = np.full_like(logits, np.nan)
    softmax_cross_entropy(kernel, logits, targets, gradient, smoothing=smoothing)

    def loss() -> Array:
        return np.array([softmax_cross_entropy(kernel, logits, targets, np.empty_like(logits), smoothing=smoothing)[0]])

    return _error(gradient, _numeric_gradient(loss, logits, np.ones(1)))


def _without_kinks(shape: Shape, rng: np.random.Generator) -> Array:
    """Evenly spaced numbers between -1 and 1, shuffled. Their number is even, so that 0 lies between two."""
    size = math.prod(shape)
    return (rng.permutation(np.arange(1 - size, size, 2)) / size).reshape(shape)


def _forward(kernel: Kernels, layer: Layer, parameters: Views, x: Array) -> Array:
    """The layer's output, computed as in a network: activations and Flatten work in the memory of their input."""
    shape = (*layer.output_shape(x.shape[:-1]), x.shape[-1])
    if isinstance(layer, Activation | Flatten):
        x = x.copy()
        y = x.reshape(shape)
    else:
        y = np.full(shape, np.nan)
    layer.forward(kernel, parameters, x, y, **_keys(layer.forward))
    return y


def _keys(method: Callable[..., None]) -> dict[str, SampleKeys]:
    """The keys for a method that draws random numbers: always the same."""
    return {"keys": SampleKeys(0, 0, np.arange(IMAGES))} if takes(method, "keys") else {}


def _numeric_gradient(output: Callable[[], Array], values: Array, r: Array) -> Array:
    """The central difference of ``sum(r * output())`` for each entry of ``values``, which is changed and put back."""
    gradient = np.empty_like(values)
    for entry in np.ndindex(values.shape):
        value = values[entry]
        values[entry] = above = value + STEP
        y_above = output()
        values[entry] = below = value - STEP
        y_below = output()
        values[entry] = value
        # Outputs that don't depend on the entry cancel before the sum, and above - below is the step as it was rounded.
        gradient[entry] = (r * (y_above - y_below)).sum() / (above - below)
    return gradient


def _slope(model: Model, parameters: Array, place: slice, direction: Array, inputs: Array, targets: Array) -> float:
    """The central difference of the loss along ``direction`` in the array at ``place``."""
    losses = []
    for step in (STEP, -STEP):
        moved = parameters.copy()
        moved[place] += step * direction
        losses.append(model.loss_and_gradient(moved, inputs, targets, None).loss_sum)
    return (losses[0] - losses[1]) / (2 * STEP)


def _error(analytic: Array, numeric: Array) -> float:
    scale = max(np.abs(analytic).max(), np.abs(numeric).max(), FLOOR)
    error = float(np.abs(analytic - numeric).max() / scale)
    return error if math.isfinite(error) else math.inf
