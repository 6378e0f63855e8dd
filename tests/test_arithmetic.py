"""Functions of IEEE operations: against exact fractions, and the accuracy that they claim."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_lenet.arithmetic import half_cosine, power, sum_of_squares


@given(st.floats(0, 1), st.integers(0, 10_000))
def test_a_power_is_as_exact_as_it_claims(base: float, exponent: int) -> None:
    exact = Fraction(base) ** exponent if exponent < 300 else Fraction(math.pow(base, exponent))
    result = power(base, exponent)
    if exact > 1e-300:
        assert abs(Fraction(result) / exact - 1) <= Fraction(max(exponent, 1) * 2.0**-52)
    else:
        assert 0 <= result < 1e-290


def test_powers_are_the_same_on_every_machine() -> None:
    # Worked out once with correctly rounded products. 0.9^3 = 0.9 * (0.9 * 0.9).
    assert power(0.9, 3) == 0.9 * (0.9 * 0.9)
    assert power(0.999, 5) == 0.999 * ((0.999 * 0.999) * (0.999 * 0.999))
    assert power(0.0, 0) == power(1.0, 99) == 1
    assert power(0.0, 7) == 0


@given(st.integers(1, 10**6), st.data())
def test_half_a_cosine_is_exact_to_the_last_place(whole: int, data: st.DataObject) -> None:
    part = data.draw(st.integers(0, whole))
    assert half_cosine(part, whole) == pytest.approx((1 + math.cos(math.pi * part / whole)) / 2, rel=1e-12, abs=1e-16)


def test_half_a_cosine_falls_from_one_to_nothing() -> None:
    values = [half_cosine(part, 1001) for part in range(1002)]
    assert values[0] == 1
    assert values[-1] == 0
    assert values == sorted(values, reverse=True)
    assert half_cosine(1, 2) == pytest.approx(0.5, rel=1e-15)


def tree(squares: list[float]) -> float:
    """The sum as the docstring words it."""
    while len(squares) > 1:
        left = (len(squares) + 1) // 2
        squares = [s + squares[left + i] if left + i < len(squares) else s for i, s in enumerate(squares[:left])]
    return squares[0] if squares else 0.0


@given(st.lists(st.floats(-1e3, 1e3, width=32), max_size=100), st.sampled_from(["float32", "float64"]))
def test_squares_are_added_from_half_to_half(numbers: list[float], dtype: str) -> None:
    vector = np.array(numbers, dtype)
    before = vector.copy()
    assert sum_of_squares(vector) == tree([float(number) ** 2 for number in vector])
    assert vector.tobytes() == before.tobytes()


def test_the_sum_of_squares_of_what_is_not_finite_is_not_finite() -> None:
    assert sum_of_squares(np.array([1e200, 1.0])) == math.inf
    assert sum_of_squares(np.array([np.inf, 1.0], np.float32)) == math.inf
    assert math.isnan(sum_of_squares(np.array([np.nan, 1.0], np.float32)))


def rounds_to(result: np.floating, exact: Fraction) -> bool:
    """Whether no other number of the result's type is nearer."""
    kind = type(result)
    neighbours = (np.nextafter(result, kind(-np.inf)), np.nextafter(result, kind(np.inf)))
    distance = abs(Fraction(float(result)) - exact)
    return all(distance <= abs(Fraction(float(neighbour)) - exact) for neighbour in neighbours)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpys_operations_round_once(dtype: str) -> None:
    # What the optimizers rely on: no fused multiply-add, no approximate division or root, on any vector unit.
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(67).astype(dtype) for _ in range(2))
    product = x * y
    sums = product.copy()
    sums += x
    root = np.sqrt(np.abs(x))
    for i, (a, b) in enumerate(zip(map(Fraction, x.tolist()), map(Fraction, y.tolist()), strict=True)):
        assert rounds_to((x + y)[i], a + b)
        assert rounds_to(product[i], a * b)
        assert rounds_to((x / y)[i], a / b)
        assert rounds_to(sums[i], Fraction(float(product[i])) + a)
        low, high = (
            (Fraction(float(root[i])) + Fraction(float(np.nextafter(root[i], x.dtype.type(to))))) / 2 for to in (0, 9)
        )
        assert low * low <= abs(a) <= high * high
