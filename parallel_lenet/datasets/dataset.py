"""Datasets: inputs and targets, one row per sample, checked once."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import NOT_NEGATIVE, quoted, real_number, whole_number
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

    ``weights`` says how much each sample counts: ``(n,)`` finite numbers of at least 0, not all 0, kept as float32. The
    loss of a batch is ``sum(weight * loss) / sum(weight)``, and its gradient likewise. So a sample of weight 2 counts
    as two, one of weight 0 as none, and weights that are all 1 give bit for bit what no weights give. A batch whose
    weights are all 0 has no loss: its step is skipped. Losses of an evaluation are weighted in the same way; accuracies
    are not. `sample_weights` makes weights for classes.

    Each call of a coordinator uses them as they are when it is called: it copies what has changed since the last call,
    but not an array that is mapped read-only from a file, such as one of ``np.load(file, mmap_mode="r")``. Such a file
    must not change during the call. Arrays that are mapped from a file are read in parts.

    Raises DatasetError if there are no samples, the lengths differ, a type isn't numeric, a value isn't finite, or
    weights are not allowed.

    >>> import numpy as np
    >>> data = Dataset(np.zeros((3, 28, 28), np.uint8), np.array([7, 2, 1]), "three blank images")
    >>> len(data), data.classes
    (3, 8)
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    name: str = "data"
    weights: NDArray[np.float32] | None = None

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
        if self.weights is not None:
            object.__setattr__(self, "weights", self._checked_weights(self.weights))

    def _checked_weights(self, weights: NDArray[Any]) -> NDArray[np.float32]:
        if not isinstance(weights, np.ndarray) or weights.dtype.kind not in "buif":
            raise DatasetError(f"{self.name}: weights must be a NumPy array of numbers, got {quoted(weights)}")
        if weights.shape != (len(self.inputs),):
            raise DatasetError(
                f"{self.name}: weights must have shape ({len(self.inputs)},), one per sample, got {weights.shape}"
            )
        with np.errstate(over="ignore"):  # Infinity is refused below.
            single = weights.astype(np.float32, copy=False)
        wrong = ~(np.isfinite(single) & (single >= 0))
        if wrong.any():
            bad = int(wrong.argmax())
            raise DatasetError(
                f"{self.name}: weights must be finite numbers of at least 0, got {weights[bad]} for sample {bad}"
            )
        if not single.any():
            raise DatasetError(f"{self.name}: weights are all 0: no sample would count")
        return single

    def subset(self, rows: NDArray[np.integer[Any]], name: str | None = None) -> "Dataset":
        """The samples at these positions, copied, with their weights."""
        weights = None if self.weights is None else self.weights[rows]
        return Dataset(self.inputs[rows], self.targets[rows], self.name if name is None else name, weights)

    def __len__(self) -> int:
        return len(self.inputs)

    def _summary(self) -> Summary:
        """Reads the first few samples only."""
        what = [f"{array.dtype} {array.shape[1:] or ''}".rstrip() for array in (self.inputs, self.targets)]
        samples, name = count(len(self), "sample"), quoted(self.name)
        rows = [("name", name), ("samples", f"{len(self):,}"), ("inputs", what[0]), ("targets", what[1])]
        weighted = ""
        if self.weights is not None:
            extremes = f"{self.weights.min():g} to {self.weights.max():g}"
            weighted = f", weights {extremes}"
            rows.append(("weights", extremes))
        line = f"Dataset({name}, {samples}, inputs {what[0]}, targets {what[1]}{weighted})"
        return Summary(line, [Table((), rows, texts=2), thumbnails(self.inputs, self.targets)])

    __str__ = Displayed.__repr__

    @property
    def classes(self) -> int:
        """How many classes the targets name: the largest label + 1."""
        return int(self.targets.max()) + 1


def sample_weights(labels: NDArray[Any], class_weights: str | Mapping[int, float] = "balanced") -> NDArray[np.float32]:
    """Weights of samples from weights of their classes: ``(n,)`` labels -> ``(n,)`` float32, for ``Dataset(weights=)``.

    With "balanced" every class that occurs has the same total weight, and all together have n: a sample of class c has
    the weight ``n / (classes * samples of c)``. A mapping gives the weight of each class; those it leaves out have 1.

    Raises ValueError if a weight is not a finite number of at least 0, or if the mapping names a class that does not
    occur and leaves out one that does.

    >>> import numpy as np
    >>> sample_weights(np.array([0, 0, 0, 1]))
    array([0.6666667, 0.6666667, 0.6666667, 2.       ], dtype=float32)
    >>> sample_weights(np.array([0, 0, 0, 1]), {1: 5})
    array([1., 1., 1., 5.], dtype=float32)
    """
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "biu":
        raise ValueError(f"labels must be a NumPy array of whole numbers with shape (n,), got {quoted(labels)}")
    classes, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if isinstance(class_weights, str):
        if class_weights != "balanced":
            raise ValueError(f'class_weights must be "balanced" or a mapping, got {quoted(class_weights)}')
        values = len(labels) / (len(classes) * counts)
    elif isinstance(class_weights, Mapping):
        given = {
            whole_number("a class of class_weights", label): real_number(
                f"the weight of class {label}", weight, NOT_NEGATIVE
            )
            for label, weight in class_weights.items()
        }
        absent, left_out = given.keys() - set(classes.tolist()), set(classes.tolist()) - given.keys()
        if absent and left_out:
            raise ValueError(
                f"class_weights names class {min(absent)}, which does not occur, and leaves out class {min(left_out)}"
            )
        values = np.array([given.get(label, 1.0) for label in classes.tolist()])
    else:
        raise ValueError(f'class_weights must be "balanced" or a mapping, got {quoted(class_weights)}')
    weights: NDArray[np.float32] = values.astype(np.float32)[place]
    return weights


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
