"""Images and labels in ``.npz`` and ``.npy`` files, found by the names of files and arrays.

A name says the part (train, test or validation) and what it holds (images or labels), in any order, with any separator:
``x_train``, ``train-images``, ``val_labels``, ``yTest``. Without a part it is to train on.
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

WHAT = {
    **dict.fromkeys(("images", "image", "imgs", "img", "x", "data", "inputs", "pixels"), "images"),
    **dict.fromkeys(("labels", "label", "y", "target", "targets", "classes"), "labels"),
}
FUSED = re.compile(f"({'|'.join(PART_OF)})?({'|'.join(WHAT)})?({'|'.join(PART_OF)})?")
SHOWN = 12  # Names in an error.


class Role(NamedTuple):
    """What an array is, as its name says. A field is None if the name does not say it."""

    part: str | None
    what: str | None


class Named(NamedTuple):
    """An array that has not been read yet."""

    name: str
    role: Role
    read: Callable[[], Array]


def role_of(name: str) -> Role:
    """The part and the kind of array that a name says."""
    parts, whats = list[str](), list[str]()
    for word in re.split(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])", name):
        match = FUSED.fullmatch(word.lower())
        if match is not None:
            before, what, after = match.groups()
            parts += [PART_OF[each] for each in (before, after) if each]
            whats += [WHAT[what]] if what else []
    return Role(next(iter(parts), None), next(iter(whats), None))


def is_array_file(path: Path) -> bool:
    """Whether its name is that of a file that this module reads."""
    return path.suffix.lower() in (".npz", ".npy") and not path.name.startswith(".")


def read_array_files(files: Iterable[Path], where: str) -> Parts | None:
    """The parts that these files hold; None if no name mentions images or labels.

    Raises DatasetError if images have no labels or the reverse, if two arrays are the same part, or as `read_npy`.
    """
    arrays = [named for file in files for named in _named_arrays(file)]
    found: dict[str, dict[str, Named]] = {}
    for named in arrays:
        if named.role.what is None:
            continue
        part = found.setdefault(named.role.part or "train", {})
        other = part.setdefault(named.role.what, named)
        if other is not named:
            raise DatasetError(
                f"{where}: {other.name} and {named.name} both hold {named.role.what} of the part "
                f"{named.role.part or 'train'}; name each part once"
            )
    if not found:
        if arrays:
            names = ", ".join(quoted(named.name) for named in arrays[:SHOWN])
            raise DatasetError(
                f"{where}: no array's name says that it holds images or labels: found {names}; names such as x_train, "
                "y_train, train_images and test-labels do"
            )
        return None
    return parts_of(dict(_datasets(found, where)), where)


def _datasets(found: dict[str, dict[str, Named]], where: str) -> Iterator[tuple[str, Dataset]]:
    known: tuple[str, ...] | None = None
    for part in sorted(found, key=lambda name: name != "train"):  # Its labels name the classes.
        pair = found[part]
        for what, other in (("images", "labels"), ("labels", "images")):
            if what not in pair:
                raise DatasetError(f"{pair[other].name}: its {what} are missing, an array such as {part}_{what}")
        images, labels = pair["images"].read(), pair["labels"].read()
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


def _named_arrays(file: Path) -> Iterator[Named]:
    """The arrays of a file. If a member's name says nothing, the file's name decides, then that of its folder."""
    outer = role_of(file.stem)
    folder = Role(PART_OF.get(file.parent.name.lower()), None)
    if file.suffix.lower() == ".npy":
        yield Named(os.fspath(file), _filled(outer, folder), partial(read_npy, file))
        return
    members = npz_members(file)
    for name, read in members.items():
        inner = role_of(name)
        of_file = outer if len(members) == 1 else Role(outer.part, None)
        yield Named(f"{file}: {name}", _filled(_filled(inner, of_file), folder), read)


def _filled(role: Role, other: Role) -> Role:
    return Role(role.part or other.part, role.what or other.what)
