"""What a worker does with a shard, wherever it runs: a pure function of (model, parameters, shard)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.batching import Shard
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.parameters import Vector


class Samples(NamedTuple):
    """The arrays of a dataset that was checked before, read-only."""

    inputs: NDArray[Any]
    targets: NDArray[Any]


def shard_gradient(
    model: Model, datasets: Sequence[Samples], parameters: Vector, shard: Shard, gradient: Vector
) -> Metrics:
    """Forward and backward on the shard's samples: the loss, and in ``gradient`` its gradient, both summed."""
    first, *rest = shard.halves()
    metrics = _compute(model, datasets, parameters, first, gradient)
    for second in rest:
        other = np.empty_like(gradient)
        metrics += _compute(model, datasets, parameters, second, other)
        with np.errstate(over="ignore", invalid="ignore"):  # The coordinator checks the sum, and tells more.
            gradient += other
    return metrics


def shard_metrics(model: Model, datasets: Sequence[Samples], parameters: Vector, shard: Shard) -> Metrics:
    """Forward only: the loss, summed, and how many samples were right."""
    return _compute(model, datasets, parameters, shard, None)


def _compute(
    model: Model, datasets: Sequence[Samples], parameters: Vector, shard: Shard, gradient: Vector | None
) -> Metrics:
    data = datasets[shard.dataset]
    n = len(shard.rows)
    # In C order, whatever the dataset's: some engines copy datasets, and a model's sums may follow the order in memory.
    inputs, targets = (np.ascontiguousarray(array[shard.rows]) for array in (data.inputs, data.targets))
    sums = model.loss_and_gradient(parameters, inputs, targets, gradient)
    if not isinstance(sums, Metrics):
        raise TypeError(f"loss_and_gradient must return Metrics, not {type(sums).__name__}")
    if sums.count != n or not 0 <= sums.correct <= n:
        raise ValueError(
            f"loss_and_gradient must return sums over the {n} samples it was given: "
            f"count {n}, not {sums.count}, and correct from 0 to {n}, not {sums.correct}"
        )
    # A model may well return NumPy's numbers: float32 would add up to other bits, and JSON knows none of them.
    return Metrics(float(sums.loss_sum), int(sums.correct), int(sums.count))
