"""From an epoch to its batches to their blocks: which samples, in which order, decided by (seed, epoch) alone.

A *block* is what a worker is given at a time, an aligned run of leaves (see `tree`); a *shard* is what the model is
given at a time. How a batch is cut into blocks follows the number of workers, and decides no bit.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import FRACTION, real_number
from parallel_lenet.datasets import Dataset, DatasetError
from parallel_lenet.random import permutation

Rows = NDArray[np.int64]

SPLIT = 2**64 - 1  # The epoch whose order decides a split: no training gets there.
SMALLEST = 4  # Blocks are not smaller than this part of the shard that the model prefers, if it can add smaller ones,
MOST_SHARDS = 8  # and not larger than this number of shards.
SAMPLES_NAMED = 8  # In an error.


class Block(NamedTuple):
    """Some samples of one dataset, in the tree of sums a block: what a worker is given at a time."""

    rows: Rows
    """Their positions in the dataset, int64, in the order to use them."""
    dataset: int = 0
    """Which of the datasets the engine was opened with."""
    shard_size: int = 0
    """How many of them the model is given at a time, the last time what is left; 0 for all."""
    key: tuple[int, int] | None = None
    """The seed and the epoch, for a model that draws random numbers; None when it does not train."""

    def shards(self) -> Iterator[Rows]:
        """The positions that the model is given at a time."""
        return batches(self.rows, self.shard_size or max(1, len(self.rows)))

    def samples(self) -> str:
        """The samples for people, in an error."""
        return named(self.rows, self.dataset)


@dataclass(frozen=True)
class BlockSizes:
    """How a batch may be cut into blocks for the workers. A size is the number of samples in a block that is whole.

    All but the first are ``leaf`` times a power of two, and decide no bit.
    """

    leaf: int
    """From how many samples on sums follow the tree: see `tree`."""
    least: int
    """Smaller blocks cost more than they balance."""
    most: int
    """Larger ones cost no less per sample, and one that is held up holds up more."""
    shard_size: int
    """The most samples that the model gets at a time."""

    @classmethod
    def of(cls, leaf: int | None, preferred: int, shard_size: int) -> Self:
        """Those for a model with such a leaf (None: each shard is one) and preferred shard size, see `Model`."""
        if leaf is None:
            return cls(shard_size, shard_size, MOST_SHARDS * shard_size, shard_size)
        least = aligned(min(preferred // SMALLEST, shard_size), leaf)
        return cls(leaf, least, MOST_SHARDS * shard_size, shard_size)

    def workers(self, samples: int) -> int:
        """How many workers a batch of ``samples`` samples has work for."""
        return -(-samples // self.least)

    def leaves(self, block: Block) -> int:
        """How many leaves a block has, for `TreeSum`: a power of two, also if it is cut off."""
        return 1 << (-(-len(block.rows) // self.leaf) - 1).bit_length()


def epoch_order(seed: int, epoch: int, samples: int) -> Rows:
    """Every sample once, shuffled: a pure function of the arguments, whatever was drawn before."""
    return permutation((seed, epoch), samples)


def split(data: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """The samples to train on, and ``fraction`` of ``data`` (rounded, at least one sample) to validate on.

    A pure function of the arguments: shuffled by ``seed``, then in the order of ``data``. Both parts are copies. Raises
    ValueError unless 0 < fraction < 1, DatasetError if ``data`` has fewer than two samples.
    """
    real_number("validation", fraction, FRACTION)
    if len(data) < 2:
        raise DatasetError(f"{data.name}: {len(data)} sample can't be split into training and validation data")
    held_out = min(max(1, round(float(fraction) * len(data))), len(data) - 1)
    order = epoch_order(seed, SPLIT, len(data))
    parts = ((order[held_out:], data.name), (order[:held_out], f"{data.name} (validation)"))
    train, validation = (data.subset(np.sort(rows), name) for rows, name in parts)
    return train, validation


def batches(order: Rows, batch_size: int) -> Iterator[Rows]:
    """The order cut into batches; the last one holds what is left."""
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def shards(rows: Rows, shard_size: int, dataset: int = 0, key: tuple[int, int] | None = None) -> list[Block]:
    """The rows as blocks of one shard each; the last one holds what is left."""
    return [Block(some, dataset, shard_size, key) for some in batches(rows, shard_size)]


def blocks(
    rows: Rows, sizes: BlockSizes, n_workers: int, dataset: int = 0, key: tuple[int, int] | None = None
) -> list[Block]:
    """The rows cut into aligned blocks, so that each worker has work and all finish together.

    There are few blocks, in the order in which workers should begin them.
    """
    units = -(-len(rows) // sizes.least)
    cut, start = [], 0
    for size in _shares(units, n_workers, sizes.most // sizes.least):
        end = start + size * sizes.least
        cut.append(Block(rows[start:end], dataset, sizes.shard_size, key))
        start = end
    return cut


@lru_cache(64)
def _shares(units: int, n_workers: int, most: int) -> tuple[int, ...]:
    """Powers of two that add up to ``units``, each the size of an aligned block, at most ``most``.

    The fair share is units / n_workers, rounded up. The worker with the least work so far takes the largest block that
    keeps it within its fair share and leaves one unit for each worker that has none yet.
    """
    fair = -(-units // n_workers)
    loads = [(0, worker) for worker in range(n_workers)]
    sizes, start = list[int](), 0
    while start < units:
        load, worker = loads[0]
        idle = max(0, n_workers - 1 - len(sizes))
        room = max(1, min(most, fair - load, units - start - idle))
        size = 1 << (room.bit_length() - 1)
        if start:
            size = min(size, start & -start)  # The largest power of two that divides the start.
        heapq.heapreplace(loads, (load + size, worker))
        sizes.append(size)
        start += size
    return tuple(sizes)


def call_sizes(samples: int, sizes: BlockSizes, n_workers: int) -> tuple[int, ...]:
    """How many samples the model gets at a time for batches of ``samples``, each number once, the largest first."""
    cut = blocks(np.arange(samples), sizes, n_workers)
    return tuple(sorted({len(shard) for block in cut for shard in block.shards()}, reverse=True))


def default_shard_size(preferred: int, batch_size: int) -> int:
    """The model's preferred size, or half a batch if that is less, so that two workers have work."""
    return max(1, min(preferred, -(-batch_size // 2)))


def aligned(size: int, leaf: int) -> int:
    """The size of the largest block of leaves within ``size`` samples: ``leaf * 2^k``, and at least ``leaf``."""
    return leaf << (max(1, size // leaf).bit_length() - 1)


def named(rows: Rows, dataset: int) -> str:
    """Samples for people: enough to look for what is wrong with them."""
    samples = ", ".join(str(sample) for sample in rows[:SAMPLES_NAMED])
    more = f" and {len(rows) - SAMPLES_NAMED} more" if len(rows) > SAMPLES_NAMED else ""
    return f"sample{'s' * (len(rows) != 1)} {samples}{more} of dataset {dataset}"
