"""Folders of image files: ``train/CLASS/*.png``, and likewise ``test`` and ``validation``."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import quoted
from parallel_lenet.datasets.arrays import class_order
from parallel_lenet.datasets.dataset import Dataset
from parallel_lenet.datasets.parts import PART_OF, Parts, parts_of
from parallel_lenet.datasets.picture_stack import Stack, with_equal_channels
from parallel_lenet.datasets.values import DatasetError, folder_error

Array = NDArray[Any]

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
    *(".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm"),
)


def read_image_folder(folder: Path, image_size: tuple[int, int] | None = None) -> Parts | None:
    """The parts of a folder of images, or None if it has no folders to train on.

    ``folder`` has the folders ``train``, and perhaps ``test`` and ``validation``, each with one folder per class. Or it
    has the folders of the classes itself, to train on. Classes are numbered in the order of their names, as numbers if
    all are numbers. Names that begin with a dot, and other files than images, are left out. Raises DatasetError if a
    class to train on has no images, a test image is of another class, or an image can't be read or has another size.
    """
    folders = [each for each in entries(folder) if each.is_dir()]
    found = {PART_OF[each.name.lower()]: each for each in folders if each.name.lower() in PART_OF}
    if "train" not in found and not found:
        found = {"train": folder}
    if "train" not in found:
        raise DatasetError(
            f"{folder}: has a folder {next(iter(found.values())).name}, but no folder train: images to train on are in "
            "train/CLASS/"
        )
    names = class_order([each.name for each in entries(found["train"]) if each.is_dir()])
    if not names:
        return None
    if len(names) < 2:
        raise DatasetError(f"{found['train']}: has one class, {quoted(names[0])}; at least two are needed")
    images = dict[str, Array]()
    labels = dict[str, Array]()
    for part, path in found.items():
        files = _files(path, names, is_required=part == "train")
        if not files:
            raise DatasetError(f"{path}: holds no images in folders of its classes, {quoted(names)}")
        stack = Stack(len(files), image_size, str(path))
        for file, _ in files:
            stack.add(file, str(file))
        images[part] = stack.images()
        labels[part] = np.array([label for _, label in files], np.int64)
    data = {
        part: Dataset(each, labels[part], f"{folder} {part}", class_names=tuple(names))
        for part, each in with_equal_channels(images).items()
    }
    return parts_of(data, str(folder))


def entries(folder: Path) -> list[Path]:
    """The files and folders in a folder, sorted, without hidden ones. Raises DatasetError if it can't be read."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise folder_error(folder, error) from error
    return [folder / name for name in names if not name.startswith(".")]


def _files(path: Path, names: Sequence[str], is_required: bool) -> list[tuple[Path, int]]:
    """The images of a part with their labels. If ``is_required`` is true, each class must have some."""
    unknown = [each.name for each in entries(path) if each.is_dir() and each.name not in names]
    if unknown:
        raise DatasetError(f"{path / unknown[0]}: is not one of the classes to train on, {quoted(list(names))}")
    files = list[tuple[Path, int]]()
    for label, name in enumerate(names):
        if not is_required and not (path / name).is_dir():
            continue
        inside = entries(path / name)
        subfolder = next((each for each in inside if each.is_dir()), None)
        if subfolder is not None:
            raise DatasetError(f"{subfolder}: is a folder; the images of a class lie directly in {path / name}")
        images = [each for each in inside if each.suffix.lower() in SUFFIXES]
        if is_required and not images:
            other = f", but {quoted(inside[0].name)}" if inside else ""
            raise DatasetError(f"{path / name}: holds no images ({', '.join(SUFFIXES)}){other}")
        files += [(file, label) for file in images]
    return files
