"""The layers of the tutorial's network: frozen, stateless, batch last.

A layer knows shapes and formulas; the kernels it is given do the arithmetic. Shapes leave the batch out: ``(c, h, w)``
for images and ``(features,)``; arrays have it last. ``x`` is a layer's input, ``y`` its output, ``dy`` and ``dx`` the
gradients of the loss with respect to them. Activations overwrite their input (``y`` is ``x``, ``dx`` is ``dy``), so
they work from ``y``, and every other layer from ``x``. Only behind another activation do they leave it as it is: that
one needs its ``y`` too.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import BELOW_ONE, FINITE, POSITIVE, Range, quoted, real_number, whole_number
from parallel_lenet.kernels import Kernels
from parallel_lenet.network import pixels
from parallel_lenet.random import uniform
from parallel_lenet.sample_keys import SampleKeys

CHANNELS = (1, 2, 3, 4)  # Of images that a hint is given for: grey or colours, with or without transparency.

Array = NDArray[Any]
Shape = tuple[int, ...]
Views = Mapping[str, Array]

MEAN, STD = 0.1307, 0.3081  # Of MNIST's training pixels, scaled to 0 to 1.


class Layer(ABC):
    """The contract of a layer between `Images` and the loss; as it stands, one without parameters.

    Each of the methods `forward`, `input_gradient` and `parameter_gradient` may have one more parameter, ``keys``,
    which it then gets by name: a `SampleKeys` in training, None otherwise. It gives random numbers for each sample, the
    same ones in all three methods, and other ones than another layer's.
    """

    in_place = False
    """True where ``y`` may be written over ``x``, and ``dx`` is over ``dy``; shapes are the same, save with Flatten."""

    @abstractmethod
    def output_shape(self, shape: Shape) -> Shape:
        """The shape of ``y`` for an ``x`` of ``shape``; ValueError where the layer can't take it."""

    @abstractmethod
    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        """Write the layer's output for ``x`` into ``y``."""

    @abstractmethod
    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        """Write the gradient of the input into ``dx``."""

    def parameter_gradient(self, kernels: Kernels, x: Array, dy: Array, gradients: Views) -> None:
        """Write the gradients of the parameters into ``gradients``, summed over the images."""

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Names and shapes of the parameters of a layer whose input has ``shape``."""
        return {}

    def initial(self, shape: Shape, rng: np.random.Generator) -> dict[str, Array]:
        """Fresh parameters, float64: weights drawn evenly from a range of variance 1 / fan_in around 0, biases 0.

        So that outputs have the inputs' variance: LeCun, Bottou, Orr, Müller, "Efficient BackProp" (1998), 4.6,
        equation 16. The numbers are `random.uniform`'s: the same on every machine.
        """
        shapes = self.parameter_shapes(shape)
        if not shapes:
            return {}
        bound = math.sqrt(3 / math.prod(shapes["weight"][1:]))  # -b to b has the variance b^2 / 3.
        return {"weight": uniform(rng, -bound, bound, shapes["weight"]), "bias": np.zeros(shapes["bias"])}


def _set_whole(layer: object, least: int, *names: str) -> None:
    """Store the settings of a frozen layer as ints; ValueError unless they are whole numbers of at least ``least``."""
    for name in names:
        value = whole_number(f"{type(layer).__name__}: {name}", getattr(layer, name), least)
        object.__setattr__(layer, name, value)


def _check_image(layer: object, shape: Shape) -> None:
    if len(shape) != 3:
        raise ValueError(f"{type(layer).__name__} takes images of shape (c, h, w), got {shape}")


def _windows(layer: object, size: int, k: int, stride: int, padding: int = 0) -> int:
    """How many windows of ``k`` fit: floor((size + 2 * padding - k) / stride) + 1."""
    if size + 2 * padding < k:
        raise ValueError(f"{type(layer).__name__}: a window of {k} doesn't fit into {size} + 2 * {padding} pixels")
    return (size + 2 * padding - k) // stride + 1


@dataclass(frozen=True)
class Images:
    """The first layer: stored images of any number type, made ready for the network.

    Images are ``(n, c, h, w)``, channels first, or ``(n, h, w)`` if they have one channel. ``(n, h, w, c)`` is accepted
    too, unless the height equals the number of channels: then it could be either. Both orders give the same bits.

    Each is centred on a ``size`` x ``size`` field of background (larger images keep their size). Pixels from
    ``pixel_min``, the background, to ``pixel_max`` are scaled to 0 to 1, then normalised:
    ``((pixel - pixel_min) / (pixel_max - pixel_min) - mean) / std``. Training and prediction both pass through here, so
    they can't disagree. The defaults are 8-bit pixels, and MNIST's mean and standard deviation. ``mean`` and ``std``
    are numbers, or one number for each channel: ``mean=(0.49, 0.48, 0.45)``.

    - ``image_size``: ``(height, width)`` of the stored images, or one number for both.
    - ``pixel_max``: the value of white. 255 for 8-bit images, 1 for floats from 0 to 1 and for booleans, 16 for
      scikit-learn's digits, 65535 for 16 bits. None takes the pixels as they are, for images that are standardised:
      ``(pixel - mean) / std``, with the mean and deviation of the pixels themselves (0 and 1 leave them alone).
    - ``pixel_min``: the value of black: 0, or -1 for images from -1 to 1. With ``pixel_max=None`` it only decides the
      background around smaller images.

    ValueError if a value is not allowed.
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
        _set_whole(self, 1, "channels", "size")
        object.__setattr__(self, "mean", _per_channel("Images: mean", self.mean, self.channels, FINITE))
        object.__setattr__(self, "std", _per_channel("Images: std", self.std, self.channels, POSITIVE))
        object.__setattr__(self, "pixel_min", real_number("Images: pixel_min", self.pixel_min, FINITE))
        if self.pixel_max is not None:
            object.__setattr__(self, "pixel_max", real_number("Images: pixel_max", self.pixel_max, FINITE))
            if not self.pixel_max > self.pixel_min:
                raise ValueError(f"Images: pixel_max must be above pixel_min, {self.pixel_min}, got {self.pixel_max}")

    @property
    def height_and_width(self) -> tuple[int, int]:
        """Of the stored images."""
        assert isinstance(self.image_size, tuple)
        return self.image_size

    @property
    def unit(self) -> pixels.Unit:
        """What the pixels are."""
        return pixels.Unit(self.pixel_min, self.pixel_max)

    @property
    def shape(self) -> Shape:
        """The shape ``(c, h, w)`` of what the network sees."""
        height, width = self.height_and_width
        return (self.channels, max(height, self.size), max(width, self.size))

    def check(self, images: Array) -> None:
        """ValueError unless the images have the network's size, and pixels that can be in its unit.

        Reads all pixels once: 5 ms for the 60,000 images of MNIST.
        """
        self.stored(images)
        pixels.check(images, self.unit, float(np.max(self.mean)), float(np.max(self.std)))

    def stored(self, images: Array) -> Array:
        """A view of the images as ``(n, c, h, w)``; ValueError if they are not of the network's size."""
        height, width = self.height_and_width
        channels = self.channels
        if images.ndim == 3 and channels == 1 and images.shape[1:] == (height, width):
            return images[:, np.newaxis]
        if images.shape[1:] == (channels, height, width):
            return images
        last = channels != height  # Else (n, h, w, c) could be (n, c, h, w) of another size.
        if last and images.shape[1:] == (height, width, channels):
            return np.moveaxis(images, 3, 1)
        shapes = [f"(n, {height}, {width})"] * (channels == 1) + [f"(n, {channels}, {height}, {width})"]
        shapes += [f"(n, {height}, {width}, {channels})"] * last
        raise ValueError(
            f"this network takes images of shape {' or '.join(shapes)}, got {images.shape}{self._hint(images)}"
        )

    def _hint(self, images: Array) -> str:
        """What to do with images of another shape, as the end of a sentence; "" if that is not clear."""
        wanted, sizes = (self.channels, *self.height_and_width), images.shape[1:]
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
        """What pixels above black are multiplied by, and what is added then: a number, or one for each channel."""
        mean, std = (each if isinstance(each, float) else np.array(each) for each in (self.mean, self.std))
        if self.pixel_max is None:
            return 1 / std, (self.pixel_min - mean) / std
        return 1 / ((self.pixel_max - self.pixel_min) * std), -mean / std

    def pixels(self, images: Array, dtype: np.dtype[Any]) -> Array:
        """The images as `prepare` takes them: ``(n, c, h, w)``, uint8 or of ``dtype``, black 0."""
        images = self.stored(images)
        if images.dtype != np.uint8 or self.pixel_min != 0:
            images = images.astype(dtype)
            images -= dtype.type(self.pixel_min)
        return np.ascontiguousarray(images)

    def prepare(self, kernels: Kernels, pixels: Array, y: Array) -> None:
        """Write the pixels into ``y (c, h, w, n)``, padded and normalised."""
        scale, shift = self.scale_and_shift
        kernels.prepare_images(pixels, scale, shift, y)


