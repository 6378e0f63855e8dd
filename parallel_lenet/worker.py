"""How a worker computes a block, in any engine: a pure function of model, data, parameters and block."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.batching import Block, Rows, batches, samples_text
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.parameters import Vector
from parallel_lenet.sample_keys import SampleKeys
from parallel_lenet.tree import TreeSum, tree_total


class Samples(NamedTuple):
    """The read-only arrays of a dataset that has been checked."""

    inputs: NDArray[Any]
    targets: NDArray[Any]
    weights: NDArray[np.float32] | None = None


class Sums(NamedTuple):
    """The result of a block, besides its gradient."""

    metrics: Metrics
    finite: bool
    """False if the loss or the gradient holds NaN or infinity, or if the gradient is too large to be squared."""


def block_gradient(
    model: Model,
    datasets: Sequence[Samples],
    parameters: Vector,
    block: Block,
    gradient: Vector,
    spare: list[Vector],
) -> Sums:
    """Forward and backward on the block's samples. Returns the summed loss, and writes the summed ``gradient``.

    The shards are added along the tree. ``spare`` keeps the vectors that this needs for the next block, at most
    log2(shards). It is an empty list at first.
    """

    def room(depth: int) -> Vector:
        if depth > len(spare):
            spare.append(np.full_like(gradient, np.nan))  # If a model forgets to write a number, NaN shows it.
        return spare[depth - 1] if depth else gradient

    with np.errstate(over="ignore", invalid="ignore"):  # The coordinator checks the sum, and its error says more.
        sums = TreeSum(_add)
        for rows in block.shards():
            vector = room(sums.waiting)
            sums.append((_compute(model, datasets, parameters, rows, block, vector), vector))
        metrics, _ = sums.total()
        return Sums(metrics, math.isfinite(metrics.loss_sum) and math.isfinite(np.dot(gradient, gradient)))


def block_metrics(model: Model, datasets: Sequence[Samples], parameters: Vector, block: Block) -> Metrics:
    """Forward on the block's samples: the summed loss and the number of correct predictions."""
    sums = TreeSum[Metrics]()
    for rows in block.shards():
        sums.append(_compute(model, datasets, parameters, rows, block, None))
    return sums.total()


def warm_up(model: Any, parameters: Vector, data: Samples, samples: int) -> None:
    """Call the model's ``warm_up`` with ``samples`` samples: the first ones, repeated if there are fewer."""
    rows = np.arange(samples) % max(1, len(data.inputs))
    model.warm_up(parameters, data.inputs[rows], data.targets[rows])


def _add(left: tuple[Metrics, Vector], right: tuple[Metrics, Vector]) -> tuple[Metrics, Vector]:
    """The sum, written over the left one."""
    np.add(left[1], right[1], out=left[1])
    return left[0] + right[0], left[1]


def _compute(
    model: Model, datasets: Sequence[Samples], parameters: Vector, rows: Rows, block: Block, gradient: Vector | None
) -> Metrics:
    """The sums over a shard. An exception names its samples: the first leaf that fails, if the model has leaves."""
    data = datasets[block.dataset]
    try:
        return _call(model, data, parameters, rows, block.key, gradient)
    except Exception as error:
        # The size of a shard may follow from the number of workers. The exception must not.
        for leaf in batches(rows, getattr(model, "leaf", None) or len(rows)):
            if len(leaf) < len(rows):
                try:
                    _call(model, data, parameters, leaf, block.key, gradient)
                except Exception as first:
                    first.add_note(f"On {samples_text(leaf, block.dataset)}.")
                    raise first from None
        error.add_note(f"On {samples_text(rows, block.dataset)}.")
        raise


def _call(
    model: Model,
    data: Samples,
    parameters: Vector,
    rows: Rows,
    key: tuple[int, int] | None,
    gradient: Vector | None,
) -> Metrics:
    n = len(rows)
    # In C order, since some engines copy datasets, and a model's sums may depend on the order in memory.
    inputs, targets = (np.ascontiguousarray(array[rows]) for array in (data.inputs, data.targets))
    more: dict[str, Any] = {}  # The coordinator has checked that the model takes these.
    if data.weights is not None:
        more["weights"] = data.weights[rows]
    if key is not None:
        more["keys"] = SampleKeys(*key, rows)
    sums = model.loss_and_gradient(parameters, inputs, targets, gradient, **more)
    if not isinstance(sums, Metrics):
        raise TypeError(f"loss_and_gradient must return Metrics, got {type(sums).__name__}")
    if sums.count != n or not 0 <= sums.correct <= n:
        raise ValueError(
            f"loss_and_gradient must return sums over the {n} samples it was given: "
            f"count {n}, got {sums.count}, and correct from 0 to {n}, got {sums.correct}"
        )
    # A model may return NumPy's numbers. float32 would give other sums, and JSON does not have them.
    weight = tree_total(more["weights"], getattr(model, "leaf", None) or n) if "weights" in more else float(n)
    return Metrics(float(sums.loss_sum), int(sums.correct), int(sums.count), weight)
