"""From an epoch to its batches to their blocks: which samples in which order. Only (seed, epoch) decide the order.

A *block* is what a worker gets at a time, an aligned run of leaves (see `tree`). A *shard* is what the model gets at a
time. How a batch is cut into blocks follows from the number of workers, and decides no bit.
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

SPLIT = 2**64 - 1  # The number of an epoch whose order decides a split. No training has this number of epochs.
LEAST_PART = 4  # A block has at least a quarter of the shard that the model prefers, if the model has a leaf,
MOST_SHARDS = 8  # and at most this number of shards.
SAMPLES_NAMED = 8  # Samples that an error names.


class Block(NamedTuple):
    """What a worker gets at a time: samples of one dataset, which are a block of the tree of sums."""

    rows: Rows
    """Their positions in the dataset, int64, in the order to use them."""
    dataset: int = 0
    """The number of the dataset in the engine's context."""
    shard_size: int = 0
    """How many samples the model gets at a time; 0 for all."""
    key: tuple[int, int] | None = None
    """The seed and the epoch, for a model that draws random numbers; None when it does not train."""

    def shards(self) -> Iterator[Rows]:
        """The positions of each shard. The last one has the rest."""
        return batches(self.rows, self.shard_size or max(1, len(self.rows)))

    def samples(self) -> str:
        """The samples as an error names them."""
        return samples_text(self.rows, self.dataset)


@dataclass(frozen=True)
class BlockSizes:
    """How a batch may be cut into blocks for the workers. Sizes are numbers of samples.

    ``least`` and ``most`` are ``leaf`` times a power of two. Only ``leaf`` decides bits.
    """

    leaf: int
    """The samples of a leaf: see `tree`."""
    least: int
    """Of a block. Smaller blocks would cost more than they balance the load."""
    most: int
    """Of a block. Larger blocks are not faster per sample, and a delayed one delays the step more."""
    shard_size: int
    """The most samples that the model gets at a time."""

    @classmethod
    def of(cls, leaf: int | None, preferred: int, shard_size: int) -> Self:
        """The sizes for a model with this leaf (None: each shard is one) and preferred shard size, see `Model`."""
        if leaf is None:
            return cls(shard_size, shard_size, MOST_SHARDS * shard_size, shard_size)
        least = largest_block(min(preferred // LEAST_PART, shard_size), leaf)
        return cls(leaf, least, MOST_SHARDS * shard_size, shard_size)

    def workers(self, samples: int) -> int:
        """How many workers a batch of ``samples`` samples has work for."""
        return -(-samples // self.least)

    def leaves(self, block: Block) -> int:
        """How many leaves a block has, for `TreeSum`: a power of two, also if the batch ends inside the block."""
        return 1 << (-(-len(block.rows) // self.leaf) - 1).bit_length()


def epoch_order(seed: int, epoch: int, samples: int) -> Rows:
    """Each sample once, shuffled, int64: a pure function of the arguments."""
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
    """The order cut into batches. The last one has the rest."""
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def shards(rows: Rows, shard_size: int, dataset: int = 0, key: tuple[int, int] | None = None) -> list[Block]:
    """The rows as blocks of one shard each. The last one has the rest."""
    return [Block(some, dataset, shard_size, key) for some in batches(rows, shard_size)]


def blocks(
    rows: Rows, sizes: BlockSizes, n_workers: int, dataset: int = 0, key: tuple[int, int] | None = None
) -> list[Block]:
    """The rows cut into few aligned blocks, so that each worker has work and all finish at about the same time."""
    units = -(-len(rows) // sizes.least)
    cut = []
    start = 0
    for size in _sizes_of_blocks(units, n_workers, sizes.most // sizes.least):
        end = start + size * sizes.least
        cut.append(Block(rows[start:end], dataset, sizes.shard_size, key))
        start = end
    return cut


@lru_cache(64)
def _sizes_of_blocks(units: int, n_workers: int, most: int) -> tuple[int, ...]:
    """Powers of two that add up to ``units``, each the size of an aligned block, at most ``most``.

    The fair share is units / n_workers, rounded up. The worker with the least work so far takes the largest block that
    keeps it within its fair share and leaves one unit for each worker that has none yet.
    """
    fair = -(-units // n_workers)
    loads = [(0, worker) for worker in range(n_workers)]
    sizes: list[int] = []
    start = 0
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
    """The numbers of samples that the model gets at a time for batches of ``samples``, each once, largest first."""
    cut = blocks(np.arange(samples), sizes, n_workers)
    return tuple(sorted({len(shard) for block in cut for shard in block.shards()}, reverse=True))


def default_shard_size(preferred: int, batch_size: int) -> int:
    """The model's preferred size, or half a batch if that is less, so that two workers have work."""
    return max(1, min(preferred, -(-batch_size // 2)))


def largest_block(size: int, leaf: int) -> int:
    """The size of the largest block of leaves within ``size`` samples: ``leaf * 2^k``, and at least ``leaf``."""
    return leaf << (max(1, size // leaf).bit_length() - 1)


def samples_text(rows: Rows, dataset: int) -> str:
    """The samples as an error names them: the first few, and how many more there are."""
    samples = ", ".join(str(sample) for sample in rows[:SAMPLES_NAMED])
    more = f" and {len(rows) - SAMPLES_NAMED} more" if len(rows) > SAMPLES_NAMED else ""
    return f"sample{'s' * (len(rows) != 1)} {samples}{more} of dataset {dataset}"
