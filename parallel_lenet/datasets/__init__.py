"""Data to train on: the bundled digits, the user's images in files, or a download."""

import os

from parallel_lenet.datasets.bundled import mnist_5k
from parallel_lenet.datasets.dataset import Dataset
from parallel_lenet.datasets.downloads import download
from parallel_lenet.datasets.local import load_folder
from parallel_lenet.datasets.parts import Parts
from parallel_lenet.datasets.values import DatasetError
from parallel_lenet.datasets.weights import sample_weights

__all__ = ["NAMES", "Dataset", "DatasetError", "Parts", "load", "load_folder", "sample_weights"]

NAMES = ("mnist-5k", "mnist", "fashion-mnist", "kmnist")


def load(name: str = "mnist-5k", data_dir: str | os.PathLike[str] | None = None) -> tuple[Dataset, Dataset]:
    """Return the training and the test part of a dataset: inputs ``(n, h, w)`` or ``(n, 3, h, w)``, targets ``(n,)``.

    ``data_dir``, a folder or file of your own images, takes precedence over ``name``: see `load_folder`.

    ``mnist-5k`` comes with the package. ``mnist``, ``fashion-mnist`` and ``kmnist`` are downloaded on first use, with
    the ``data`` extra. Raises DatasetError if the name is unknown, the data cannot be read or used, or a folder has no
    test images. Raises ExtraError, a ModuleNotFoundError, if a library of the extra is missing or does not work.
    """
    if data_dir is not None:
        parts = load_folder(data_dir)
        if parts.test is None:
            raise DatasetError(f"{os.fsdecode(data_dir)}: has no test images; load_folder returns what there is")
        return parts.train, parts.test
    if name not in NAMES:
        raise DatasetError(f"unknown dataset {name!r}; allowed are {', '.join(NAMES)}")
    return mnist_5k() if name == "mnist-5k" else download(name)
