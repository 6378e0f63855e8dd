"""Order, batches, shards and blocks: every sample once, decided by (seed, epoch) alone."""

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_lenet import Dataset, DatasetError
from parallel_lenet.batching import (
    Block,
    BlockSizes,
    Rows,
    batches,
    blocks,
    call_sizes,
    default_shard_size,
    epoch_order,
    largest_block,
    shards,
    split,
)
from parallel_lenet.tree import TreeSum

SEEDS = st.integers(0, 2**64 - 1)
SIZES = st.integers(1, 300)


@given(SEEDS, st.integers(0, 10**6), st.integers(0, 500))
def test_an_epoch_takes_every_sample_once(seed: int, epoch: int, samples: int) -> None:
    order = epoch_order(seed, epoch, samples)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(samples))


@given(SEEDS, st.integers(0, 10**6), st.integers(0, 500))
def test_the_order_depends_on_its_arguments_only(seed: int, epoch: int, samples: int) -> None:
    first = epoch_order(seed, epoch, samples)
    epoch_order(seed, epoch + 1, samples)
    np.random.default_rng().random()
    assert np.array_equal(epoch_order(seed, epoch, samples), first)


def test_the_order_is_the_same_on_every_machine_and_in_every_version() -> None:
    # Written down once: a resumed run relies on it.
    assert epoch_order(0, 0, 10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert epoch_order(7, 3, 10).tolist() == [2, 5, 9, 7, 3, 0, 6, 8, 4, 1]


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(seed, epoch, 100).tolist()) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400


def test_numpys_global_state_is_neither_read_nor_changed() -> None:
    orders = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        orders.append(epoch_order(0, 0, 100))
        assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert np.array_equal(*orders)


@given(st.integers(0, 1000), SIZES)
def test_batches_cut_the_order_without_a_gap_or_an_overlap(samples: int, batch_size: int) -> None:
    order = epoch_order(0, 0, samples)
    cut = list(batches(order, batch_size))
    assert np.array_equal(np.concatenate([*cut, np.empty(0, np.int64)]), order)
    assert all(len(batch) == batch_size for batch in cut[:-1])
    assert all(1 <= len(batch) <= batch_size for batch in cut)


@given(st.integers(1, 1000), SIZES, st.integers(0, 3))
def test_shards_cut_a_batch_without_a_gap_or_an_overlap(samples: int, shard_size: int, dataset: int) -> None:
    rows = epoch_order(0, 0, samples)
    cut = shards(rows, shard_size, dataset)
    assert np.array_equal(np.concatenate([shard.rows for shard in cut]), rows)
    assert all(len(shard.rows) == shard_size for shard in cut[:-1])
    assert all(1 <= len(shard.rows) <= shard_size for shard in cut)
    assert {shard.dataset for shard in cut} == {dataset}


# Blocks.


def models(leaf: int | None) -> st.SearchStrategy[BlockSizes]:
    """Those of a model with such a leaf, whatever it prefers and the user sets."""
    size = st.integers(1, 70)
    if leaf is None:
        return st.builds(BlockSizes.of, st.none(), size, size)
    return st.builds(BlockSizes.of, st.just(leaf), size, size.map(lambda n: largest_block(n, leaf)))


ALL = st.sampled_from([None, 1, 2, 3, 16]).flatmap(models)


def busiest(loads: Sequence[int], n_workers: int) -> list[int]:
    """What each of equal workers does, if each takes the next block when it is done with the one before."""
    workers = [0] * n_workers
    for load in loads:
        heapq.heapreplace(workers, workers[0] + load)
    return sorted(workers)


