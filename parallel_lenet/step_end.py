"""The end of a step: from the sums of a batch's gradients to the mean, its norm, and the next parameters.

The workers wait meanwhile. So Adam does all of it in one compiled pass over the vectors if it can. Otherwise each
operation is a pass of its own, with the same bits.
"""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import numpy as np

from parallel_lenet.averaging import mean, partial_sums
from parallel_lenet.clipping import clip_by_global_norm, global_norm, norm_of_squares
from parallel_lenet.metrics import Metrics
from parallel_lenet.optimizers import Adam, MeanUpdate, Optimizer, OptimizerState
from parallel_lenet.parameters import Vector
from parallel_lenet.slices import LONG, Threads
from parallel_lenet.updates import VectorPool, next_state, state_slice, update


class StepEnd(NamedTuple):
    """The result of a step."""

    norm: float
    """The norm of the mean gradient, before clipping."""
    parameters: Vector
    state: OptimizerState
    gradient_finite: bool = True
    """Whether the loss and the mean gradient are finite. If not, parameters and state are those before the step."""
    finite: bool = True
    """Whether the parameters are finite."""
    clipped: float = 0.0
    """When the gradient had been clipped, by `time.perf_counter`, or 0 if it was not."""


def finish(
    optimizer: Optimizer,
    before: tuple[Vector, OptimizerState],
    metrics: Metrics,
    sums: Sequence[Vector],
    clip_norm: float | None,
    memory: VectorPool,
    threads: Threads,
) -> StepEnd:
    """The step from ``before``, parameters and state, by the mean gradient, clipped to ``clip_norm``.

    ``sums`` are as in `averaging.BatchSum`. The mean divides them by ``metrics.weight``. Nothing is changed in place.
    """
    if clip_norm is None and math.isfinite(metrics.loss_sum) and _has_fused_step(optimizer):
        end = _in_one_pass(optimizer, before, metrics.weight, sums, memory, threads)
        if end is not None:
            return end
    gradient = mean(sums, metrics.weight, memory, threads)
    norm = global_norm(gradient, threads)
    if not math.isfinite(metrics.loss_sum) or not (math.isfinite(norm) or np.isfinite(gradient).all()):
        return StepEnd(norm, *before, gradient_finite=False)
    clipped = 0.0
    if clip_norm is not None:
        gradient, _ = clip_by_global_norm(gradient, clip_norm, threads)
        clipped = time.perf_counter()
    parameters, state, finite = update(optimizer, before[0], gradient, before[1], memory, threads)
    return StepEnd(norm, parameters, state, finite=finite, clipped=clipped)


def _has_fused_step(optimizer: Optimizer) -> TypeGuard[Adam]:
    """Whether it has `Adam.update_by_mean`, and no ``update`` of its own."""
    return isinstance(optimizer, Adam) and type(optimizer).update is Adam.update and optimizer.is_compiled


def _in_one_pass(
    optimizer: Adam,
    before: tuple[Vector, OptimizerState],
    weight: float,
    sums: Sequence[Vector],
    memory: VectorPool,
    threads: Threads,
) -> StepEnd | None:
    """The step, slice by slice if vectors are long, or None if the squares of the gradient overflow or become 0."""
    parameters, state = before
    sums = partial_sums(sums, 2, memory, threads)
    if parameters.size <= LONG:
        result, after, squares, finite = optimizer.update_by_mean(parameters, sums, weight, state)
    else:
        result, after = next_state(parameters, state, memory)

        def update_slice(part: slice) -> MeanUpdate:
            slots = state_slice(after, part).slots
            out = (result[part], slots["first_moment"], slots["second_moment"])
            slices = [vector[part] for vector in sums]
            return optimizer.update_by_mean(parameters[part], slices, weight, state_slice(state, part), out=out)

        parts = threads.map(update_slice, parameters.size)
        squares = sum(part.squares for part in parts)
        finite = all(part.finite for part in parts)
    norm = norm_of_squares(squares)
    return None if norm is None else StepEnd(norm, result, after, finite=finite)
