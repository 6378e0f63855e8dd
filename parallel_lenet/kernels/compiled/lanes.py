"""Instructions that move the lanes and rows of a tile, add them along a tree, or choose among them. See `vectors`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.cgutils import ir  # type: ignore[attr-defined]  # llvmlite's, on which Numba rests.
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled.tile_type import I32, I64, Emitter, Tile, instruction, quiet_sum

Array = NDArray[Any]

INDEX = types.intp


def _tree(numbers: list[Any], add: Callable[[Any, Any], Any]) -> Any:
    """((0 + 1) + (2 + 3)) + ((4 + 5) + ...: A missing right half is left out."""
    while len(numbers) > 1:
        pairs = [add(numbers[i], numbers[i + 1]) for i in range(0, len(numbers) - 1, 2)]
        numbers = pairs + numbers[len(pairs) * 2 :]
    return numbers[0]


def _rows_sum(tile: Array) -> Array:
    return np.asarray(_tree(list(tile), quiet_sum))[None]


@instruction(_rows_sum)
def rows_sum(typing: Any, tile: Any) -> Any:
    """A tile of one row: the rows added along a balanced tree."""
    single = Tile(tile.number, 1, tile.columns, tile.lanes)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Emitter(context, builder, tile).unpack(arguments[0])
        e = Emitter(context, builder, single)
        columns = range(tile.columns)
        sums = [_tree([vectors[p, q] for p in range(tile.rows)], builder.fadd) for q in columns]
        return e.pack({(0, q): sums[q] for q in columns})

    return single(tile), emit


def _lanes_from(tile: Array, by: int) -> Array:
    lanes = tile.shape[2]
    longer = np.concatenate([tile, np.full_like(tile, -0.0)], axis=2)
    return longer[:, :, by : by + lanes]


@instruction(_lanes_from)
def lanes_from(typing: Any, tile: Any, by: Any) -> Any:
    """In every vector the lanes from number ``by`` (0 to ``lanes``), then -0, which changes no bit of a sum."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, tile)
        block = cgutils.alloca_once(builder, e.vector.element, 2 * tile.lanes)
        e.store(e.constant(-0.0), builder.gep(block, [ir.Constant(I64, tile.lanes)]))
        vectors = {}
        for cell, vector in e.unpack(arguments[0]).items():
            e.store(vector, block)
            vectors[cell] = e.load(builder.gep(block, [arguments[1]]))
        return e.pack(vectors)

    return tile(tile, INDEX), emit


def _transpose(tile: Array) -> Array:
    return tile.transpose(2, 1, 0).copy()


@instruction(_transpose)
def transpose(typing: Any, tile: Any) -> Any:
    """Of a tile with one column and as many rows as lanes: lane q of row p becomes lane p of row q.

    Rows that are 1, 2, 4, ... apart exchange half of their lanes, those that are as far apart.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, tile)
        rows = list(e.unpack(arguments[0]).values())
        lanes = range(tile.lanes)
        apart = 1
        while apart < tile.lanes:
            lower = e.lanes_of([i if not i & apart else i - apart + tile.lanes for i in lanes])
            upper = e.lanes_of([i + apart if not i & apart else i + tile.lanes for i in lanes])
            for p in lanes:
                if not p & apart:
                    pair = rows[p], rows[p + apart]
                    rows[p], rows[p + apart] = (builder.shuffle_vector(*pair, half) for half in (lower, upper))
            apart *= 2
        return e.pack(dict(zip(e.cells, rows, strict=True)))

    return tile(tile), emit


def _next_column(tile: Array) -> Array:
    return np.concatenate([tile[:, 1:], np.zeros_like(tile[:, :1])], axis=1)


@instruction(_next_column)
def next_column(typing: Any, tile: Any) -> Any:
    """The tile without its first column, and zeros as its last."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, tile)
        vectors = e.unpack(arguments[0])
        return e.pack({(p, q): vectors.get((p, q + 1), e.constant(0.0)) for p, q in e.cells})

    return tile(tile), emit


def _lane_sums(e: Emitter, vectors: list[Any]) -> list[Any]:
    """The sum of each vector's lanes along the tree, two vectors at a time.

    Neighbouring lanes of a pair of vectors are added into one vector, so half the vectors are left for the next level.
    The first levels stay within pieces of 16 bytes, which the processor shuffles at once. Then whole pieces are added.
    """
    lanes = e.tile.lanes
    count = len(vectors)
    piece = 16 // e.vector.element.get_abi_size(e.data())
    order = list(range(2 * lanes))
    for level in range(lanes.bit_length() - 1):
        if 2**level < piece:
            halves = [order[:lanes], order[lanes:]]
            pieces = [half[i : i + piece] for i in range(0, lanes, piece) for half in halves]
            evens = [lane for some in pieces for lane in some[::2]]
            odds = [lane for some in pieces for lane in some[1::2]]
        else:
            pieces = [order[i : i + piece] for i in range(0, 2 * lanes, piece)]
            evens = [lane for some in pieces[::2] for lane in some]
            odds = [lane for some in pieces[1::2] for lane in some]
        sums = []
        for i in range(0, len(vectors), 2):
            pair = vectors[i], vectors[min(i + 1, len(vectors) - 1)]
            parts = [e.builder.shuffle_vector(*pair, e.lanes_of(some)) for some in (evens, odds)]
            sums.append(e.builder.fadd(*parts))
        vectors = sums
    return [e.builder.extract_element(vectors[i // lanes], ir.Constant(I32, i % lanes)) for i in range(count)]


def _store_lane_sums(tile: Array, array: Array, start: int, row_step: int) -> None:
    for p, row in enumerate(tile):
        for q, vector in enumerate(row):
            array.reshape(-1)[start + p * row_step + q] = _tree(list(vector), quiet_sum)


@instruction(_store_lane_sums)
def store_lane_sums(typing: Any, tile: Any, array: Any, start: Any, row_step: Any) -> Any:
    """Write one number for each vector, its lanes added along a balanced tree. Rows lie ``row_step`` apart."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, tile)
        first = e.place(signature.args[1], arguments[1], arguments[2])
        sums = _lane_sums(e, list(e.unpack(arguments[0]).values()))
        for (p, q), number in zip(e.cells, sums, strict=True):
            builder.store(number, e.beyond(first, (p, arguments[3]), (q, ir.Constant(I64, 1))))
        return context.get_dummy_value()

    return types.void(tile, array, INDEX, INDEX), emit


def _larger(x: Array, y: Array) -> Array:
    return np.where((y > x) | np.isnan(y), y, x)


@instruction(_larger)
def larger(typing: Any, x: Any, y: Any) -> Any:
    """The larger of two tiles, lane by lane. NaN if either is."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = Emitter(context, builder, x)
        first = e.unpack(arguments[0])
        second = e.unpack(arguments[1])
        result = {}
        for cell in e.cells:
            a = first[cell]
            b = second[cell]
            better = builder.or_(builder.fcmp_ordered(">", b, a), builder.fcmp_unordered("uno", b, b))
            result[cell] = builder.select(better, b, a)
        return e.pack(result)

    return x(x, y), emit


def _select(context: Any, builder: Any, tile: Any, arguments: Any, at_largest: bool) -> Any:
    """``waiting`` in the lanes whose pixel is the largest or NaN, else 0. The reverse unless ``at_largest``."""
    e = Emitter(context, builder, tile)
    here, largest, waiting = (e.unpack(argument) for argument in arguments)
    result = {}
    for cell in e.cells:
        equal = builder.fcmp_ordered("==", here[cell], largest[cell])
        found = builder.or_(equal, builder.fcmp_unordered("uno", here[cell], here[cell]))
        choices = (waiting[cell], e.constant(0.0))
        result[cell] = builder.select(found, *(choices if at_largest else choices[::-1]))
    return e.pack(result)


def _where_largest(here: Array, largest: Array, waiting: Array) -> Array:
    return np.where((here == largest) | np.isnan(here), waiting, waiting.dtype.type(0))


@instruction(_where_largest)
def where_largest(typing: Any, here: Any, largest: Any, waiting: Any) -> Any:
    """``waiting`` in the lanes in which ``here`` equals ``largest`` or is NaN, and 0 elsewhere."""
    return here(here, largest, waiting), lambda c, b, s, a: _select(c, b, here, a, True)


def _where_not_largest(here: Array, largest: Array, waiting: Array) -> Array:
    return np.where((here == largest) | np.isnan(here), waiting.dtype.type(0), waiting)


@instruction(_where_not_largest)
def where_not_largest(typing: Any, here: Any, largest: Any, waiting: Any) -> Any:
    """0 in the lanes in which ``here`` equals ``largest`` or is NaN, and ``waiting`` elsewhere."""
    return here(here, largest, waiting), lambda c, b, s, a: _select(c, b, here, a, False)
