"""A folder of four IDX files: finds them under their usual names, and checks that they fit each other."""

import errno
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.datasets.arrays import MAX_CLASSES
from parallel_lenet.datasets.dataset import Dataset
from parallel_lenet.datasets.idx import read_idx
from parallel_lenet.datasets.values import PART, DatasetError, folder_error, is_finite
from parallel_lenet.display import count

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# Any prefix, such as "emnist-balanced-", "test" for "t10k", and ".gz" at the end or inside are allowed.
NAME = re.compile(
    r"(?P<set>[^.].*[-_. ])?(?P<part>train|t10k|test)[-_. ](?P<what>images|labels)"
    r"(?P<inner>[-.]gz)?[-_. ]idx[134]([-_. ]ubyte)?(?P<outer>[-.]gz)?",
    re.IGNORECASE,
)
MOST_NAMES = 12  # In an error.


@dataclass
class _FileSet:
    """The files of one data set: for each of `NAMES` the best match, as its rank and its path."""

    files: dict[str, tuple[tuple[Any, ...], Path]] = field(default_factory=dict)

    @property
    def paths(self) -> list[Path]:
        return [self.files[name][1] for name in NAMES if name in self.files]


def read_folder(directory: str | os.PathLike[str]) -> tuple[Dataset, Dataset]:
    """Return the training and the test part of a folder that holds four IDX files.

    They are named as MNIST's: ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
    ``t10k-labels-idx1-ubyte``, with or without ``.gz``. Variants are ``.idx3`` for ``-idx3``, ``idx4`` for images in
    colour, ``test`` for ``t10k``, capital letters, and a prefix such as ``emnist-balanced-``. The file may also be in a
    folder of such a name. If a file is there twice, a plain one is read rather than a gzipped one.

    If the folder holds several data sets, the one without a prefix is read. If there is none, ``directory`` may end
    with the name of one, as in ``FOLDER/emnist-letters``. EMNIST's images, which are stored with rows and columns
    swapped, are turned upright. `read_files` describes the content of the files.
    """
    directory = os.fsdecode(directory)
    parent, set_name = os.path.split(os.path.normpath(directory))
    is_set_name = not os.path.exists(directory) and os.path.isdir(parent)
    try:
        entries = sorted(os.scandir(parent if is_set_name else directory), key=lambda entry: entry.name)
    except (OSError, ValueError) as error:  # ValueError for a name with a null character.
        raise folder_error(directory, error) from error
    sets = _sets(entries)
    complete = [name for name, found in sets.items() if len(found.paths) == len(NAMES)]
    if is_set_name and set_name.lower() not in complete:
        raise folder_error(directory, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
    if is_set_name:
        prefix = set_name.lower()
    elif "" in complete or len(complete) == 1:
        prefix = "" if "" in complete else complete[0]
    elif complete:
        raise DatasetError(
            f"{directory}: holds several data sets, {', '.join(complete)}; choose one, such as "
            f"{os.path.join(directory, complete[0])}"
        )
    else:
        best_set = max(sets.values(), key=lambda found: len(found.paths), default=_FileSet())
        missing_name = next(name for name in NAMES if name not in best_set.files)
        candidates = [entry.name for entry in entries if re.search("idx|ubyte", entry.name, re.IGNORECASE)]
        more = f" and {len(candidates) - MOST_NAMES} more" if len(candidates) > MOST_NAMES else ""
        raise DatasetError(
            f"{directory}: {missing_name} is missing; a folder of images needs four files, {', '.join(NAMES)}, each "
            f"with or without .gz; found {', '.join(candidates[:MOST_NAMES]) or 'no file of such a name'}{more}"
        )
    return read_files(sets[prefix].paths, directory, upright=not prefix.startswith("emnist"))


def holds_idx(paths: list[Path]) -> bool:
    """Whether one of these names is that of a file of an IDX data set."""
    return any(NAME.fullmatch(path.name) for path in paths)


def _sets(entries: list[os.DirEntry[str]]) -> dict[str, _FileSet]:
    """The data sets among these files and folders, by what stands in front of their names."""
    sets: dict[str, _FileSet] = {}
    for entry in entries:
        match = NAME.fullmatch(entry.name)
        path = None if match is None else _file(Path(entry.path))
        if match is None or path is None:
            continue
        part = "train" if match["part"].lower() == "train" else "t10k"
        name = next(name for name in NAMES if name.startswith(f"{part}-{match['what'].lower()}"))
        is_gzipped = bool(match["inner"] or match["outer"])
        # Files before files in folders, plain before gzipped, then those whose names are most like MNIST's.
        rank = (path != Path(entry.path), is_gzipped, match["part"].lower() == "test", entry.name != name, entry.name)
        files = sets.setdefault((match["set"] or "").lower().strip("-_. "), _FileSet()).files
        files[name] = min(files.get(name, (rank, path)), (rank, path))
    return sets


def _file(path: Path) -> Path | None:
    """The path if it is a regular file. In a folder: the file that has the folder's name, or the only file."""
    if path.is_file():
        return path
    try:
        inner = [each for each in path.iterdir() if each.is_file() and not each.name.startswith(".")]
    except OSError:  # Not a folder, or one that may not be read.
        return None
    found = [each for each in inner if each.name == path.name] or inner
    return found[0] if len(found) == 1 else None


def read_files(paths: list[Path], name: str, upright: bool = True) -> tuple[Dataset, Dataset]:
    """Return the training and the test part held by four IDX files, given in the order of `NAMES`.

    Images are of any IDX type: ``(n, h, w)``, ``(n, h, w, 1)``, which becomes ``(n, h, w)``, or ``(n, h, w, 3)``,
    colours last, which becomes ``(n, 3, h, w)``. Labels are integers of any IDX type from 0 on, and become int64. If
    they start at 1, they stay as they are, and the data's name says that class 0 is unused. ``upright=False`` swaps the
    images' rows and columns.

    Raises DatasetError if a file is not like this, if images and labels differ in number, or if training and test
    images differ in size or type. It is also raised if a test label is above all training labels.
    """
    train_images = _read_images(paths[0], upright)
    train_labels = _read_labels(paths[1])
    test_images = _read_images(paths[2], upright)
    test_labels = _read_labels(paths[3])
    for images, labels, where in ((train_images, train_labels, 0), (test_images, test_labels, 2)):
        if len(images) != len(labels):
            raise DatasetError(
                f"{paths[where + 1]}: {count(len(labels), 'label')} for the {count(len(images), 'image')} of "
                f"{paths[where]}"
            )
    if (train_images.shape[1:], train_images.dtype) != (test_images.shape[1:], test_images.dtype):
        raise DatasetError(
            f"{paths[2]}: images are {test_images.shape[1:]} {test_images.dtype}, "
            f"those of {paths[0]} {train_images.shape[1:]} {train_images.dtype}; both must be the same"
        )
    if test_labels.max() > train_labels.max():
        raise DatasetError(
            f"{paths[3]}: label {test_labels.max()} is out of range; {paths[1]} names classes 0 to {train_labels.max()}"
        )
    remarks = [] if upright else ["EMNIST's images turned upright"]
    if train_labels.min() == 1 and test_labels.min() > 0:
        remarks.append(f"labels 1 to {train_labels.max()}, class 0 is unused")
    end = f" ({'; '.join(remarks)})" if remarks else ""
    train = Dataset(train_images, train_labels, f"{name} train{end}")
    test = Dataset(test_images, test_labels, f"{name} test{end}")
    return train, test


def _read_images(path: Path, upright: bool) -> NDArray[Any]:
    images = read_idx(path)
    if images.dtype.kind == "f" and not is_finite(images):
        raise DatasetError(f"{path}: pixels hold NaN or infinity; all must be finite")
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim == 3:
        return images if upright else _rearrange(images, (0, 2, 1))
    if images.ndim == 4 and images.shape[3] == 3:
        return _rearrange(images, (0, 3, 1, 2) if upright else (0, 3, 2, 1))
    raise DatasetError(f"{path}: images are {images.shape}; allowed are (n, h, w), (n, h, w, 1) and (n, h, w, 3)")


def _rearrange(images: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """The images with other axes, contiguous, in the same memory: a copy would double it.

    A mapped file gives a view.
    """
    if isinstance(images, np.memmap):
        return images.transpose(axes)
    rows = images.reshape(len(images), -1)
    together = max(1, PART // rows.shape[1])
    for start in range(0, len(images), together):
        part = slice(start, start + together)
        rows[part] = images[part].transpose(axes).reshape(len(rows[part]), -1)  # NumPy copies overlapping memory.
    return rows.reshape([images.shape[axis] for axis in axes])


def _read_labels(path: Path) -> NDArray[np.int64]:
    labels = read_idx(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DatasetError(f"{path}: labels are {labels.shape} {labels.dtype}; allowed are integers in one dimension")
    for label in (labels.min(), labels.max()):
        if not 0 <= label < MAX_CLASSES:
            raise DatasetError(f"{path}: label {label} is out of range; allowed are 0 to {MAX_CLASSES - 1}")
    return labels.astype(np.int64)
