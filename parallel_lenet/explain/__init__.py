"""The tutorial with the numbers of a trained network: ``parallel-lenet explain``.

`explain` follows one image and one weight through forward and backward pass and through a parallel step, and computes
every number with the kernels that train. `page` makes one HTML file of the lesson, `slides.write` one picture per
figure.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from parallel_lenet.engines.serial import one_blas_thread
from parallel_lenet.explain import backward, forward, parallel
from parallel_lenet.explain.lesson import Array, Lesson, choose
from parallel_lenet.explain.trace import trace
from parallel_lenet.network.layers import AvgPool2d, Conv2d, Dropout, MaxPool2d
from parallel_lenet.network.losses import CROSS_ENTROPY
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector

BATCH = 7  # Images: a whole tree of additions that fits a figure, with one image that has no neighbour.
LARGEST = 100_000  # Windows per image: the loops of `naive` visit them in about a second.

__all__ = ["Lesson", "explain"]


def explain(
    model: Sequential,
    parameters: Vector,
    image: Array,
    label: int | None,
    others: Array,
    labels: Sequence[int] | Array,
    source: str = "an image",
    class_names: tuple[str, ...] | None = None,
) -> Lesson:
    """The lesson on one stored image of this network, with ``others`` beside it in a batch.

    ``label`` is the image's class. None takes the network's answer as right. ``others (n, ...)`` are at least two
    images with their ``labels``. The first six are used. ``class_names`` are what the classes are called. The
    kernel is `naive`, or, if the network is too large for its loops, the model's. Dropout, which does nothing outside
    of training, is left out. Raises ValueError if an image or a label does not fit the network, if the scores are not
    finite, or if the network has no classes.
    """
    if model.loss != CROSS_ENTROPY:
        raise ValueError(f"the lesson is about a network with classes, and the loss of this one is {model.loss}")
    model = replace(model, layers=tuple(layer for layer in model.layers if not isinstance(layer, Dropout)))
    if windows(model) <= LARGEST:
        model = replace(model, kernel="naive")
    if len(others) < 2:
        raise ValueError(f"the lesson needs at least 2 more images for a batch, got {len(others)}")
    others = others[: BATCH - 1]
    labels = np.asarray(labels)[: BATCH - 1]
    images = np.concatenate([model.images.channels_first(image[np.newaxis]), model.images.channels_first(others)])
    with one_blas_thread():
        scores = model.scores(parameters, images)
        if not np.isfinite(scores).all():
            raise ValueError("the network's scores are not finite: there is nothing to explain")
        target = int(scores[0].argmax()) if label is None else int(label)
        targets = np.array([target, *labels], np.int64)
        model.check(images, targets)
        traced = trace(model, parameters, images[0], target)
        roles, weight = choose(traced)
        lesson = Lesson(
            *(model, parameters, traced, target, label is not None, source, roles, weight, images, targets),
            class_names=class_names,
        )
        forward.compute(lesson)
        backward.compute(lesson)
        parallel.compute(lesson)
    return lesson


def windows(model: Sequential) -> int:
    """The number of windows that the loops of `naive` visit for one image."""
    kinds = (Conv2d, AvgPool2d, MaxPool2d)
    shapes = zip(model.layers, model.shapes[1:], strict=True)
    return sum(int(np.prod(shape)) for layer, shape in shapes if isinstance(layer, kinds))
