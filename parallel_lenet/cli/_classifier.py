"""The classifier of ``predict``: a checkpoint's network, or a user's own model with the checkpoint's parameters."""

import math
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from parallel_lenet import class_names
from parallel_lenet.archive import CheckpointError
from parallel_lenet.checkpoint import Checkpoint
from parallel_lenet.checks import quoted
from parallel_lenet.evaluation import predictions
from parallel_lenet.finite import require_finite_probabilities
from parallel_lenet.model import Model
from parallel_lenet.network.images import Images
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.pictures import read_image
from parallel_lenet.pictures.prediction import Prediction, predict_image
from parallel_lenet.trained import TrainedModel


class Classifier(NamedTuple):
    """Predicts the class that a picture shows."""

    images: Images
    """The images that it takes."""
    predict: Callable[[str | BinaryIO], Prediction]
    """Returns the prediction for a picture, without ``probabilities`` if the model has none. Raises PictureError."""


def classifier(checkpoint: Checkpoint, model: Model) -> Classifier:
    """The classifier.

    Raises CheckpointError if the model predicts no classes, or takes no images like those of files.
    """
    if not getattr(model, "classifies", True):
        raise CheckpointError(f"{checkpoint.path}: its model predicts numbers: it has no classes to predict")
    if isinstance(model, Sequential):
        trained = TrainedModel(model, checkpoint.state.parameters, checkpoint.metadata)
        return Classifier(model.images, lambda picture: predict_image(picture, trained))
    images, shape = _images(checkpoint)
    return Classifier(images, lambda picture: _predict(picture, checkpoint, model, images, shape))


def _images(checkpoint: Checkpoint) -> tuple[Images, tuple[int, ...]]:
    """The images that a model was trained on, and their shape.

    Raises CheckpointError if pictures can't be such images.
    """
    data = checkpoint.state.data
    known = (data.fingerprint() if data is not None else None) or {}
    shape = tuple(known.get("shape", ()))
    dtypes = known.get("dtypes")
    dtype = dtypes[0] if isinstance(dtypes, list) and dtypes else None
    channels, *sides = shape if len(shape) == 3 else (1, *shape)
    if dtype != "|u1" or len(sides) != 2 or channels not in (1, 3):
        raise CheckpointError(
            f"{checkpoint.path}: its model was trained on inputs of shape {shape} and type {quoted(dtype)}. Pictures "
            "need a model of uint8 images of shape (h, w) or (c, h, w) with 1 or 3 channels"
        )
    return Images((sides[0], sides[1]), channels=channels), shape


def _predict(
    picture: str | BinaryIO, checkpoint: Checkpoint, model: Any, images: Images, shape: tuple[int, ...]
) -> Prediction:
    seen = read_image(picture, images, whole=checkpoint.metadata.get("pictures") is True)
    inputs = seen.reshape(1, *shape)
    state = checkpoint.state
    labels = np.asarray(predictions(model.predict, model.layout, state.parameters, inputs, state.step))
    if labels.shape != (1,) or labels.dtype.kind not in "iu":
        raise CheckpointError(f"{checkpoint.path}: its model predicts {quoted(labels)} for an image, not a class")
    probabilities = np.empty(0)
    if callable(getattr(model, "predict_proba", None)):
        (probabilities,) = predictions(model.predict_proba, model.layout, state.parameters, inputs, state.step)
        require_finite_probabilities(state.step, probabilities)
    label = int(labels[0])
    entries = checkpoint.metadata.get("class_names")
    classes = len(probabilities) or (len(entries) if isinstance(entries, list) else 0)
    names = class_names.of_metadata(checkpoint.metadata, classes)
    return Prediction(
        label,
        float(probabilities[label]) if len(probabilities) else math.nan,
        probabilities,
        seen[0],
        names if names is not None and 0 <= label < len(names) else None,
    )
