"""The unit of pixels, that is, the numbers that stand for black and white: how to recognise it, and to check it.

An 8-bit image holds 0 to 255. The same image is as often found as floats from 0 to 1, from -1 to 1, or standardised
(mean 0, deviation 1). A network made for one of these gives nonsense for another, so `check` refuses what can't be in
the network's unit, and `recognise` says what the unit probably is.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

WHITE = (
    1,
    16,
    255,
    1023,
    4095,
    16383,
    65535,
)  # White in floats and booleans, in scikit-learn's digits, then in 8 to 16 bits.
MANY = 16  # Among this many images one is bright: the largest pixel is near white.
DARK = 15  # Images are in another unit if their unit's white is this many times smaller than the network's.
LARGEST = 1e38  # Pixel: differences of two can be computed in float32, whose largest number is 3.4e38.
TOLERANCE = 1e-6  # The part of the range that rounding may add to the largest pixel.


class Unit(NamedTuple):
    """Pixels from ``black``, the background, to ``white``. ``white`` is None for pixels used as they are."""

    black: float = 0.0
    white: float | None = 255.0

    def __str__(self) -> str:
        if self.white is None:
            return "standardised pixels"
        return f"{self.black:g} to {self.white:g}"

    @property
    def arguments(self) -> str:
        """The arguments of `lenet5` and `Images` for this unit."""
        if self.white is None:
            return "pixel_max=None"
        return f"pixel_max={self.white:g}" if self.black == 0 else f"pixel_min={self.black:g}, pixel_max={self.white:g}"


def extremes(images: Array) -> tuple[float, float]:
    """The smallest and the largest of at least one pixel, or NaN for both if a pixel is NaN. Copies nothing."""
    with np.errstate(invalid="ignore"):
        return float(images.min()), float(images.max())


def too_large(images: Array) -> str | None:
    """What is wrong with finite pixels that are too large to compute with, as the end of a sentence, or None."""
    if images.dtype.kind != "f":
        return None
    worst = max(extremes(images), key=abs)
    if not math.isfinite(worst) or abs(worst) <= LARGEST:
        return None
    return f"hold the pixel {worst:g}; all must be from {-LARGEST:g} to {LARGEST:g}"


def recognise(images: Array) -> Unit:
    """The unit that these images, at least one, are probably in, or 0 to 255 if all pixels are 0."""
    low, high = extremes(images)
    if images.dtype.kind == "b":
        return Unit(0.0, 1.0)
    if low < 0:
        return Unit(-1.0, 1.0) if abs(low + 1) <= TOLERANCE and high <= 1 + TOLERANCE else Unit(low, None)
    return Unit(0.0, _white(high) if high > 0 else 255.0)


def _white(high: float) -> float:
    """The white of the narrowest unit that has ``high`` for its brightest pixel."""
    return float(next((white for white in WHITE if white < 255 * high and high <= white * (1 + TOLERANCE)), high))


def check(images: Array, unit: Unit, mean: float, std: float) -> None:
    """Raises ValueError unless the images, ``(n, ...)``, can be in the unit. ``mean`` and ``std`` are the network's.

    All-black images can be in any unit. A few dark images of whole numbers can be 0 to 255 (a blank digit with some
    noise). Many dark images, or dark images of floats, are in another unit.
    """
    if images.size == 0:
        return
    low, high = extremes(images)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("images hold NaN or infinity; all pixels must be finite")
    problem = too_large(images)
    if problem is not None:
        raise ValueError(f"images {problem}")
    if not _can_be(images, low, high, unit, mean, std):
        likely = recognise(images)
        remedy = f"if they are {likely}, build it with lenet5({likely.arguments}); or give it images in its unit"
        if _overshoots(low, high, unit):
            remedy = "clip them to that range"
        raise ValueError(
            f"images hold {images.dtype} pixels from {low:g} to {high:g}, but this network takes {unit}: {remedy}"
        )


def _overshoots(low: float, high: float, unit: Unit) -> bool:
    """Whether the pixels leave the unit by so little that interpolation may have done it."""
    if unit.white is None:
        return False
    margin = (unit.white - unit.black) / 4
    inside = unit.black <= low and high <= unit.white
    return not inside and low > unit.black - margin and unit.white - 2 * margin < high < unit.white + margin


def _can_be(images: Array, low: float, high: float, unit: Unit, mean: float, std: float) -> bool:
    many = len(images) >= MANY
    if unit.black < 0 and many and low > unit.black * 0.75 and high > low:
        return False  # The background of many images is near black.
    if unit.white is None:
        # Standardised pixels are below 0 as often as above.
        return not (low >= 0 and (high - mean) / std > 20)
    rounding = TOLERANCE * (unit.white - unit.black)
    if low < unit.black - rounding or high > unit.white + rounding:
        return False
    if images.dtype.kind == "b":
        return unit.white <= 1
    if high <= 0 or unit.black != 0:
        return True
    if images.dtype.kind in "iu" and np.iinfo(images.dtype).max * DARK > unit.white and not many:
        return high > 1 or unit.white < DARK
    return _white(high) * DARK > unit.white
