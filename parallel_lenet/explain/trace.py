"""One image through a network, forward and backward, with every array kept.

The layers call the same kernels as in training. Training overwrites some of these arrays to save memory, so here each
has its own.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import kernels
from parallel_lenet.network.layers import Flatten, Layer
from parallel_lenet.network.losses import softmax_cross_entropy
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Step:
    """What one layer does with one image. Arrays are without the batch axis."""

    name: str
    """``conv1``, ``tanh1``, ``avgpool1``, ``flatten1``, ``dense1`` and so on."""
    layer: Layer
    x: Array
    y: Array
    dx: Array
    dy: Array
    parameters: dict[str, Array]
    gradients: dict[str, Array]


@dataclass(frozen=True, eq=False)
class Trace:
    """A whole pass, and the loss."""

    steps: tuple[Step, ...]
    pixels: Array
    """The image as it is stored, ``(c, h, w)``."""
    loss: float


def trace(model: Sequential, parameters: Vector, image: Array, label: int) -> Trace:
    """The pass of one stored image, ``(h, w)`` or ``(c, h, w)``, with the kernel of ``model``."""
    kernel = kernels.load(model.kernel)
    views = model.layout.views(np.ascontiguousarray(parameters))
    pixels = model.images.pixels(image[np.newaxis], parameters.dtype)
    x = np.empty((*model.shapes[0], 1), parameters.dtype)
    model.images.prepare(kernel, pixels, x)
    outputs = [x]
    names = []
    owned = []
    counts = Counter[str]()
    for layer, shape in zip(model.layers, model.shapes, strict=False):
        kind = type(layer).__name__.lower().removesuffix("2d")
        counts[kind] += 1
        names.append(f"{kind}{counts[kind]}")
        owned.append({part: views[f"{names[-1]}.{part}"] for part in layer.parameter_shapes(shape)})
        outputs.append(_forward(kernel, layer, owned[-1], outputs[-1], (*layer.output_shape(shape), 1)))
    errors = [np.empty_like(outputs[-1])]
    loss, _ = softmax_cross_entropy(kernel, outputs[-1], np.array([label]), errors[0])
    gradients = []
    for layer, own, x, y in zip(reversed(model.layers), reversed(owned), outputs[-2::-1], outputs[:0:-1], strict=True):
        dy = errors[-1]
        gradient = {part: np.empty_like(values) for part, values in own.items()}
        layer.parameter_gradient(kernel, x, dy, gradient)
        gradients.append(gradient)
        dx = dy.reshape(x.shape) if isinstance(layer, Flatten) else np.empty_like(x)
        layer.input_gradient(kernel, own, x, y, dy, dx)
        errors.append(dx)
    errors.reverse()
    gradients.reverse()
    arrays = [[array[..., 0] for array in group] for group in (outputs, errors)]
    steps = (
        Step(names[i], layer, arrays[0][i], arrays[0][i + 1], arrays[1][i], arrays[1][i + 1], owned[i], gradients[i])
        for i, layer in enumerate(model.layers)
    )
    return Trace(tuple(steps), model.images.stored(image[np.newaxis])[0], loss)


def _forward(
    kernel: kernels.Kernels, layer: Layer, parameters: dict[str, Array], x: Array, shape: tuple[int, ...]
) -> Array:
    if isinstance(layer, Flatten):
        return x.reshape(shape)
    y = np.empty(shape, x.dtype)
    layer.forward(kernel, parameters, x, y)
    return y
