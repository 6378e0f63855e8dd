"""``predictions.npz``: the predictions of a trained network for the test images, and some images for a report.

With this file a report needs no other images. The file has the format of a checkpoint: a hash of its content is
checked, and it is untrusted. It holds small copies of the images of the worst mistakes, and one whole image.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import archive
from parallel_lenet.archive import CheckpointError
from parallel_lenet.checks import quoted, whole_number
from parallel_lenet.datasets import Dataset
from parallel_lenet.display import count
from parallel_lenet.engines.serial import one_blas_thread
from parallel_lenet.network.losses import CROSS_ENTROPY
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector
from parallel_lenet.runs import RunError

Array = NDArray[Any]

FILE = "predictions.npz"
MOST_MISTAKES = 25  # The worst ones.
SIDE = 48  # Pixels of the longer side of an image to show, at most.
MOST_IMAGES = 250  # In a block.
MOST_NUMBERS = 2**25  # That the images of a block become in all layers.
MOST_CLASSES = 2**20  # In a file.


@dataclass(frozen=True)
class Mistake:
    """A test image that the network took for another class."""

    row: int
    """The position among the test images, counted from 0."""
    label: int
    predicted: int
    probabilities: Array
    """The probabilities of all classes, float32."""
    picture: Array
    """The image to show, uint8 ``(h, w)`` or ``(h, w, 3)``."""


@dataclass(frozen=True)
class Predictions:
    """The predictions for the test images. If time is short, for as many as possible, spread evenly."""

    data: str
    """The name of the dataset."""
    step: int
    """The step after which the network had these parameters."""
    images: int
    """The number of all test images."""
    labels: Array
    """The right classes, int64, one per image that was predicted."""
    predicted: Array
    """The predicted classes, int64."""
    classes: int
    mistakes: tuple[Mistake, ...]
    """The worst mistakes: those with the smallest probability of the right class."""
    example: Array
    """One image as the network takes it, ``(1, c, h, w)``: the first with a right prediction, or the first."""
    example_label: int

    @property
    def correct(self) -> int:
        """The number of images that were right."""
        return int((self.labels == self.predicted).sum())

    def confusion(self) -> Array:
        """``(classes, classes)``: how many images of a row's class were taken for a column's class."""
        table = np.zeros((self.classes, self.classes), np.int64)
        np.add.at(table, (self.labels, self.predicted), 1)
        return table


def predict(model: Sequential, parameters: Vector, step: int, test: Dataset, seconds: float = math.inf) -> Predictions:
    """Predict the images, or as many as ``seconds`` allow, in this process.

    Raises ValueError for NaN or infinity, and for a network that predicts no classes.
    """
    if model.loss != CROSS_ENTROPY:
        raise ValueError(f"a network with the loss {model.loss!r} predicts numbers, not classes")
    count = len(test)
    order = _spread(count)
    end = math.inf
    blocks: list[Array] = []
    at_once = max(1, min(MOST_IMAGES, MOST_NUMBERS // sum(map(math.prod, model.shapes))))
    for start in range(0, count, at_once):
        with one_blas_thread():
            scores = model.scores(parameters, test.inputs[order[start : start + at_once]])
        if not np.isfinite(scores).all():
            raise ValueError("the network's scores hold NaN or infinity")
        blocks.append(scores.astype(np.float64))
        if start == 0:  # The first block may compile, or load compiled code.
            end = time.monotonic() + seconds
        if time.monotonic() > end:
            break
    scores = np.concatenate(blocks)
    rows = order[: len(scores)]
    sorting = np.argsort(rows)
    rows = rows[sorting]
    scores = scores[sorting]
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = test.targets[rows].astype(np.int64)
    predicted = scores.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst_rows = wrong[np.argsort(probabilities[wrong, labels[wrong]], kind="stable")][:MOST_MISTAKES]
    channels_first = model.images.channels_first
    mistakes = tuple(
        Mistake(
            *(int(rows[i]), int(labels[i]), int(predicted[i]), probabilities[i].astype(np.float32)),
            picture(channels_first(test.inputs[rows[i] : rows[i] + 1])[0], model),
        )
        for i in worst_rows
    )
    example_row = int(next(iter(np.flatnonzero(predicted == labels)), 0))
    example = np.ascontiguousarray(channels_first(test.inputs[rows[example_row] : rows[example_row] + 1]))
    if example.dtype != np.uint8:
        example = example.astype(np.float64)
    classes = scores.shape[1]
    return Predictions(test.name, step, count, labels, predicted, classes, mistakes, example, int(labels[example_row]))


def _spread(count: int) -> Array:
    """All rows, in an order in which any number of first ones is spread evenly."""
    step = max(1, round(count * 0.618))
    while math.gcd(step, count) != 1:
        step += 1
    return np.arange(count) * step % max(1, count)


def picture(image: Array, model: Sequential, side: int = SIDE) -> Array:
    """A network's image ``(c, h, w)`` for a page: uint8 ``(h, w)`` or ``(h, w, 3)``, no longer than ``side``."""
    unit = model.images.unit
    values = image.astype(np.float64)
    low, high = (values.min(), values.max()) if unit.white is None else (unit.black, unit.white)
    values = np.nan_to_num((values - low) / ((high - low) or 1.0) * 255).clip(0, 255)
    values = values.transpose(1, 2, 0) if len(values) == 3 else values.mean(axis=0)
    factor = -(-max(values.shape[:2]) // side)
    if factor > 1:  # The mean of each square. What does not fill a square at an edge is left out, unless that is all.
        height, width = (max(1, length // factor) for length in values.shape[:2])
        rows, columns = (
            np.arange(n) * length // n for n, length in zip((height, width), values.shape[:2], strict=True)
        )
        sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
        ones = np.ones(values.shape[:2])
        counts = np.add.reduceat(np.add.reduceat(ones, rows, axis=0), columns, axis=1)
        values = sums / (counts if values.ndim == 2 else counts[..., np.newaxis])
    return np.rint(values).astype(np.uint8)


def is_picture(array: Array) -> bool:
    """Whether this is what `picture` returns."""
    return array.dtype == np.uint8 and array.size > 0 and (array.ndim == 2 or array.shape[2:] == (3,))


def save(folder: Path, predictions: Predictions) -> None:
    """Write the file. Raises OSError if it can't be written."""
    mistakes = predictions.mistakes
    arrays = {
        "labels": predictions.labels.astype("<f8"),
        "predicted": predictions.predicted.astype("<f8"),
        "probabilities": np.concatenate([np.empty(0, "<f4"), *(each.probabilities for each in mistakes)]).astype("<f4"),
        "pictures": np.concatenate([np.empty(0, np.uint8), *(each.picture.reshape(-1) for each in mistakes)]),
        "example": predictions.example.reshape(-1),
    }
    metadata = {
        "data": predictions.data,
        "step": predictions.step,
        "images": predictions.images,
        "classes": predictions.classes,
        "mistakes": [[each.row, each.label, each.predicted] for each in mistakes],
        "picture_shape": list(mistakes[0].picture.shape) if mistakes else [],
        "example_shape": list(predictions.example.shape),
        "example_label": predictions.example_label,
    }
    archive.save(folder / FILE, arrays, metadata)


def load(folder: Path) -> Predictions | None:
    """The predictions of a run, or None if it has none. Raises RunError if the file is damaged."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        arrays, metadata = archive.load(path)
    except CheckpointError as error:
        raise RunError(str(error)) from error
    try:
        return _predictions(arrays, metadata)
    except KeyError as error:
        raise RunError(f"{path}: is damaged: {error} is missing") from error
    except ValueError as error:
        raise RunError(f"{path}: is damaged: {error}") from error


def _predictions(arrays: Mapping[str, Array], metadata: dict[str, Any]) -> Predictions:
    """The content of a file. Raises KeyError if a part is missing, and ValueError if a value is not allowed."""
    classes = whole_number("classes", metadata["classes"], 1, MOST_CLASSES)
    mistakes = metadata["mistakes"]
    if not isinstance(mistakes, list) or len(mistakes) > MOST_MISTAKES or not all(map(_is_mistake, mistakes)):
        raise ValueError(
            f"mistakes must be at most {MOST_MISTAKES} lists of three whole numbers, got {quoted(mistakes)}"
        )
    rows = np.array(mistakes, np.int64).reshape(len(mistakes), 3)
    _labels(rows[:, 1:].ravel(), classes)
    labels = _labels(arrays["labels"], classes)
    predicted = _labels(arrays["predicted"], classes)
    if len(labels) != len(predicted):
        raise ValueError(f"it has {count(len(labels), 'label')} and {count(len(predicted), 'prediction')}")
    probabilities = _reshape("probabilities", arrays, (len(mistakes), classes))
    pictures: list[Array] = []
    if mistakes:
        pictures = list(_reshape("pictures", arrays, (len(mistakes), *_shape("picture_shape", metadata))))
    if not np.isfinite(probabilities).all() or not all(map(is_picture, pictures)):
        raise ValueError("its pictures or probabilities are of the wrong kind")
    return Predictions(
        data=str(metadata["data"]),
        step=whole_number("step", metadata["step"], 0),
        images=whole_number("images", metadata["images"], 0),
        labels=labels,
        predicted=predicted,
        classes=classes,
        mistakes=tuple(
            Mistake(int(row), int(label), int(predicted_label), *arrays_of_row)
            for (row, label, predicted_label), *arrays_of_row in zip(rows, probabilities, pictures, strict=True)
        ),
        example=_reshape("example", arrays, _shape("example_shape", metadata)),
        example_label=whole_number("example_label", metadata["example_label"], 0),
    )


def _is_mistake(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 3 and all(type(each) is int and 0 <= each < 2**62 for each in value)
    )


def _shape(name: str, metadata: dict[str, Any]) -> tuple[int, ...]:
    sizes = metadata[name]
    if not isinstance(sizes, list) or len(sizes) > 4 or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(f"{name} must be a list of at most four whole numbers, got {quoted(sizes)}")
    return tuple(sizes)


def _reshape(name: str, arrays: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    array = arrays[name]
    if array.size != math.prod(shape):
        raise ValueError(f"{name} holds {array.size:,} numbers, which do not have the shape {shape}")
    return array.reshape(shape)


def _labels(numbers: Array, classes: int) -> Array:
    if not ((numbers >= 0) & (numbers < classes)).all():
        raise ValueError(f"it holds labels outside 0 to {classes - 1}")
    return numbers.astype(np.int64)
