"""The averaging without workers: what is added when, in which memory, and what a step reports of its blocks."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from kits.models import Array
from numpy.testing import assert_array_equal

from parallel_lenet import Metrics, averaging
from parallel_lenet.averaging import BatchSum, GradientSum, batch_sum, mean, partial_sums
from parallel_lenet.batching import Block, BlockSizes
from parallel_lenet.engines import BlockGradient
from parallel_lenet.slices import ONE_THREAD
from parallel_lenet.updates import VectorPool

LEAVES = BlockSizes(leaf=1, least=1, most=8, shard_size=1)


class CountingPool(VectorPool):
    """Counts the vectors it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors: list[Array] = []

    def empty_like(self, vector: Array) -> Array:
        self.vectors.append(super().empty_like(vector))
        return self.vectors[-1]


def gradient(*numbers: float) -> Array:
    vector = np.array(numbers, np.float32)
    vector.flags.writeable = False  # As from an engine.
    return vector


def result(vector: Array, worker: str = "this process", *, finite: bool = True, ready: int = 9) -> BlockGradient:
    return BlockGradient(Metrics(1.0, 0, 1), vector, worker, seconds=0.25, finite=finite, ready=ready)


def summed(results: list[BlockGradient], memory: VectorPool | None = None) -> BatchSum:
    blocks = [Block(np.array([row])) for row in range(len(results))]
    return batch_sum(iter(results), blocks, LEAVES, memory or VectorPool())


def test_the_last_block_and_what_waits_for_it_are_left_to_the_end_of_the_step() -> None:
    vectors = [gradient(number) for number in range(1, 8)]
    found = summed([result(vector) for vector in vectors])
    assert [float(vector[0]) for vector in found.vectors] == [1 + 2 + 3 + 4, 5 + 6, 7]
    assert found.vectors[-1] is vectors[-1]
    assert found.metrics == Metrics(7.0, 0, 7)
    both = summed([result(vector) for vector in vectors[:2]]).vectors
    assert both[0] is vectors[0]
    assert both[1] is vectors[1]


@pytest.mark.parametrize(
    ("leaves", "vectors"),
    [
        ([1, 1, 1, 1, 4], 2),  # One for each pair of leaves; the sum of the pairs is in that of the first.
        ([2, 1, 1, 4], 1),  # The first block is added into the sum on its right.
        ([1, 1, 1, 1, 1, 1, 1, 1, 8], 4),
    ],
    ids=str,
)
def test_later_sums_are_in_the_memory_of_earlier_ones(leaves: list[int], vectors: int) -> None:
    memory = CountingPool()
    sums = GradientSum(memory)
    given = [gradient(number) for number in range(1, len(leaves) + 1)]
    for vector, number in zip(given[:-1], leaves, strict=False):
        sums.append(result(vector), number)
    _, (left, right) = sums.finish(result(given[-1]), leaves[-1])
    assert float(left[0]) == sum(range(1, len(leaves)))
    assert right is given[-1]
    assert len(memory.vectors) == vectors


def test_a_result_that_a_worker_may_overwrite_is_copied_once() -> None:
    memory = CountingPool()
    given = [np.full(1, number, np.float32) for number in (1, 2, 4, 8)]
    sums = GradientSum(memory)
    sums.append(result(given[0]), 2)
    for _ in range(3):
        sums.hold()
    assert len(memory.vectors) == 1
    given[0][:] = 99  # The next result lies in the same memory.
    sums.append(result(given[1]), 1)
    sums.append(result(given[2]), 1)
    _, (left, right) = sums.finish(result(given[3]), 4)
    assert (float(left[0]), float(right[0])) == (1 + 2 + 4, 8)
    assert left is memory.vectors[0]


def test_results_are_held_before_the_next_one_is_asked_for_only_if_it_overwrites_them() -> None:
    shared = np.empty(1, np.float32)

    def overwriting(ready: int) -> Iterator[BlockGradient]:
        for number in (1, 2, 4):
            shared[0] = number
            yield result(shared, ready=ready)

    blocks = [Block(np.array([row])) for row in range(3)]
    found = batch_sum(overwriting(0), blocks, LEAVES, VectorPool())
    assert [float(vector[0]) for vector in found.vectors] == [1 + 2, 4]
    memory = CountingPool()
    summed([result(gradient(1.0)) for _ in range(5)], memory)
    assert len(memory.vectors) == 2  # No copies.


@pytest.mark.parametrize("pair", [(3e38, 3e38), (np.inf, -np.inf)], ids=str)
def test_a_sum_that_overflows_is_no_warning(pair: tuple[float, float]) -> None:
    found = summed([result(gradient(number)) for number in (*pair, 0.0, 0.0, *pair)])
    assert not np.isfinite(found.vectors[0]).any()
    (total,) = partial_sums(found.vectors, 1, VectorPool(), ONE_THREAD)
    assert not np.isfinite(total).any()


@pytest.mark.parametrize("number", [1, 3])
def test_an_engine_that_returns_another_number_of_results_is_noticed(number: int) -> None:
    blocks = [Block(np.array([row])) for row in range(2)]
    with pytest.raises(ValueError, match=r"shorter|longer"):
        batch_sum([result(gradient(1.0))] * number, blocks, LEAVES, VectorPool())


def test_a_step_tells_who_computed_how_long_and_whose_sums_are_not_finite() -> None:
    workers = ["worker 0", "worker 1", "worker 0"]
    good = summed([result(gradient(1.0), worker) for worker in workers])
    assert good.computing == {"worker 0": 0.5, "worker 1": 0.25}
    assert good.suspects == ["worker 0", "worker 1"]
    bad = summed([result(gradient(1.0), worker, finite=worker != "worker 1") for worker in workers])
    assert bad.suspects == ["worker 1"]


def test_waiting_is_the_time_until_each_result_and_adding_the_time_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.accumulate([0, 1, 10, 2, 20, 4, 40])  # Before the first result, then after and before each.
    monkeypatch.setattr(averaging.time, "perf_counter", lambda: float(next(clock)))
    found = summed([result(gradient(1.0)) for _ in range(3)])
    assert (found.waiting, found.adding) == (1 + 2 + 4, 10 + 20 + 40)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_mean_takes_one_vector_of_memory_and_changes_no_workers_gradient(number: int) -> None:
    memory = CountingPool()
    vectors = [gradient(2.0**each, 3.0) for each in range(number)]
    found = mean(vectors, 4.0, memory, ONE_THREAD)
    assert_array_equal(found, [(2**number - 1) / 4, 3 * number / 4])
    assert [each is found for each in memory.vectors] == [True]


@pytest.mark.parametrize(
    ("most", "sums"), [(1, [1 + 2 + 4 + 8]), (2, [1, 2 + 4 + 8]), (3, [1, 2, 12]), (4, [1, 2, 4, 8])]
)
def test_partial_sums_add_the_last_vectors(most: int, sums: list[float]) -> None:
    found = partial_sums([gradient(2.0**each) for each in range(4)], most, VectorPool(), ONE_THREAD)
    assert [float(vector[0]) for vector in found] == sums
