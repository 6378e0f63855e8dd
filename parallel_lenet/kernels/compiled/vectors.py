"""Vectors of numbers that stay in the processor's registers: the words in which the compiled loops are written.

A *tile* is a small grid of vectors, ``rows x columns`` of them, each of ``lanes`` numbers that the processor works on
at once. Its size is fixed when the loop is compiled; a tile that fits the registers never touches memory while a loop
adds to it. Indices into arrays count numbers from the array's first one, whatever its shape, and are not checked.

Each word is given twice. The Python function says what it computes, on an array ``(rows, columns, lanes)``; it is what
runs if NUMBA_DISABLE_JIT is set, and what the tests hold the other to. The second emits the instructions for LLVM.
Nothing here lets the compiler choose an order or fuse operations: equal arguments give equal bits on every processor,
for any number of lanes. A processor without a fused multiply-add gets it from the C library: slow, and the same bits.
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

INDEX = types.intp
I32 = ir.IntType(32)
I64 = ir.IntType(64)


class Tile(types.Type):
    """Numba's type of a tile: ``rows x columns`` vectors of ``lanes`` numbers."""

    def __init__(self, number: Any, rows: int, columns: int, lanes: int) -> None:
        self.number, self.rows, self.columns, self.lanes = number, rows, columns, lanes
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


class _Emitter:
    """What most instructions need: the vectors of a tile, and places in arrays."""

    def __init__(self, context: Any, builder: Any, tile: Tile) -> None:
        self.context, self.builder, self.tile = context, builder, tile
        self.type = context.get_value_type(tile)
        self.vector = self.type.elements[0]
        self.cells = [(p, q) for p in range(tile.rows) for q in range(tile.columns)]

    def unpack(self, value: Any) -> dict[tuple[int, int], Any]:
        """The vectors by row and column."""
        return {cell: self.builder.extract_value(value, i) for i, cell in enumerate(self.cells)}

    def pack(self, vectors: dict[tuple[int, int], Any]) -> Any:
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
        pointer = self.builder.bitcast(place, ir.PointerType(self.vector))
        return self.builder.load(pointer, align=self.vector.element.get_abi_size(self._data()))

    def store(self, vector: Any, place: Any) -> None:
        pointer = self.builder.bitcast(place, ir.PointerType(self.vector))
        self.builder.store(vector, pointer, align=self.vector.element.get_abi_size(self._data()))

    def _data(self) -> Any:
        return self.context.codegen().target_data

    def splat(self, number: Any) -> Any:
        """``number`` in every lane."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, undefined, self.lanes_of([0] * self.tile.lanes))

    def constant(self, number: float) -> Any:
        return ir.Constant(self.vector, [number] * self.tile.lanes)

    def lanes_of(self, numbers: list[int]) -> Any:
        return ir.Constant(ir.VectorType(I32, len(numbers)), numbers)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        size = {ir.FloatType(): "f32", ir.DoubleType(): "f64"}[self.vector.element]
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.tile.lanes}{size}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [x, y, z])

    def lane_sums(self, vectors: list[Any]) -> list[Any]:
        """The sum of each vector's lanes along the tree, two vectors at a time.

        Neighbouring lanes of a pair of vectors are added into one vector: half the work, and half the vectors are left
        for the next level. First within pieces of 16 bytes, which the processor shuffles at once, then whole pieces.
        """
        lanes, count = self.tile.lanes, len(vectors)
        piece = 16 // self.vector.element.get_abi_size(self._data())
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
            added = []
            for i in range(0, len(vectors), 2):
                pair = vectors[i], vectors[min(i + 1, len(vectors) - 1)]
                parts = [self.builder.shuffle_vector(*pair, self.lanes_of(some)) for some in (evens, odds)]
                added.append(self.builder.fadd(*parts))
            vectors = added
        return [self.builder.extract_element(vectors[i // lanes], ir.Constant(I32, i % lanes)) for i in range(count)]


def _exact_fma(x: Array, y: Array, z: Array) -> Array:
    """X * y + z, rounded once if they are float32 (in float64, to within two roundings)."""
    dtype = np.result_type(x, y, z)
    with np.errstate(all="ignore"):
        if dtype != np.float32:
            return np.asarray(x * y + z)
        product, z = np.float64(1) * x * np.float64(1) * y, np.asarray(z, np.float64)
        total = np.asarray(product + z)
        # What the sum lost moves it to the odd neighbour, so that rounding to float32 can't be led astray by a tie.
        part = total - product
        lost = (product - (total - part)) + (z - part)
        even = (total.view(np.int64) & 1) == 0
        towards = np.where(lost > 0, np.inf, -np.inf)
        odd = np.where((lost != 0) & even & np.isfinite(total), np.nextafter(total, towards), total)
        return odd.astype(np.float32)


def _vectors(array: Array, start: int, row_step: int, column_step: int, rows: int, columns: int, lanes: int) -> Array:
    """The places in the flat array of a tile's numbers."""
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
    """A tile of the numbers from ``start`` on; rows and columns lie their steps apart."""
    tile = Tile(array.dtype, rows.literal_value, columns.literal_value, lanes.literal_value)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = _Emitter(context, builder, tile)
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
        e = _Emitter(context, builder, tile)
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
        e = _Emitter(context, builder, tile)
        first = e.place(signature.args[1], arguments[1], arguments[2])
        for (p, q), vector in e.unpack(arguments[0]).items():
            e.store(vector, e.beyond(first, (p, arguments[3]), (q, arguments[4])))
        return context.get_dummy_value()

    return types.void(tile, array, INDEX, INDEX, INDEX), emit


