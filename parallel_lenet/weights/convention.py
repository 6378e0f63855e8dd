"""Converts between this package's parameter vectors and weights as other programs store them.

Others follow PyTorch: convolutions are cross-correlations with weights ``(out, in, height, width)``, and dense layers
have weights ``(out, in)``. This package does the same, except in layers with ``flip=True``. These compute the true
convolution, and files have their filters turned by 180 degrees.
"""

from typing import Any

from numpy.typing import NDArray

from parallel_lenet.model import Model
from parallel_lenet.network.layers import Conv2d
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector

Array = NDArray[Any]


def named_weights(model: Model, parameters: Vector) -> dict[str, Array]:
    """Views of a parameter vector by name, ``conv1.weight`` and so on, as other programs store them.

    Writing to them writes to the vector. Raises ValueError if the vector has another size.
    """
    flipped_names = _flipped_weights(model)
    views = model.layout.views(parameters)
    return {name: view[:, :, ::-1, ::-1] if name in flipped_names else view for name, view in views.items()}


def _flipped_weights(model: Model) -> set[str]:
    """The names of the weights of true convolutions."""
    if not isinstance(model, Sequential):
        return set()
    return {
        f"{name}.weight"
        for layer, name in zip(model.layers, model.layer_names, strict=True)
        if isinstance(layer, Conv2d) and layer.flip
    }
