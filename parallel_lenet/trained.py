"""A trained network from a checkpoint, for prediction."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from parallel_lenet import class_names, descriptions, finite, kernels
from parallel_lenet.archive import CheckpointError
from parallel_lenet.checkpoint import Checkpoint
from parallel_lenet.checks import numeric_array, quoted
from parallel_lenet.display import Displayed, Summary, Table, shorten
from parallel_lenet.evaluation import predictions
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector

Array = NDArray[Any]


@dataclass(frozen=True, eq=False, repr=False)
class TrainedModel(Displayed):
    """A network and its parameters.

    To train it further, with an optimizer of your choice, as a new training that starts from its parameters:
    ``Coordinator(trained.model, optimizer, parameters=trained.parameters)``.
    """

    model: Sequential
    parameters: Vector
    """Read-only."""
    metadata: dict[str, Any]
    """What was given to `Coordinator.save`."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What the classes are called, by label, or None unless ``metadata`` has a list ``class_names`` of as many."""
        return class_names.of_metadata(self.metadata, self.model.classes)

    @property
    def whole_pictures(self) -> bool:
        """Whether it was trained on image files as they are (``pictures`` in ``metadata``), and not on digits."""
        return self.metadata.get("pictures") is True

    def _summary(self) -> Summary:
        rows = [(quoted(name), quoted(value)) for name, value in self.metadata.items()]
        parts = [*self.model._summary().parts, Table(("metadata", ""), shorten(rows), texts=2)]
        return Summary(f"TrainedModel({self.model!r})", parts)

    def scores(self, images: Array) -> Array:
        """The class scores (logits) of images ``(n, h, w)`` or ``(n, c, h, w)``: ``(n, classes)``.

        Raises ValueError if the images have another size or unit than the network's, and TypeError if they are not an
        array of numbers. Raises NonFiniteError if the parameters hold NaN or infinity.
        """
        return self._predictions(self.model.scores, images)

    def predict(self, images: Array) -> Array:
        """The class labels of images, ``(n,)``. Raises as `scores` does."""
        return self._predictions(self.model.predict, images)

    def predict_proba(self, images: Array) -> Array:
        """The probability of each class, float32 ``(n, classes)``: rows that sum to 1, largest at `predict`'s label.

        Raises as `scores` does, and NonFiniteError if scores overflow.
        """
        probabilities = self._predictions(self.model.predict_proba, images)
        finite.require_finite_probabilities(0, probabilities)
        return probabilities

    def _predictions(self, method: Callable[[Vector, Array], Array], images: Array) -> Array:
        return predictions(method, self.model.layout, self.parameters, numeric_array("images", images))


def load_model(path: str | os.PathLike[str], kernel: str = "auto") -> TrainedModel:
    """The network in a checkpoint that `Coordinator.save` or ``parallel-lenet train`` wrote, for prediction.

    ``kernel`` names how layers are computed, as in `lenet5`. Raises CheckpointError if the file is damaged, or if the
    model is not made of this package's layers: then make the model, and use `Coordinator.load`.
    """
    kernel = kernels.resolve(kernel)
    return from_checkpoint(Checkpoint.load(path), kernel)


def from_checkpoint(checkpoint: Checkpoint, kernel: str) -> TrainedModel:
    """The network in a checkpoint, as `load_model` returns it."""
    try:
        model = descriptions.build(checkpoint.description, kernel)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: can't make its model: {error}") from error
    checkpoint.require_model(model)
    return TrainedModel(model, checkpoint.state.parameters, checkpoint.metadata)
