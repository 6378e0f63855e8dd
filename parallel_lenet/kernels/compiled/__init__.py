"""The tutorial's loops, written with vectors of images and compiled by Numba.

The formulas are those of `naive`. With the batch last, neighbouring images lie side by side in memory: a vector holds
some images' numbers, and each of its lanes does for its image what a simple loop does, written above each function.

What decides the bits of a result, and nothing else does: the order of these loops, in which a product and the addition
that follows are rounded together (fused); our own exp, log and tanh; and that sums over images follow a balanced binary
tree over their positions. So the results for two halves of a block of 2^k images add up, bit by bit, to the block's;
and the number of images per call, the width of vectors, the size of tiles and the processor change nothing.

A processor loads vectors fastest where they don't straddle two cache lines: arrays that start at a multiple of 64
bytes are faster by up to a fifth.
"""

from typing import Any

import numba

from parallel_lenet.kernels.compiled import convolution, tiles
from parallel_lenet.kernels.compiled.convolution import conv2d, conv2d_input_gradient, conv2d_weight_gradient
from parallel_lenet.kernels.compiled.dense import dense, dense_input_gradient, dense_weight_gradient
from parallel_lenet.kernels.compiled.elementwise import prepare_images, relu, relu_gradient, tanh, tanh_gradient
from parallel_lenet.kernels.compiled.pooling import avg_pool2d, avg_pool2d_gradient, max_pool2d, max_pool2d_gradient
from parallel_lenet.kernels.compiled.softmax import softmax_cross_entropy

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
    "relu",
    "relu_gradient",
    "softmax_cross_entropy",
    "tanh",
    "tanh_gradient",
]

LEAF = 1
SHARD_SIZE = 32  # Fewer images pay more for calls, more leave the cache.


def is_compiled() -> bool:
    """False if the first float32 training step of LeNet-5 will have to compile, which takes ten seconds or so.

    Asks for the weight gradient of its first convolution, the last thing that a step needs. Compiles nothing, and never
    raises.
    """
    function: Any = convolution.weight_gradient_loop(*convolution.gradient_tiles(6, 5), tiles.lanes(SHARD_SIZE, 4))
    if not hasattr(function, "signatures"):  # NUMBA_DISABLE_JIT is set: nothing ever is.
        return True
    try:
        codegen = function.targetctx.codegen()
        wanted = function._cache._index_key(None, codegen)[1:]
        index = function._cache._cache_file._load_index()
        cached = [key[0] for key in index if key[1:] == wanted]
        return any(types[0].dtype == numba.float32 for types in [*function.signatures, *cached])
    except Exception:  # No cache, a damaged one, or a Numba that keeps it otherwise: assume that it has to compile.
        return False
