"""Order, batches and shards: every sample once, decided by (seed, epoch) alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_lenet import Dataset, DatasetError
from parallel_lenet.batching import Shard, aligned, batches, default_shard_size, epoch_order, shards, split, tasks

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


@given(st.integers(1, 1000), SIZES, st.integers(1, 9), st.integers(0, 3))
def test_tasks_are_the_same_shards_two_by_two_or_one_by_one(
    samples: int, shard_size: int, n_workers: int, dataset: int
) -> None:
    rows = epoch_order(0, 0, samples)
    given_out = tasks(rows, shard_size, n_workers, dataset)
    single = [half for task in given_out for half in task.halves()]
    assert [shard.rows.tolist() for shard in single] == [s.rows.tolist() for s in shards(rows, shard_size, dataset)]
    assert {shard.dataset for shard in single} == {dataset}
    assert not any(half.cut for half in single)
    pairs = [len(task.halves()) == 2 for task in given_out]
    assert sorted(pairs, reverse=True) == pairs
    assert pairs.count(False) < 2 * n_workers


def test_shards_and_tasks_are_of_the_first_dataset_if_none_is_named() -> None:
    assert {shard.dataset for shard in (*shards(np.arange(9), 2), *tasks(np.arange(9), 2, 1))} == {0}


def test_a_shard_without_a_cut_is_its_only_half() -> None:
    shard = Shard(np.arange(5), 1)
    assert shard.halves() == [shard]


@given(SIZES, st.integers(1, 1000))
def test_the_default_is_what_the_model_prefers_but_gives_two_workers_something_to_do(
    preferred: int, batch_size: int
) -> None:
    size = default_shard_size(preferred, batch_size)
    assert 1 <= size <= preferred
    assert len(shards(np.arange(batch_size), size)) >= min(2, batch_size)
    assert size == preferred or size == (batch_size + 1) // 2


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
    with pytest.raises(ValueError, match=f"a fraction above 0 and below 1, not {fraction!r}"):
        split(Dataset(np.arange(10), np.arange(10)), fraction, 0)


def test_one_sample_cannot_be_split() -> None:
    with pytest.raises(DatasetError, match="ones: 1 sample can't be split"):
        split(Dataset(np.arange(1), np.arange(1), "ones"), 0.5, 0)


@given(SIZES, SIZES)
def test_aligned_shards_are_blocks_of_the_tree(shard_size: int, leaf: int) -> None:
    size = aligned(shard_size, leaf)
    leaves = size // leaf
    assert size % leaf == 0
    assert leaves & (leaves - 1) == 0
    assert size == leaf or size <= shard_size < 2 * size
