"""Vectors: what is compiled computes, bit by bit, what the Python function beside it says. Sums follow the tree."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("numba")

import numba

from parallel_lenet.kernels.compiled import lanes, scalars, vectors
from parallel_lenet.kernels.compiled.functions import exp, log, tanh64
from parallel_lenet.kernels.compiled.sums import add_rows
from parallel_lenet.kernels.compiled.tile_type import exact_fma

Array = NDArray[Any]

ROWS, COLUMNS = 3, 2

# Instructions run only in compiled code: one function calls them all, so that the compiler is waited for once per type.
CALLS = """
def function(x, y, octets, shorts, floats, doubles, out, by):
    tile = load(x, 1, 40, LANES, 3, 2, LANES)
    other = load(y, 2, 40, LANES, 3, 2, LANES)
    store(tile, out, 0, 100, LANES)
    store(spread(x, 3, 2, 3, 2, LANES), out, 300, 100, LANES)
    store(add_scaled(tile, x, 5, LANES, y, 7, 3, 11), out, 600, 100, LANES)
    store(add_products(tile, x, 9, 50, y, 4, 13), out, 900, 100, LANES)
    store(scale_rows(tile, y, 1, 2), out, 1200, 100, LANES)
    store(plus(tile, other), out, 1500, 100, LANES)
    store(rows_sum(tile), out, 1800, 100, LANES)
    store(lanes_from(tile, by), out, 1900, 100, LANES)
    store(next_column(tile), out, 2200, 100, LANES)
    store_column(tile, out, 2500, 100)
    store_lane_sums(tile, out, 2800, 100)
    store(larger(tile, other), out, 3100, 100, LANES)
    store(where_largest(tile, other, other), out, 3400, 100, LANES)
    store(where_not_largest(tile, other, other), out, 3700, 100, LANES)
    store(zeros(x, 3, 2, LANES), out, 4000, 100, LANES)
    out[4300] = fma(x[0], y[0], y[1])
    out[4301] = with_sign(x[0], y[0])
    store(times(tile, other), out, 4400, 100, LANES)
    store(times_plus(tile, other, tile), out, 4700, 100, LANES)
    store(transpose(load(x, 3, LANES // 2, 0, LANES, 1, LANES)), out, 5000, LANES, 0)
    store(convert(tile, out), out, 5300, 100, LANES)
    store(convert(load(octets, 1, 40, LANES, 3, 2, LANES), out), out, 5600, 100, LANES)
    store(convert(load(shorts, 1, 40, LANES, 3, 2, LANES), out), out, 5900, 100, LANES)
    store(convert(load(floats, 1, 40, LANES, 3, 2, LANES), out), out, 6200, 100, LANES)
    store(convert(load(doubles, 1, 40, LANES, 3, 2, LANES), out), out, 6500, 100, LANES)
"""
WORDS = {**vars(vectors), **vars(lanes), **vars(scalars)}
NAMES = [name for name in WORDS if isinstance(WORDS.get(f"_{name}"), type(lambda: None))]
SIZE = 6800


def calls(lanes: int, compiled: bool) -> Any:
    """CALLS with the compiled instructions, or with the Python functions that they stand for."""
    words = {name: WORDS[name if compiled else f"_{name}"] for name in NAMES}
    namespace: dict[str, Any] = {**words, "LANES": lanes}
    exec(CALLS, namespace)
    return numba.njit(namespace["function"]) if compiled else namespace["function"]


@pytest.mark.parametrize(("dtype", "lanes"), [("float32", 8), ("float32", 16), ("float64", 4)])
def test_every_instruction_computes_what_its_python_function_says(dtype: str, lanes: int) -> None:
    rng = np.random.default_rng(0)
    compiled, python = calls(lanes, True), calls(lanes, False)
    for by in (0, 1, lanes - 1, lanes):
        x, y = ((rng.standard_normal(200) * 10.0 ** rng.integers(-4, 4, 200)).astype(dtype) for _ in range(2))
        if dtype == "float64":  # The Python functions round float64 products: let them be exact.
            x, y = (np.round(array * 1000) for array in (x, y))
        y[30:60] = x[29:59]  # Equal numbers, for where_largest.
        for array in (x, y):
            array[rng.integers(0, 200, 12)] = rng.choice([0.0, -0.0, np.inf, -np.inf], 12)
        if by == lanes:
            x[rng.integers(0, 200, 20)] = np.nan
        octets = rng.integers(0, 256, 200, np.uint8)
        shorts = rng.integers(-(2**15), 2**15, 200, np.int16)
        others = octets, shorts, rng.standard_normal(200, np.float32), rng.standard_normal(200)
        found, wanted = np.full(SIZE, 7, dtype), np.full(SIZE, 7, dtype)
        compiled(x, y, *others, found, by)
        with np.errstate(all="ignore"):
            python(x, y, *others, wanted, by)
        np.testing.assert_array_equal(found, wanted)
        numbers = ~np.isnan(wanted)
        np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(wanted[numbers]))


def test_no_instruction_is_left_out() -> None:
    assert {"load", "store", "add_scaled", "store_lane_sums", "fma"} <= set(NAMES)
    assert [name for name in NAMES if f"{name}(" not in CALLS] == ["bits", "from_bits", "high_word"]


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3))
@settings(deadline=None)
def test_the_python_fma_rounds_once(numbers: list[float]) -> None:
    """Against rational numbers, rounded to 60 bits' precision and then to float32 by NumPy: exact where it matters."""
    from fractions import Fraction

    x, y, z = (np.float32(number) for number in numbers)
    found = exact_fma(np.array([x]), np.array([y]), np.array([z]))[0]
    if not np.isfinite([x, y, z]).all() or not np.isfinite(found):
        return
    exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
    error = abs(Fraction(float(found)) - exact)
    with np.errstate(over="ignore"):
        neighbours = [np.nextafter(found, np.float32(end)) for end in (np.inf, -np.inf)]
    for neighbour in neighbours:
        if np.isfinite(neighbour):
            assert error <= abs(Fraction(float(neighbour)) - exact)


@given(rows=st.integers(1, 40), seed=st.integers(0, 99))
@settings(deadline=None)
def test_rows_are_added_along_the_tree(rows: int, seed: int) -> None:
    parts = np.random.default_rng(seed).standard_normal((rows, 3))

    def tree(start: int, size: int) -> Array:
        """The sum of an aligned run. What lies beyond the end is left out."""
        if size == 1:
            return parts[start]
        first = tree(start, size // 2)
        middle = start + size // 2
        return first + tree(middle, size // 2) if middle < rows else first

    wanted = tree(0, 64)
    found = parts.copy()
    add_rows(found)
    assert found[0].tobytes() == wanted.tobytes()


def test_minus_zero_survives_a_sum_of_nothing_else() -> None:
    parts = np.full((5, 1), -0.0)
    add_rows(parts)
    assert np.signbit(parts[0, 0])


def units(found: Array, exact: Array) -> float:
    return float(np.max(np.abs(found - exact) / np.spacing(np.abs(exact))))


def test_exp() -> None:
    """To 1 unit in the last place of the C library's, whose own error is below 1."""
    x = np.linspace(-745, 709.7, 100_001)
    x = np.concatenate([x, np.linspace(-2, 2, 100_001)])
    assert units(np.array([exp(number) for number in x]), np.exp(x)) <= 1
    cases = {0.0: 1.0, np.inf: np.inf, -np.inf: 0.0, 710.0: np.inf, 1e300: np.inf, -746.0: 0.0, -1e300: 0.0}
    assert {number: exp(number) for number in cases} == cases
    assert np.isnan(exp(np.nan))
    assert exp(-745.0) == 5e-324


def test_log() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [10.0 ** rng.uniform(-323, 308, 50_000), rng.uniform(0.5, 2, 50_000), rng.uniform(1, 10, 50_000)]
    )
    assert units(np.array([log(number) for number in x]), np.log(x)) <= 2
    cases = {1.0: 0.0, np.inf: np.inf, 0.0: -np.inf}
    assert {number: log(number) for number in cases} == cases
    assert np.isnan([log(-1.0), log(-np.inf), log(np.nan)]).all()


def test_tanh_in_float64() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-25, 25, 50_000), rng.uniform(-1, 1, 50_000), 10.0 ** rng.uniform(-300, 0, 50_000)])
    assert units(np.array([tanh64(number) for number in x]), np.tanh(x)) <= 3
