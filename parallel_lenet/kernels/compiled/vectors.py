"""Instructions on vectors that stay in the processor's registers: the compiled loops are written with them.

They work on tiles (`tile_type`). Instructions that move lanes, or choose among them, are in `lanes`, and those for
single numbers in `scalars`. Indices into arrays count numbers from the array's first one, for any shape, and are not
checked.

Each instruction is defined twice. The Python function specifies it, on an array ``(rows, columns, lanes)``: it runs if
NUMBA_DISABLE_JIT is set, and the tests compare the other one with it. The second function emits the code for LLVM. The
compiler may not choose an order or fuse operations: equal arguments give equal bits on every processor, for any number
of lanes. Without a fused multiply-add in the processor, the C library computes it: slowly, with the same bits.
"""

from typing import Any

import numpy as np
from numba import types
from numba.core.cgutils import ir  # type: ignore[attr-defined]  # llvmlite's, on which Numba rests.
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled.tile_type import Emitter, Tile, exact_fma, instruction, quiet_sum

Array = NDArray[Any]

INDEX = types.intp


def _vectors(array: Array, start: int, row_step: int, column_step: int, rows: int, columns: int, lanes: int) -> Array:
    """The indices of a tile's numbers in the flat array."""
    p, q, lane = np.ogrid[:rows, :columns, :lanes]
    return np.asarray(start + p * row_step + q * column_step + lane)


def _zeros(array: Array, rows: int, columns: int, lanes: int) -> Array:
    return np.zeros((rows, columns, lanes), array.dtype)


@instruction(_zeros)
def zeros(typing: Any, array: Any, rows: Any, columns: Any, lanes: Any) -> Any:
    """A tile of zeros, of the array's dtype."""
    tile = Tile(array.dtype, rows.literal_value, columns.literal_value, lanes.literal_value)
    return tile(array, rows, columns, lanes), lambda c, b, s, a: ir.Constant(c.get_value_type(tile), None)


def _load(array: Array, start: int, row_step: int, column_step: int, rows: int, columns: int, lanes: int) -> Array:
    return array.reshape(-1)[_vectors(array, start, row_step, column_step, rows, columns, lanes)]


@instruction(_load)
def load(
    typing: Any, array: Any, start: Any, row_step: Any, column_step: Any, rows: Any, columns: Any, lanes: Any
) -> Any:
    """A tile of the numbers from ``start`` on. Rows and columns lie their steps apart."""
    tile = Tile(array.dtype, rows.literal_value, columns.literal_value, lanes.literal_value)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, tile)
        first = e.place(signature.args[0], arguments[0], arguments[1])
        steps = arguments[2:4]
        return e.pack({(p, q): e.load(e.beyond(first, (p, steps[0]), (q, steps[1]))) for p, q in e.cells})

    return tile(array, INDEX, INDEX, INDEX, rows, columns, lanes), emit


def _spread(array: Array, start: int, step: int, rows: int, columns: int, lanes: int) -> Array:
    numbers = array.reshape(-1)[start + step * np.arange(rows)]
    return np.broadcast_to(numbers[:, None, None], (rows, columns, lanes)).copy()


@instruction(_spread)
def spread(typing: Any, array: Any, start: Any, step: Any, rows: Any, columns: Any, lanes: Any) -> Any:
    """A tile whose row p holds number ``start + p * step`` everywhere."""
    tile = Tile(array.dtype, rows.literal_value, columns.literal_value, lanes.literal_value)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, tile)
        first = e.place(signature.args[0], arguments[0], arguments[1])
        row = [e.splat(builder.load(e.beyond(first, (p, arguments[2])))) for p in range(tile.rows)]
        return e.pack({(p, q): row[p] for p, q in e.cells})

    return tile(array, INDEX, INDEX, rows, columns, lanes), emit


def _store(tile: Array, array: Array, start: int, row_step: int, column_step: int) -> None:
    array.reshape(-1)[_vectors(array, start, row_step, column_step, *tile.shape)] = tile


@instruction(_store)
def store(typing: Any, tile: Any, array: Any, start: Any, row_step: Any, column_step: Any) -> Any:
    """Write the tile's vectors into the array, as `load` reads them."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, tile)
        first = e.place(signature.args[1], arguments[1], arguments[2])
        for (p, q), vector in e.unpack(arguments[0]).items():
            e.store(vector, e.beyond(first, (p, arguments[3]), (q, arguments[4])))
        return context.get_dummy_value()

    return types.void(tile, array, INDEX, INDEX, INDEX), emit


def _store_column(tile: Array, array: Array, start: int, row_step: int) -> None:
    _store(tile[:, :1], array, start, row_step, 0)


@instruction(_store_column)
def store_column(typing: Any, tile: Any, array: Any, start: Any, row_step: Any) -> Any:
    """Write the first column of the tile, its rows ``row_step`` apart."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, tile)
        first = e.place(signature.args[1], arguments[1], arguments[2])
        vectors = e.unpack(arguments[0])
        for p in range(tile.rows):
            e.store(vectors[p, 0], e.beyond(first, (p, arguments[3])))
        return context.get_dummy_value()

    return types.void(tile, array, INDEX, INDEX), emit


def _add_scaled(
    tile: Array, x: Array, x_start: int, x_step: int, w: Array, w_start: int, row_step: int, column_step: int
) -> Array:
    rows, columns, lanes = tile.shape
    vectors = _load(x, x_start, 0, x_step, 1, columns, lanes)
    p, q, _ = np.ogrid[:rows, :columns, :1]
    return exact_fma(vectors, w.reshape(-1)[w_start + p * row_step + q * column_step], tile)


