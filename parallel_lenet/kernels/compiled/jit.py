"""How loops are compiled: by Numba, with the machine code kept on disk. Imported lazily, because numba is an extra."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled import jit_cache

DISABLED = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]  # Numba sets it from the environment.

Function = TypeVar("Function", bound=Callable[..., Any])

Call = tuple[Callable[..., None], tuple[Any, ...]]
"""A compiled loop and its arguments: C-contiguous arrays and numbers."""


def compiled(function: Function) -> Function:
    """Compile at the first call, and keep the machine code on disk for the next process.

    No operation is reordered and none is fused, so that all machines compute the same bits.
    """
    return compiled_for()(function)


def compiled_for(*sizes: int) -> Callable[[Function], Function]:
    """`compiled`, for a function within another one whose ``sizes`` it uses as constants.

    They become part of its name: Numba keeps machine code by name, and would confuse the code of two sizes.
    """

    def compile_later(function: Function) -> Function:
        function.__qualname__ += "".join(f"_{size}" for size in sizes)
        return _compile(function)

    return compile_later


def _compile(function: Function) -> Function:
    dispatcher = numba.njit(fastmath=False, error_model="numpy", nogil=True)(function)
    if not DISABLED:
        jit_cache.keep(dispatcher)
    return cast(Function, dispatcher)


def execute(*calls: Call) -> None:
    """Call the loops, one after another."""
    for loop, arguments in calls:
        loop(*(as_writable(argument) if isinstance(argument, np.ndarray) else argument for argument in arguments))


def as_writable(x: NDArray[Any]) -> NDArray[Any]:
    """``x``, or a copy if it is read-only: for Numba that is another type, for which it would compile again."""
    return x if x.flags.writeable else x.copy()
