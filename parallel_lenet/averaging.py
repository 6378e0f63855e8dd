"""The averaging of a step: the blocks' gradients are added along the tree, and the sum is divided once.

The order of the additions follows the samples' positions in the batch: see `tree`. So the mean has the same bits for
any workers and any sizes of blocks.

Two sums are added as soon as both have come, while workers compute. The additions that need the last block are left to
`step_end`, which makes them on several threads, or in one pass with the rest of the step.
"""

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from parallel_lenet.batching import Block, BlockSizes
from parallel_lenet.engines import BlockGradient
from parallel_lenet.metrics import Metrics
from parallel_lenet.parameters import Vector
from parallel_lenet.slices import ONE_THREAD, Threads
from parallel_lenet.tree import TreeSum
from parallel_lenet.updates import VectorPool, add, copy_of, quotient


class BatchSum(NamedTuple):
    """The result of the blocks of a step."""

    metrics: Metrics
    """Loss and correct answers, summed over the samples."""
    vectors: Sequence[Vector]
    """Their sum is the weighted sum of the samples' gradients. It has to be added from the right, ``a + (b + c)``. They
    are valid until the engine is used again, and must not be changed."""
    suspects: list[str]
    """The workers whose sums are not finite, or all workers if no single worker's are."""
    waiting: float
    """Seconds in which the coordinator waited for results."""
    adding: float
    """Seconds in which it added them."""
    computing: dict[str, float]
    """Seconds per worker."""


class _Sum(NamedTuple):
    """Metrics and gradient of some blocks."""

    metrics: Metrics
    vectors: tuple[Vector, ...]
    """The gradient; several vectors, as in `BatchSum`, if the last block is one of them."""
    owned: bool
    """Whether the gradient lies in memory of the coordinator, which may be overwritten."""


class _Addition:
    """Adds two neighbours, in the memory of one of them if that belongs to the coordinator.

    It is an object of its own so that `GradientSum` is in no reference cycle: memory is freed at once.
    """

    def __init__(self, memory: VectorPool) -> None:
        self._memory = memory
        self.postponed = False
        """Whether vectors are only collected, for `step_end` to add."""

    def __call__(self, left: _Sum, right: _Sum) -> _Sum:
        metrics = left.metrics + right.metrics
        if self.postponed:
            return _Sum(metrics, (*left.vectors, *right.vectors), False)
        (a,) = left.vectors
        (b,) = right.vectors
        total = a if left.owned else b if right.owned else self._memory.empty_like(a)
        np.add(a, b, out=total)  # On one thread: the other cores are in use by workers.
        return _Sum(metrics, (total,), True)


class GradientSum:
    """Adds the results of blocks, which come in block order.

    The first sum of two results goes to memory of the coordinator, later ones overwrite their left half. A result that
    has no neighbour yet is copied before the next one is waited for if its worker may need the memory (`hold`).
    """

    def __init__(self, memory: VectorPool) -> None:
        self._memory = memory
        self._addition = _Addition(memory)
        self._sums = TreeSum(self._addition)

    def append(self, result: BlockGradient, leaves: int) -> None:
        """Add the next result, of a block of this number of leaves."""
        self._sums.append(_Sum(result.metrics, (result.gradient,), False), leaves)

    def hold(self) -> None:
        """Copy the results that wait for a neighbour: workers are about to overwrite their memory."""
        self._sums.keep(self._owned)

    def finish(self, result: BlockGradient, leaves: int) -> tuple[Metrics, Sequence[Vector]]:
        """Take the last result. Returns the sums of the metrics, and vectors as in `BatchSum`."""
        self._addition.postponed = True
        self.append(result, leaves)
        metrics, vectors, _ = self._sums.total()
        return metrics, vectors

    def _owned(self, part: _Sum) -> _Sum:
        if part.owned:
            return part
        (vector,) = part.vectors
        return _Sum(part.metrics, (copy_of(vector, self._memory, ONE_THREAD),), True)


def batch_sum(results: Iterable[BlockGradient], blocks: list[Block], sizes: BlockSizes, memory: VectorPool) -> BatchSum:
    """The sum of a step from the ``results`` of its ``blocks``, in their order."""
    clock = time.perf_counter
    waiting = 0.0
    adding = 0.0
    computing: dict[str, float] = {}
    suspects: list[str] = []
    sums = GradientSum(memory)
    asked = clock()
    with np.errstate(over="ignore", invalid="ignore"):  # The check of the sum says more than a warning.
        for block, result in zip(blocks, results, strict=True):
            got = clock()
            computing[result.worker] = computing.get(result.worker, 0.0) + result.seconds
            if not result.finite:
                suspects.append(result.worker)
            leaves = sizes.leaves(block)
            if block is blocks[-1]:
                metrics, vectors = sums.finish(result, leaves)
            else:
                sums.append(result, leaves)
                if not result.ready:
                    sums.hold()
            waiting += got - asked
            asked = clock()
            adding += asked - got
    return BatchSum(metrics, vectors, suspects or list(computing), waiting, adding, computing)


def mean(vectors: Sequence[Vector], weight: float, memory: VectorPool, threads: Threads) -> Vector:
    """The sum of the ``vectors`` of a `BatchSum` divided by ``weight``, in memory of the coordinator."""
    (total,) = partial_sums(vectors, 1, memory, threads)
    return quotient(total, weight, memory.empty_like(total) if len(vectors) == 1 else total, threads)


def partial_sums(vectors: Sequence[Vector], most: int, memory: VectorPool, threads: Threads) -> Sequence[Vector]:
    """At most ``most`` vectors with the same sum: the last ones are added."""
    total: Vector | None = None
    while len(vectors) > most:
        *rest, left, right = vectors
        total = memory.empty_like(left) if total is None else total
        with np.errstate(over="ignore", invalid="ignore"):
            add(left, right, total, threads)
        vectors = [*rest, total]
    return vectors
