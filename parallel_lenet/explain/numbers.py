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
    """A float's bits in hexadecimal, most significant first; an integer in decimal."""
    text: str


@dataclass(frozen=True, eq=False)
class Numbers:
    """Named arrays; ``numbers("conv1", 0, 12, 14)`` is one number of the array ``conv1``."""

    arrays: dict[str, Array] = field(default_factory=dict)

    def keep(self, arrays: Mapping[str, Array | float | int]) -> None:
        """Add arrays, or single numbers; ValueError if a name is taken."""
        for name, values in arrays.items():
            if name in self.arrays:
                raise ValueError(f"{name} is taken")
            self.arrays[name] = np.asarray(values)

    def __getitem__(self, name: str) -> Array:
        """The array."""
        return self.arrays[name]

    def __call__(self, name: str, *index: int) -> Number:
        """One number, ready to be shown."""
        value = self.arrays[name][tuple(index)]
        place = f"[{','.join(map(str, index))}]" if index else ""
        return Number(name + place, bits(value), short(value))


def bits(value: Any) -> str:
    """The bits of a NumPy float in hexadecimal, most significant first; an integer in decimal."""
    array = np.asarray(value)
    if np.issubdtype(array.dtype, np.integer):
        return str(int(array))
    return array.astype(array.dtype.newbyteorder(">")).tobytes().hex()


def short(value: Any) -> str:
    """A number in at most seven characters, with a true minus sign: ``0.42``, ``−0.0123``, ``1.2e−5``."""
    if np.issubdtype(np.asarray(value).dtype, np.integer):
        return f"{int(value):,}".replace("-", "−")
    size = abs(float(value))
    if size == 0:
        return "0"
    if size >= 99_999.5 or size < 0.00095:
        text = f"{float(value):.1e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    else:
        decimals = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.0995 else 4
        text = f"{float(value):.{decimals}f}"
    return text.replace("-", "−")
