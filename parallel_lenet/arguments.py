"""Checks of what a coordinator gets: models, optimizers and data."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.batching import split
from parallel_lenet.checks import whole_number
from parallel_lenet.datasets import Dataset, DatasetError
from parallel_lenet.model import Model, takes
from parallel_lenet.parameters import Vector
from parallel_lenet.random import generator

Array = NDArray[Any]
Data: TypeAlias = Dataset | tuple[Array, Array]
P = ParamSpec("P")
R = TypeVar("R")


def require_members(role: str, value: object, members: tuple[str, ...]) -> None:
    """Raises TypeError unless the value is an object with these members."""
    if isinstance(value, type) or not all(hasattr(value, member) for member in members):
        raise TypeError(f"the {role} must be an object with {', '.join(members)}, got {value!r}")


def takes_a_pair(method: Callable[P, R]) -> Callable[P, R]:
    """The method, which raises TypeError and asks for one pair if inputs and targets come as two arguments."""
    signature = inspect.signature(method)

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            name = method.__name__
            pair = ""
            if any(isinstance(value, np.ndarray | list) for value in (*args, *kwargs.values())):
                pair = f"; inputs and targets are passed as one pair, {name}((inputs, targets))"
            raise TypeError(f"{name}: {error}{pair}") from None
        return method(*args, **kwargs)

    return call


def as_dataset(data: Data) -> Dataset:
    """The data as a Dataset. Raises TypeError if they are neither a Dataset nor a pair."""
    if isinstance(data, Dataset):
        return data
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"data must be a Dataset or a pair (inputs, targets), got {type(data).__name__}")
    return Dataset(*data)


def dataset_for(model: Model, data: Data) -> Dataset:
    """The data as a Dataset. Raises DatasetError if the model's own check refuses it."""
    dataset = as_dataset(data)
    if dataset.weights is not None and not takes(model.loss_and_gradient, "weights"):
        raise DatasetError(
            f"{dataset.name}: its samples have weights, but the loss_and_gradient of {type(model).__name__} has no "
            "parameter weights: leave out the weights, or add the parameter"
        )
    check = getattr(model, "check", None)
    if callable(check):
        try:
            check(dataset.inputs, dataset.targets)
        except ValueError as error:
            raise DatasetError(f"{dataset.name}: {error}") from error
    return dataset


def number_of_epochs(epochs: object) -> int:
    """The ``epochs`` of ``fit`` as an int. Raises TypeError if targets were passed in their place."""
    if isinstance(epochs, np.ndarray | list | tuple):
        raise TypeError(
            f"epochs must be a whole number, got {type(epochs).__name__}: inputs and targets are passed as one pair, "
            "fit((inputs, targets), epochs)"
        )
    return whole_number("epochs", epochs, 0)


def training_data(model: Model, train: Data, validation: Data | float | None, seed: int) -> tuple[Dataset, ...]:
    """The data to train on and, if there are any, to validate on. The ``seed`` decides a split by a fraction."""
    data = dataset_for(model, train)
    if validation is None:
        return (data,)
    if isinstance(validation, float | int | np.floating | np.integer):
        return split(data, validation, seed)
    return data, dataset_for(model, validation)


def initial_parameters(model: Model, parameters: Vector | None, seed: int) -> Vector:
    """A copy of the ``parameters``, or the model's own initial ones for this seed: float32 or float64.

    Raises TypeError or ValueError if they do not fit the model's layout.
    """
    if parameters is None:
        parameters = model.initial_parameters(generator(seed))
    if not isinstance(parameters, np.ndarray):
        raise TypeError(f"parameters must be a NumPy vector, got {type(parameters).__name__}")
    if parameters.shape != (model.layout.size,) or parameters.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"the parameters must be float32 or float64 of shape ({model.layout.size},), as in the model's layout, "
            f"got {parameters.dtype} of shape {parameters.shape}"
        )
    return np.array(parameters)  # A plain array, also for a subclass.
