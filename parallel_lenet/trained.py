"""A trained network from a checkpoint, ready to predict."""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import checkpoint, descriptions, kernels
from parallel_lenet.checkpoint import CheckpointError
from parallel_lenet.engines.serial import one_blas_thread
from parallel_lenet.model import Sequential
from parallel_lenet.parameters import Vector
from parallel_lenet.state import Arrays, check_format, checked_parameters, user_metadata

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A network and its parameters.

    To train it further, with an optimizer of your choice, as a new training that starts from its parameters:
    ``Coordinator(trained.model, optimizer, parameters=trained.parameters)``.
    """

    model: Sequential
    parameters: Vector = field(repr=False)
    """Read-only."""
    metadata: dict[str, Any]
    """What was given to `Coordinator.save`."""

    def scores(self, images: Array) -> Array:
        """The class scores (logits) of images ``(n, h, w)`` or ``(n, c, h, w)``: ``(n, classes)``.

        ValueError if the images have another size or unit than the network's.
        """
        with one_blas_thread():
            return self.model.scores(self.parameters, images)

    def predict_proba(self, images: Array) -> Array:
        """The probability of each class, ``(n, classes)``: the softmax of the scores. Raises as `scores` does."""
        scores = self.scores(images)
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
        return probabilities

    def predict(self, images: Array) -> Array:
        """The class labels of images, ``(n,)``. Raises as `scores` does."""
        labels: Array = self.scores(images).argmax(axis=1)
        return labels


def load_model(path: str | os.PathLike[str], kernel: str = "auto") -> TrainedModel:
    """The network in a checkpoint that `Coordinator.save` or ``parallel-lenet train`` wrote, for prediction.

    ``kernel`` names how layers are computed, as in `lenet5`. Raises CheckpointError if the file is damaged, or if the
    model is not made of this package's layers: then make the model, and use `Coordinator.load`.
    """
    kernel = kernels.resolve(kernel)
    return from_checkpoint(path, *checkpoint.load(path), kernel)


def from_checkpoint(
    path: str | os.PathLike[str], arrays: Arrays, described: dict[str, Any], kernel: str
) -> TrainedModel:
    """The network in a checkpoint that has been read; see `load_model`."""
    check_format(path, described)
    try:
        model = descriptions.build(described.get("model"), kernel)
    except ValueError as error:
        raise CheckpointError(f"{path}: can't make its model: {error}") from error
    return TrainedModel(model, checked_parameters(path, arrays, described, model), user_metadata(path, described))
