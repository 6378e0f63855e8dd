"""LeNet-5 as a run's data needs it."""

import math
import re
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.arithmetic import sum_of
from parallel_lenet.cli._console import Console
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.datasets import Dataset, DatasetError
from parallel_lenet.datasets.dataset import parts
from parallel_lenet.network import pixels
from parallel_lenet.network.lenet5 import lenet5
from parallel_lenet.network.sequential import Sequential

Array = NDArray[Any]
Recipe = dict[str, int | float | list[int] | None]


def describe(train: Dataset) -> Recipe:
    """The arguments of `build` for these images: size, channels, classes, unit, mean and deviation.

    They are the same on every machine: sums of whole-number pixels are exact, others are added in a fixed order. The
    computation needs less than half as much memory as the images.
    """
    images = train.inputs
    unit = pixels.recognise(images)
    mean, variance = _moments(images)
    low, high = pixels.extremes(images)
    black, span = (0.0, 1.0) if unit.white is None else (unit.black, unit.white - unit.black)
    shade = ((high - low) if unit.white is None else span) / 255
    return {
        "channels": 1 if images.ndim == 3 else images.shape[1],
        "classes": max(2, train.classes),
        "image_size": list(images.shape[-2:]),
        "mean": (mean - black) / span,
        # Blank images have a deviation of 0, which can't be a divisor.
        "std": (math.sqrt(max(variance, shade * shade)) or 1.0) / span,
        "pixel_min": unit.black,
        "pixel_max": unit.white,
    }


def _moments(images: Array) -> tuple[float, float]:
    """The mean and the variance of all pixels."""
    most = min(2**18, max(images.size // 64, 256))
    largest = max(map(abs, pixels.extremes(images)))
    exact = images.dtype.kind in "bui" and largest * largest * most < 2**62
    sums, squares = [], []
    for part in parts(images, most):
        values = part.astype(np.int64 if exact else np.float64, order="C").ravel()
        sums.append(values.sum().item() if exact else sum_of(values.copy()))
        np.square(values, out=values)
        squares.append(values.sum().item() if exact else sum_of(values))
    add = sum if exact else math.fsum
    mean = float(add(sums)) / images.size
    return mean, float(add(squares)) / images.size - mean * mean


def build(recipe: Recipe, kernel: str) -> Sequential:
    return lenet5(kernel=kernel, **dict(recipe, image_size=tuple(recipe["image_size"])))  # type: ignore[arg-type]


def check(model: Sequential, data: Dataset) -> None:
    """Raises DatasetError if the network can't take these images or labels."""
    try:
        model.check(data.inputs, data.targets)
    except ValueError as error:
        sentence = str(error)
        if "lenet5(" in sentence:  # A remedy for programs, not for the command line.
            sentence = f"{re.split('[:;] ', sentence)[0]}: name images that fit it with --dataset or --data-dir"
        raise DatasetError(f"{data.name}: {sentence}") from None


def say_unit(model: Sequential, train: Dataset, console: Console) -> None:
    """Note the unit of the pixels, unless it is the usual 0 to 255."""
    unit = model.images.unit
    if unit != pixels.Unit():
        low, high = pixels.extremes(train.inputs)
        console.note(
            f"note: the pixels of {train.name} are {train.inputs.dtype} from {low:g} to {high:g}, taken as {unit} "
            f"({unit.arguments}); test images must be in the same unit"
        )


def compile_first(coordinator: Coordinator, data: Dataset, console: Console) -> None:
    """Compile before any time is measured, and note how long that took. The code is kept for the next process."""
    if getattr(coordinator.model, "kernel", None) == "compiled":
        from parallel_lenet.kernels import compiled  # Imported lazily: an extra.

        if not all(compiled.is_compiled(size) for size in coordinator.call_sizes):
            console.note("compiling the kernels for this machine, once ...")
            start = time.perf_counter()
            coordinator.warm_up(data)
            console.note(f"compiled the kernels for this machine, once: {time.perf_counter() - start:.0f} s")
