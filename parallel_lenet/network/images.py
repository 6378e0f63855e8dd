"""`Images`, the first layer: stored images of any number type, prepared for the network."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import FINITE, POSITIVE, Range, quoted, real_number, whole_number
from parallel_lenet.kernels import Kernels
from parallel_lenet.network import pixels

Array = NDArray[Any]
Shape = tuple[int, ...]

CHANNELS = (1, 2, 3, 4)  # Images that get a hint: grey or colours, with or without transparency.
MEAN = 0.1307  # Mean of MNIST's training pixels, scaled to 0 to 1, and their standard deviation.
STD = 0.3081


@dataclass(frozen=True)
class Images:
    """The first layer: stored images of any number type, prepared for the network.

    Images are ``(n, c, h, w)``, channels first, or ``(n, h, w)`` if they have one channel. ``(n, h, w, c)`` is accepted
    too, unless the height equals the number of channels: then it could be either. Both orders give the same bits.

    Each is centred on a ``size`` x ``size`` field of background (larger images keep their size). Pixels from
    ``pixel_min``, the background, to ``pixel_max`` are scaled to 0 to 1, then normalised:
    ``((pixel - pixel_min) / (pixel_max - pixel_min) - mean) / std``. Training and prediction both do this here, so they
    agree. The defaults are 8-bit pixels, and MNIST's mean and standard deviation. ``mean`` and ``std`` are numbers, or
    one number for each channel: ``mean=(0.49, 0.48, 0.45)``.

    - ``image_size``: ``(height, width)`` of the stored images, or one number for both.
    - ``pixel_max``: the value of white. 255 for 8-bit images, 1 for floats from 0 to 1 and for booleans, 16 for
      scikit-learn's digits, 65535 for 16 bits. None takes the pixels as they are, for images that are standardised:
      ``(pixel - mean) / std``, with the mean and deviation of the pixels themselves (0 and 1 do not change them).
    - ``pixel_min``: the value of black: 0, or -1 for images from -1 to 1. With ``pixel_max=None`` it only decides the
      background around smaller images.

    Raises ValueError if a value is not allowed.
    """

    image_size: tuple[int, int] | int = (28, 28)
    channels: int = 1
    size: int = 32
    mean: float | tuple[float, ...] = MEAN
    std: float | tuple[float, ...] = STD
    pixel_min: float = 0.0
    pixel_max: float | None = 255.0

    def __post_init__(self) -> None:
        sides = self.image_size if isinstance(self.image_size, tuple | list) else (self.image_size, self.image_size)
        if len(sides) != 2:
            raise ValueError(f"Images: image_size must be (height, width) or one number, got {quoted(self.image_size)}")
        names = ("Images: height of image_size", "Images: width of image_size")
        image_size = tuple(whole_number(name, side, 1) for name, side in zip(names, sides, strict=True))
        object.__setattr__(self, "image_size", image_size)
        for name in ("channels", "size"):
            object.__setattr__(self, name, whole_number(f"Images: {name}", getattr(self, name), 1))
        object.__setattr__(self, "mean", _per_channel("Images: mean", self.mean, self.channels, FINITE))
        object.__setattr__(self, "std", _per_channel("Images: std", self.std, self.channels, POSITIVE))
        object.__setattr__(self, "pixel_min", real_number("Images: pixel_min", self.pixel_min, FINITE))
        if self.pixel_max is not None:
            object.__setattr__(self, "pixel_max", real_number("Images: pixel_max", self.pixel_max, FINITE))
            if not self.pixel_max > self.pixel_min:
                raise ValueError(f"Images: pixel_max must be above pixel_min, {self.pixel_min}, got {self.pixel_max}")

    @property
    def height_and_width(self) -> tuple[int, int]:
        """Height and width of the stored images."""
        assert isinstance(self.image_size, tuple)
        return self.image_size

    @property
    def unit(self) -> pixels.Unit:
        """The pixels that stand for black and white."""
        return pixels.Unit(self.pixel_min, self.pixel_max)

    @property
    def shape(self) -> Shape:
        """The shape ``(c, h, w)`` of the prepared images."""
        height, width = self.height_and_width
        return (self.channels, max(height, self.size), max(width, self.size))

    def check(self, images: Array) -> None:
        """Raises ValueError unless the images have the network's size, and pixels that can be in its unit.

        Reads all pixels once: 5 ms for the 60,000 images of MNIST.
        """
        self.channels_first(images)
        pixels.check(images, self.unit, float(np.max(self.mean)), float(np.max(self.std)))

    def channels_first(self, images: Array) -> Array:
        """A view of the images as ``(n, c, h, w)``. Raises ValueError if they do not have the network's size."""
        height, width = self.height_and_width
        channels = self.channels
        if images.ndim == 3 and channels == 1 and images.shape[1:] == (height, width):
            return images[:, np.newaxis]
        if images.shape[1:] == (channels, height, width):
            return images
        last = channels != height  # Otherwise (n, h, w, c) could be (n, c, h, w) of another size.
        if last and images.shape[1:] == (height, width, channels):
            return np.moveaxis(images, 3, 1)
        shapes = [f"(n, {height}, {width})"] * (channels == 1) + [f"(n, {channels}, {height}, {width})"]
        shapes += [f"(n, {height}, {width}, {channels})"] * last
        raise ValueError(
            f"this network takes images of shape {' or '.join(shapes)}, got {images.shape}{self._hint(images)}"
        )

    def _hint(self, images: Array) -> str:
        """What to do about images of another shape, as the end of a sentence, or "" if that is not clear."""
        wanted = (self.channels, *self.height_and_width)
        sizes = images.shape[1:]
        if images.shape in (wanted, wanted[self.channels == 1 :]):
            return ": for a single image, pass image[np.newaxis]"
        if sizes == (math.prod(wanted),):
            return f": reshape flat images with images.reshape{(-1, *wanted)}"
        if images.ndim not in (3, 4) or 0 in sizes:
            return ""
        if images.ndim == 3:
            channels, height, width = 1, *sizes
        elif sizes[0] in CHANNELS:
            channels, height, width = sizes
        elif sizes[2] in CHANNELS:
            height, width, channels = sizes
        else:
            return ": channels come first, (n, c, h, w)"
        return f": build it with lenet5(channels={channels}, image_size=({height}, {width})) for such images"

    @property
    def scale_and_shift(self) -> tuple[Any, Any]:
        """Factor and summand of the pixels, counted from black: numbers, or arrays ``(c,)`` with one per channel."""
        mean, std = (each if isinstance(each, float) else np.array(each) for each in (self.mean, self.std))
        if self.pixel_max is None:
            return 1 / std, (self.pixel_min - mean) / std
        return 1 / ((self.pixel_max - self.pixel_min) * std), -mean / std

    def pixels(self, images: Array, dtype: np.dtype[Any]) -> Array:
        """The images as `prepare` takes them: ``(n, c, h, w)``, uint8 or ``dtype``, with 0 for black."""
        images = self.channels_first(images)
        if images.dtype != np.uint8 or self.pixel_min != 0:
            images = images.astype(dtype)
            images -= dtype.type(self.pixel_min)
        return np.ascontiguousarray(images)

    def prepare(self, kernels: Kernels, pixels: Array, y: Array) -> None:
        """Write the pixels into ``y (c, h, w, n)``, padded and normalised."""
        scale, shift = self.scale_and_shift
        kernels.prepare_images(pixels, scale, shift, y)


def _per_channel(name: str, value: object, channels: int, allowed: Range) -> float | tuple[float, ...]:
    """A number, or a tuple with one number per channel. Equal numbers become one. Raises ValueError if not allowed."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, tuple | list):
        return real_number(name, value, allowed)
    if len(value) != channels:
        raise ValueError(
            f"{name} must be a number, or one number for each channel, {channels}, got {len(value)} numbers"
        )
    numbers = tuple(real_number(name, each, allowed) for each in value)
    return numbers[0] if len(set(numbers)) == 1 else numbers
