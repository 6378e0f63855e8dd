"""What to train on: the bundled digits, a folder of IDX files, or a download."""

import os

from parallel_lenet.datasets.bundled import mnist_5k
from parallel_lenet.datasets.dataset import Dataset, DatasetError
from parallel_lenet.datasets.downloads import download
from parallel_lenet.datasets.folder import read_folder

__all__ = ["NAMES", "Dataset", "DatasetError", "load"]

NAMES = ("mnist-5k", "mnist", "fashion-mnist", "kmnist")


def load(name: str = "mnist-5k", data_dir: str | os.PathLike[str] | None = None) -> tuple[Dataset, Dataset]:
    """Return the training and the test part of a dataset.

    ``data_dir``, a folder of four IDX files, wins over ``name``. ``mnist-5k`` comes with the package; ``mnist``,
    ``fashion-mnist`` and ``kmnist`` are downloaded on first use, with the ``data`` extra. Raises DatasetError when the
    name is unknown or the data can't be had or used.
    """
    if data_dir is not None:
        return read_folder(data_dir)
    if name not in NAMES:
        raise DatasetError(f"unknown dataset {name!r}; allowed are {', '.join(NAMES)}")
    return mnist_5k() if name == "mnist-5k" else download(name)
