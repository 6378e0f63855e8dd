"""NaN and infinity: detected at every step, and traced to the shard and the layer that they came from.

The check is one pass over the averaged vector, about 10 us for LeNet-5: a NaN or an infinity in any shard stays one in
the sum. Then the shards are computed once more, one by one. They are pure functions, so the NaN or infinity appears
again. If it does not, a worker computed something else the first time.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.engines import BlockGradient
from parallel_lenet.parameters import Layout, Vector


class NonFiniteError(ArithmeticError):
    """Training met NaN or infinity; ``step``, ``shard`` and ``layer`` say where, and are None if that is unknown.

    ``shard`` counts the shards of the step's batch from 1; ``layer`` is the first name in the model's layout whose
    gradient is concerned.
    """

    def __init__(self, message: str, step: int, shard: int | None = None, layer: str | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.shard = shard
        self.layer = layer


def is_finite(loss: float, vector: Vector) -> bool:
    """Whether there is no NaN and no infinity in either."""
    return math.isfinite(loss) and bool(np.isfinite(vector).all())


def first_layer(layout: Layout, vector: Vector) -> str | None:
    """The first name whose part of the vector holds a NaN or an infinity."""
    return next((name for name, view in layout.views(vector).items() if not np.isfinite(view).all()), None)


def trace(step: int, layout: Layout, results: Iterable[BlockGradient], shards: int) -> NonFiniteError | None:
    """The error to raise, from the results of the step's shards computed again; None if all are finite."""
    for number, result in enumerate(results, start=1):
        loss, gradient = result.metrics.loss_sum, result.gradient
        if not is_finite(loss, gradient):
            layer = first_layer(layout, gradient)
            what = f"the gradient of {layer} holds NaN or infinity" if layer else "all gradients are finite"
            where = f"step {step}, shard {number} of {shards}"
            return NonFiniteError(f"{where}: the loss is {loss:g}, and {what}", step, number, layer)
    return None


def overflow(step: int) -> NonFiniteError:
    """The error to raise if the shards' gradients are finite, and their sum is not, twice."""
    return NonFiniteError(f"step {step}: the shards are finite, but their sum overflows", step)


def irreproducible(step: int, workers: Sequence[str]) -> NonFiniteError:
    """The error to raise if the second computation of a step gives finite numbers."""
    return NonFiniteError(
        f"step {step}: the loss or a gradient from {' and '.join(dict.fromkeys(workers))} held NaN or infinity, and "
        "the second computation of the same shards gave something else, finite numbers: the model is not a pure "
        "function of its arguments, or the hardware is faulty",
        step,
    )


def require_finite(step: int, layout: Layout, parameters: Vector) -> None:
    """Raises NonFiniteError if the parameters are not: a score of NaN is smaller and larger than no other."""
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


def evaluation(step: int, loss: float) -> NonFiniteError:
    """The error to raise if finite parameters give a loss that is not."""
    return NonFiniteError(
        f"after step {step}: the loss on the data to evaluate is {loss:g}: the data hold NaN or infinity, or scores "
        "overflow; an accuracy would be meaningless",
        step,
    )


def after_update(step: int, layout: Layout, parameters: Vector) -> NonFiniteError:
    """The error to raise if a finite gradient led to parameters that are not finite."""
    layer = first_layer(layout, parameters)
    return NonFiniteError(
        f"step {step}: the update put NaN or infinity into {layer}: the learning rate may be too high",
        step,
        None,
        layer,
    )
