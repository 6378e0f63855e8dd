"""Tiles of vectors: their type for Numba, and the means to emit instructions on them.

A *tile* is a small grid of vectors, ``rows x columns`` of them, each of ``lanes`` numbers that the processor works on
at once. Its size is fixed when the loop is compiled. A tile that fits the registers stays in them while a loop adds to
it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.cgutils import ir  # type: ignore[attr-defined]  # llvmlite's, on which Numba rests.
from numba.extending import intrinsic, models, register_model
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled.jit import DISABLED

Array = NDArray[Any]
Meaning = Callable[..., Any]

I32 = ir.IntType(32)
I64 = ir.IntType(64)


class Tile(types.Type):
    """Numba's type of a tile: ``rows x columns`` vectors of ``lanes`` numbers."""

    def __init__(self, number: Any, rows: int, columns: int, lanes: int) -> None:
        self.number = number
        self.rows = rows
        self.columns = columns
        self.lanes = lanes
        super().__init__(name=f"Tile({number}, {rows}, {columns}, {lanes})")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    """In LLVM, a structure of vectors: the optimizer takes it apart, and each vector gets a register."""

    def __init__(self, manager: Any, tile: Tile) -> None:
        vector = ir.VectorType(manager.lookup(tile.number).get_data_type(), tile.lanes)
        super().__init__(manager, tile, ir.LiteralStructType([vector] * (tile.rows * tile.columns)))


def instruction(meaning: Meaning) -> Callable[[Meaning], Any]:
    """Decorate the function that emits what ``meaning`` computes."""

    def choose(emit: Meaning) -> Any:
        return meaning if DISABLED else intrinsic(prefer_literal=True)(emit)

    return choose


class Emitter:
    """Helps to emit instructions: the vectors of a tile, and addresses in arrays."""

    def __init__(self, context: Any, builder: Any, tile: Tile) -> None:
        self.context = context
        self.builder = builder
        self.tile = tile
        self.type = context.get_value_type(tile)
        self.vector = self.type.elements[0]
        self.cells = [(p, q) for p in range(tile.rows) for q in range(tile.columns)]

    def unpack(self, value: Any) -> dict[tuple[int, int], Any]:
        """The vectors by row and column."""
        return {cell: self.builder.extract_value(value, i) for i, cell in enumerate(self.cells)}

    def pack(self, vectors: dict[tuple[int, int], Any]) -> Any:
        """The tile of these vectors."""
        value = ir.Constant(self.type, ir.Undefined)
        for i, cell in enumerate(self.cells):
            value = self.builder.insert_value(value, vectors[cell], i)
        return value

    def place(self, array_type: Any, array: Any, start: Any) -> Any:
        """The address of number ``start``."""
        data = cgutils.create_struct_proxy(array_type)(self.context, self.builder, array).data
        return self.builder.gep(data, [start])

    def beyond(self, place: Any, *steps: tuple[int, Any]) -> Any:
        """The address ``times * step`` numbers after ``place``, for each (times, step)."""
        offset = ir.Constant(I64, 0)
        for times, step in steps:
            offset = self.builder.add(offset, self.builder.mul(ir.Constant(I64, times), step))
        return self.builder.gep(place, [offset])

    def load(self, place: Any) -> Any:
        """The vector at an address."""
        pointer = self.builder.bitcast(place, ir.PointerType(self.vector))
        return self.builder.load(pointer, align=self.vector.element.get_abi_size(self.data()))

    def store(self, vector: Any, place: Any) -> None:
        """Write the vector to an address."""
        pointer = self.builder.bitcast(place, ir.PointerType(self.vector))
        self.builder.store(vector, pointer, align=self.vector.element.get_abi_size(self.data()))

    def data(self) -> Any:
        """LLVM's description of the sizes of types."""
        return self.context.codegen().target_data

    def splat(self, number: Any) -> Any:
        """``number`` in every lane."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, undefined, self.lanes_of([0] * self.tile.lanes))

    def constant(self, number: float) -> Any:
        """A vector of one number."""
        return ir.Constant(self.vector, [number] * self.tile.lanes)

    def lanes_of(self, numbers: list[int]) -> Any:
        """The numbers of the lanes that a shuffle takes, as a constant of LLVM."""
        return ir.Constant(ir.VectorType(I32, len(numbers)), numbers)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """The vectors ``x * y + z``, rounded once."""
        size = {ir.FloatType(): "f32", ir.DoubleType(): "f64"}[self.vector.element]
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.tile.lanes}{size}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [x, y, z])


def exact_fma(x: Array, y: Array, z: Array) -> Array:
    """The array ``x * y + z``, rounded once if it is float32 (in float64, to within two roundings)."""
    dtype = np.result_type(x, y, z)
    with np.errstate(all="ignore"):
        if dtype != np.float32:
            return np.asarray(x * y + z)
        product = np.float64(1) * x * np.float64(1) * y
        z = np.asarray(z, np.float64)
        total = np.asarray(product + z)
        # The rounding error moves the sum to its odd neighbour, so that rounding to float32 never meets a false tie.
        part = total - product
        lost = (product - (total - part)) + (z - part)
        even = (total.view(np.int64) & 1) == 0
        towards = np.where(lost > 0, np.inf, -np.inf)
        odd = np.where((lost != 0) & even & np.isfinite(total), np.nextafter(total, towards), total)
        return odd.astype(np.float32)


def quiet_sum(x: Array, y: Array) -> Array:
    """The array ``x + y``, without a warning from NumPy if it is too large."""
    with np.errstate(all="ignore"):
        return np.asarray(x + y)
