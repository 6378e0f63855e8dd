"""The tutorial's loops, written with vectors of images and compiled by Numba.

The formulas are those of `naive`. With the batch last, neighbouring images lie side by side in memory. A vector holds
the numbers of some images, and each of its lanes computes one image as a simple loop would. That loop is written in
the docstring of each function.

Three things decide the bits of a result:

- the order of these loops, in which a product and the addition that follows are rounded together (fused),
- the exp, log and tanh of this package,
- the balanced binary tree over positions, which sums over images follow.

So the results for two halves of a block of 2^k images add up, bit by bit, to the block's. The number of images per
call, the width of vectors, the size of tiles and the processor change nothing.

A processor loads vectors fastest if they don't straddle two cache lines: arrays that start at a multiple of 64 bytes
are faster by up to a fifth.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled import convolution, elementwise, jit_cache, pooling, tiles
from parallel_lenet.kernels.compiled.convolution import conv2d, conv2d_input_gradient, conv2d_weight_gradient
from parallel_lenet.kernels.compiled.dense import (
    dense,
    dense_call,
    dense_input_gradient,
    dense_input_gradient_call,
    dense_weight_gradient,
    dense_weight_gradient_calls,
)
from parallel_lenet.kernels.compiled.elementwise import prepare_images, relu, relu_gradient, tanh, tanh_gradient
from parallel_lenet.kernels.compiled.jit import DISABLED
from parallel_lenet.kernels.compiled.pairs import PAIRS
from parallel_lenet.kernels.compiled.pooling import avg_pool2d, avg_pool2d_gradient, max_pool2d, max_pool2d_gradient
from parallel_lenet.kernels.compiled.program import Planner, Program, Recorder
from parallel_lenet.kernels.compiled.softmax import softmax, softmax_cross_entropy, softmax_cross_entropy_call

__all__ = [
    "LEAF",
    "SHARD_SIZE",
    "avg_pool2d",
    "avg_pool2d_gradient",
    "conv2d",
    "conv2d_input_gradient",
    "conv2d_weight_gradient",
    "dense",
    "dense_input_gradient",
    "dense_weight_gradient",
    "is_compiled",
    "max_pool2d",
    "max_pool2d_gradient",
    "prepare_images",
    "record",
    "relu",
    "relu_gradient",
    "softmax",
    "softmax_cross_entropy",
    "tanh",
    "tanh_gradient",
]

PLANNERS: dict[str, Planner] = {
    "prepare_images": elementwise.prepare_images_call,
    "conv2d": convolution.conv2d_call,
    "conv2d_input_gradient": convolution.conv2d_input_gradient_call,
    "conv2d_weight_gradient": convolution.conv2d_weight_gradient_calls,
    "avg_pool2d": pooling.avg_pool2d_call,
    "avg_pool2d_gradient": pooling.avg_pool2d_gradient_call,
    "max_pool2d": pooling.max_pool2d_call,
    "max_pool2d_gradient": pooling.max_pool2d_gradient_call,
    "tanh": elementwise.tanh_call,
    "tanh_gradient": elementwise.tanh_gradient_call,
    "relu": elementwise.relu_call,
    "relu_gradient": elementwise.relu_gradient_call,
    "dense": dense_call,
    "dense_input_gradient": dense_input_gradient_call,
    "dense_weight_gradient": dense_weight_gradient_calls,
}
"""For each function, the planner that returns its loops and their arguments."""

LEAF = 1
Array = NDArray[Any]

SHARD_SIZE = 32  # Smaller shards need more calls, and larger ones exceed the cache.


def record(work: Callable[..., object], arrays: Sequence[Array]) -> Callable[..., tuple[float, int]] | None:
    """A function that does the same as ``work(kernels, *arrays)`` in one call, for arrays of these shapes and dtypes.

    ``work`` must do everything with arrays by the functions of ``kernels``, and return the result of
    `softmax_cross_entropy`. It runs here once, with a `Recorder`, and nothing is computed. The returned function takes
    C-contiguous arrays, uses all other arrays of the pass again, and runs in one thread at a time. None if one of the
    functions has to prepare arrays with NumPy for such shapes, or if compilation is switched off.
    """
    if DISABLED:
        return None
    sums = np.empty(2)
    planners = PLANNERS | {"softmax_cross_entropy": partial(softmax_cross_entropy_call, sums)}
    recorder = Recorder(planners, PAIRS)
    work(recorder, *arrays)
    if not recorder.complete:
        return None
    program = Program(recorder.calls, arrays)

    def run(*arrays: Array) -> tuple[float, int]:
        program(arrays)
        return float(sums[0]), int(sums[1])

    return run


def is_compiled(images: int = SHARD_SIZE) -> bool:
    """Whether the code for a float32 step of LeNet-5 with this number of images is in memory or on disk.

    It looks for the weight gradient of the first convolution, which a step needs last. It compiles nothing. Without the
    code the first step takes about ten seconds longer.
    """
    lanes = tiles.lanes(images, 4)
    tile = convolution.gradient_tile(6, 5, tiles.tall(lanes, 4))
    return DISABLED or jit_cache.is_kept(convolution.weight_gradient_loop(*tile, lanes), numba.float32)
