"""LeNet-5 for given images: their size, channels, classes and unit, and how to normalise them."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.arithmetic import sum_of
from parallel_lenet.datasets import Dataset, DatasetError
from parallel_lenet.datasets.arrays import CHANNELS, arrange
from parallel_lenet.datasets.values import parts
from parallel_lenet.network import pixels
from parallel_lenet.network.lenet5 import lenet5
from parallel_lenet.network.sequential import Sequential

Array = NDArray[Any]


def lenet5_for(data: Dataset, **settings: Any) -> Sequential:
    """LeNet-5 for these images: `lenet5` with what `settings_for` finds in them, except what ``settings`` give.

    Raises ValueError as `lenet5` does.

    >>> import numpy as np
    >>> data = Dataset(np.arange(2 * 3 * 8 * 8, dtype=np.uint8).reshape(2, 3, 8, 8), np.array([0, 4]))
    >>> network = lenet5_for(data, kernel="im2col", activation="relu")
    >>> network.classes, network.images.channels, network.images.image_size
    (5, 3, (8, 8))
    """
    return lenet5(**(settings_for(data) | settings))


def settings_for(data: Dataset) -> dict[str, Any]:
    """The arguments of `lenet5` for these images ``(n, h, w)`` or ``(n, c, h, w)``.

    If the last axis has 1 or 3 entries, and the second one more than 4, the images are taken as ``(n, h, w, c)``.
    Images of several channels get a mean and a standard deviation for each channel. The numbers are the same on every
    machine: sums of whole-number pixels are exact, others are added in a fixed order. The computation needs less than
    half as much memory as the images. Raises DatasetError if they have another number of axes, or pixels
    beyond 1e38.
    """
    images = data.inputs
    if images.ndim not in (3, 4):
        raise DatasetError(
            f"{data.name}: images must have the shape (n, h, w) or (n, c, h, w), got {images.shape}; "
            "Dataset.from_arrays(..., image_shape=(h, w)) arranges rows of pixels"
        )
    if images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in CHANNELS:
        images = arrange(images, channels="last")
    problem = pixels.too_large(images)
    if problem is not None:
        raise DatasetError(f"{data.name}: images {problem}")
    unit = pixels.recognise(images)
    low, high = pixels.extremes(images)
    black, span = (0.0, 1.0) if unit.white is None else (unit.black, unit.white - unit.black)
    shade = ((high - low) if unit.white is None else span) / 255
    channels = [images] if images.ndim == 3 else [images[:, channel] for channel in range(images.shape[1])]
    moments = [_moments(channel) for channel in channels]
    means = tuple((mean - black) / span for mean, _ in moments)
    # Blank images have a deviation of 0, which can't be a divisor.
    stds = tuple((math.sqrt(max(variance, shade * shade)) or 1.0) / span for _, variance in moments)
    return {
        "channels": len(channels),
        "classes": max(2, data.classes if data.class_names is None else len(data.class_names)),
        "image_size": images.shape[-2:],
        "mean": means if len(channels) > 1 else means[0],
        "std": stds if len(channels) > 1 else stds[0],
        "pixel_min": unit.black,
        "pixel_max": unit.white,
    }


def _moments(images: Array) -> tuple[float, float]:
    """The mean and the variance of all pixels."""
    most = min(2**18, max(images.size // 64, 256))
    largest = max(map(abs, pixels.extremes(images)))
    exact = images.dtype.kind in "bui" and largest * largest * most < 2**62
    sums = []
    squares = []
    for part in parts(images, most):
        values = part.astype(np.int64 if exact else np.float64, order="C").ravel()
        sums.append(values.sum().item() if exact else sum_of(values.copy()))
        np.square(values, out=values)
        squares.append(values.sum().item() if exact else sum_of(values))
    add = sum if exact else math.fsum
    mean = float(add(sums)) / images.size
    return mean, float(add(squares)) / images.size - mean * mean
