"""From an epoch to its batches to their shards: which samples, in which order, decided by (seed, epoch) alone."""

from collections.abc import Iterator
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.datasets import Dataset, DatasetError
from parallel_lenet.random import permutation

Rows = NDArray[np.int64]

SPLIT = 2**64 - 1  # The epoch whose order decides a split: no training gets there.


class Shard(NamedTuple):
    """Some samples of one dataset: what a worker is given at a time."""

    rows: Rows
    """Their positions in the dataset, int64, in the order to use them."""
    dataset: int = 0
    """Which of the datasets the engine was opened with."""
    cut: int = 0
    """Above 0: two shards in one, the second from this row on. Each is computed, then the two results are added."""

    def halves(self) -> list["Shard"]:
        """The two shards that this is, or itself."""
        if not self.cut:
            return [self]
        return [Shard(self.rows[: self.cut], self.dataset), Shard(self.rows[self.cut :], self.dataset)]


def epoch_order(seed: int, epoch: int, samples: int) -> Rows:
    """Every sample once, shuffled: a pure function of the arguments, whatever was drawn before."""
    return permutation((seed, epoch), samples)


def split(data: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """The samples to train on, and ``fraction`` of ``data`` (rounded, at least one sample) to validate on.

    A pure function of the arguments: shuffled by ``seed``, then in the order of ``data``. Both parts are copies. Raises
    ValueError unless 0 < fraction < 1, DatasetError if ``data`` has fewer than two samples.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, Real) or not 0 < fraction < 1:
        raise ValueError(f"validation must be data, or a fraction above 0 and below 1, not {fraction!r}")
    if len(data) < 2:
        raise DatasetError(f"{data.name}: {len(data)} sample can't be split into training and validation data")
    held_out = min(max(1, round(float(fraction) * len(data))), len(data) - 1)
    order = epoch_order(seed, SPLIT, len(data))
    parts = ((order[held_out:], data.name), (order[:held_out], f"{data.name} (validation)"))
    train, validation = (
        Dataset(data.inputs[rows], data.targets[rows], name) for rows, name in ((np.sort(r), n) for r, n in parts)
    )
    return train, validation


def batches(order: Rows, batch_size: int) -> Iterator[Rows]:
    """The order cut into batches; the last one holds what is left."""
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def shards(rows: Rows, shard_size: int, dataset: int = 0) -> list[Shard]:
    """The rows cut into shards; the last one holds what is left."""
    return [Shard(some, dataset) for some in batches(rows, shard_size)]


def tasks(rows: Rows, shard_size: int, n_workers: int, dataset: int = 0) -> list[Shard]:
    """The same shards as they are given out so that all workers finish together.

    Two neighbours at a time while there are enough for each worker, whose sum takes one answer instead of two; shard by
    shard in the last round.
    """
    pairs = [
        Shard(both, dataset, cut=shard_size if len(both) > shard_size else 0) for both in batches(rows, 2 * shard_size)
    ]
    rounds = len(pairs) // n_workers * n_workers
    return [*pairs[:rounds], *(half for pair in pairs[rounds:] for half in pair.halves())]


def default_shard_size(preferred: int, batch_size: int) -> int:
    """What the model prefers, but at least two shards per batch, so that two workers have something to do."""
    return max(1, min(preferred, -(-batch_size // 2)))


def aligned(shard_size: int, leaf: int) -> int:
    """The size of the largest block of leaves within ``shard_size`` samples: ``leaf * 2^k``, and at least ``leaf``."""
    return leaf << (max(1, shard_size // leaf).bit_length() - 1)
