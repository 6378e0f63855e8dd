"""One check per kind of value.

NumPy's scalars become Python's. An error has the name, the value and what is allowed.
"""

import math
import operator
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray


class Range(NamedTuple):
    """The numbers a setting may have: in words, for the error message, and as a test that NaN fails."""

    words: str
    contains: Callable[[float], bool]


FINITE = Range("a finite number", math.isfinite)
ABOVE_ZERO = Range("a number above 0", lambda value: value > 0)
POSITIVE = Range("a finite number above 0", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Range("a finite number of at least 0", lambda value: 0 <= value < math.inf)
BELOW_ONE = Range("a number of at least 0 and below 1", lambda value: 0 <= value < 1)
UP_TO_ONE = Range("a number above 0 and at most 1", lambda value: 0 < value <= 1)
FRACTION = Range("a fraction above 0 and below 1", lambda value: 0 < value < 1)

LEAST = {"batch_size": 1, "shard_size": 1, "seed": 0, "max_tries": 1}
"""The least values of settings that are whole numbers, for the library and the command line."""


class InvalidValue(ValueError):  # noqa: N818
    """A ValueError about an argument: ``name`` must be ``allowed`` (or None, if ``or_none``), got ``value``.

    >>> from parallel_lenet import SGD
    >>> try:
    ...     SGD(learning_rate=-1)
    ... except InvalidValue as error:
    ...     print(error.name, error.value)
    learning_rate -1
    """

    def __init__(self, name: str, allowed: str, value: object, or_none: bool = False) -> None:
        super().__init__(name, allowed, value, or_none)
        self.name = name
        self.allowed = allowed
        self.value = value
        self.or_none = or_none

    def __str__(self) -> str:
        return f"{self.name} must be {self.allowed}{', or None' * self.or_none}, got {quoted(self.value)}"


def whole_number(name: str, value: object, least: int | None = None, most: int | None = None) -> int:
    """The value as an int. Raises InvalidValue unless it is a whole number, not a bool, from ``least`` to ``most``."""
    allowed = "a whole number" if least is None else f"a whole number of at least {least}"
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        result = operator.index(cast(SupportsIndex, value))
    except TypeError:
        raise InvalidValue(name, allowed, value) from None
    if least is not None and result < least:
        raise InvalidValue(name, allowed, value)
    if most is not None and result > most:
        raise InvalidValue(name, f"at most {most:,}", value)
    return result


def real_number(name: str, value: object, allowed: Range, or_none: bool = False) -> float:
    """The value as a float. Raises InvalidValue unless it is a real number, not a bool, in the range.

    A NumPy scalar is converted because `np.float64(0.9) * float32_array` is a float64 array, while a Python float
    keeps the array's dtype.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    try:
        if isinstance(value, bool) or not isinstance(value, Real) or not allowed.contains(float(value)):
            raise ValueError
    except (ValueError, OverflowError):
        raise InvalidValue(name, allowed.words, value, or_none) from None
    return float(value)


def optional_number(name: str, value: object, allowed: Range) -> float | None:
    """None, or the value as `real_number` returns it."""
    return None if value is None else real_number(name, value, allowed, or_none=True)


def numeric_array(name: str, value: object) -> NDArray[Any]:
    """The value. Raises TypeError unless it is a NumPy array of numbers or booleans, ValueError if some are masked."""
    if not isinstance(value, np.ndarray):
        as_array = f": np.asarray({name}) makes one" if isinstance(value, list | tuple) else ""
        raise TypeError(f"{name} must be a NumPy array of numbers, got {type(value).__name__}{as_array}")
    if value.dtype.kind not in "buif":
        raise TypeError(f"{name} must be a NumPy array of numbers, got an array of {value.dtype}")
    require_unmasked(name, value)
    return value


def require_unmasked(name: str, array: object) -> None:
    """Raises ValueError if it is a masked array with masked numbers: the numbers under the mask would be used."""
    if np.any(getattr(array, "mask", False)):
        raise ValueError(
            f"{name} must have no masked numbers: array.filled(value) replaces them, or leave out their samples"
        )


def quoted(value: object) -> str:
    """The value as an error message shows it: its repr on one line, cut if it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # An int of more than 4,300 digits, or an object whose repr fails.
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."
