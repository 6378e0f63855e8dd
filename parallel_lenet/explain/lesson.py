"""The lesson: the layers, places and weight that it follows, and every number that it shows.

The lesson follows one image and one weight. The layers have roles, so that it fits any network of this package's
layers: ``conv`` is the first convolution, ``deep`` the last one that sees several channels, and so on. A role that no
layer has is None, and its chapter says so.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import class_names
from parallel_lenet.explain.numbers import Numbers
from parallel_lenet.explain.trace import Step, Trace
from parallel_lenet.network.layers import AvgPool2d, Conv2d, Dense, Flatten, MaxPool2d, ReLU, Tanh
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector

Array = NDArray[Any]
Place = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Roles:
    """The layer for each chapter, and the place in it that the chapter follows."""

    conv: Step | None
    deep: Step | None
    activation: Step | None
    pool: Step | None
    last_pool: Step | None
    flatten: Step | None
    dense: Step | None
    """The last dense layer."""
    conv_at: Place = ()
    """Filter, row and column of the first convolution's largest output."""
    deep_at: Place = ()
    """The place of the deep convolution's error that is largest in size."""
    activation_at: Place = ()
    """A number near 1 or -1, where a curve bends, with a large error."""
    pool_at: Place = ()
    last_pool_at: Place = ()
    """The pooled number with the largest error."""
    flatten_at: Place = ()


@dataclass(frozen=True, eq=False)
class Lesson:
    """The content of the page."""

    model: Sequential
    """The network, with the kernel that computed the numbers."""
    parameters: Vector
    trace: Trace
    label: int
    known: bool
    """Whether the class of the image is known. Otherwise the network's answer counts as right."""
    source: str
    """The page's name for the image: ``test image 17``, ``digit.png``."""
    roles: Roles
    weight: tuple[str, Place]
    """The weight that is followed: the parameter's name and the place in it."""
    images: Array
    """The batch of the chapter on parallel training, as stored. The first one is the lesson's own image."""
    labels: Array
    numbers: Numbers = field(default_factory=Numbers)
    class_names: tuple[str, ...] | None = None

    def name_of(self, label: int) -> str:
        """What a class is called, or its number, in one line."""
        return class_names.display_name(self.class_names, label)

    @property
    def classes(self) -> list[int]:
        """The classes that are shown: all, or of more than 12 the most probable ones and the right one."""
        p = self.numbers["probabilities"]
        if len(p) <= 12:
            return list(range(len(p)))
        order = [int(k) for k in np.argsort(-p, kind="stable")]
        best = order[:10]
        return sorted(best if self.label in best else [*best[:9], self.label])

    @property
    def prediction(self) -> int:
        """The class with the largest score."""
        return int(self.trace.steps[-1].y.argmax())

    @property
    def weight_index(self) -> int:
        """The position of the followed weight in the parameter vector."""
        name, place = self.weight
        shape = dict(self.model.layout.entries)[name]
        return int(self.model.layout.slices[name].start + np.ravel_multi_index(place, shape))


def choose(trace: Trace) -> tuple[Roles, tuple[str, Place]]:
    """The roles of a network's layers, and the weight to follow: the one whose gradient is largest."""
    convs = _all(trace, Conv2d)
    several = [step for step in convs[1:] if step.x.shape[0] > 1]
    conv = convs[0] if convs else None
    deep = several[-1] if several else convs[-1] if convs else None
    dense = _all(trace, Dense)
    pools = _all(trace, AvgPool2d, MaxPool2d)
    flatten = next(iter(_all(trace, Flatten)), None)
    activation = next(iter(_all(trace, Tanh, ReLU)), None)
    owner = deep or (dense[-1] if dense else None)
    assert owner is not None, "the last layer gives one score per class, so one layer has weights"
    roles = Roles(
        conv,
        deep,
        activation,
        pools[0] if pools else None,
        pools[-1] if pools else None,
        flatten,
        dense[-1] if dense else None,
        _place(conv.y) if conv else (),
        _largest(deep.dy) if deep else (),
        _largest(np.abs(activation.dy) / (0.1 + np.abs(np.abs(activation.x) - 1))) if activation else (),
        _widest_window(pools[0]) if pools else (),
        _largest(pools[-1].dy) if pools else (),
        _largest(flatten.x) if flatten else (),
    )
    return roles, (f"{owner.name}.weight", _largest(owner.gradients["weight"]))


def _all(trace: Trace, *kinds: type) -> list[Step]:
    return [step for step in trace.steps if isinstance(step.layer, kinds)]


def _largest(values: Array) -> Place:
    """The place of the number with the largest size, the first of equals."""
    return _place(np.abs(values))


def _place(values: Array) -> Place:
    """The place of the largest number, the first of equals."""
    return tuple(int(i) for i in np.unravel_index(values.argmax(), values.shape))


def _widest_window(pool: Step) -> Place:
    """The place of the pooled number whose window holds the most different numbers."""
    layer = pooling_of(pool)
    windows = np.lib.stride_tricks.sliding_window_view(pool.x, (layer.size, layer.size), axis=(1, 2))
    spread = np.ptp(windows[:, :: layer.stride, :: layer.stride], axis=(-2, -1))
    return _largest(spread[:, : pool.y.shape[1], : pool.y.shape[2]])


def convolution_of(step: Step) -> Conv2d:
    """The layer of a step that is a convolution."""
    assert isinstance(step.layer, Conv2d)
    return step.layer


def pooling_of(step: Step) -> AvgPool2d | MaxPool2d:
    """The layer of a step that is a pooling."""
    assert isinstance(step.layer, AvgPool2d | MaxPool2d)
    return step.layer


def window_of(step: Step, row: int, col: int) -> Array:
    """The part of a convolution's padded input, or of a pooling's input, that output ``(row, col)`` sees."""
    layer = step.layer
    assert isinstance(layer, Conv2d | AvgPool2d | MaxPool2d)
    size, padding = (layer.kernel_size, layer.padding) if isinstance(layer, Conv2d) else (layer.size, 0)
    padded = np.pad(step.x, ((0, 0), (padding, padding), (padding, padding)))
    top, left = row * layer.stride, col * layer.stride
    return padded[:, top : top + size, left : left + size]


def filters_of(step: Step) -> Array:
    """A convolution's filters as they are laid on the image: turned by 180 degrees if the layer flips them."""
    weight = step.parameters["weight"]
    return np.ascontiguousarray(weight[:, :, ::-1, ::-1]) if convolution_of(step).flip else weight
