"""The size of tiles of vectors, by the number of the processor's registers. It decides speed, never a bit."""

from functools import cache
from typing import Any

import numpy as np
from numba.core.registry import cpu_target
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled.jit import DISABLED

Array = NDArray[Any]

NARROW = 32  # Bytes of a vector that AVX2 holds in a register, and SSE and NEON in two.


@cache
def avx512() -> bool:
    """Whether the loops are compiled for a processor with 32 registers of 64 bytes."""
    if DISABLED:
        return False
    features = cpu_target.target_context.codegen().magic_tuple()[2]
    return "+avx512f" in features and "+avx512vl" in features


def lanes(numbers: int, itemsize: int) -> int:
    """The lanes of a vector for ``numbers`` neighbours: those of the narrow vector if they don't fill a wide one."""
    wide = 2 * NARROW if avx512() else NARROW
    return (wide if numbers * itemsize >= wide else NARROW) // itemsize


def tall(lanes: int, itemsize: int) -> bool:
    """Whether tiles should have as many rows as 32 registers hold.

    Of narrow vectors a processor with AVX-512 multiplies two per cycle. It would wait for their loads, but the rows of
    a tile share these.
    """
    return avx512() and lanes * itemsize == NARROW


def fewest_left_over(count: int, sizes: tuple[int, ...]) -> int:
    """The size, at most ``count``, whose tiles cover ``count`` with the least excess. The larger of two equal ones."""
    return max((size for size in sizes if size <= count), key=lambda size: (-(-(-count // size) * size), size))


def prepend_zeros(array: Array, images: int) -> Array:
    """The array with images of zeros before its own, ``images`` in all. The array itself if it has as many."""
    if array.shape[-1] >= images:
        return array
    result = np.zeros((*array.shape[:-1], images), array.dtype)
    result[..., images - array.shape[-1] :] = array
    return result
