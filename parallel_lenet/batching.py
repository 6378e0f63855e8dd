"""From an epoch to its batches to their shards: which samples, in which order, decided by (seed, epoch) alone."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class Shard(NamedTuple):
    """Some samples of one dataset: what a worker is given at a time."""

    rows: Rows
    """Their positions in the dataset, int64, in the order to use them."""
    dataset: int = 0
    """Which of the datasets the engine was opened with."""


def epoch_order(seed: int, epoch: int, samples: int) -> Rows:
    """Every sample once, shuffled: a pure function of the arguments, whatever was drawn before.

    Philox turns a key into a stream of its own: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
    """
    key = np.array([seed, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(samples)


def batches(order: Rows, batch_size: int) -> Iterator[Rows]:
    """The order cut into batches; the last one holds what is left."""
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def shards(rows: Rows, shard_size: int, dataset: int = 0) -> list[Shard]:
    """The rows cut into shards; the last one holds what is left. The number of workers has no say in it."""
    return [Shard(rows[start : start + shard_size], dataset) for start in range(0, len(rows), shard_size)]


def default_shard_size(preferred: int, batch_size: int) -> int:
    """What the model prefers, but at least two shards a batch, so that two workers have something to do."""
    return max(1, min(preferred, -(-batch_size // 2)))
