"""The training, test and validation parts of a data set, with images and classes that fit each other."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from numpy.typing import NDArray

from parallel_lenet.datasets.dataset import Dataset
from parallel_lenet.datasets.values import DatasetError
from parallel_lenet.resizing import resize

Array = NDArray[Any]

SPELLINGS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "t10k"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""The names of the parts in files, folders and arrays."""

PART_OF = {spelling: part for part, spellings in SPELLINGS.items() for spelling in spellings}


class Parts(NamedTuple):
    """A data set in parts. Only the training part is always there."""

    train: Dataset
    test: Dataset | None
    validation: Dataset | None


def parts_of(data: Mapping[str, Dataset], where: str) -> Parts:
    """The parts by name. Raises DatasetError if images differ in size or type, or training lacks a class."""
    if "train" not in data:
        raise DatasetError(f"{where}: has no part to train on, only {', '.join(data)}; it is called train")
    train = data["train"]
    for part in data.values():
        if (part.inputs.shape[1:], part.inputs.dtype) != (train.inputs.shape[1:], train.inputs.dtype):
            raise DatasetError(
                f"{part.name}: images are {part.inputs.shape[1:]} {part.inputs.dtype}, those to train on "
                f"{train.inputs.shape[1:]} {train.inputs.dtype}; both must be the same"
            )
        if part.classes > train.classes:
            raise DatasetError(
                f"{part.name}: label {part.classes - 1} is out of range; the images to train on have classes 0 to "
                f"{train.classes - 1}"
            )
    return Parts(train, data.get("test"), data.get("validation"))


def resize_parts(parts: Parts, image_size: tuple[int, int]) -> Parts:
    """The parts with all images in another size, ``(height, width)``."""
    return Parts(*(None if part is None else resize_data(part, image_size) for part in parts))  # type: ignore[arg-type]


def resize_data(data: Dataset, image_size: tuple[int, int]) -> Dataset:
    """The data with all images in this size, ``(height, width)``. The same object if they have it."""
    if data.inputs.shape[-2:] == tuple(image_size):
        return data
    return replace(data, inputs=resize(data.inputs, *image_size))