def _per_channel(name: str, value: object, channels: int, allowed: Range) -> float | tuple[float, ...]:
    """A number, or a tuple of one for each channel; equal ones become one number."""
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


@dataclass(frozen=True)
class Conv2d(Layer):
    """``filters`` filters of ``kernel_size`` x ``kernel_size`` over all channels, plus a bias each.

    Cross-correlation: ``y[f, r, c] = b[f] + sum over ch, i, j of w[f, ch, i, j] * x[ch, r*stride + i, c*stride + j]``,
    on an input with ``padding`` zeros round it. ``flip=True`` is the true convolution, which turns each filter by 180
    degrees first. Parameters: weight ``(f, c, k, k)``, bias ``(f,)``.
    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition" (1998), II.A.
    """

    filters: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        _set_whole(self, 1, "filters", "kernel_size", "stride")
        _set_whole(self, 0, "padding")
        if not isinstance(self.flip, bool | np.bool_):
            raise ValueError(f"Conv2d: flip must be True or False, got {quoted(self.flip)}")
        object.__setattr__(self, "flip", bool(self.flip))

    def output_shape(self, shape: Shape) -> Shape:
        """``(f, oh, ow)`` for ``(c, h, w)``."""
        _check_image(self, shape)
        rows, columns = (_windows(self, size, self.kernel_size, self.stride, self.padding) for size in shape[1:])
        return (self.filters, rows, columns)

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Weight and bias."""
        return {"weight": (self.filters, shape[0], self.kernel_size, self.kernel_size), "bias": (self.filters,)}

    def _filters(self, parameters: Views) -> Array:
        weight = parameters["weight"]
        return np.ascontiguousarray(weight[:, :, ::-1, ::-1]) if self.flip else weight

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        """Convolve."""
        kernels.conv2d(x, self._filters(parameters), parameters["bias"], self.stride, self.padding, y)

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        """The tutorial's layer gradient."""
        kernels.conv2d_input_gradient(dy, self._filters(parameters), self.stride, self.padding, dx)

    def parameter_gradient(self, kernels: Kernels, x: Array, dy: Array, gradients: Views) -> None:
        """The tutorial's kernel gradient."""
        dw = gradients["weight"]
        kernels.conv2d_weight_gradient(x, dy, self.stride, self.padding, dw, gradients["bias"])
        if self.flip:
            dw[:] = dw[:, :, ::-1, ::-1].copy()


