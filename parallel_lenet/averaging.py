"""The averaging of a step: the blocks' gradients are added along the tree, and the sum is divided once.

The order of the additions follows the samples' positions in the batch, as `tree` says. So the mean has the same bits
whoever computed the blocks, and whatever their sizes.
"""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from parallel_lenet.batching import Block, BlockSizes
from parallel_lenet.engines import BlockGradient
from parallel_lenet.metrics import Metrics
from parallel_lenet.parameters import Vector
from parallel_lenet.reports import StepTimes
from parallel_lenet.slices import ALONE, Threads
from parallel_lenet.tree import TreeSum
from parallel_lenet.updates import Memory, add, copied, divide


class MeanGradient(NamedTuple):
    """The result of the blocks of a step."""

    metrics: Metrics
    """Loss and correct answers, summed over the samples."""
    gradient: Vector
    """The weighted sum of the samples' gradients divided by the sum of the weights, in memory of the coordinator."""
    suspects: list[str]
    """The workers whose sums are not finite, or all workers if no single worker's are."""
    times: StepTimes


class GradientSum:
    """Adds the results of blocks, which come in block order.

    The first sum of two results goes to memory of the coordinator, later ones overwrite their left half. A result that
    has no neighbour yet is copied before the next one is waited for, since its worker needs the memory (`hold`).
    """

    def __init__(self, memory: Memory) -> None:
        self.threads = ALONE
        """For long vectors. One thread as long as workers compute: their cores are in use."""
        self._memory = memory
        self._sums = TreeSum(self._added)

    def append(self, result: BlockGradient, leaves: int) -> None:
        """Add the next result, of a block of this number of leaves."""
        self._sums.append(_Sum(result.metrics, result.gradient, False), leaves)

    def hold(self) -> None:
        """Copy the results that wait for a neighbour: their memory is about to be written by workers."""
        self._sums.keep(self._owned)

    def mean(self) -> tuple[Metrics, Vector]:
        """The sums of the metrics, and the mean gradient. Call it once: it divides in place."""
        metrics, total, _ = self._sums.total()
        divide(total, metrics.weight, self.threads)
        return metrics, total

    def _owned(self, part: "_Sum") -> "_Sum":
        if part.owned:
            return part
        return _Sum(part.metrics, copied(part.gradient, self._memory, self.threads), True)

    def _added(self, left: "_Sum", right: "_Sum") -> "_Sum":
        """The sum, in the memory of one of the two if that belongs to the coordinator."""
        if left.owned:
            total = left.gradient
        elif right.owned:
            total = right.gradient
        else:
            total = self._memory.empty_like(left.gradient)
        add(left.gradient, right.gradient, total, self.threads)
        return _Sum(left.metrics + right.metrics, total, True)


class _Sum(NamedTuple):
    """Metrics and gradient of some blocks."""

    metrics: Metrics
    gradient: Vector
    owned: bool
    """Whether the gradient lies in memory of the coordinator, which may be overwritten."""


def mean_gradient(
    results: Iterable[BlockGradient],
    blocks: list[Block],
    sizes: BlockSizes,
    memory: Memory,
    threads: Callable[[], Threads],
) -> MeanGradient:
    """The mean gradient of a step from the ``results`` of its ``blocks``, in their order.

    ``threads`` gives the threads for long vectors once the last result has come.
    """
    clock = time.perf_counter
    start = clock()
    waiting = 0.0
    computing: dict[str, float] = {}
    suspects: list[str] = []
    sums = GradientSum(memory)
    with np.errstate(over="ignore", invalid="ignore"):  # The check of the mean says more than a warning.
        asked = start
        for block, result in zip(blocks, results, strict=True):
            waiting += clock() - asked
            if block is blocks[-1]:
                sums.threads = threads()
            computing[result.worker] = computing.get(result.worker, 0.0) + result.seconds
            if not result.finite:
                suspects.append(result.worker)
            sums.append(result, sizes.leaves(block))
            if not result.ready:
                sums.hold()
            asked = clock()
        metrics, gradient = sums.mean()
    times = StepTimes(waiting, adding=clock() - start - waiting, computing=computing)
    return MeanGradient(metrics, gradient, suspects or list(computing), times)
