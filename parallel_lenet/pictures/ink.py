"""Finds the amount of ink on each pixel of a drawing or photograph, for any paper and light.

The light on a photographed page is uneven, and its edges may show the table. So ink is a connected part that differs
from the paper around it and is not wider than a stroke.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.pictures.components import components
from parallel_lenet.pictures.files import shrink
from parallel_lenet.resizing import area_means

Array = NDArray[Any]

COARSE = 96  # Pixels of the longer side of the reduced picture in which the paper is found.
STROKE = 0.3  # Of the longer side, at most twice the shorter one. Wider parts are other paper, or a shadow.
CLEARLY_FEWER = 1.0  # Above this skewness of the pixels, the ink has clearly fewer of them than the paper.
LEAST_CONTRAST = 0.08  # Of the range from black to white. A page with less is blank.
EDGE_CONTRAST = 0.3  # The least contrast of ink at the picture's edge. Shadows have less, closely cut digits more.
LEAST_RATIO = 5.5  # The least contrast as a multiple of the noise.
LEAST_NOISE = 0.01  # Of the range. It is added to the noise of every channel.
GRAIN = 0.07  # The noise, as a part of the contrast, above which the picture is smoothed.
AREA = 0.002  # Of the picture. A digit covers more, a speck less.
PART = 0.05  # Of the digit's largest piece. A smaller piece does not belong to the digit.
LEAST_INK = 0.2  # Of the full ink. Less counts as paper.
SIDE = 160  # Pixels of the longer side of the digit, in which thin strokes are made wider.
STROKE_WIDTH = 2.7  # Twentieths of the longer side: the median width of MNIST's strokes.


def ink(picture: Array) -> Array | None:
    """The ink of a picture ``(h, w, channels)`` of floats from 0 to 1: uint8, from 0 for paper to 255 for full ink.

    None if nothing is drawn on it.
    """
    differences = [_difference(picture[..., channel]) for channel in range(picture.shape[2])]
    # The weights that give the sum of independent noises and one signal the best ratio.
    weights = [max(_contrast(each), 0.0) / (_noise(each) + LEAST_NOISE) ** 2 for each in differences]
    if not any(weights):
        return None
    difference: Array = np.average(differences, axis=0, weights=weights)
    smooth = _blur(difference, 3)
    contrast = _contrast(smooth)
    noise = _noise(smooth)
    if contrast < max(LEAST_CONTRAST, LEAST_RATIO * noise):
        return None
    if noise > GRAIN * contrast:
        difference = smooth
    digit_mask = _digit(smooth > 0.5 * contrast)
    if contrast < EDGE_CONTRAST and (digit_mask[[0, -1]].any() or digit_mask[:, [0, -1]].any()):
        return None
    full_difference = max(float(np.median(difference[digit_mask])), 0.5 * contrast)
    amount = np.where(_largest_near(digit_mask, 1), np.clip(difference / full_difference, 0, 1), 0)
    amount[amount < LEAST_INK] = 0
    if not amount.any():
        return None
    result: Array = np.rint(_widen(_crop(amount)) * 255).astype(np.uint8)
    return result


def _difference(channel: Array) -> Array:
    """The difference of each pixel from the paper around it, towards the ink. It is about 0 without ink."""
    coarse = shrink(channel, COARSE)
    sign = 1.0 if _is_dark_on_light(coarse) else -1.0
    radius = max(1, round(STROKE / 2 * min(2 * min(coarse.shape), max(coarse.shape))))
    paper = -_largest_near(-_largest_near(sign * coarse, radius), radius)
    paper = sign * _stretch(_blur(paper, 3), channel.shape)
    # Dark ink absorbs the same part of the light everywhere.
    difference = 1 - channel / np.maximum(paper, 0.05) if sign > 0 else channel - paper
    return np.asarray(difference - np.median(_paper(difference)))


def _is_dark_on_light(coarse: Array) -> bool:
    """Whether the ink is darker than the paper.

    Ink has fewer pixels than paper. If that is not clear, the picture's edge shows the paper.
    """
    rest = coarse - _surface(coarse)
    skewness = (rest**3).mean() / max((rest**2).mean() ** 1.5, 1e-9)
    if abs(skewness) > CLEARLY_FEWER:
        return bool(skewness < 0)
    edge = np.concatenate([coarse[0], coarse[-1], coarse[:, 0], coarse[:, -1]])
    return bool(np.median(edge) > coarse.mean())


def _contrast(difference: Array) -> float:
    """The difference between ink and paper, if the ink covers at least `AREA`."""
    return float(np.quantile(difference, 1 - AREA))


def _paper(difference: Array) -> Array:
    """The pixels with little or no ink."""
    few = difference < 0.5 * _contrast(difference)
    return difference[few] if few.any() else difference


def _noise(difference: Array) -> float:
    """The standard deviation of the paper."""
    paper = _paper(difference)
    return 1.4826 * float(np.median(np.abs(paper - np.median(paper))))


def _digit(mask: Array) -> Array:
    """The mask of the digit: the largest piece that the picture's edge does not cut, and the pieces near it."""
    pieces = components(mask)
    starts = pieces.boxes[:, :2]
    ends = pieces.boxes[:, 2:]
    at_edge = (starts == 0).any(axis=1) | (ends == mask.shape).any(axis=1)
    sizes = pieces.sizes * np.where(at_edge, 0.1, 1.0)
    main = int(np.argmax(sizes))
    reach = 0.3 * (ends[main] - starts[main]).max()
    near = (starts <= ends[main] + reach).all(axis=1) & (ends >= starts[main] - reach).all(axis=1)
    is_part = near & (sizes >= PART * sizes[main]) & (at_edge <= at_edge[main])
    return np.append(False, is_part)[pieces.labels]


