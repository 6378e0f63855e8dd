"""The filters of a network's first convolution, and the feature maps of an image, as pictures."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.engines.serial import one_blas_thread
from parallel_lenet.network import layerwise
from parallel_lenet.network.layers import Conv2d
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector
from parallel_lenet.report import page
from parallel_lenet.report.page import Html

Array = NDArray[Any]

MOST = 32  # Filters or maps of a layer that are shown.
SIDE = 64  # Pixels per side of a map, at most.
MAP_WIDTH = 84  # Pixels on the page that a map takes, about.
FILTER_WIDTH = 56  # Pixels on the page that a filter takes, about.

# Positive numbers are orange, negative ones blue, zero is white, in both schemes and on the page of parallel-lenet
# explain. People with any kind of colour vision can tell the two apart.
POSITIVE = (217, 95, 2)
NEGATIVE = (40, 110, 210)
_ORANGE = np.array(POSITIVE, float)
_WHITE = np.array([247, 247, 247.0])
_BLUE = np.array(NEGATIVE, float)


class Maps(NamedTuple):
    """The feature maps of one layer."""

    layer: str
    """The layer's kind and the shape of its output, such as ``Conv2d: 6 x 28 x 28``."""
    pictures: list[Html]
    more: int
    """The number of maps that are not shown."""


class Filters(NamedTuple):
    """The filters of the first convolution, before and after training."""

    before: list[Html]
    after: list[Html]
    more: int
    colour: bool
    """Whether they have three channels, which are shown as red, green and blue."""


def filters(model: Sequential, before: Vector | None, after: Vector) -> Filters | None:
    """The filters of the first convolution, all on one scale of colours, or None if there is no convolution."""
    name = next((name for name, shape in model.layout.entries if len(shape) == 4), None)
    if name is None or not any(isinstance(layer, Conv2d) for layer in model.layers):
        return None
    weights = model.layout.views(after)[name].astype(np.float64)
    largest = _largest_magnitude(weights)
    before_training: list[Html] = []
    if before is not None:
        initial = model.layout.views(before)[name].astype(np.float64)
        largest = _largest_magnitude(np.concatenate([initial, weights]))
        before_training = [
            _filter(each, largest, f"filter {i}, before training") for i, each in enumerate(initial[:MOST], 1)
        ]
    return Filters(
        before_training,
        [_filter(each, largest, f"filter {i}") for i, each in enumerate(weights[:MOST], 1)],
        max(0, len(weights) - MOST),
        weights.shape[1] == 3,
    )


def _filter(weights: Array, largest: float, alt: str) -> Html:
    """One filter ``(channels, k, k)``: in colour if it has three channels, else the mean of them."""
    if len(weights) == 3:
        pixels = np.rint(127.5 + 127.5 * (weights / largest).clip(-1, 1)).astype(np.uint8).transpose(1, 2, 0)
    else:
        pixels = colours(weights.mean(axis=0), largest)
    return page.image(pixels, alt, max(1, FILTER_WIDTH // pixels.shape[1]))


def feature_maps(model: Sequential, parameters: Vector, image: Array) -> list[Maps]:
    """The output of each layer that makes images, for one image ``(1, c, h, w)`` as it is stored."""
    with one_blas_thread():
        outputs = layerwise.outputs(model, parameters, image[0])[1:]
    maps = []
    for layer, output in zip(model.layers, (output[..., 0] for output in outputs), strict=True):
        if output.ndim == 3 and output.shape[1] * output.shape[2] > 1:
            kind = type(layer).__name__
            pictures = [
                page.image(pixels, f"{kind}, map {i}", max(1, MAP_WIDTH // pixels.shape[1]))
                for i, pixels in enumerate(_pictures(output), 1)
            ]
            maps.append(Maps(f"{kind}: {' x '.join(map(str, output.shape))}", pictures, max(0, len(output) - MOST)))
    return maps


def _pictures(output: Array) -> list[Array]:
    step = -(-max(output.shape[1:]) // SIDE)
    maps = output[:MOST, ::step, ::step].astype(np.float64)
    largest = _largest_magnitude(maps)
    return [colours(each, largest) for each in maps]


def _largest_magnitude(values: Array) -> float:
    return float(np.nan_to_num(np.abs(values), posinf=0.0).max()) or 1.0


def colours(values: Array, largest: float) -> Array:
    """Numbers ``(h, w)`` as colours ``(h, w, 3)``: 0 is white, ``largest`` is orange, and its negative is blue."""
    part = np.nan_to_num(values / largest).clip(-1, 1)[..., np.newaxis]
    colours = np.where(part >= 0, _WHITE + part * (_ORANGE - _WHITE), _WHITE - part * (_BLUE - _WHITE))
    pixels: Array = np.rint(colours).astype(np.uint8)
    return pixels
