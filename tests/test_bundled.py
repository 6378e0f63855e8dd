"""The bundled digits, and how a dataset is chosen by name or folder."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from parallel_lenet import datasets
from parallel_lenet.datasets import NAMES, DatasetError, load
from parallel_lenet.datasets.bundled import mnist_5k
from parallel_lenet.datasets.folder import read_folder

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = ROOT / "parallel_lenet" / "datasets" / "mnist_5k.npz"
MNIST = ROOT.parent / "shared" / "data" / "mnist"
needs_mnist = pytest.mark.skipif(not MNIST.is_dir(), reason="all of MNIST isn't here")


def test_counts_types_and_stratification() -> None:
    for part, n in zip(mnist_5k(), (4000, 1000), strict=True):
        assert part.inputs.shape == (n, 28, 28)
        assert part.inputs.dtype == np.uint8
        assert part.targets.dtype == np.int64
        assert part.classes == 10
        # Taking turns is both: equally often, and not sorted.
        assert np.array_equal(part.targets, np.arange(n) % 10)


def test_no_image_occurs_twice() -> None:
    train, test = mnist_5k()
    assert len({image.tobytes() for part in (train, test) for image in part.inputs}) == 5000


def test_archive_is_small_and_is_the_documented_one() -> None:
    content = ARCHIVE.read_bytes()
    assert len(content) < 900_000
    assert hashlib.sha256(content).hexdigest() in ARCHIVE.with_suffix(".md").read_text()


@needs_mnist
def test_they_are_the_first_500_of_each_class() -> None:
    mnist, _ = read_folder(MNIST)
    train, test = mnist_5k()
    for digit in range(10):
        ours = np.concatenate([part.inputs[part.targets == digit] for part in (train, test)])
        first = np.flatnonzero(mnist.targets == digit)[:500]
        # This copy of MNIST has 0 where the published one has 1.
        assert np.array_equal(np.where(ours == 1, 0, ours), mnist.inputs[first])


@needs_mnist
def test_all_of_mnist_loads_from_a_folder() -> None:
    train, test = load(data_dir=MNIST)
    assert (train.inputs.shape, test.inputs.shape) == ((60000, 28, 28), (10000, 28, 28))
    assert np.bincount(train.targets).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test.targets).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_load_gives_the_bundled_digits_by_default() -> None:
    assert [len(part) for part in load()] == [4000, 1000]
    assert [part.name for part in load("mnist-5k")] == ["mnist-5k train", "mnist-5k test"]


def test_a_folder_wins_over_the_name(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=re.escape(f"{tmp_path}: holds no data set that is known")):
        load("mnist-5k", data_dir=tmp_path)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(
        DatasetError, match="unknown dataset 'cifar'; allowed are mnist-5k, mnist, fashion-mnist, kmnist"
    ):
        load("cifar")


def test_public_names() -> None:
    assert NAMES == ("mnist-5k", "mnist", "fashion-mnist", "kmnist")
    assert all(hasattr(datasets, name) for name in datasets.__all__)