def _crop(amount: Array) -> Array:
    """The digit with its longer side of `SIDE` pixels, and a margin."""
    rows, columns = (np.flatnonzero(amount.any(axis=axis)) for axis in (1, 0))
    digit = amount[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    shape = tuple(max(1, round(side * SIDE / max(digit.shape))) for side in digit.shape)
    pixels = area_means(digit, *shape) if max(digit.shape) > SIDE else _stretch(digit, shape)
    return np.pad(pixels, SIDE // 10)


def _widen(amount: Array) -> Array:
    """The ink, with strokes at least as wide as MNIST's usually are."""
    mask = amount > 0.5
    inner = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:] & mask[1:-1, 1:-1]
    width = 2 * mask.sum() / max(1, mask.sum() - inner.sum())
    return _largest_near(amount, max(0, round((STROKE_WIDTH / 20 * SIDE - width) / 2)))


def _surface(values: Array) -> Array:
    """A surface of second order through most of the values. Values far from it have little weight."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in values.shape), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1).reshape(-1, 6)
    weights = np.ones((values.size, 1))
    for _ in range(8):
        weighted_terms = terms * weights
        solution = np.linalg.lstsq(weighted_terms.T @ terms, weighted_terms.T @ values.ravel(), rcond=None)[0]
        fit = terms @ solution
        weights = 1 / (np.abs(values.ravel() - fit) + 0.01)[:, np.newaxis]
    return np.asarray(fit.reshape(values.shape))


def _largest_near(values: Array, radius: int) -> Array:
    """For each pixel the largest value in the disc around it."""
    height, width = values.shape
    padded = np.pad(values, radius, mode="edge")
    result = values
    for y in range(-radius, radius + 1):
        reach = math.isqrt(radius * radius - y * y)
        rows = padded[radius + y : radius + y + height, radius - reach : radius + reach + width]
        result = np.maximum(result, np.lib.stride_tricks.sliding_window_view(rows, 2 * reach + 1, 1).max(axis=-1))
    return result


def _blur(values: Array, size: int) -> Array:
    """For each pixel the mean of the square around it. The square's side ``size`` is odd."""
    for axis in (0, 1):
        ends = [(0, 0), (0, 0)]
        ends[axis] = (size // 2, size // 2)
        padded = np.pad(values, ends, mode="edge")
        values = np.lib.stride_tricks.sliding_window_view(padded, size, axis).mean(axis=-1)
    return values


def _stretch(values: Array, shape: tuple[int, ...]) -> Array:
    """The values on a finer grid, interpolated linearly."""
    for axis in (0, 1):
        old = values.shape[axis]
        new = shape[axis]
        positions = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.minimum(positions.astype(int), max(old - 2, 0))
        high = np.minimum(low + 1, old - 1)
        part = (positions - low)[:, np.newaxis]
        lines = np.moveaxis(values, axis, 0)
        values = np.moveaxis(lines[low] * (1 - part) + lines[high] * part, 0, axis)
    return values