@dataclass(frozen=True, init=False)
class _Pool2d(Layer):
    size: int
    stride: int

    def __init__(self, size: int = 2, stride: int | None = None) -> None:
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "stride", size if stride is None else stride)
        _set_whole(self, 1, "size", "stride")

    def output_shape(self, shape: Shape) -> Shape:
        """``(c, oh, ow)`` for ``(c, h, w)``."""
        _check_image(self, shape)
        rows, columns = (_windows(self, size, self.size, self.stride) for size in shape[1:])
        return (shape[0], rows, columns)


@dataclass(frozen=True, init=False)
class AvgPool2d(_Pool2d):
    """The mean of each ``size`` x ``size`` window, ``stride`` apart, by default ``size``."""

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        """Average."""
        kernels.avg_pool2d(x, self.size, self.stride, y)

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        """Spread each error evenly over its window."""
        kernels.avg_pool2d_gradient(dy, self.size, self.stride, dx)


@dataclass(frozen=True, init=False)
class MaxPool2d(_Pool2d):
    """The largest value of each ``size`` x ``size`` window, ``stride`` apart, by default ``size``."""

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        """Take the maximum."""
        kernels.max_pool2d(x, self.size, self.stride, y)

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        """Send each error to the place of its maximum; the first in row order where several are equal, as PyTorch."""
        kernels.max_pool2d_gradient(x, dy, self.size, self.stride, dx)


