"""What everything here trains on: inputs and targets, one row a sample, checked once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DatasetError(ValueError):
    """Data that can't be trained on: the message names the file or array and what is wrong with it."""


@dataclass(frozen=True)
class Dataset:
    """Inputs and their targets, sample by sample.

    ``inputs`` is ``(n, ...)``: for images ``(n, h, w)`` or ``(n, c, h, w)``, pixel values 0 to 255, best left as the
    uint8 they are stored in. ``targets`` is ``(n,)``: for classes the integers 0 to k - 1. Neither is ever written to.

    Raises DatasetError when there are no samples, the lengths differ, a type isn't numeric or a value isn't finite.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    name: str = "data"

    def __post_init__(self) -> None:
        for what, array in (("inputs", self.inputs), ("targets", self.targets)):
            if not isinstance(array, np.ndarray):
                raise DatasetError(f"{self.name}: {what} must be a NumPy array, not {type(array).__name__}")
            if array.dtype.kind not in "buif":
                raise DatasetError(f"{self.name}: {what} must be numbers, not {array.dtype}")
            if array.ndim == 0 or len(array) == 0:
                raise DatasetError(f"{self.name}: {what} hold no samples (shape {array.shape})")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                bad = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))
                raise DatasetError(f"{self.name}: {what} of sample {bad} hold NaN or infinity; all must be finite")
        if len(self.inputs) != len(self.targets):
            raise DatasetError(f"{self.name}: {len(self.inputs)} inputs but {len(self.targets)} targets")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def classes(self) -> int:
        """How many classes the targets name: the largest label + 1."""
        return int(self.targets.max()) + 1
