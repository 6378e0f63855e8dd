"""Converts a digit's ink to pixels in a network's unit."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.network.images import MEAN, STD, Images

Array = NDArray[Any]


class BlackAndWhite(NamedTuple):
    """The pixels that stand for no ink and full ink."""

    black: float
    white: float


def black_and_white(images: Images) -> BlackAndWhite:
    """The pixels of a network for black and white. Standardised pixels are taken to be MNIST's."""
    if images.pixel_max is not None:
        return BlackAndWhite(images.pixel_min, images.pixel_max)
    mean = float(np.mean(images.mean))
    std = float(np.mean(images.std))
    return BlackAndWhite(mean - std * MEAN / STD, mean + std * (1 - MEAN) / STD)


def in_unit(image: Array, images: Images) -> Array:
    """An image ``(h, w)`` or ``(c, h, w)``, uint8, as one image ``(1, c, h, w)`` of the network's."""
    black, white = black_and_white(images)
    image = image.reshape(1, images.channels, *images.height_and_width)
    return image if (black, white) == (0, 255) else (black + image / 255 * (white - black)).astype(np.float32)
