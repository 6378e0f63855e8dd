"""Functions made of IEEE operations in a fixed order, so that all machines compute the same bits.

The operations of IEEE 754 (add, subtract, multiply, divide, square root) have one correct result. The results of the
mathematical library for ``x**n`` or ``cos(x)``, and the order in which ``numpy.sum`` adds, differ between machines.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.slices import ONE_THREAD, Threads


def power(base: float, exponent: int) -> float:
    """``base**exponent`` for a whole exponent of at least 0, by repeated squaring.

    The error is at most ``exponent`` units in the last place. Source: Knuth, "The Art of Computer Programming", volume
    2, 4.6.3, algorithm A.
    """
    result = 1.0
    while exponent:
        if exponent % 2:
            result *= base
        base *= base
        exponent //= 2
    return result


def exponential(x: float) -> float:
    """``e**x`` for x from -100 to 0, to 1e-13 of itself: the Taylor series of ``x / 128``, squared seven times."""
    part = x / 128
    result = 1.0
    for k in range(16, 0, -1):
        result = 1 + part * result / k
    for _ in range(7):
        result *= result
    return result


def half_cosine(part: int, total: int) -> float:
    """``(1 + cos(pi * part / total)) / 2`` for ``0 <= part <= total``: from 1 down to 0, both exact.

    It is ``1 - sin(a)^2`` with ``a = pi/2 * part / total``, and in the second half ``sin(pi/2 - a)^2``. So the angle is
    at most pi/4, where nine terms of the sine's Taylor series leave an error below 1e-19.
    """
    upper = 2 * part > total
    angle = math.pi / 2 * ((total - part if upper else part) / total)
    square = angle * angle
    series = 1.0
    for k in range(16, 0, -2):
        series = 1 - square * series / (k * (k + 1))
    sine = angle * series
    return sine * sine if upper else 1 - sine * sine


def sum_of(numbers: NDArray[Any]) -> float:
    """The sum of a float vector, which is overwritten: the upper half is added to the lower, until one number is left.

    If the number of numbers is odd, the one in the middle waits for the next round. An overflow gives infinity.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        while len(numbers) > 1:
            left = (len(numbers) + 1) // 2
            numbers[: len(numbers) - left] += numbers[left:]
            numbers = numbers[:left]
    return float(numbers[0]) if len(numbers) else 0.0


def sum_of_squares(vector: NDArray[np.floating[Any]], threads: Threads = ONE_THREAD) -> float:
    """``vector[0]^2 + vector[1]^2 + ...`` in float64. An overflow gives infinity.

    Each slice of the vector is added as in `sum_of`, and so are the sums of the slices.
    """

    def square_sum(part: slice) -> float:
        with np.errstate(over="ignore"):
            squares = np.square(vector[part], dtype=np.float64)
        return sum_of(squares)

    return sum_of(np.array(threads.map(square_sum, vector.size)))
