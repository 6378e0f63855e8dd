"""Every number of the page, by the name that the page gives it, to the last bit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Number:
    """One number as the page shows it: rounded for reading, with its bits beside it."""

    of: str
    """Array and place, such as ``conv1[0,12,14]``."""
    bits: str
    """A float's bits in hexadecimal, most significant first, or an integer in decimal."""
    text: str


@dataclass(frozen=True, eq=False)
class Numbers:
    """Named arrays. ``numbers("conv1", 0, 12, 14)`` is one number of the array ``conv1``."""

    arrays: dict[str, Array] = field(default_factory=dict)

    def keep(self, arrays: Mapping[str, Array | float | int]) -> None:
        """Add arrays, or single numbers. Raises ValueError if a name is taken."""
        for name, values in arrays.items():
            if name in self.arrays:
                raise ValueError(f"{name} is taken")
            self.arrays[name] = np.asarray(values)

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def __call__(self, name: str, *index: int, digits: int = 3, places: int | None = None) -> Number:
        """One number for the page, with ``digits`` significant digits or ``places`` digits after the point."""
        value = self.arrays[name][tuple(index)]
        place = f"[{','.join(map(str, index))}]" if index else ""
        return Number(name + place, bits(value), short(value, digits, places))


def bits(value: Any) -> str:
    """The bits of a NumPy float in hexadecimal, most significant first, or an integer in decimal."""
    array = np.asarray(value)
    if np.issubdtype(array.dtype, np.integer):
        return str(int(array))
    return array.astype(array.dtype.newbyteorder(">")).tobytes().hex()


def short(value: Any, digits: int = 3, places: int | None = None) -> str:
    """A number with a true minus sign and this many significant digits: ``0.420``, ``−0.0123``, ``1.20e−5``.

    With ``places``, this number of digits after the point instead.
    """
    if np.issubdtype(np.asarray(value).dtype, np.integer):
        return f"{int(value):,}".replace("-", "−")
    number = float(value)
    if number == 0:
        return "0"
    exponent = int(f"{number:.{digits - 1}e}".partition("e")[2])
    if places is not None:
        text = f"{number:.{places}f}"
    elif -3 <= exponent <= 4:
        text = f"{number:.{max(0, digits - 1 - exponent)}f}"
    else:
        text = f"{number:.{digits - 1}e}".partition("e")[0] + f"e{exponent}"
    return text.replace("-", "−")


def places_of_sum(*values: Any) -> int:
    """Digits after the point for terms and their sum: enough for 3 digits of the smallest of them.

    The largest then has at most 7 digits, which is the precision of float32.
    """
    exponents = [int(f"{float(value):.2e}".partition("e")[2]) for value in values if value]
    return max(0, min(2 - min(exponents), 6 - max(exponents))) if exponents else 0
