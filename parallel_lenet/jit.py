"""How loops are compiled here: Numba, with its machine code kept on disk. Imported only where numba is wanted."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numpy.typing import NDArray

from parallel_lenet import jit_cache

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function, exact: bool = False) -> Function:
    """Compile at the first call, and keep the machine code on disk for the next process.

    ``exact``: every operation as it is written, so that all machines compute the same bits.
    """
    # Sums may be reordered and multiply-adds fused; NaN and infinity keep their meaning (neither nnan nor ninf).
    fastmath: set[str] = set() if exact else {"reassoc", "contract", "nsz", "arcp"}
    options: dict[str, Any] = {"fastmath": fastmath, "error_model": "numpy", "nogil": True}
    dispatcher = numba.njit(**options)(function)
    if hasattr(dispatcher, "py_func"):  # Not if NUMBA_DISABLE_JIT is set.
        jit_cache.keep(dispatcher)
    return cast(Function, dispatcher)


def own(x: NDArray[Any]) -> NDArray[Any]:
    """``x``, or a copy where it is read-only: to Numba that is another type, for which it would compile once more."""
    return x if x.flags.writeable else x.copy()
