"""Reduces the numbers of many steps to a few that can be drawn."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.runs.run import Run
from parallel_lenet.runs.steps import Steps

Numbers = NDArray[np.float64]

POINTS = 300  # The most points of a curve: more than one for two pixels.


class Curve(NamedTuple):
    """For each interval of steps the mean of x, and the mean, smallest and largest of y."""

    x: Numbers
    mean: Numbers
    least: Numbers
    most: Numbers


def curve(x: Numbers, y: Numbers, points: int = POINTS) -> Curve:
    """The numbers in at most ``points`` intervals of equal size. Numbers that are not finite are left out."""
    is_finite = np.isfinite(x) & np.isfinite(y)
    x = x[is_finite]
    y = y[is_finite]
    if not len(x):
        nothing = np.empty(0)
        return Curve(nothing, nothing, nothing, nothing)
    starts = np.unique(np.arange(points) * len(x) // points)
    counts = np.diff([*starts, len(x)])
    return Curve(
        np.add.reduceat(x, starts) / counts,
        np.add.reduceat(y, starts) / counts,
        np.minimum.reduceat(y, starts),
        np.maximum.reduceat(y, starts),
    )


def epochs_done(run: Run, steps: Steps) -> Numbers:
    """The number of epochs that were done after each step, with a fraction."""
    epoch = steps["epoch"]
    done = steps["done"]
    images = float(done.max()) if len(done) else 1.0
    all_images = run.data.get("train")
    held_out = run.options.get("validation")
    if len(epoch) and epoch.max() <= 1 and isinstance(all_images, int):  # No epoch may be complete.
        images = max(images, all_images * (1 - (held_out if isinstance(held_out, float) else 0.0)))
    return np.asarray(epoch - 1 + done / max(images, 1.0))


def rate(steps: Steps) -> Numbers:
    """Images per second, of each step."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(steps["images"] / steps["seconds"])
