"""Weights that a command takes from a file."""

import os

from parallel_lenet.cli._options import UsageError
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector
from parallel_lenet.weights import load_weights


def load(option: str, file: str, model: Sequential) -> Vector:
    """The weights for a network. Raises UsageError if there is no such file, WeightsError if they do not fit."""
    if not os.path.isfile(file):
        problem = "is not a file" if os.path.lexists(file) else "does not exist"
        raise UsageError(f"{option} {file} {problem}: name a safetensors file, an .npz file or a checkpoint")
    return load_weights(model, file)
