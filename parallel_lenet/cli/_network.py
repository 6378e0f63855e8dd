"""Checks that a network fits a run's images, and notes their unit."""

import re

from parallel_lenet.cli._console import Console
from parallel_lenet.datasets import Dataset, DatasetError
from parallel_lenet.model import Model
from parallel_lenet.network import pixels
from parallel_lenet.network.sequential import Sequential


def check(model: Model, data: Dataset) -> None:
    """Raises DatasetError if the network can't take these images or labels."""
    try:
        getattr(model, "check", lambda inputs, targets: None)(data.inputs, data.targets)
    except ValueError as error:
        sentence = str(error)
        if "lenet5(" in sentence:  # A remedy for programs, not for the command line.
            sentence = f"{re.split('[:;] ', sentence)[0]}: name images that fit it with --dataset or --data-dir"
        raise DatasetError(f"{data.name}: {sentence}") from None


def note_unit(model: Model, train: Dataset, console: Console) -> None:
    """Note the unit of the pixels, unless it is the usual 0 to 255."""
    if not isinstance(model, Sequential):
        return
    unit = model.images.unit
    if unit != pixels.Unit():
        low, high = pixels.extremes(train.inputs)
        console.note(
            f"note: the pixels of {train.name} are {train.inputs.dtype} from {low:g} to {high:g}, taken as {unit} "
            f"({unit.arguments}). Test images must be in the same unit"
        )
