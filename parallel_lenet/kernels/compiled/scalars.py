"""Instructions on single numbers. See `vectors`."""

from typing import Any

import numpy as np
from numba import types
from numba.core.cgutils import ir  # type: ignore[attr-defined]  # llvmlite's, on which Numba rests.

from parallel_lenet.kernels.compiled.tile_type import I64, exact_fma, instruction


def _fma(x: Any, y: Any, z: Any) -> Any:
    return exact_fma(x, y, z)[()]


@instruction(_fma)
def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """``x * y + z`` of three numbers of one dtype, rounded once."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return x(x, x, x), emit


def _with_sign(x: Any, y: Any) -> Any:
    return np.copysign(x, y)


@instruction(_with_sign)
def with_sign(typing: Any, x: Any, y: Any) -> Any:
    """The number x with the sign of y."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = arguments[0].type
        kind = ir.FunctionType(number, [number, number])
        return builder.call(builder.module.declare_intrinsic("llvm.copysign", [number], kind), arguments)

    return x(x, x), emit


def _bits(x: Any) -> Any:
    return np.float64(x).view(np.int64)


@instruction(_bits)
def bits(typing: Any, x: Any) -> Any:
    """The 64 bits of a float64 as an integer."""
    return types.int64(types.float64), lambda c, b, s, a: b.bitcast(a[0], I64)


def _from_bits(x: Any) -> Any:
    return np.int64(x).view(np.float64)


@instruction(_from_bits)
def from_bits(typing: Any, x: Any) -> Any:
    """The float64 that has these 64 bits."""
    return types.float64(types.int64), lambda c, b, s, a: b.bitcast(a[0], ir.DoubleType())


def _high_word(x: Any, y: Any) -> Any:
    return np.uint64(int(x) * int(y) >> 64)


@instruction(_high_word)
def high_word(typing: Any, x: Any, y: Any) -> Any:
    """The upper 64 bits of the product of two uint64."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), I64)

    return types.uint64(types.uint64, types.uint64), emit
