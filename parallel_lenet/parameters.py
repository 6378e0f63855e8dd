"""Parameters: one flat vector, with a named view of each array in it.

Averaging, clipping, optimizers, sharing and checkpoints are operations on one vector. A layer finds its ``weight`` by
name. The views share the vector's memory: writing to a view writes to the vector.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import whole_number

Vector = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the arrays in a flat parameter vector, in its order.

    >>> layout = Layout.of({"weight": (10, 784), "bias": (10,)})
    >>> layout.size
    7850
    """

    entries: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        """Store plain ints and strings. Raises ValueError if a name comes twice or a length is below 1."""
        entries = []
        for name, shape in self.entries:
            lengths = shape if isinstance(shape, tuple | list) else (shape,)
            entries.append((str(name), tuple(whole_number(f"a length of parameter {name!r}", n, 1) for n in lengths)))
        if len(dict(entries)) < len(entries):
            raise ValueError(f"parameter names must differ, got {[name for name, _ in entries]}")
        object.__setattr__(self, "entries", tuple(entries))

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> "Layout":
        """The layout of the named shapes, in their order. Raises ValueError unless lengths are whole numbers >= 1."""
        return cls(tuple(shapes.items()))

    @cached_property
    def size(self) -> int:
        """The number of numbers in the vector."""
        return sum(math.prod(shape) for _, shape in self.entries)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """The slice of the vector for each array, by name."""
        slices = {}
        start = 0
        for name, shape in self.entries:
            slices[name] = slice(start, start + math.prod(shape))
            start += math.prod(shape)
        return slices

    def views(self, vector: Vector) -> dict[str, Vector]:
        """The vector's arrays by name: views, not copies. Raises ValueError if the vector has another size."""
        self.check(vector)
        return {name: vector[self.slices[name]].reshape(shape) for name, shape in self.entries}

    def check(self, vector: Vector) -> None:
        """Raise ValueError if the vector has another size."""
        if vector.shape != (self.size,):
            raise ValueError(f"a parameter vector of this layout has shape ({self.size},), got {vector.shape}")


def sha256(vector: Vector) -> str:
    """The SHA-256 of the vector's little-endian bytes, in hexadecimal: equal if every bit is equal."""
    little = np.ascontiguousarray(vector, vector.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()
