"""The connected pieces of a mask: pixels that touch at a side or a corner belong together."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Components(NamedTuple):
    """The pieces of a mask. ``labels`` numbers them from 1, with 0 outside. The other arrays begin with piece 1."""

    labels: Array
    sizes: Array
    """The number of pixels of each piece."""
    boxes: Array
    """``(pieces, 4)``: top, left, bottom and right. The last two are the first row and column outside."""


def components(mask: Array) -> Components:
    """The pieces of a boolean mask ``(h, w)``."""
    rows, starts, ends = _runs(mask)
    parents = np.arange(len(rows)).tolist()

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    for upper, lower in _touching_pairs(rows, starts, ends):
        one = root(upper)
        other = root(lower)
        parents[max(one, other)] = min(one, other)
    _, piece = np.unique([root(run) for run in range(len(rows))], return_inverse=True)
    count = int(piece.max(initial=-1)) + 1
    sizes = np.zeros(count, np.int64)
    boxes = np.zeros((count, 4), np.int64)
    boxes[:, :2] = max(mask.shape)
    np.add.at(sizes, piece, ends - starts)
    for side, (extreme, values) in enumerate(
        [(np.minimum, rows), (np.minimum, starts), (np.maximum, rows + 1), (np.maximum, ends)]
    ):
        extreme.at(boxes[:, side], piece, values)
    labels = np.zeros(mask.shape, np.int64)
    labels[mask] = np.repeat(piece + 1, ends - starts)
    return Components(labels, sizes, boxes)


def _runs(mask: Array) -> tuple[Array, Array, Array]:
    """Row, start and end of each run of a row's pixels, in reading order."""
    steps = np.diff(mask.astype(np.int8), axis=1, prepend=0, append=0)
    rows, starts = np.nonzero(steps == 1)
    return rows, starts, np.nonzero(steps == -1)[1]


def _touching_pairs(rows: Array, starts: Array, ends: Array) -> list[tuple[int, int]]:
    """The pairs of touching runs in neighbouring rows."""
    first = np.searchsorted(rows, np.arange(rows.max(initial=-1) + 3)).tolist()  # The first run of each row.
    begins = starts.tolist()
    stops = ends.tolist()
    pairs = []
    for row in range(len(first) - 2):
        upper = first[row]
        lower = first[row + 1]
        while upper < first[row + 1] and lower < first[row + 2]:
            if begins[upper] <= stops[lower] and begins[lower] <= stops[upper]:
                pairs.append((upper, lower))
            if stops[upper] < stops[lower]:
                upper += 1
            else:
                lower += 1
    return pairs