def _add_scaled(
    tile: Array, x: Array, x_start: int, x_step: int, w: Array, w_start: int, row_step: int, column_step: int
) -> Array:
    rows, columns, lanes = tile.shape
    vectors = _load(x, x_start, 0, x_step, 1, columns, lanes)
    p, q, _ = np.ogrid[:rows, :columns, :1]
    return _exact_fma(vectors, w.reshape(-1)[w_start + p * row_step + q * column_step], tile)


@instruction(_add_scaled)
def add_scaled(
    typing: Any, tile: Any, x: Any, x_start: Any, x_step: Any, w: Any, w_start: Any, row_step: Any, column_step: Any
) -> Any:
    """The tile plus, in each cell (p, q), vector q of ``x`` times number (p, q) of ``w``; each product fused.

    The vectors of ``x`` lie ``x_step`` apart (0: the same for all columns), the numbers of ``w`` their two steps (0:
    the same for the row, or the column).
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = _Emitter(context, builder, tile)
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
    return _exact_fma(errors, _load(x, x_start, 0, x_step, 1, columns, lanes), tile)


@instruction(_add_products)
def add_products(
    typing: Any, tile: Any, dy: Any, dy_start: Any, dy_step: Any, x: Any, x_start: Any, x_step: Any
) -> Any:
    """The tile plus, in each cell (p, q), vector p of ``dy`` times vector q of ``x``, lane by lane; fused.

    The vectors of each array lie a step apart.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = _Emitter(context, builder, tile)
        value, dy_array, dy_first, to_row, x_array, x_first, to_column = arguments
        dy_place = e.place(signature.args[1], dy_array, dy_first)
        x_place = e.place(signature.args[4], x_array, x_first)
        errors = [e.load(e.beyond(dy_place, (p, to_row))) for p in range(tile.rows)]
        vectors = [e.load(e.beyond(x_place, (q, to_column))) for q in range(tile.columns)]
        sums = e.unpack(value)
        return e.pack({(p, q): e.fma(errors[p], vectors[q], sums[p, q]) for p, q in e.cells})

    return tile(tile, dy, INDEX, INDEX, x, INDEX, INDEX), emit


def _scaled(tile: Array, w: Array, start: int, step: int) -> Array:
    numbers = w.reshape(-1)[start + step * np.arange(tile.shape[0])]
    with np.errstate(all="ignore"):
        return np.asarray(tile * numbers[:, None, None])


@instruction(_scaled)
def scaled(typing: Any, tile: Any, w: Any, start: Any, step: Any) -> Any:
    """Each row p of the tile times number ``start + p * step`` of ``w``."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = _Emitter(context, builder, tile)
        first = e.place(signature.args[1], arguments[1], arguments[2])
        factors = [e.splat(builder.load(e.beyond(first, (p, arguments[3])))) for p in range(tile.rows)]
        return e.pack({(p, q): builder.fmul(v, factors[p]) for (p, q), v in e.unpack(arguments[0]).items()})

    return tile(tile, w, INDEX, INDEX), emit


def _plus(x: Array, y: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(x + y)


@instruction(_plus)
def plus(typing: Any, x: Any, y: Any) -> Any:
    """The sum of two tiles."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = _Emitter(context, builder, x)
        first, second = e.unpack(arguments[0]), e.unpack(arguments[1])
        return e.pack({cell: builder.fadd(first[cell], second[cell]) for cell in e.cells})

    return x(x, y), emit


