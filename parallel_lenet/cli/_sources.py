"""Loads the images that the user or a checkpoint names."""

import os
import sys
from dataclasses import dataclass, replace
from typing import BinaryIO

from parallel_lenet import datasets
from parallel_lenet.batching import split
from parallel_lenet.cli._options import UsageError
from parallel_lenet.datasets import Dataset, DatasetError
from parallel_lenet.datasets.local import read_local
from parallel_lenet.datasets.parts import resize_data
from parallel_lenet.datasets.values import FolderError, require_memory

HELD_OUT = 0.2  # The fraction of the training images to test on if a folder has no test images.


@dataclass(frozen=True)
class Images:
    """The images that a command trains and tests on."""

    train: Dataset
    test: Dataset
    validation: Dataset | None = None
    """Images for validation, if the folder has any."""
    pictures: bool = False
    """Whether they were image files. If so, `predict` shows the network whole pictures."""
    held_out: bool = False
    """Whether the test images were held out of the images to train on, because the folder has no test images."""


def load(dataset: str, data_dir: str | None, by_user: bool, image_size: tuple[int, int] | None = None) -> Images:
    """The images, resized to ``image_size``. ``by_user`` says whether the user or a checkpoint named the folder.

    If a folder has no test images, a fifth of the training images is held out, always the same ones. Raises UsageError
    if the user's folder does not exist, and DatasetError as `datasets.load` does.
    """
    if data_dir is None:
        train, test = datasets.load(dataset)
        if image_size is not None:
            train, test = (resize_data(data, image_size) for data in (train, test))
        return Images(train, test)
    try:
        parts, pictures = read_local(data_dir, image_size)
        train = parts.train
        if parts.test is not None:
            return Images(train, parts.test, parts.validation, pictures)
        require_memory(train.name, train.inputs.nbytes)
        rest, test = split(train, HELD_OUT, 0)
        test = replace(test, name=f"{data_dir} (held out of train)")
        return Images(rest, test, parts.validation, pictures, held_out=True)
    except FolderError:  # Not for a name of one of several sets in a folder.
        if os.path.exists(data_dir):
            raise
        if by_user:
            raise UsageError(f"--data-dir {data_dir} does not exist") from None
        raise DatasetError(
            f"{data_dir}, the folder of the images that the checkpoint names, does not exist: "
            "name the folder that has them now with --data-dir"
        ) from None


def file_or_input(name: str) -> str | BinaryIO:
    """The file of this name, or standard input for "-", as is usual."""
    return standard_input() if name == "-" else name


def standard_input() -> BinaryIO:
    """The bytes of standard input. Raises UsageError if it is closed."""
    if sys.stdin is None:
        raise UsageError("- stands for standard input, which is closed")
    return sys.stdin.buffer


def reading_note(data_dir: str) -> str:
    """The note that names a folder before it is read, if only a checkpoint names it."""
    return f"reading {data_dir}, which the checkpoint names (to read another folder, give --data-dir)"
