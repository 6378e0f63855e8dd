"""One image through a network, forward and backward, with every array kept.

The layers call the same kernels as in training. Training overwrites some of these arrays to save memory, so here each
has its own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import kernels
from parallel_lenet.network import layerwise
from parallel_lenet.network.layers import Flatten, Layer
from parallel_lenet.network.losses import softmax_cross_entropy
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Step:
    """One layer's part of the pass of one image. Arrays have no batch axis."""

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
    """The pass of one image through all layers, forward and backward, and its loss."""

    steps: tuple[Step, ...]
    pixels: Array
    """The image as it is stored, ``(c, h, w)``."""
    loss: float


def trace(model: Sequential, parameters: Vector, image: Array, label: int) -> Trace:
    """The pass of one stored image, ``(h, w)`` or ``(c, h, w)``, of class ``label``, with the kernel of ``model``."""
    kernel = kernels.load(model.kernel)
    outputs = layerwise.outputs(model, parameters, image)
    views = model.layer_views(np.ascontiguousarray(parameters))
    error = np.empty_like(outputs[-1])
    loss, _ = softmax_cross_entropy(kernel, outputs[-1], np.array([label]), error)
    steps: list[Step] = []
    for i in reversed(range(len(model.layers))):
        layer = model.layers[i]
        x = outputs[i]
        y = outputs[i + 1]
        dy = error
        gradients = {part: np.empty_like(values) for part, values in views[i].items()}
        layer.parameter_gradient(kernel, x, dy, gradients)
        dx = dy.reshape(x.shape) if isinstance(layer, Flatten) else np.empty_like(x)
        layer.input_gradient(kernel, views[i], x, y, dy, dx)
        steps.append(
            Step(
                name=model.layer_names[i],
                layer=layer,
                x=x[..., 0],
                y=y[..., 0],
                dx=dx[..., 0],
                dy=dy[..., 0],
                parameters=views[i],
                gradients=gradients,
            )
        )
        error = dx
    return Trace(tuple(reversed(steps)), model.images.channels_first(image[np.newaxis])[0], loss)