def _times(x: Array, y: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(x * y)


@instruction(_times)
def times(typing: Any, x: Any, y: Any) -> Any:
    """The product of two tiles, lane by lane."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = _Emitter(context, builder, x)
        first, second = e.unpack(arguments[0]), e.unpack(arguments[1])
        return e.pack({cell: builder.fmul(first[cell], second[cell]) for cell in e.cells})

    return x(x, y), emit


def _times_plus(x: Array, y: Array, z: Array) -> Array:
    return _exact_fma(x, y, z)


@instruction(_times_plus)
def times_plus(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """X * y + z of three tiles, lane by lane; fused."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = _Emitter(context, builder, x)
        first, second, third = (e.unpack(argument) for argument in arguments)
        return e.pack({cell: e.fma(first[cell], second[cell], third[cell]) for cell in e.cells})

    return x(x, y, z), emit


def _converted(tile: Array, array: Array) -> Array:
    return tile.astype(array.dtype)


@instruction(_converted)
def converted(typing: Any, tile: Any, array: Any) -> Any:
    """The tile's numbers in the array's dtype, float32 or float64."""
    result = Tile(array.dtype, tile.rows, tile.columns, tile.lanes)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = _Emitter(context, builder, result)
        vectors = _Emitter(context, builder, tile).unpack(arguments[0])
        if tile.number == array.dtype:
            return arguments[0]
        convert = builder.uitofp
        if tile.number in types.signed_domain:
            convert = builder.sitofp
        elif tile.number in types.real_domain:
            convert = builder.fpext if tile.number.bitwidth < array.dtype.bitwidth else builder.fptrunc
        return e.pack({cell: convert(vector, e.vector) for cell, vector in vectors.items()})

    return result(tile, array), emit


def _tree(numbers: list[Any], add: Callable[[Any, Any], Any]) -> Any:
    """((0 + 1) + (2 + 3)) + ((4 + 5) + ...: a missing right half is left out."""
    while len(numbers) > 1:
        pairs = [add(numbers[i], numbers[i + 1]) for i in range(0, len(numbers) - 1, 2)]
        numbers = pairs + numbers[len(pairs) * 2 :]
    return numbers[0]


def _rows_sum(tile: Array) -> Array:
    return np.asarray(_tree(list(tile), _plus))[None]


@instruction(_rows_sum)
def rows_sum(typing: Any, tile: Any) -> Any:
    """A tile of one row: the rows added along a balanced tree."""
    single = Tile(tile.number, 1, tile.columns, tile.lanes)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = _Emitter(context, builder, tile).unpack(arguments[0])
        e = _Emitter(context, builder, single)
        columns = range(tile.columns)
        sums = [_tree([vectors[p, q] for p in range(tile.rows)], builder.fadd) for q in columns]
        return e.pack({(0, q): sums[q] for q in columns})

    return single(tile), emit


def _moved(tile: Array, by: int) -> Array:
    lanes = tile.shape[2]
    longer = np.concatenate([tile, np.full_like(tile, -0.0)], axis=2)
    return longer[:, :, by : by + lanes]


@instruction(_moved)
def moved(typing: Any, tile: Any, by: Any) -> Any:
    """In every vector the lanes from ``by`` on (0 to ``lanes``), then -0, which changes no bit of a sum."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = _Emitter(context, builder, tile)
        block = cgutils.alloca_once(builder, e.vector.element, 2 * tile.lanes)
        e.store(e.constant(-0.0), builder.gep(block, [ir.Constant(I64, tile.lanes)]))
        vectors = {}
        for cell, vector in e.unpack(arguments[0]).items():
            e.store(vector, block)
            vectors[cell] = e.load(builder.gep(block, [arguments[1]]))
        return e.pack(vectors)

    return tile(tile, INDEX), emit


def _transposed(tile: Array) -> Array:
    return tile.transpose(2, 1, 0).copy()


@instruction(_transposed)
def transposed(typing: Any, tile: Any) -> Any:
    """Of a tile with one column and as many rows as lanes: lane q of row p becomes lane p of row q.

    Rows that are 1, 2, 4, ... apart exchange half of their lanes, those that are as far apart.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = _Emitter(context, builder, tile)
        rows, lanes = list(e.unpack(arguments[0]).values()), range(tile.lanes)
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
        e = _Emitter(context, builder, tile)
        vectors = e.unpack(arguments[0])
        return e.pack({(p, q): vectors.get((p, q + 1), e.constant(0.0)) for p, q in e.cells})

    return tile(tile), emit


def _store_column(tile: Array, array: Array, start: int, row_step: int) -> None:
    _store(tile[:, :1], array, start, row_step, 0)


@instruction(_store_column)
def store_column(typing: Any, tile: Any, array: Any, start: Any, row_step: Any) -> Any:
    """Write the first column of the tile, its rows ``row_step`` apart."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = _Emitter(context, builder, tile)
        first = e.place(signature.args[1], arguments[1], arguments[2])
        vectors = e.unpack(arguments[0])
        for p in range(tile.rows):
            e.store(vectors[p, 0], e.beyond(first, (p, arguments[3])))
        return context.get_dummy_value()

    return types.void(tile, array, INDEX, INDEX), emit


def _store_lane_sums(tile: Array, array: Array, start: int, row_step: int) -> None:
    for p, row in enumerate(tile):
        for q, vector in enumerate(row):
            array.reshape(-1)[start + p * row_step + q] = _tree(list(vector), _plus)


@instruction(_store_lane_sums)
def store_lane_sums(typing: Any, tile: Any, array: Any, start: Any, row_step: Any) -> Any:
    """Write one number for each vector, its lanes added along a balanced tree; rows lie ``row_step`` apart."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = _Emitter(context, builder, tile)
        first = e.place(signature.args[1], arguments[1], arguments[2])
        sums = e.lane_sums(list(e.unpack(arguments[0]).values()))
        for (p, q), number in zip(e.cells, sums, strict=True):
            builder.store(number, e.beyond(first, (p, arguments[3]), (q, ir.Constant(I64, 1))))
        return context.get_dummy_value()

    return types.void(tile, array, INDEX, INDEX), emit


def _fma(x: Any, y: Any, z: Any) -> Any:
    return _exact_fma(x, y, z)[()]


@instruction(_fma)
def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """X * y + z of three numbers of one dtype, rounded once."""

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


def _larger(x: Array, y: Array) -> Array:
    return np.where((y > x) | np.isnan(y), y, x)


@instruction(_larger)
def larger(typing: Any, x: Any, y: Any) -> Any:
    """The larger of two tiles, lane by lane; NaN if either is."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        e = _Emitter(context, builder, x)
        first, second = e.unpack(arguments[0]), e.unpack(arguments[1])
        result = {}
        for cell in e.cells:
            a, b = first[cell], second[cell]
            better = builder.or_(builder.fcmp_ordered(">", b, a), builder.fcmp_unordered("uno", b, b))
            result[cell] = builder.select(better, b, a)
        return e.pack(result)

    return x(x, y), emit


def _taken(context: Any, builder: Any, tile: Any, arguments: Any, taken: bool) -> Any:
    """``waiting`` in the lanes whose pixel is the largest, or NaN (or in all others), and 0 elsewhere."""
    e = _Emitter(context, builder, tile)
    here, largest, waiting = (e.unpack(argument) for argument in arguments)
    result = {}
    for cell in e.cells:
        equal = builder.fcmp_ordered("==", here[cell], largest[cell])
        found = builder.or_(equal, builder.fcmp_unordered("uno", here[cell], here[cell]))
        choices = (waiting[cell], e.constant(0.0))
        result[cell] = builder.select(found, *(choices if taken else choices[::-1]))
    return e.pack(result)


def _where_taken(here: Array, largest: Array, waiting: Array) -> Array:
    return np.where((here == largest) | np.isnan(here), waiting, waiting.dtype.type(0))


@instruction(_where_taken)
def where_taken(typing: Any, here: Any, largest: Any, waiting: Any) -> Any:
    """``waiting`` in the lanes where ``here`` is equal to ``largest``, or NaN; 0 elsewhere."""
    return here(here, largest, waiting), lambda c, b, s, a: _taken(c, b, here, a, True)


def _where_not_taken(here: Array, largest: Array, waiting: Array) -> Array:
    return np.where((here == largest) | np.isnan(here), waiting.dtype.type(0), waiting)


@instruction(_where_not_taken)
def where_not_taken(typing: Any, here: Any, largest: Any, waiting: Any) -> Any:
    """``waiting`` in all other lanes, 0 in those."""
    return here(here, largest, waiting), lambda c, b, s, a: _taken(c, b, here, a, False)
