"""Sums over images: along a balanced binary tree over their positions, so that any two halves add up to the whole."""

from typing import Any

from numpy.typing import NDArray

from parallel_lenet.kernels.compiled.jit import compiled

Array = NDArray[Any]


@compiled
def add_rows(parts: Array) -> None:
    """Add the rows of ``parts (m, k)`` along the tree, in place: the sum is then the first row.

    Neighbours first, ``(0 + 1) + (2 + 3)``, then neighbouring sums. A row without a neighbour is kept for later.
    """
    rows, numbers = parts.shape
    step = 1
    while step < rows:
        for row in range(0, rows - step, 2 * step):
            first = parts[row]
            second = parts[row + step]
            for k in range(numbers):
                first[k] += second[k]
        step *= 2
