r"""The order in which the sums of a batch are added: a balanced binary tree over the samples' positions.

The samples of a batch are cut into *leaves*. A *block* is an aligned run of 2^k leaves, and its sum is the sum of its
left half plus the sum of its right half. A right half beyond the end of the batch is left out::

    leaf      0   1   2   3   4   5   6
               \ /     \ /     \ /    |
                01      23      45     6
                  \    /         \   /
                   0123           456
                       \         /
                         0123456

So a block's sum does not depend on the batch around it. A worker may cut a block into smaller ones: the tree stays the
same, and with it every bit of the total.
"""

import operator
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Sum = TypeVar("Sum")


class TreeSum(Generic[Sum]):
    """Adds blocks that come in order. Two halves are added as soon as both have come.

    ``add(left, right)`` returns the sum of two neighbours, by default ``left + right``. At most log2(leaves) + 1 blocks
    wait for their right neighbours at a time.
    """

    def __init__(self, add: Callable[[Sum, Sum], Sum] = operator.add) -> None:
        self._add = add
        self._waiting: list[tuple[int, Sum]] = []
        self._end = 0

    def append(self, block: Sum, size: int = 1) -> None:
        """Add the next block, of ``size`` leaves: a power of two, also if the batch ends inside the block."""
        self._end += size
        while self._waiting and self._waiting[-1][0] == size and self._end % (2 * size) == 0:
            block = self._add(self._waiting.pop()[1], block)
            size *= 2
        self._waiting.append((size, block))

    def keep(self, hold: Callable[[Sum], Sum]) -> None:
        """Replace each block that waits by ``hold(block)``, such as a copy that stays valid."""
        self._waiting = [(size, hold(block)) for size, block in self._waiting]

    @property
    def waiting(self) -> int:
        """How many blocks wait for their right neighbours."""
        return len(self._waiting)

    def total(self) -> Sum:
        """The sum of all blocks so far.

        Raises ValueError if there are none. Ask once if ``add`` writes into its blocks.
        """
        if not self._waiting:
            raise ValueError("there is nothing to add")
        *rest, (_, total) = self._waiting
        for _, left in reversed(rest):
            total = self._add(left, total)
        return total


def tree_total(numbers: NDArray[Any], leaf: int = 1) -> float:
    """The sum of at least one number along the tree, in float64, each ``leaf`` of them added in order."""
    leaves = np.zeros((-(-len(numbers) // leaf), leaf))
    leaves.reshape(-1)[: len(numbers)] = numbers
    sums = np.add.accumulate(leaves, axis=1)[:, -1]
    while len(sums) > 1:
        even_count = len(sums) // 2 * 2
        sums = np.concatenate([sums[0:even_count:2] + sums[1:even_count:2], sums[even_count:]])
    return float(sums[0])
