"""The digits that come with the package: 5,000 images of MNIST, no network needed."""

import numpy as np

from parallel_lenet.datasets.dataset import Dataset


def mnist_5k() -> tuple[Dataset, Dataset]:
    """Return 4,000 training and 1,000 test images of MNIST, each class equally often in both.

    Inputs are uint8 ``(n, 28, 28)``, targets int64 ``(n,)``. ``mnist_5k.md`` beside the file has their source, their
    licence and how they were split. All are from MNIST's training part, so accuracies on these test images can't be
    compared with those on MNIST's own.
    """
    from importlib.resources import files  # Imported lazily: it takes 10 ms of each worker's start.

    with (
        files("parallel_lenet.datasets").joinpath("mnist_5k.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        train, test = (
            Dataset(arrays[f"{part}_images"], arrays[f"{part}_labels"].astype(np.int64), f"mnist-5k {part}")
            for part in ("train", "test")
        )
    return train, test
