"""Prepares images of digits, of any kind and size, in the way that MNIST was made.

- `files` reads files, and scales arrays.
- `ink` finds the drawing on a page of any paper and in any light. `components` are its pieces.
- `digit` cuts it out, scales and centres it, exactly as `digit.js` of the pad in a report does.
- `unit` converts it to the pixels that a network takes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.image_files import PictureError
from parallel_lenet.network.images import Images
from parallel_lenet.pictures import files
from parallel_lenet.pictures.digit import FIELD, digit
from parallel_lenet.pictures.ink import ink
from parallel_lenet.pictures.unit import in_unit
from parallel_lenet.resizing import area_means

Array = NDArray[Any]

LONGEST = 400  # Pixels of the longer side in which the digit is searched.
LUMA = np.array([0.299, 0.587, 0.114])  # Of red, green and blue, as Pillow makes grey.
ROUNDING = 8  # Grey levels by which a prepared picture may differ from the result of preparing it again.


def read_digit(picture: object, image_size: tuple[int, int] = (FIELD, FIELD)) -> Array:
    """The digit in a picture as MNIST has them: uint8 of ``image_size``, light on black.

    ``picture`` is the path of an image file, a binary stream of one, or an array ``(h, w)`` or ``(h, w, c)`` of any
    number type. Files may be PNG, JPEG, GIF, BMP, WebP, TIFF, AVIF, JPEG 2000 or PPM. The picture may be drawn, scanned
    or photographed, grey or in colour, dark on light or light on dark, with uneven light, noise and specks. The digit
    is cut out. Its longer side becomes 20 pixels long, and its centre of mass is the centre of 28 x 28. Another
    ``image_size`` is in proportion. Thin strokes are made as wide as MNIST's. An image that is prepared already is
    returned unchanged.

    Raises PictureError if the picture can't be read or nothing is drawn on it. Only the first of several images in a
    file is read. Reading files needs Pillow: ``pip install 'parallel-lenet[pictures]'``.
    """
    values = files.load(picture, LONGEST)
    prepared_digit = _prepared_ink(values, image_size)
    if prepared_digit is not None:
        return prepared_digit
    amount = ink(values)
    result = digit(amount, image_size) if amount is not None else None
    if result is None:
        where = "" if isinstance(picture, np.ndarray) else f"{files.name_of(picture)}: "
        raise PictureError(f"{where}no digit found: nothing on it differs clearly from its background")
    return result


def read_image(picture: object, images: Images, whole: bool = False) -> Array:
    """A picture as one image ``(1, c, h, w)`` of a network whose first layer is ``images``.

    A network for colours gets the whole picture, resized. So does one for grey images if ``whole`` is true. Otherwise
    it gets the digit (see `read_digit`). Raises as `read_digit` does.
    """
    if images.channels == 1 and not whole:
        return in_unit(read_digit(picture, images.height_and_width), images)
    height, width = images.height_and_width
    values = files.load(picture, 4 * max(height, width))
    if images.channels == 1:
        grey = values @ LUMA if values.shape[2] == 3 else values[..., 0]
        return in_unit(np.rint(255 * area_means(grey, height, width)).astype(np.uint8), images)
    if images.channels != 3:
        raise PictureError(f"images of files have 1 or 3 channels, but this network takes {images.channels}")
    means = area_means(np.repeat(values, 3 // values.shape[2], axis=2), height, width)
    return in_unit(np.rint(255 * np.moveaxis(means, 2, 0)).astype(np.uint8), images)


def _prepared_ink(values: Array, image_size: tuple[int, int]) -> Array | None:
    """The pixels of a picture that is prepared already, light on black. None for any other picture."""
    if values.shape[:2] != image_size:
        return None
    grey: Array = np.rint(255 * values.mean(axis=2)).astype(np.uint8)
    inverse: Array = 255 - grey
    for each in (grey, inverse):
        prepared_digit = digit(each, image_size)
        if prepared_digit is not None and np.abs(prepared_digit.astype(int) - each).max() <= ROUNDING:
            return each
    return None
