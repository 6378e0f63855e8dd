"""Images and labels in ``.npz`` and ``.npy`` files, recognised by the names of files and arrays.

A name says the part (train, test or validation) and what it holds (images or labels), in any order, with any separator:
``x_train``, ``train-images``, ``val_labels``, ``yTest``. A name without a part is for training.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from parallel_lenet.checks import quoted
from parallel_lenet.datasets.dataset import Dataset
from parallel_lenet.datasets.npy import npz_members, read_npy
from parallel_lenet.datasets.parts import PART_OF, Parts, parts_of
from parallel_lenet.datasets.values import DatasetError
from parallel_lenet.display import count

Array = NDArray[Any]

KINDS = {
    **dict.fromkeys(("images", "image", "imgs", "img", "x", "data", "inputs", "pixels"), "images"),
    **dict.fromkeys(("labels", "label", "y", "target", "targets", "classes"), "labels"),
}
JOINED_WORDS = re.compile(f"({'|'.join(PART_OF)})?({'|'.join(KINDS)})?({'|'.join(PART_OF)})?")
MOST_NAMES = 12  # In an error.


class Role(NamedTuple):
    """The part and the kind of an array by its name. A field is None if the name does not say it."""

    part: str | None
    kind: str | None


class NamedArray(NamedTuple):
    """An array that has not been read yet."""

    name: str
    role: Role
    read: Callable[[], Array]


def role_of(name: str) -> Role:
    """The part and the kind of array that a name says."""
    parts = list[str]()
    kinds = list[str]()
    for word in re.split(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])", name):
        match = JOINED_WORDS.fullmatch(word.lower())
        if match is not None:
            before, kind, after = match.groups()
            parts += [PART_OF[each] for each in (before, after) if each]
            kinds += [KINDS[kind]] if kind else []
    return Role(next(iter(parts), None), next(iter(kinds), None))


def is_array_file(path: Path) -> bool:
    """Whether its name is that of a file that this module reads."""
    return path.suffix.lower() in (".npz", ".npy") and not path.name.startswith(".")


def read_array_files(files: Iterable[Path], where: str) -> Parts | None:
    """The parts that these files hold, or None if no name mentions images or labels.

    Raises DatasetError if images have no labels or the reverse, if two arrays are the same part, or as `read_npy`.
    """
    arrays = [array for file in files for array in _named_arrays(file)]
    found: dict[str, dict[str, NamedArray]] = {}
    for array in arrays:
        if array.role.kind is None:
            continue
        part = found.setdefault(array.role.part or "train", {})
        other = part.setdefault(array.role.kind, array)
        if other is not array:
            raise DatasetError(
                f"{where}: {other.name} and {array.name} both hold {array.role.kind} of the part "
                f"{array.role.part or 'train'}; name each part once"
            )
    if not found:
        if arrays:
            names = ", ".join(quoted(array.name) for array in arrays[:MOST_NAMES])
            raise DatasetError(
                f"{where}: no array's name says that it holds images or labels: found {names}; names such as x_train, "
                "y_train, train_images and test-labels do"
            )
        return None
    return parts_of(dict(_datasets(found, where)), where)


def _datasets(found: dict[str, dict[str, NamedArray]], where: str) -> Iterator[tuple[str, Dataset]]:
    known: tuple[str, ...] | None = None
    for part in sorted(found, key=lambda name: name != "train"):  # Train comes first: its labels name the classes.
        pair = found[part]
        for kind, other in (("images", "labels"), ("labels", "images")):
            if kind not in pair:
                raise DatasetError(f"{pair[other].name}: its {kind} are missing, an array such as {part}_{kind}")
        images = pair["images"].read()
        labels = pair["labels"].read()
        if images.dtype.kind not in "buif":
            raise DatasetError(f"{pair['images'].name}: images must be numbers, got {images.dtype}")
        if len(images) != len(labels):
            raise DatasetError(
                f"{pair['labels'].name}: {count(len(labels), 'label')} for the {count(len(images), 'image')} of "
                f"{pair['images'].name}"
            )
        try:
            data = Dataset.from_arrays(images, labels, name=f"{where} {part}", class_names=known)
        except DatasetError as error:
            names = f"{pair['images'].name} and {pair['labels'].name}"
            raise DatasetError(f"{names}: {str(error).removeprefix(f'{where} {part}: ')}") from error
        known = known if part != "train" else data.class_names
        yield part, data


def _named_arrays(file: Path) -> Iterator[NamedArray]:
    """The arrays of a file. If a member's name says nothing, the file's name decides, then that of its folder."""
    outer = role_of(file.stem)
    folder = Role(PART_OF.get(file.parent.name.lower()), None)
    if file.suffix.lower() == ".npy":
        yield NamedArray(os.fspath(file), _fill(outer, folder), partial(read_npy, file))
        return
    members = npz_members(file)
    for name, read in members.items():
        inner = role_of(name)
        of_file = outer if len(members) == 1 else Role(outer.part, None)
        yield NamedArray(f"{file}: {name}", _fill(_fill(inner, of_file), folder), read)


def _fill(role: Role, other: Role) -> Role:
    """The role, with the fields that it lacks from another."""
    return Role(role.part or other.part, role.kind or other.kind)
