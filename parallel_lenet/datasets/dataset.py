"""Datasets: inputs and targets, one row per sample, checked once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import quoted, require_unmasked
from parallel_lenet.datasets.arrays import arrange, class_labels
from parallel_lenet.datasets.values import DatasetError, is_finite
from parallel_lenet.display import Displayed, Summary, Table, count
from parallel_lenet.display.thumbnails import thumbnails
from parallel_lenet.network import pixels


@dataclass(frozen=True, repr=False)
class Dataset(Displayed):
    """Inputs and their targets, sample by sample.

    ``inputs`` is ``(n, ...)``: for images ``(n, h, w)`` or ``(n, c, h, w)``, preferably as the uint8 numbers that files
    hold. For channels last, and for other pixels than 0 to 255, see `Images`. ``targets`` is ``(n,)``: for classes the
    integers 0 to k - 1, which ``class_names``, if given, names. Nothing writes to them. `from_arrays` takes arrays
    in other orders, and labels that are text.

    ``weights`` says how much each sample counts: ``(n,)`` finite numbers of at least 0, not all 0, kept as float32. The
    loss of a batch is ``sum(weight * loss) / sum(weight)``, and its gradient likewise. So a sample of weight 2 counts
    as two, one of weight 0 as none, and weights that are all 1 give bit for bit what no weights give. A batch whose
    weights are all 0 has no loss: its step is skipped. Losses of an evaluation are weighted in the same way, but
    accuracies are not. `sample_weights` makes weights for classes.

    Each call of a coordinator uses the arrays as they are at the call: it copies what has changed since the last one.
    It does not copy arrays that are mapped read-only from a file, such as ``np.load(file, mmap_mode="r")``. Such a file
    must not change during the call. Arrays that are mapped from a file are read in parts.

    Raises DatasetError if there are no samples, the lengths differ, a type isn't numeric, a value isn't finite or is
    masked, or weights are not allowed.

    >>> import numpy as np
    >>> data = Dataset(np.zeros((3, 28, 28), np.uint8), np.array([7, 2, 1]), "three blank images")
    >>> len(data), data.classes
    (3, 8)
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    name: str = "data"
    weights: NDArray[np.float32] | None = None
    class_names: tuple[str, ...] | None = None
    """The names by class, or None if the classes are only numbered."""

    def __post_init__(self) -> None:
        _require_unmasked(self.name, inputs=self.inputs, targets=self.targets, weights=self.weights)
        for role, array in (("inputs", self.inputs), ("targets", self.targets)):
            if not isinstance(array, np.ndarray):
                as_array = f": np.asarray({role}) makes one" if isinstance(array, list | tuple) else ""
                raise DatasetError(f"{self.name}: {role} must be a NumPy array, got {type(array).__name__}{as_array}")
            if array.dtype.kind not in "buif":
                raise DatasetError(f"{self.name}: {role} must be numbers, got {array.dtype}")
            if array.ndim == 0 or len(array) == 0:
                raise DatasetError(f"{self.name}: {role} hold no samples (shape {array.shape})")
            if array.dtype.kind == "f" and not is_finite(array):
                bad = next(i for i, row in enumerate(array) if not is_finite(row))
                raise DatasetError(f"{self.name}: {role} of sample {bad} hold NaN or infinity; all must be finite")
        if len(self.inputs) != len(self.targets):
            inputs = count(len(self.inputs), "input")
            targets = count(len(self.targets), "target")
            raise DatasetError(f"{self.name}: {inputs} but {targets}")
        if self.weights is not None:
            object.__setattr__(self, "weights", self._single_weights(self.weights))
        if self.class_names is not None and self.classes > len(self.class_names):
            raise DatasetError(
                f"{self.name}: label {self.classes - 1} has no name; class_names has {len(self.class_names)}"
            )

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any,
        *,
        name: str = "data",
        channels: str | None = None,
        image_shape: Sequence[int] | None = None,
        weights: Any = None,
        class_names: Sequence[str] | None = None,
    ) -> Self:
        """A dataset of images in any usual order, with labels that are whole numbers or text.

        ``images`` are ``(n, h, w)``, ``(n, c, h, w)``, ``(n, h, w, c)``, or rows of pixels ``(n, pixels)``. Rows need
        ``image_shape``, which is ``(h, w)``, ``(c, h, w)`` or ``(h, w, c)``. The images become a view ``(n, h, w)`` or,
        if they have several channels, ``(n, c, h, w)``. Nothing is copied. ``channels`` is "first" or "last". It is
        needed only if both axes, or neither, have 1 to 4 entries.

        ``labels`` that are text are numbered in the order of ``class_names``, by default sorted (as numbers if all are
        numbers). `description` says what was understood.

        Raises DatasetError if there are no images, if a pixel is beyond 1e38, or if the array's order is not clear. It
        is also raised if a label is negative, not whole or not one of ``class_names``.

        >>> import numpy as np
        >>> colours = np.zeros((4, 20, 30, 3), np.uint8)
        >>> colours[0] = 255
        >>> data = Dataset.from_arrays(colours, ["cat", "dog", "cat", "owl"])
        >>> data.description
        '4 images, 20 high and 30 wide, 3 channels; uint8 pixels from 0 to 255, taken as 0 to 255; classes cat to owl'
        >>> data.inputs.shape, data.targets.tolist()
        ((4, 3, 20, 30), [0, 1, 0, 2])
        """
        _require_unmasked(name, images=images, labels=labels, weights=weights)
        pictures = np.asarray(images)
        marks = np.asarray(labels)
        if pictures.dtype.kind not in "buif":
            raise DatasetError(f"{name}: images must be numbers, got {pictures.dtype}")
        if marks.ndim and pictures.ndim > 1 and len(pictures) != len(marks) == pictures.shape[-1]:
            raise DatasetError(
                f"{name}: {count(len(marks), 'label')} for images of shape {pictures.shape}: the images must be along "
                "the first axis, as np.moveaxis(images, -1, 0) makes them"
            )
        pictures = arrange(pictures, name=name, channels=channels, image_shape=image_shape)
        problem = pixels.too_large(pictures) if pictures.size else None
        if problem is not None:
            raise DatasetError(f"{name}: images {problem}")
        targets, names = class_labels(marks, name, class_names)
        return cls(pictures, targets, name, None if weights is None else np.asarray(weights), names)

    @property
    def description(self) -> str:
        """The number of images, their size, channels, pixels and unit, and their classes.

        Reads all pixels once. Other data than images are described by number and shape.
        """
        shape = self.inputs.shape
        if self.inputs.ndim not in (3, 4) or self.targets.ndim != 1 or self.targets.dtype.kind not in "bui":
            return f"{count(len(self), 'sample')} of shape {shape[1:]}"
        colours = "1 channel" if self.inputs.ndim == 3 else count(shape[1], "channel")
        low, high = pixels.extremes(self.inputs)
        ends = (str(self.targets.min()), str(self.targets.max()))
        if self.class_names is not None:
            ends = self.class_names[0], self.class_names[-1]
        return (
            f"{count(len(self), 'image')}, {shape[-2]} high and {shape[-1]} wide, {colours}; "
            f"{self.inputs.dtype} pixels from {low:g} to {high:g}, taken as {pixels.recognise(self.inputs)}; "
            f"classes {ends[0]} to {ends[1]}"
        )

    def _single_weights(self, weights: NDArray[Any]) -> NDArray[np.float32]:
        """The weights as float32. Raises DatasetError if they are not allowed."""
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
        """The samples at these positions, copied, with their weights and the names of the classes."""
        weights = None if self.weights is None else self.weights[rows]
        name = self.name if name is None else name
        return Dataset(self.inputs[rows], self.targets[rows], name, weights, self.class_names)

    def __len__(self) -> int:
        return len(self.inputs)

    def _summary(self) -> Summary:
        """Reads the first few samples only."""
        name = quoted(self.name)
        samples = count(len(self), "sample")
        inputs, targets = (f"{array.dtype} {array.shape[1:] or ''}".rstrip() for array in (self.inputs, self.targets))
        rows = [("name", name), ("samples", f"{len(self):,}"), ("inputs", inputs), ("targets", targets)]
        weights = ""
        if self.weights is not None:
            extremes = f"{self.weights.min():g} to {self.weights.max():g}"
            weights = f", weights {extremes}"
            rows.append(("weights", extremes))
        line = f"Dataset({name}, {samples}, inputs {inputs}, targets {targets}{weights})"
        return Summary(line, [Table((), rows, texts=2), thumbnails(self.inputs, self.targets)])

    __str__ = Displayed.__repr__

    @property
    def classes(self) -> int:
        """How many classes the targets name: the largest label + 1."""
        return int(self.targets.max()) + 1


def _require_unmasked(dataset: str, **arrays: object) -> None:
    try:
        for role, array in arrays.items():
            require_unmasked(role, array)
    except ValueError as error:
        raise DatasetError(f"{dataset}: {error}") from None
