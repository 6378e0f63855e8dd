"""What to train on: the bundled digits, a folder of IDX files, or a download."""

import os

from parallel_lenet.datasets.bundled import mnist_5k
from parallel_lenet.datasets.dataset import Dataset, DatasetError, sample_weights
from parallel_lenet.datasets.downloads import download
from parallel_lenet.datasets.folder import read_folder

__all__ = ["NAMES", "Dataset", "DatasetError", "load", "sample_weights"]

NAMES = ("mnist-5k", "mnist", "fashion-mnist", "kmnist")


def load(name: str = "mnist-5k", data_dir: str | os.PathLike[str] | None = None) -> tuple[Dataset, Dataset]:
    """Return the training and the test part of a dataset: inputs ``(n, h, w)`` or ``(n, 3, h, w)``, targets ``(n,)``.

    ``data_dir``, a folder of four IDX files, takes precedence over ``name``. Its files are called
    ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``,
    gzipped or not, or as EMNIST calls its own, whose images are turned upright; ``FOLDER/emnist-letters`` chooses one
    of several sets. The files have colours last, ``(n, h, w, 3)``; what is returned has them first. Plain grey images
    of at least 1 GiB are not read but memory-mapped, so that they need not fit into memory: do not shorten such a file
    while it is in use, or the program ends with SIGBUS.

    ``mnist-5k`` comes with the package; ``mnist``, ``fashion-mnist`` and ``kmnist`` are downloaded on first use, with
    the ``data`` extra. Raises DatasetError if the name is unknown or the data cannot be read or used, and ExtraError, a
    ModuleNotFoundError, if a library of the extra is missing or does not work.
    """
    if data_dir is not None:
        return read_folder(data_dir)
    if name not in NAMES:
        raise DatasetError(f"unknown dataset {name!r}; allowed are {', '.join(NAMES)}")
    return mnist_5k() if name == "mnist-5k" else download(name)
