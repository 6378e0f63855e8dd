"""Datasets: what they refuse, what tells them apart, and the little memory that takes."""

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parallel_lenet import SGD, Coordinator, Dataset, DatasetError, lenet5, lenet5_for, sample_weights
from parallel_lenet.datasets.values import parts
from parallel_lenet.fingerprint import data_text

TARGETS = np.arange(4)


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "g"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named_by_its_sample(bad: float, dtype: str) -> None:
    inputs = np.zeros((4, 2, 3), dtype)
    inputs[2, 1, 0] = bad
    with pytest.raises(DatasetError, match="mine: inputs of sample 2 hold NaN or infinity"):
        Dataset(inputs, TARGETS, "mine")


def test_masked_numbers_are_refused_since_those_under_the_mask_would_be_used() -> None:
    images, labels = np.zeros((4, 8, 8), np.uint8), np.array(["a", "b", "a", "b"])
    some = np.ma.masked_array(TARGETS, mask=TARGETS == 2)
    nothing = np.ma.masked_array(TARGETS)
    assert len(Dataset(np.ma.masked_array(images), nothing)) == 4
    attempts: list[tuple[str, Callable[[], object]]] = [
        ("mine: inputs", lambda: Dataset(np.ma.masked_equal(images, 0), TARGETS, "mine")),
        ("mine: targets", lambda: Dataset(images, some, "mine")),
        ("mine: weights", lambda: Dataset(images, TARGETS, "mine", some)),
        ("mine: images", lambda: Dataset.from_arrays(np.ma.masked_equal(images, 0), labels, name="mine")),
        ("mine: labels", lambda: Dataset.from_arrays(images, np.ma.masked_equal(labels, "a"), name="mine")),
        ("mine: weights", lambda: Dataset.from_arrays(images, labels, name="mine", weights=some)),
        ("labels", lambda: sample_weights(some)),
        (
            "inputs",
            lambda: Coordinator(lenet5(kernel="im2col"), SGD(), engine="serial").predict(np.ma.masked_equal(images, 0)),
        ),
    ]
    for what, attempt in attempts:
        with pytest.raises(ValueError, match=f"^{what} must have no masked numbers: array.filled"):
            attempt()


@pytest.mark.parametrize("pixel", [3e38, -1e300, np.float32(-2e38)])
def test_pixels_that_float32_cannot_compute_with_are_named(pixel: float) -> None:
    images = np.zeros((4, 8, 8), np.array(pixel).dtype)
    images[1, 2, 3] = pixel
    sentence = rf"mine: images hold the pixel {pixel:g}; all must be from -1e+38 to 1e+38"
    with pytest.raises(DatasetError, match=re.escape(sentence)):
        Dataset.from_arrays(images, TARGETS, name="mine")
    with pytest.raises(DatasetError, match=re.escape(sentence)):
        lenet5_for(Dataset(images, TARGETS, "mine"), kernel="im2col")
    with Coordinator(lenet5(image_size=8, pixel_max=None, kernel="im2col"), SGD(), engine="serial") as coordinator:
        with pytest.raises(ValueError, match=re.escape(sentence)):
            coordinator.fit(Dataset(images, TARGETS, "mine"))
        images[1, 2, 3] = 0.5
        assert coordinator.fit(Dataset.from_arrays(images, TARGETS))


def test_one_of_a_kind_is_not_many() -> None:
    with pytest.raises(DatasetError, match="1 input but 3 targets"):
        Dataset(np.zeros((1, 2)), np.zeros(3))
    assert data_text({"samples": 1, "shape": [2]}).startswith("1 sample of shape (2,)")
    assert data_text({"samples": 5, "shape": [2], "dtypes": [1, 2, 3]}).startswith("5 weighted samples of")


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
