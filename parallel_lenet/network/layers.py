"""The layers of the tutorial's network: frozen, stateless, batch last.

A layer knows shapes and formulas, and a kernel does the arithmetic. Shapes leave the batch out: ``(c, h, w)`` for
images and ``(features,)``. Arrays have it last: ``(c, h, w, n)`` and ``(features, n)``, float32 or float64.
``x`` is a layer's input, ``y`` its output, ``dy`` and ``dx`` the gradients of the loss with respect to them.

Two kinds of layers need no arrays of their own. An `Activation` may write ``y`` over ``x`` and ``dx`` over ``dy``, so
it works from ``y``, and every other layer from ``x``. `Flatten` sees the same numbers in another shape.

The file has more than 300 lines: it is a list of small classes with their formulas.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import BELOW_ONE, POSITIVE, quoted, real_number, whole_number
from parallel_lenet.kernels import Kernels
from parallel_lenet.network.images import Images
from parallel_lenet.random import uniform
from parallel_lenet.sample_keys import SampleKeys

Array = NDArray[Any]
Shape = tuple[int, ...]
Views = Mapping[str, Array]


class Layer(ABC):
    """The contract of a layer between `Images` and the loss. The defaults are those of a layer without parameters.

    Each of the methods `forward`, `input_gradient` and `parameter_gradient` may have one more parameter, ``keys``,
    which it then gets by name: a `SampleKeys` in training, None otherwise. It gives random numbers for each sample, the
    same ones in all three methods, and other ones than another layer's.
    """

    leaf: ClassVar[int | None] = None
    """For a layer of your own: 1 if no bit of its results for an image depends on the images beside it, and its sums
    over images follow the tree (see `tree`). None otherwise: then the network's sums follow the tree from the shard on,
    and the shard size decides the last bits. A subclass does not inherit it."""

    @abstractmethod
    def output_shape(self, shape: Shape) -> Shape:
        """The shape of ``y`` for an ``x`` of ``shape``. Raises ValueError if the layer can't take it."""

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
        """New parameters, float64: biases of 0, and weights drawn evenly from -b to b with b = sqrt(3 / fan_in).

        Their variance is 1 / fan_in, so that outputs have the inputs' variance. `random.uniform` draws them: the same
        numbers on every machine.
        Source: LeCun, Bottou, Orr, Müller, "Efficient BackProp" (1998), 4.6, equation 16.
        """
        shapes = self.parameter_shapes(shape)
        if not shapes:
            return {}
        bound = math.sqrt(3 / math.prod(shapes["weight"][1:]))  # -b to b has the variance b^2 / 3.
        return {"weight": uniform(rng, -bound, bound, shapes["weight"]), "bias": np.zeros(shapes["bias"])}


def _set_whole_numbers(layer: object, least: int, *names: str) -> None:
    """Store settings of a frozen layer as ints. Raises InvalidValue unless they are whole numbers >= ``least``."""
    for name in names:
        value = whole_number(f"{type(layer).__name__}: {name}", getattr(layer, name), least)
        object.__setattr__(layer, name, value)


def _check_image(layer: object, shape: Shape) -> None:
    if len(shape) != 3:
        raise ValueError(f"{type(layer).__name__} takes images of shape (c, h, w), got {shape}")


def _windows(layer: object, size: int, k: int, stride: int, padding: int = 0) -> int:
    """The number of windows of ``k`` that fit: floor((size + 2 * padding - k) / stride) + 1."""
    if size + 2 * padding < k:
        raise ValueError(f"{type(layer).__name__}: a window of {k} doesn't fit into {size} + 2 * {padding} pixels")
    return (size + 2 * padding - k) // stride + 1


@dataclass(frozen=True)
class Conv2d(Layer):
    """A convolution: ``filters`` filters of ``kernel_size`` x ``kernel_size`` over all channels, each with a bias.

    Cross-correlation, on an input with a border of ``padding`` zeros::

        y[f, row, col] = b[f] + sum over c, i, j of w[f, c, i, j] * x[c, row * stride + i, col * stride + j]

    ``flip=True`` is the true convolution, which turns each filter by 180 degrees first. Input ``(c, h, w)``, output
    ``(f, oh, ow)``. Parameters: weight ``(f, c, k, k)``, bias ``(f,)``. Raises ValueError if a setting is not allowed.
    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition" (1998), II.A.
    """

    filters: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        _set_whole_numbers(self, 1, "filters", "kernel_size", "stride")
        _set_whole_numbers(self, 0, "padding")
        if not isinstance(self.flip, bool | np.bool_):
            raise ValueError(f"Conv2d: flip must be True or False, got {quoted(self.flip)}")
        object.__setattr__(self, "flip", bool(self.flip))

    def output_shape(self, shape: Shape) -> Shape:
        _check_image(self, shape)
        rows, columns = (_windows(self, size, self.kernel_size, self.stride, self.padding) for size in shape[1:])
        return (self.filters, rows, columns)

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.filters, shape[0], self.kernel_size, self.kernel_size), "bias": (self.filters,)}

    def _filters(self, parameters: Views) -> Array:
        weight = parameters["weight"]
        return np.ascontiguousarray(weight[:, :, ::-1, ::-1]) if self.flip else weight

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        kernels.conv2d(x, self._filters(parameters), parameters["bias"], self.stride, self.padding, y)

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        kernels.conv2d_input_gradient(dy, self._filters(parameters), self.stride, self.padding, dx)

    def parameter_gradient(self, kernels: Kernels, x: Array, dy: Array, gradients: Views) -> None:
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
        _set_whole_numbers(self, 1, "size", "stride")

    def output_shape(self, shape: Shape) -> Shape:
        _check_image(self, shape)
        rows, columns = (_windows(self, size, self.size, self.stride) for size in shape[1:])
        return (shape[0], rows, columns)


