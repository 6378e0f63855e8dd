"""LeNet-5 as a run's data needs it."""

import re
import time

from parallel_lenet.cli._console import Console
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.datasets import Dataset, DatasetError
from parallel_lenet.network import pixels
from parallel_lenet.network.sequential import Sequential


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