@given(st.integers(1, 3000), ALL, st.integers(1, 40), st.integers(0, 3))
def test_blocks_are_aligned_cover_the_batch_once_and_give_every_worker_its_share(
    samples: int, sizes: BlockSizes, n_workers: int, dataset: int
) -> None:
    rows = epoch_order(0, 0, samples)
    cut = blocks(rows, sizes, n_workers, dataset)
    assert np.array_equal(np.concatenate([block.rows for block in cut]), rows)
    assert {(block.dataset, block.shard_size) for block in cut} == {(dataset, sizes.shard_size)}
    start = 0
    for block in cut:
        leaves = sizes.leaves(block)
        assert leaves & (leaves - 1) == 0
        assert start % (sizes.leaf * leaves) == 0
        assert len(block.rows) == sizes.leaf * leaves or block is cut[-1]
        assert len(block.rows) <= sizes.leaf * leaves < 2 * max(sizes.leaf, len(block.rows))
        assert sizes.least <= len(block.rows) <= sizes.most or block is cut[-1]
        start += len(block.rows)
    units = -(-samples // sizes.least)
    assert sizes.workers(samples) == units
    loads = busiest([-(-len(block.rows) // sizes.least) for block in cut], n_workers)
    assert loads[-1] == -(-units // n_workers)  # No other way of cutting is better than that.
    assert loads.count(0) == max(0, n_workers - units)


def test_blocks_are_of_the_first_dataset_if_none_is_named() -> None:
    cut = [*shards(np.arange(9), 2), *blocks(np.arange(9), BlockSizes.of(None, 2, 2), 1), Block(np.arange(9))]
    assert {block.dataset for block in cut} == {0}


@given(st.integers(1, 600), ALL, st.integers(1, 20))
def test_the_sum_over_blocks_is_that_over_leaves_bit_by_bit(samples: int, sizes: BlockSizes, n_workers: int) -> None:
    values = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)

    def total(parts: Iterator[Rows]) -> np.float32:
        sums = TreeSum[np.float32]()
        for part in parts:
            sums.append(np.add.reduce(values[part]))
        return sums.total()

    outer = TreeSum[np.float32]()
    for block in blocks(np.arange(samples), sizes, n_workers):
        outer.append(total(batches(block.rows, sizes.leaf)), sizes.leaves(block))
    assert outer.total() == total(batches(np.arange(samples), sizes.leaf))


@given(st.integers(1, 300), ALL, st.integers(1, 20))
def test_call_sizes_are_those_the_model_gets(samples: int, sizes: BlockSizes, n_workers: int) -> None:
    cut = blocks(np.arange(samples), sizes, n_workers)
    got = {len(shard) for block in cut for shard in block.shards()}
    assert call_sizes(samples, sizes, n_workers) == tuple(sorted(got, reverse=True))
    assert max(got) <= sizes.shard_size


def test_a_batch_of_128_in_blocks_for_compiled() -> None:
    sizes = BlockSizes.of(1, 32, 32)

    def cut(n_workers: int) -> list[int]:
        return [len(block.rows) for block in blocks(np.arange(128), sizes, n_workers)]

    assert [cut(n) for n in (1, 2, 4, 16, 20)] == [[128], [64] * 2, [32] * 4, [8] * 16, [8] * 16]
    assert cut(3) == [32, 32, 32, 16, 16]
    assert cut(7) == [*[16] * 7, 8, 8]
    assert [len(block.rows) for block in blocks(np.arange(2000), sizes, 2)][:3] == [256] * 3


def test_a_block_without_a_shard_size_is_one_shard() -> None:
    assert [shard.tolist() for shard in Block(np.arange(5), 1).shards()] == [[0, 1, 2, 3, 4]]
    assert [shard.tolist() for shard in Block(np.arange(5), 1, 2).shards()] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([7], "sample 7 of dataset 3"),
        ([2, 9], "samples 2, 9 of dataset 3"),
        (range(20), "samples 0, 1, 2, 3, 4, 5, 6, 7 and 12 more of dataset 3"),
    ],
)
def test_samples_are_named_for_people(rows: Sequence[int], text: str) -> None:
    assert Block(np.array(rows), 3).samples() == text


@given(SIZES, st.integers(1, 1000))
def test_the_default_is_what_the_model_prefers_but_gives_two_workers_something_to_do(
    preferred: int, batch_size: int
) -> None:
    size = default_shard_size(preferred, batch_size)
    assert 1 <= size <= preferred
    assert len(shards(np.arange(batch_size), size)) >= min(2, batch_size)
    assert size == preferred or size == (batch_size + 1) // 2


@given(SIZES, SIZES)
def test_aligned_sizes_are_blocks_of_the_tree(shard_size: int, leaf: int) -> None:
    size = largest_block(shard_size, leaf)
    leaves = size // leaf
    assert size % leaf == 0
    assert leaves & (leaves - 1) == 0
    assert size == leaf or size <= shard_size < 2 * size


# Splits.


@given(SEEDS, st.integers(2, 200), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_a_split_takes_every_sample_once_and_is_decided_by_the_seed(seed: int, samples: int, fraction: float) -> None:
    data = Dataset(np.arange(samples) * 10, np.arange(samples), "numbers")
    train, validation = split(data, fraction, seed)
    assert (train.name, validation.name) == ("numbers", "numbers (validation)")
    assert abs(len(validation) - fraction * samples) <= 1
    assert len(train) >= 1
    assert sorted([*train.targets, *validation.targets]) == list(range(samples))
    for part, again in zip((train, validation), split(data, fraction, seed), strict=True):
        assert np.array_equal(part.inputs, part.targets * 10)
        assert np.array_equal(part.targets, np.sort(part.targets))
        assert np.array_equal(part.targets, again.targets)


def test_seeds_split_differently_and_neither_as_an_epoch_is_shuffled() -> None:
    data = Dataset(np.arange(100), np.arange(100))
    parts = {tuple(split(data, 0.2, seed)[1].targets) for seed in range(20)}
    assert len(parts) == 20
    assert all(tuple(np.sort(epoch_order(seed, 0, 100)[:20])) not in parts for seed in range(20))


@pytest.mark.parametrize("fraction", [0, 1, 0.0, 1.0, -0.1, 1.5, float("nan"), float("inf"), True, "0.5", None, 0.5j])
def test_a_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"a fraction above 0 and below 1, got {fraction!r}"):
        split(Dataset(np.arange(10), np.arange(10)), fraction, 0)


def test_one_sample_cannot_be_split() -> None:
    with pytest.raises(DatasetError, match="ones: 1 sample can't be split"):
        split(Dataset(np.arange(1), np.arange(1), "ones"), 0.5, 0)
