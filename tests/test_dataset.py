"""Datasets: what they refuse, what tells them apart, and the little memory that takes."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from parallel_lenet import Dataset, DatasetError
from parallel_lenet.datasets.values import parts

TARGETS = np.arange(4)


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "g"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named_by_its_sample(bad: float, dtype: str) -> None:
    inputs = np.zeros((4, 2, 3), dtype)
    inputs[2, 1, 0] = bad
    with pytest.raises(DatasetError, match="mine: inputs of sample 2 hold NaN or infinity"):
        Dataset(inputs, TARGETS, "mine")


def test_the_check_takes_no_memory(tmp_path: Path) -> None:
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (1000, 32, 32))
    targets = np.zeros(1000)
    tracemalloc.start()
    Dataset(mapped, targets)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.01 * mapped.nbytes


@pytest.mark.parametrize("shape", [(0, 3), (1,), (7, 5), (3, 40), (2, 3, 50), ()])
def test_parts_are_all_of_an_array_in_order_and_no_longer_than_asked(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    cut = list(parts(array, 10))
    assert [number for part in cut for number in part.ravel()] == array.ravel().tolist()
    assert all(part.size <= 10 and np.shares_memory(part, array) for part in cut if part.size)
