"""How a worker computes a block, in any engine: a pure function of model, data, parameters and block."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.batching import Block, Rows, batches, samples_text
from parallel_lenet.checks import quoted
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
            spare.append(np.empty_like(gradient))
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
    model.warm_up(parameters.view(), data.inputs[rows], data.targets[rows])


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
    if gradient is not None:
        gradient.fill(np.nan)  # NaN shows each number that the model does not write. 5 us for LeNet-5.
        gradient = gradient.view()
    # Views, since a model may give an array another shape.
    sums = model.loss_and_gradient(parameters.view(), inputs, targets, gradient, **more)
    if not isinstance(sums, Metrics):
        raise TypeError(f"loss_and_gradient must return Metrics, got {type(sums).__name__}")
    # A model may return NumPy's numbers. float32 would give other sums, and JSON does not have them.
    loss_sum = _number("loss_sum", sums.loss_sum)
    count = _number("count", sums.count)
    correct = _number("correct", sums.correct)
    if count != n or not 0 <= correct <= n or not correct.is_integer():
        raise ValueError(
            f"loss_and_gradient must return sums over the {n} samples it was given: "
            f"count {n}, got {sums.count}, and correct a whole number from 0 to {n}, got {sums.correct}"
        )
    weight = tree_total(more["weights"], getattr(model, "leaf", None) or n) if "weights" in more else float(n)
    return Metrics(loss_sum, int(correct), n, weight)


def _number(name: str, value: Any) -> float:
    """A number of the model's Metrics as a float. Raises TypeError if it is something else."""
    try:
        if isinstance(value, str):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"loss_and_gradient must return Metrics of numbers, got {name}={quoted(value)}") from None
