"""The prediction of a trained network for a picture."""

import os
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from parallel_lenet import class_names
from parallel_lenet.pictures import read_image
from parallel_lenet.trained import TrainedModel, load_model

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of a network for a picture."""

    label: int
    """The most probable class."""
    probability: float
    """The probability of that class."""
    probabilities: Array = field(repr=False)
    """The probability of each class, ``(classes,)``."""
    seen: Array = field(repr=False)
    """The image that the network saw, ``(c, h, w)``, in its unit."""
    class_names: tuple[str, ...] | None = field(default=None, repr=False)
    """The names of the classes, if the checkpoint has them."""

    @property
    def name(self) -> str:
        """The name of the most probable class, or its number."""
        return self.name_of(self.label)

    def name_of(self, label: int) -> str:
        """The name of a class, or its number."""
        return class_names.name_of(self.class_names, label)

    def top(self, count: int = 3) -> list[tuple[int, float]]:
        """The most probable classes with their probabilities, most probable first."""
        order = (-self.probabilities).argsort(kind="stable")[:count]
        return [(int(label), float(self.probabilities[label])) for label in order]


def predict_image(picture: object, model: TrainedModel | str | os.PathLike[str]) -> Prediction:
    """The prediction for a picture of a digit by ``model``, or by the network of the checkpoint with that path.

    ``picture`` is the path of an image file, a binary stream or an array, prepared as in `read_digit`. A network for
    colours, or one that was trained on image files, gets the whole picture, resized. For many pictures, load the
    network once, with `load_model`. Raises PictureError as `read_digit` does, and CheckpointError as `load_model` does.
    """
    trained = model if isinstance(model, TrainedModel) else load_model(model)
    image = read_image(picture, trained.model.images, whole=trained.whole_pictures)
    probabilities = trained.predict_proba(image)[0]
    label = int(probabilities.argmax())
    return Prediction(label, float(probabilities[label]), probabilities, image[0], trained.class_names)
