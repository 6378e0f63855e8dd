"""Where images come from: as the user says, or as a checkpoint does."""

import os
import sys
from typing import BinaryIO

from parallel_lenet import datasets
from parallel_lenet.cli._options import UsageError
from parallel_lenet.datasets import Dataset, DatasetError


def load(dataset: str, data_dir: str | None, named: bool) -> tuple[Dataset, Dataset]:
    """The training and the test images; ``named`` says whether the user named the folder, or a checkpoint did.

    Raises UsageError if the user's folder does not exist, and DatasetError as `datasets.load` does.
    """
    try:
        return datasets.load(dataset, data_dir)
    except DatasetError as error:
        # A folder that does not exist may still name one of several sets in its parent.
        if data_dir is None or os.path.exists(data_dir) or "cannot be read as a folder" not in str(error):
            raise
        if named:
            raise UsageError(f"--data-dir {data_dir} does not exist") from None
        raise DatasetError(
            f"{data_dir}, the folder of the images that the checkpoint names, does not exist: "
            "name the folder that has them now with --data-dir"
        ) from None


def file_or_input(name: str) -> str | BinaryIO:
    """The file of this name, or standard input for "-", as is usual."""
    return standard_input() if name == "-" else name


def standard_input() -> BinaryIO:
    """Its bytes; UsageError if it is closed."""
    if sys.stdin is None:
        raise UsageError("- stands for standard input, which is closed")
    return sys.stdin.buffer


def reading(data_dir: str) -> str:
    """The note that names a folder before it is read, if only a checkpoint names it."""
    return f"reading {data_dir}, which the checkpoint names (to read another folder, give --data-dir)"
