"""Image files and arrays of any kind, as floats from 0, black, to 1, white."""

import os
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import optional
from parallel_lenet.checks import quoted
from parallel_lenet.image_files import MOST_SIDE, PURPOSE, PictureError, open_image
from parallel_lenet.network import pixels
from parallel_lenet.resizing import area_means

Array = NDArray[Any]

MOST_BYTES = 2**28  # Of a stream, which is read completely. No file of 50 million pixels is larger.
CHANNELS = (1, 2, 3, 4)  # Grey, grey and opacity, colours, colours and opacity.


def load(picture: object, longest: int) -> Array:
    """The first image of a file or a binary stream, or an array, ``(h, w, 1)`` or ``(h, w, 3)``, upright and opaque.

    If the longer side has more than ``longest`` pixels, the image is reduced to that. Transparent parts become white,
    or black if the rest is light. Arrays are ``(h, w)`` or ``(h, w, c)``: grey, grey and opacity, colours, or colours
    and opacity.

    Raises PictureError if it can't be read, TypeError if it is none of these, and ExtraError if Pillow,
    which reads files, is missing.
    """
    if isinstance(picture, np.ndarray):
        values = _from_array(picture)
    else:
        values = _from_stream(picture, longest) if hasattr(picture, "read") else _from_file(picture, longest)
    values = shrink(values, longest)
    return _flatten_opacity(values) if values.shape[2] in (2, 4) else values


def name_of(picture: object) -> str:
    """The name of a file or a stream in errors."""
    if isinstance(picture, str | os.PathLike):
        return os.fsdecode(picture)
    name = getattr(picture, "name", None)
    return name if isinstance(name, str) else "the stream"


def shrink(values: Array, longest: int) -> Array:
    """The image with its longer side at most that long. Each pixel is the mean of the area that it covers."""
    scale = min(1.0, longest / max(values.shape[:2]))
    return area_means(values, *(max(1, round(side * scale)) for side in values.shape[:2]))


def _from_array(array: Array) -> Array:
    channels = 1 if array.ndim == 2 else array.shape[-1]
    if array.ndim not in (2, 3) or channels not in CHANNELS or array.size == 0:
        raise PictureError(f"an image must be an array (h, w) or (h, w, c) with 1 to 4 channels c, got {array.shape}")
    if max(array.shape[:2]) > MOST_SIDE:
        raise PictureError(f"an image must have sides of at most {MOST_SIDE:,} pixels, got {array.shape}")
    if array.dtype.kind not in "buif":
        raise PictureError(f"an image must hold numbers, got {array.dtype}")
    return _scale(array.reshape(*array.shape[:2], channels))


def _scale(values: Array, prefix: str = "") -> Array:
    """The values from 0 to 1, by the unit that they are probably in. ``prefix`` begins the error for NaN."""
    if values.dtype == np.uint8:
        return values / 255
    values = values.astype(np.float64)
    low, high = pixels.extremes(values)
    if not np.isfinite([low, high]).all():
        raise PictureError(f"{prefix}an image must hold finite numbers, not NaN or infinity")
    unit = pixels.recognise(values)
    white = high if unit.white is None else unit.white
    return np.asarray((values - unit.black) / ((white - unit.black) or 1.0))


def _flatten_opacity(values: Array) -> Array:
    colours = values[..., :-1]
    opacity = values[..., -1:]
    visible = (colours * opacity).sum() / max(opacity.sum() * colours.shape[2], 1e-9)
    return np.asarray(colours * opacity + (visible < 0.5) * (1 - opacity))


def _from_file(path: object, longest: int) -> Array:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"an image must be the path of a file, a binary stream or an array, got {quoted(path)}")
    with open_image(path, name_of(path)) as image:
        return _from_image(image, longest, name_of(path))


def _from_stream(stream: Any, longest: int) -> Array:
    """The image of a binary stream, which may be a pipe."""
    name = name_of(stream)
    try:
        content = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise PictureError(f"{name}: can't be read: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(content, bytes):
        raise TypeError(f"an image must be read from a binary stream, got one of {type(content).__name__}")
    if len(content) > MOST_BYTES:
        raise PictureError(f"{name}: is too large: at most {MOST_BYTES:,} bytes are read")
    with open_image(content, name) as image:
        return _from_image(image, longest, name)


def _from_image(image: Any, longest: int, name: str) -> Array:
    """The pixels of an open image of Pillow, not much larger than needed. Errors call it ``name``."""
    operations = optional.load("pictures", "PIL", PURPOSE, "PIL.ImageOps")
    image.draft(None, (2 * longest, 2 * longest))  # JPEG files are decoded smaller.
    image.load()
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        image = image.convert("I")
    elif image.mode == "LAB":
        image = image.getchannel(0)
    elif image.mode in ("CMYK", "YCbCr", "HSV", "RGBX"):
        image = image.convert("RGB")
    if image.mode in ("L", "RGB") and "transparency" in image.info:
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    scale = min(1.0, longest / max(image.size))
    size = [max(1, round(side * scale)) for side in image.size]
    if size != list(image.size):
        image = image.resize(size, resample=4)  # BOX: the mean of an area.
    with suppress(Exception):  # Damaged metadata: the image is not turned.
        image = operations.exif_transpose(image)
    values = np.asarray(image)
    return _scale(values.reshape(*values.shape[:2], -1), f"{name}: ")
