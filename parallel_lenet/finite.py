"""Finds NaN and infinity at each step, and traces them to the shard and the layer that they came from.

The check is one pass over the averaged vector, about 10 us for LeNet-5: a NaN or an infinity in any shard stays one in
the sum. If there is one, the shards are computed again, one by one. They are pure functions, so it appears again. If it
does not, a worker computed something else the first time.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.engines import BlockGradient
from parallel_lenet.parameters import Layout, Vector


class NonFiniteError(ArithmeticError):
    """Training met NaN or infinity. ``step``, ``shard`` and ``layer`` say where, and are None if that is not known.

    ``shard`` counts the shards of the step's batch from 1. ``layer`` is the first name in the model's layout with such
    a number.
    """

    def __init__(self, message: str, step: int, shard: int | None = None, layer: str | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.shard = shard
        self.layer = layer


def is_finite(loss: float, vector: Vector) -> bool:
    """Whether loss and vector hold neither NaN nor infinity."""
    return math.isfinite(loss) and bool(np.isfinite(vector).all())


def first_layer(layout: Layout, vector: Vector) -> str | None:
    """The first name whose part of the vector holds NaN or infinity."""
    return next((name for name, view in layout.views(vector).items() if not np.isfinite(view).all()), None)


def traced_error(step: int, layout: Layout, results: Iterable[BlockGradient], shards: int) -> NonFiniteError | None:
    """The error about the first of the step's shards, computed again, that is not finite, or None if all are finite."""
    for number, result in enumerate(results, start=1):
        loss = result.metrics.loss_sum
        gradient = result.gradient
        if not is_finite(loss, gradient):
            layer = first_layer(layout, gradient)
            finding = f"the gradient of {layer} holds NaN or infinity" if layer else "all gradients are finite"
            where = f"step {step}, shard {number} of {shards}"
            return NonFiniteError(f"{where}: the loss is {loss:g}, and {finding}", step, number, layer)
    return None


def overflow_error(step: int) -> NonFiniteError:
    """The error if the shards' gradients are finite and their sum is not, also when computed again."""
    return NonFiniteError(f"step {step}: the shards are finite, but their sum overflows", step)


def irreproducible_error(step: int, workers: Sequence[str]) -> NonFiniteError:
    """The error if the second computation of a step gives finite numbers."""
    return NonFiniteError(
        f"step {step}: the loss or a gradient from {' and '.join(dict.fromkeys(workers))} held NaN or infinity, "
        "but finite numbers when the same shards were computed again. The model is not a pure function of its "
        "arguments, or the hardware is faulty",
        step,
    )


def require_finite(step: int, layout: Layout, parameters: Vector) -> None:
    """Raises NonFiniteError if the parameters are not finite: scores of NaN cannot be compared."""
    if not np.isfinite(parameters).all():
        layer = first_layer(layout, parameters)
        raise NonFiniteError(
            f"the parameters hold NaN or infinity in {layer}: no prediction is possible", step, None, layer
        )


def require_finite_probabilities(step: int, probabilities: NDArray[Any]) -> None:
    """Raises NonFiniteError if finite parameters give scores that overflow."""
    wrong = np.flatnonzero(~np.isfinite(probabilities).all(axis=-1))
    if len(wrong):
        raise NonFiniteError(f"the scores of input {wrong[0]} overflow: they give no probabilities", step)


def evaluation_error(step: int, loss: float) -> NonFiniteError:
    """The error if finite parameters give a loss that is not finite."""
    return NonFiniteError(
        f"after step {step}: the loss on the data to evaluate is {loss:g}: the data hold NaN or infinity, or scores "
        "overflow. An accuracy would be meaningless",
        step,
    )


def update_error(step: int, layout: Layout, parameters: Vector) -> NonFiniteError:
    """The error if a finite gradient leads to parameters that are not finite."""
    layer = first_layer(layout, parameters)
    return NonFiniteError(
        f"step {step}: the update put NaN or infinity into {layer}: the learning rate may be too high",
        step,
        None,
        layer,
    )
