"""Augmentation: each epoch trains on images that are shifted, turned, scaled, sheared and bent at random.

The random numbers of an image are decided by (seed, epoch, sample): see `sample_keys`. `warp` has the formulas, in
NumPy. `compiled` has the same formulas as a loop over pixels, with the same bits.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import optional
from parallel_lenet.arithmetic import exponential
from parallel_lenet.augmentation import warp
from parallel_lenet.checks import InvalidValue, Range, real_number
from parallel_lenet.display import Settings
from parallel_lenet.sample_keys import SampleKeys

Array = NDArray[Any]

STREAM = 0  # Of the sample keys. The layers of a network have the numbers from 1 on.
UP_TO_1000 = Range("from 0 to 1000", lambda value: 0 <= value <= 1000)
ANGLE = Range("from 0 to 180", lambda value: 0 <= value <= 180)
BELOW_ONE = Range("from 0 to below 1", lambda value: 0 <= value < 1)
SMOOTHNESS = Range("from 0.5 to 100", lambda value: 0.5 <= value <= 100)


@dataclass(frozen=True, repr=False)
class Augment(Settings):
    """Random distortions of images. Each number is a limit: an image draws its own number from minus it to it.

    - ``shift``: pixels up or down, and pixels left or right.
    - ``rotation``: degrees.
    - ``scale``: how much larger or smaller; 0.1 draws a factor from 0.9 to 1.1.
    - ``shear``: pixels to the side for each pixel downwards; 0.1 leans an upright stroke by up to 5.7 degrees.
    - ``elastic``: the strength alpha, in pixels, of elastic distortions. Every pixel draws a displacement from -1 to 1
      in both directions. A Gaussian of deviation ``smoothness``, in pixels, smooths them, and alpha multiplies them.
      Source: Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to visual document
      analysis" (2003), section 2, with alpha 34 and smoothness 4 for MNIST.

    The parts of a distorted image that lie outside of the original have the background's value. Values between pixels
    are interpolated (bilinear, in float32), and rounded if the pixels are integers. Evaluation and prediction use
    images as they are.

    Raises InvalidValue, a ValueError, if a number is out of its range.

    >>> Augment(shift=2, rotation=10)
    Augment(shift=2.0, rotation=10.0, scale=0.0, shear=0.0, elastic=0.0, smoothness=4.0)
    """

    shift: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    smoothness: float = 4.0

    def __post_init__(self) -> None:
        ranges = {"shift": UP_TO_1000, "rotation": ANGLE, "scale": BELOW_ONE, "shear": UP_TO_1000}
        ranges |= {"elastic": UP_TO_1000, "smoothness": SMOOTHNESS}
        for name, allowed in ranges.items():
            object.__setattr__(self, name, real_number(name, getattr(self, name), allowed))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The distortions that a text such as ``shift=2,rotation=10`` names, or `DEFAULT` for ``default``.

        Raises InvalidValue for any other text.
        """
        if text == "default":
            return cls(**DEFAULT)
        names = [field.name for field in fields(cls)]
        allowed = f"default, or as in shift=2,rotation=10; the names are {', '.join(names)}"
        settings: dict[str, float] = {}
        for part in text.split(","):
            name, _, number = part.partition("=")
            try:
                if name not in names or name in settings:
                    raise ValueError
                settings[name] = float(number)
            except ValueError:
                raise InvalidValue("augment", allowed, text) from None
        try:
            return cls(**settings)
        except InvalidValue as error:
            raise InvalidValue(f"{error.name} of augment", error.allowed, error.value) from None

    def __call__(self, images: Array, keys: SampleKeys, *, background: float = 0.0, compiled: bool = False) -> Array:
        """Distorted copies of ``images (n, c, h, w)``, in their dtype. All channels of an image have the same
        distortion.

        ``background`` is the pixel outside of images. ``compiled`` uses Numba, which gives the same bits faster.
        """
        if len(keys) != len(images):
            raise ValueError(f"there must be a key for each of the {len(images)} images, got {len(keys)}")
        loop = _compiled_module().warp if compiled else warp.warp
        largest = np.array([self.shift, math.radians(self.rotation), self.scale, self.shear, self.elastic])
        result: Array = loop(np.ascontiguousarray(images), keys.stream(STREAM), background, largest, self._window())
        return result

    def is_compiled(self) -> bool:
        """Whether the compiled code is in memory or on disk."""
        return bool(_compiled_module().is_kept())

    def _window(self) -> NDArray[np.float32]:
        """The weights of the Gaussian up to three deviations from its centre, which sum to 1. Empty if not elastic."""
        if not self.elastic:
            return np.empty(0, np.float32)
        reach = math.ceil(3 * self.smoothness)
        weights = [exponential(-(k * k) / (2 * self.smoothness * self.smoothness)) for k in range(-reach, reach + 1)]
        total = math.fsum(weights)
        return np.array([weight / total for weight in weights], np.float32)


def _compiled_module() -> Any:
    return optional.load("fast", "numba", "compiled augmentation", "parallel_lenet.augmentation.compiled")


DEFAULT = {"shift": 1.5, "rotation": 8.0, "scale": 0.08, "shear": 0.08, "elastic": 20.0}
