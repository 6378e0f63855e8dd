"""The memory of a pass over a network, and which layers share it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.network.layers import Activation, Flatten, Layer, Shape

Array = NDArray[Any]

CACHE_LINE = 64  # Bytes.


class Buffers:
    """The arrays of a forward and backward pass over n images, which every pass of that size uses again.

    ``outputs[i]`` is the input of layer i, ``errors[i]`` its gradient. Layers that need no arrays of their own share
    those of their neighbours. For a convolution, tanh, pooling, Flatten and a dense layer:

        outputs   | images | convolution = tanh | pooling = flatten | dense |
        errors    |   --   | convolution = tanh | pooling = flatten | dense |

    ``=`` stands for one piece of memory. An activation writes over its input, unless that is the output of another
    activation, which needs it on the way back. Errors are always overwritten. For a convolution, tanh and ReLU:

        outputs   | images | convolution = tanh | ReLU |
        errors    |   --   | convolution = tanh = ReLU |
    """

    def __init__(self, layers: Sequence[Layer], shapes: Sequence[Shape], n: int, dtype: np.dtype[Any]) -> None:
        """``shapes`` are those of the layers' inputs, then that of the scores."""
        images = _aligned_array((*shapes[0], n), dtype)
        self.outputs = [images]
        self.errors = [np.empty_like(images)]  # Nothing needs the images' gradient. Never written, it takes no memory.
        after_activation = False
        for layer, shape in zip(layers, shapes[1:], strict=True):
            if isinstance(layer, Flatten):
                output = self.outputs[-1].reshape(*shape, n)
                error = self.errors[-1].reshape(*shape, n)
            elif isinstance(layer, Activation):
                output = _aligned_array((*shape, n), dtype) if after_activation else self.outputs[-1]
                error = self.errors[-1]
                after_activation = True
            else:
                output = _aligned_array((*shape, n), dtype)
                error = _aligned_array((*shape, n), dtype)
                after_activation = False
            self.outputs.append(output)
            self.errors.append(error)
        self.ones = np.ones(n, dtype)
        """The weights of images that have none."""
        self.programs: dict[Any, Any] = {}
        """The recorded passes by loss, and shapes and dtypes of the external arrays. None if it can't be recorded."""


def _aligned_array(shape: Shape, dtype: np.dtype[Any]) -> Array:
    """An array that starts on a cache line: vector loads that straddle two are up to a fifth slower."""
    size = math.prod(shape) * dtype.itemsize
    block = np.empty(size + CACHE_LINE, np.uint8)
    start = -block.ctypes.data % CACHE_LINE
    return block[start : start + size].view(dtype).reshape(shape)
