"""The forward pass of one image, layer by layer, with every array kept. Training overwrites some of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import kernels
from parallel_lenet.network.layers import Flatten
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector

Array = NDArray[Any]


def outputs(model: Sequential, parameters: Vector, image: Array) -> list[Array]:
    """The prepared image ``(c, h, w, 1)``, then the output of each layer. The last are the scores ``(classes, 1)``.

    ``image`` is stored, ``(h, w)`` or ``(c, h, w)``. The kernel is the model's. Raises ValueError if the image does not
    fit the network.
    """
    kernel = kernels.load(model.kernel)
    x = np.empty((*model.shapes[0], 1), parameters.dtype)
    model.images.prepare(kernel, model.images.pixels(image[np.newaxis], parameters.dtype), x)
    found = [x]
    views = model.layer_views(np.ascontiguousarray(parameters))
    for layer, own, shape in zip(model.layers, views, model.shapes[1:], strict=True):
        x = found[-1]
        y = x.reshape(*shape, 1) if isinstance(layer, Flatten) else np.empty((*shape, 1), x.dtype)
        layer.forward(kernel, own, x, y)
        found.append(y)
    return found