@instruction(_add_scaled)
def add_scaled(
    typing: Any, tile: Any, x: Any, x_start: Any, x_step: Any, w: Any, w_start: Any, row_step: Any, column_step: Any
) -> Any:
    """The tile plus, in each cell (p, q), vector q of ``x`` times number (p, q) of ``w``, each product fused.

    The vectors of ``x`` lie ``x_step`` apart (0: the same for all columns), the numbers of ``w`` their two steps (0:
    the same for the row, or the column).
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, tile)
        value, x_array, x_first, step, w_array, w_first, to_row, to_column = arguments
        x_place = e.place(signature.args[1], x_array, x_first)
        w_place = e.place(signature.args[4], w_array, w_first)
        vectors = [e.load(e.beyond(x_place, (q, step))) for q in range(tile.columns)]
        sums = e.unpack(value)
        for p, q in e.cells:
            number = builder.load(e.beyond(w_place, (p, to_row), (q, to_column)))
            sums[p, q] = e.fma(vectors[q], e.splat(number), sums[p, q])
        return e.pack(sums)

    return tile(tile, x, INDEX, INDEX, w, INDEX, INDEX, INDEX), emit


def _add_products(tile: Array, dy: Array, dy_start: int, dy_step: int, x: Array, x_start: int, x_step: int) -> Array:
    rows, columns, lanes = tile.shape
    errors = _load(dy, dy_start, dy_step, 0, rows, 1, lanes)
    return exact_fma(errors, _load(x, x_start, 0, x_step, 1, columns, lanes), tile)


@instruction(_add_products)
def add_products(
    typing: Any, tile: Any, dy: Any, dy_start: Any, dy_step: Any, x: Any, x_start: Any, x_step: Any
) -> Any:
    """The tile plus, in each cell (p, q), vector p of ``dy`` times vector q of ``x``, lane by lane, fused.

    The vectors of each array lie a step apart.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, tile)
        value, dy_array, dy_first, to_row, x_array, x_first, to_column = arguments
        dy_place = e.place(signature.args[1], dy_array, dy_first)
        x_place = e.place(signature.args[4], x_array, x_first)
        errors = [e.load(e.beyond(dy_place, (p, to_row))) for p in range(tile.rows)]
        vectors = [e.load(e.beyond(x_place, (q, to_column))) for q in range(tile.columns)]
        sums = e.unpack(value)
        return e.pack({(p, q): e.fma(errors[p], vectors[q], sums[p, q]) for p, q in e.cells})

    return tile(tile, dy, INDEX, INDEX, x, INDEX, INDEX), emit


def _scale_rows(tile: Array, w: Array, start: int, step: int) -> Array:
    numbers = w.reshape(-1)[start + step * np.arange(tile.shape[0])]
    with np.errstate(all="ignore"):
        return np.asarray(tile * numbers[:, None, None])


@instruction(_scale_rows)
def scale_rows(typing: Any, tile: Any, w: Any, start: Any, step: Any) -> Any:
    """Each row p of the tile times number ``start + p * step`` of ``w``."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, tile)
        first = e.place(signature.args[1], arguments[1], arguments[2])
        factors = [e.splat(builder.load(e.beyond(first, (p, arguments[3])))) for p in range(tile.rows)]
        return e.pack({(p, q): builder.fmul(v, factors[p]) for (p, q), v in e.unpack(arguments[0]).items()})

    return tile(tile, w, INDEX, INDEX), emit


def _plus(x: Array, y: Array) -> Array:
    return quiet_sum(x, y)


@instruction(_plus)
def plus(typing: Any, x: Any, y: Any) -> Any:
    """The sum of two tiles."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, x)
        first = e.unpack(arguments[0])
        second = e.unpack(arguments[1])
        return e.pack({cell: builder.fadd(first[cell], second[cell]) for cell in e.cells})

    return x(x, y), emit


def _times(x: Array, y: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(x * y)


@instruction(_times)
def times(typing: Any, x: Any, y: Any) -> Any:
    """The product of two tiles, lane by lane."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, x)
        first = e.unpack(arguments[0])
        second = e.unpack(arguments[1])
        return e.pack({cell: builder.fmul(first[cell], second[cell]) for cell in e.cells})

    return x(x, y), emit


def _times_plus(x: Array, y: Array, z: Array) -> Array:
    return exact_fma(x, y, z)


@instruction(_times_plus)
def times_plus(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """``x * y + z`` of three tiles, lane by lane, fused."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, x)
        first, second, third = (e.unpack(argument) for argument in arguments)
        return e.pack({cell: e.fma(first[cell], second[cell], third[cell]) for cell in e.cells})

    return x(x, y, z), emit


def _convert(tile: Array, array: Array) -> Array:
    return tile.astype(array.dtype)


@instruction(_convert)
def convert(typing: Any, tile: Any, array: Any) -> Any:
    """The tile's numbers in the array's dtype, float32 or float64."""
    result = Tile(array.dtype, tile.rows, tile.columns, tile.lanes)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, result)
        vectors = Emitter(context, builder, tile).unpack(arguments[0])
        if tile.number == array.dtype:
            return arguments[0]
        operation = builder.uitofp
        if tile.number in types.signed_domain:
            operation = builder.sitofp
        elif tile.number in types.real_domain:
            operation = builder.fpext if tile.number.bitwidth < array.dtype.bitwidth else builder.fptrunc
        return e.pack({cell: operation(vector, e.vector) for cell, vector in vectors.items()})

    return result(tile, array), emit
