"""Checks of all data: numbers are finite, and there is enough memory."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.limits import available_memory

PART = 2**20  # Numbers that are processed together: a few megabytes of temporary memory at most.


class DatasetError(ValueError):
    """Data that cannot be trained on. The message names the file or array, and what is wrong with it."""


class FolderError(DatasetError):
    """A folder that does not exist or cannot be read."""


def folder_error(name: object, error: Exception) -> FolderError:
    """The error for a folder of this name whose files could not be listed."""
    return FolderError(f"{name}: cannot be read as a folder: {getattr(error, 'strerror', None) or error}")


def parts(array: NDArray[Any], most: int) -> Iterator[NDArray[Any]]:
    """The array cut into views of at most ``most`` numbers, in C order, to process data without copying them."""
    if array.ndim == 0 or array.size <= most:
        yield array
        return
    row = array.size // len(array)
    if row > most:
        for each in array:
            yield from parts(each, most)
        return
    rows = most // row
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def is_finite(array: NDArray[Any]) -> bool:
    """Whether no number is NaN or infinite. Both show in the extremes, which are found without extra memory."""
    with np.errstate(invalid="ignore"):
        return array.size == 0 or (math.isfinite(array.min()) and math.isfinite(array.max()))


def require_memory(name: str, size: int) -> None:
    """Raises DatasetError if the system does not have ``size`` bytes of memory for the data called ``name``."""
    room = available_memory()
    if size > room:
        raise DatasetError(f"{name}: needs {size:,} bytes of memory, and {room:,.0f} are available")
