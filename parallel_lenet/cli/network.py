"""LeNet-5 as a run's data needs it, and as a checkpoint describes it."""

import numpy as np

from parallel_lenet.cli.console import Console
from parallel_lenet.datasets import Dataset, DatasetError
from parallel_lenet.lenet import lenet5
from parallel_lenet.model import Sequential

Description = dict[str, int | float | list[int]]


def describe(train: Dataset) -> Description:
    """What `build` needs for these images: size, channels, classes, and the mean and deviation to normalise by.

    The sums of whole-number pixels are exact, so the numbers don't depend on the order they are added in.
    """
    pixels = train.inputs
    exact = pixels.astype(np.int64) if pixels.dtype.kind in "iu" else pixels.astype(np.float64)
    mean = float(exact.sum() / exact.size)
    variance = float((exact * exact).sum() / exact.size) - mean * mean
    return {
        "channels": 1 if pixels.ndim == 3 else pixels.shape[1],
        "classes": max(2, train.classes),
        "image_size": list(pixels.shape[-2:]),
        "mean": mean / 255,
        "std": max(variance, 1.0) ** 0.5 / 255,  # A set of blank images has no deviation to divide by.
    }


def build(description: Description, kernel: str) -> Sequential:
    """The network; ValueError where the description is none."""
    values = dict(description, image_size=tuple(description["image_size"]))  # type: ignore[arg-type]
    return lenet5(kernel=kernel, **values)  # type: ignore[arg-type]


def check(model: Sequential, data: Dataset) -> None:
    """DatasetError where the network can't take these images or labels."""
    try:
        model.images.stored(data.inputs)
    except ValueError as error:
        raise DatasetError(f"{data.name}: {error}") from None
    if data.classes > model.classes:
        raise DatasetError(
            f"{data.name}: holds labels up to {data.classes - 1}, but the network has {model.classes} classes"
        )


def say_if_compiling(model: Sequential, console: Console) -> None:
    """A note where the first step will have to wait for the compiler, which keeps its work for the next process."""
    if model.kernel == "compiled":
        from parallel_lenet.kernels import compiled  # Late: an extra.

        if not compiled.is_compiled():
            console.note("compiling the kernels for this machine, once: some 10 seconds")
