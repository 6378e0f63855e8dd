"""Datasets: inputs and targets, one row per sample, checked once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import quoted
from parallel_lenet.display import Displayed, Summary, Table, count
from parallel_lenet.display.thumbnails import thumbnails


class DatasetError(ValueError):
    """Data that can't be trained on: the message names the file or array and what is wrong with it."""


@dataclass(frozen=True, repr=False)
class Dataset(Displayed):
    """Inputs and their targets, sample by sample.

    ``inputs`` is ``(n, ...)``: for images ``(n, h, w)`` or ``(n, c, h, w)``, best left as the uint8 they are stored in.
    For channels last, and for other pixels than 0 to 255, see `Images`. ``targets`` is ``(n,)``: for classes the
    integers 0 to k - 1. Neither is ever written to.

    Each call of a coordinator uses them as they are when it is called: it copies what has changed since the last call,
    but not an array that is mapped read-only from a file, such as one of ``np.load(file, mmap_mode="r")``. Such a file
    must not change during the call. Arrays that are mapped from a file are read in parts.

    Raises DatasetError if there are no samples, the lengths differ, a type isn't numeric or a value isn't finite.

    >>> import numpy as np
    >>> data = Dataset(np.zeros((3, 28, 28), np.uint8), np.array([7, 2, 1]), "three blank images")
    >>> len(data), data.classes
    (3, 8)
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    name: str = "data"

    def __post_init__(self) -> None:
        for what, array in (("inputs", self.inputs), ("targets", self.targets)):
            if not isinstance(array, np.ndarray):
                as_array = f": np.asarray({what}) makes one" if isinstance(array, list | tuple) else ""
                raise DatasetError(f"{self.name}: {what} must be a NumPy array, got {type(array).__name__}{as_array}")
            if array.dtype.kind not in "buif":
                raise DatasetError(f"{self.name}: {what} must be numbers, got {array.dtype}")
            if array.ndim == 0 or len(array) == 0:
                raise DatasetError(f"{self.name}: {what} hold no samples (shape {array.shape})")
            if array.dtype.kind == "f" and not is_finite(array):
                bad = next(i for i, row in enumerate(array) if not is_finite(row))
                raise DatasetError(f"{self.name}: {what} of sample {bad} hold NaN or infinity; all must be finite")
        if len(self.inputs) != len(self.targets):
            raise DatasetError(f"{self.name}: {len(self.inputs)} inputs but {len(self.targets)} targets")

    def __len__(self) -> int:
        return len(self.inputs)

    def _summary(self) -> Summary:
        """Reads the first few samples only."""
        what = [f"{array.dtype} {array.shape[1:] or ''}".rstrip() for array in (self.inputs, self.targets)]
        samples, name = count(len(self), "sample"), quoted(self.name)
        rows = [("name", name), ("samples", f"{len(self):,}"), ("inputs", what[0]), ("targets", what[1])]
        line = f"Dataset({name}, {samples}, inputs {what[0]}, targets {what[1]})"
        return Summary(line, [Table((), rows, texts=2), thumbnails(self.inputs, self.targets)])

    __str__ = Displayed.__repr__

    @property
    def classes(self) -> int:
        """How many classes the targets name: the largest label + 1."""
        return int(self.targets.max()) + 1


PART = 2**20  # Numbers that are looked at together: a few megabytes of temporary memory at most.


def parts(array: NDArray[Any], most: int) -> Iterator[NDArray[Any]]:
    """The array cut into views of at most ``most`` numbers, in C order: to go over data without copying them."""
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
    """Whether there is no NaN and no infinity: both show in the extremes, which take no memory to find."""
    with np.errstate(invalid="ignore"):
        return array.size == 0 or (math.isfinite(array.min()) and math.isfinite(array.max()))