@dataclass(frozen=True, init=False)
class AvgPool2d(_Pool2d):
    """Average pooling: the mean of each ``size`` x ``size`` window. Windows are ``stride`` apart, by default ``size``.

    Input ``(c, h, w)``, output ``(c, oh, ow)``. Raises ValueError if a setting is not allowed.
    """

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        kernels.avg_pool2d(x, self.size, self.stride, y)

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        kernels.avg_pool2d_gradient(dy, self.size, self.stride, dx)


@dataclass(frozen=True, init=False)
class MaxPool2d(_Pool2d):
    """Max pooling: the largest value of each ``size`` x ``size`` window, ``stride`` apart, by default ``size``.

    The error of an output goes to the place of its maximum: the first in row order if several are equal, as in PyTorch.
    Input ``(c, h, w)``, output ``(c, oh, ow)``. Raises ValueError if a setting is not allowed.
    """

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        kernels.max_pool2d(x, self.size, self.stride, y)

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        kernels.max_pool2d_gradient(x, dy, self.size, self.stride, dx)


@dataclass(frozen=True)
class Activation(Layer):
    """A layer that works number by number. ``y`` may be ``x``, and ``dx`` may be ``dy``: it needs only ``y``."""

    def output_shape(self, shape: Shape) -> Shape:
        return shape


@dataclass(frozen=True)
class Tanh(Activation):
    """``amplitude * tanh(x)``. Its slope is ``amplitude * (1 - tanh(x)^2)``.

    The tutorial's amplitude is 1.7159: LeCun et al. (1998), appendix A, equation 32. There x has a factor of 2/3 too,
    which the tutorial and this layer leave out. Raises ValueError unless the amplitude is positive.
    """

    amplitude: float = 1.7159

    def __post_init__(self) -> None:
        object.__setattr__(self, "amplitude", real_number("Tanh: amplitude", self.amplitude, POSITIVE))

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        kernels.tanh(x, self.amplitude, y)

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        kernels.tanh_gradient(y, dy, self.amplitude, dx)


@dataclass(frozen=True)
class ReLU(Activation):
    """``max(x, 0)``. Its slope is 1 for x > 0, else 0."""

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        kernels.relu(x, y)

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        kernels.relu_gradient(y, dy, dx)


@dataclass(frozen=True)
class Flatten(Layer):
    """``(c, h, w)`` to ``(c * h * w,)``, in that order.

    Nothing is computed or moved: ``y`` is a view of ``x``, and ``dx`` of ``dy``.
    """

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        """Nothing to do: ``y`` is a view of ``x``."""

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        """Nothing to do: ``dx`` is a view of ``dy``."""


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer: ``W x + b``. Parameters: weight ``(units, features)``, bias ``(units,)``.

    Input ``(features,)``, output ``(units,)``. Raises ValueError unless ``units`` is a whole number of at least 1.
    """

    units: int

    def __post_init__(self) -> None:
        _set_whole_numbers(self, 1, "units")

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ValueError(f"Dense takes features of shape (features,), got {shape}: put Flatten() before it")
        return (self.units,)

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.units, shape[0]), "bias": (self.units,)}

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array) -> None:
        kernels.dense(x, parameters["weight"], parameters["bias"], y)

    def input_gradient(self, kernels: Kernels, parameters: Views, x: Array, y: Array, dy: Array, dx: Array) -> None:
        kernels.dense_input_gradient(dy, parameters["weight"], dx)

    def parameter_gradient(self, kernels: Kernels, x: Array, dy: Array, gradients: Views) -> None:
        kernels.dense_weight_gradient(x, dy, gradients["weight"], gradients["bias"])


@dataclass(frozen=True)
class Dropout(Activation):
    """In training, replace each number by 0 with the probability ``rate``, and multiply the others by 1 / (1 - rate).

    Evaluation and prediction leave the numbers as they are ("inverted dropout"). Which numbers are replaced depends on
    the seed, the epoch, the sample and the layer's place in the network, and on nothing else.
    Source: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout" (2014), sections 4 and 10.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", real_number("Dropout: rate", self.rate, BELOW_ONE))

    def forward(self, kernels: Kernels, parameters: Views, x: Array, y: Array, keys: SampleKeys | None = None) -> None:
        self._apply_mask(x, y, keys)

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
        self._apply_mask(dy, dx, keys)

    def _apply_mask(self, x: Array, y: Array, keys: SampleKeys | None) -> None:
        if keys is None:
            if y is not x:
                np.copyto(y, x)
            return
        words = keys.words(math.prod(x.shape[:-1])).reshape(x.shape)
        kept = words >= np.uint64(int(self.rate * 2.0**64))
        np.multiply(x, kept * x.dtype.type(1 / (1 - self.rate)), out=y)


def leaf_of(layer: Layer) -> int | None:
    """The layer's `Layer.leaf`, as its own class says, or 1 for those of this package."""
    ours = (Conv2d, AvgPool2d, MaxPool2d, Tanh, ReLU, Flatten, Dense, Dropout)
    return 1 if type(layer) in ours else vars(type(layer)).get("leaf")


def only_calls_kernels(layer: object) -> bool:
    """Whether the layer's methods do nothing with arrays but pass them to the functions of the kernels."""
    ours = (Images, Conv2d, AvgPool2d, MaxPool2d, Tanh, ReLU, Flatten, Dense)
    return type(layer) in ours and not (isinstance(layer, Conv2d) and layer.flip)
