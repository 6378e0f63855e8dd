"""Brings arrays of images and labels into the package's order, and numbers their classes.

The package's order is ``(n, h, w)`` for grey images and ``(n, c, h, w)``, channels first, for others. Channels last are
accepted too. If the order is not clear, the error names the argument that decides.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import quoted, whole_number
from parallel_lenet.datasets.values import PART, DatasetError, is_finite, parts

Array = NDArray[Any]

CHANNELS = (1, 2, 3, 4)  # Numbers that are recognised: grey or colours, with or without opacity.
# Each class is a row of the model. More are most likely 32-bit labels stored little-endian: 1 is 2**24.
MAX_CLASSES = 1_000_000
ORDERS = ("first", "last")


def arrange(
    images: Array,
    *,
    name: str = "images",
    channels: str | None = None,
    image_shape: Sequence[int] | None = None,
) -> Array:
    """The images as ``(n, h, w)``, or ``(n, c, h, w)`` if there are several channels: a view, nothing is copied.

    - ``channels``: "first" for ``(n, c, h, w)``, "last" for ``(n, h, w, c)``. By default the axis with 1 to 4 entries.
    - ``image_shape``: the shape of one image, needed for rows of pixels, ``(n, pixels)``.

    Raises DatasetError if the array can't be images, or if its order is not clear.
    """
    if channels not in (None, *ORDERS):
        raise ValueError(f"channels must be 'first', 'last' or None, got {quoted(channels)}")
    if images.ndim == 0 or images.size == 0:
        raise DatasetError(f"{name}: there are no images, the array has the shape {images.shape}")
    if image_shape is not None:
        shape = shape_of_one(image_shape)
        if images.shape[1:] != shape and (images.ndim != 2 or images.shape[1] != math.prod(shape)):
            raise DatasetError(
                f"{name}: images of image_shape={shape} must have the shape (n, {', '.join(map(str, shape))}) or "
                f"(n, {math.prod(shape)}), got {images.shape}"
            )
        images = images.reshape(-1, *shape)
    if images.ndim == 3:
        return images
    if images.ndim == 4:
        return _channels_first(images, name, channels)
    hint = ""
    if images.ndim == 2:
        side = math.isqrt(images.shape[1])
        sides = f"{side}, {side}" if side * side == images.shape[1] else "h, w"
        hint = (
            f": rows of {images.shape[1]} pixels need image_shape=({sides}) of Dataset.from_arrays; "
            f"for a file, give them their shape with reshape(-1, {sides}) before they are saved"
        )
    raise DatasetError(
        f"{name}: images must have the shape (n, h, w), (n, c, h, w) or (n, h, w, c), got {images.shape}{hint}"
    )


def shape_of_one(image_shape: object) -> tuple[int, ...]:
    """``(h, w)``, ``(c, h, w)`` or ``(h, w, c)`` as a tuple. Raises ValueError for anything else."""
    if not isinstance(image_shape, tuple | list) or len(image_shape) not in (2, 3):
        raise ValueError(f"image_shape must be (h, w), (c, h, w) or (h, w, c), got {quoted(image_shape)}")
    return tuple(whole_number("each number of image_shape", size, 1) for size in image_shape)


def _channels_first(images: Array, name: str, channels: str | None) -> Array:
    if channels is None:
        found = [order for order, axis in zip(ORDERS, (1, 3), strict=True) if images.shape[axis] in CHANNELS]
        if len(found) != 1:
            reason = "either axis could be the channels" if found else f"no axis has {CHANNELS[0]} to {CHANNELS[-1]}"
            raise DatasetError(
                f"{name}: it is not clear where the channels of images of shape {images.shape} are, {reason}: "
                "channels='first' or channels='last' decides"
            )
        (channels,) = found
    images = np.moveaxis(images, 3, 1) if channels == "last" else images
    return images[:, 0] if images.shape[1] == 1 else images


def class_labels(
    labels: Array, name: str = "labels", known: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
    """The labels as int64 ``(n,)`` from 0 on, and the classes' names if the labels are text.

    Whole numbers of any type keep their values, and ``(n, 1)`` becomes ``(n,)``. Text is numbered in the order of
    ``known``, by default sorted. Raises DatasetError if a label is negative, not whole, too large, or not among the
    known ones.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) == 0:
        one_hot = ": if a row has a 1 at its class, pass labels.argmax(axis=1)" if labels.ndim == 2 else ""
        raise DatasetError(f"{name}: labels must have the shape (n,), one per image, got {labels.shape}{one_hot}")
    if labels.dtype.kind in "US":
        return _numbers(labels, name, known)
    if labels.dtype.kind not in "buif":
        raise DatasetError(f"{name}: labels must be whole numbers or text, got an array of {labels.dtype}")
    for part in parts(labels, PART):
        is_whole = part == np.floor(part) if part.dtype.kind == "f" else np.ones(len(part), bool)
        if not is_whole.all() or not is_finite(part):
            raise DatasetError(f"{name}: labels must be whole numbers, got {part[~is_whole | ~np.isfinite(part)][0]}")
    most = MAX_CLASSES if known is None else len(known)
    for label in (labels.min(), labels.max()):
        if not 0 <= label < most:
            raise DatasetError(
                f"{name}: label {int(label)} is out of range; allowed are 0 to {most - 1}"
                + (": np.unique(labels, return_inverse=True)[1] numbers them from 0" if label < 0 else "")
            )
    return labels.astype(np.int64), None if known is None else tuple(known)


def _numbers(labels: Array, name: str, known: Sequence[str] | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    try:
        found, rows = np.unique(labels if labels.dtype.kind == "U" else np.char.decode(labels), return_inverse=True)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{name}: labels must be text in UTF-8: {error}") from error
    names = list(known) if known is not None else class_order(found.tolist())
    positions = {each: i for i, each in enumerate(names)}
    unknown = [each for each in found.tolist() if each not in positions]
    if unknown:
        raise DatasetError(f"{name}: label {quoted(unknown[0])} is not one of the classes, {quoted(names)}")
    numbers = np.array([positions[each] for each in found.tolist()], np.int64)
    return numbers[rows.reshape(-1)], tuple(names)


def class_order(names: Sequence[str]) -> list[str]:
    """The names, sorted as numbers if all are numbers, else as text. Their positions are the labels."""
    if all(name.isascii() and name.isdecimal() and len(name) < 20 for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