@dataclass(frozen=True)
class _Elementwise(Layer):
    in_place = True

    def output_shape(self, shape: Shape) -> Shape:
        """The same."""
        return shape


@dataclass(frozen=True)
class Tanh(_Elementwise):
    """``amplitude * tanh(x)``.

    The tutorial's amplitude is 1.7159: LeCun et al. (1998), appendix A, equation 32, there with a slope of 2/3 as well,
    which the tutorial, and so this layer, leaves out.
    """

    amplitude: float = 1.7159

    def __post_init__(self) -> None:
        object.__setattr__(self, "amplitude", real_number("Tanh: amplitude", self.amplitude, POSITIVE))

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        """Squash."""
        kernels.tanh(x, self.amplitude, y)

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        """``dy * amplitude * (1 - tanh(x)^2)``."""
        kernels.tanh_gradient(y, dy, self.amplitude, dx)


@dataclass(frozen=True)
class ReLU(_Elementwise):
    """``max(x, 0)``; its slope at 0 is taken as 0."""

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        """Rectify."""
        kernels.relu(x, y)

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        """``dy`` where ``y > 0``."""
        kernels.relu_gradient(y, dy, dx)


@dataclass(frozen=True)
class Flatten(Layer):
    """``(c, h, w)`` to ``(c * h * w,)``, in that order."""

    in_place = True  # Nothing moves: the same numbers, another shape.

    def output_shape(self, shape: Shape) -> Shape:
        """One axis."""
        return (math.prod(shape),)

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        """Nothing to do: ``y`` is ``x``."""

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        """Nothing to do: ``dx`` is ``dy``."""


@dataclass(frozen=True)
class Dense(Layer):
    """``W x + b``. Parameters: weight ``(units, features)``, bias ``(units,)``."""

    units: int

    def __post_init__(self) -> None:
        _set_whole(self, 1, "units")

    def output_shape(self, shape: Shape) -> Shape:
        """``(units,)`` for ``(features,)``."""
        if len(shape) != 1:
            raise ValueError(f"Dense takes features of shape (features,), got {shape}: put Flatten() before it")
        return (self.units,)

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Weight and bias."""
        return {"weight": (self.units, shape[0]), "bias": (self.units,)}

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        """``W x + b``."""
        kernels.dense(x, parameters["weight"], parameters["bias"], y)

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        """``W^T dy``."""
        kernels.dense_input_gradient(dy, parameters["weight"], dx)

    def parameter_gradient(self, kernels: Kernels, x: Array, dy: Array, gradients: Views) -> None:
        """``dy x^T``, and the sum of ``dy``."""
        kernels.dense_weight_gradient(x, dy, gradients["weight"], gradients["bias"])


@dataclass(frozen=True)
class Dropout(_Elementwise):
    """In training, replace each number by 0 with the probability ``rate``, and multiply the others by 1 / (1 - rate).

    Evaluation and prediction leave the numbers as they are ("inverted dropout"). Which numbers are replaced depends on
    the seed, the epoch, the sample and the layer's place in the network, and on nothing else.
    Source: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout" (2014), sections 4 and 10.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", real_number("Dropout: rate", self.rate, BELOW_ONE))

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array, keys: SampleKeys | None = None) -> None:
        """``x`` times 0 or 1 / (1 - rate); ``x`` itself without keys."""
        self._masked(x, y, keys)

    def input_gradient(
        self,
        kernels: Kernels,
        parameters: Views,
        x: Array,
        y: Array,
        dy: Array,
        dx: Array,
        keys: SampleKeys | None = None,
    ) -> None:
        """``dy`` times the same factors."""
        self._masked(dy, dx, keys)

    def _masked(self, x: Array, y: Array, keys: SampleKeys | None) -> None:
        if keys is None:
            if y is not x:
                np.copyto(y, x)
            return
        words = keys.words(math.prod(x.shape[:-1])).reshape(x.shape)
        kept = words >= np.uint64(int(self.rate * 2.0**64))
        np.multiply(x, kept * x.dtype.type(1 / (1 - self.rate)), out=y)


def only_calls_kernels(layer: object) -> bool:
    """Whether all that the layer's methods do with arrays is to give them to the kernels' functions."""
    ours = (Images, Conv2d, AvgPool2d, MaxPool2d, Tanh, ReLU, Flatten, Dense)
    return type(layer) in ours and not (isinstance(layer, Conv2d) and layer.flip)
