"""Parquet files in the style of Hugging Face: a column of images and one of labels, in one or more files per part.

Files are untrusted: rows and sizes are read from the file's own table first, and the images come a few at a time.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import optional
from parallel_lenet.checks import quoted
from parallel_lenet.datasets.arrays import MAX_CLASSES, arrange, class_labels
from parallel_lenet.datasets.dataset import Dataset
from parallel_lenet.datasets.idx import ALWAYS_UNPACKED, MAX_RATIO
from parallel_lenet.datasets.parts import PART_OF, Parts, parts_of
from parallel_lenet.datasets.picture_stack import Stack, with_equal_channels
from parallel_lenet.datasets.values import DatasetError, require_memory
from parallel_lenet.display import count

Array = NDArray[Any]

IMAGES = ("image", "img", "images", "pixels", "x")
LABELS = ("label", "labels", "fine_label", "class", "target", "y")
BATCH = 64  # Rows that are read at a time.
PURPOSE = "reading Parquet files"


def read_parquet(files: Sequence[Path], where: str, image_size: tuple[int, int] | None = None) -> Parts:
    """The parts that these files hold. The name of a file or of its folder begins with its part, else it is ``train``.

    The images are bytes of image files, as they are or in a record ``{bytes, path}``, or lists of numbers. The labels
    are whole numbers or text. Raises DatasetError if a file is damaged or has no such columns, and ExtraError, a
    ModuleNotFoundError, if pyarrow (extra ``parquet``) is missing or does not work.
    """
    found: dict[str, list[Path]] = {}
    for file in files:
        others = found.setdefault(_part(file), [])
        others.append(file)
        if file.parent != others[0].parent:
            raise DatasetError(
                f"{where}: has the part {_part(file)} in several folders, {others[0].parent} and {file.parent}: name "
                "one of them"
            )
    images = dict[str, Array]()
    labels = dict[str, Array]()
    known: tuple[str, ...] | None = None
    for part in sorted(found, key=lambda name: name != "train"):
        name = f"{where} {part}"
        images[part], marks, names = _read(found[part], name, image_size)
        labels[part], label_names = class_labels(marks, name, known if marks.dtype.kind == "U" else None)
        known = known or label_names or names
    data = {}
    for part, each in with_equal_channels(images).items():
        data[part] = Dataset(each, labels[part], f"{where} {part}", class_names=known)
    return parts_of(data, where)


def _part(file: Path) -> str:
    for name in (file.name, file.parent.name):
        word = re.split(r"[^a-z0-9]", name.lower())[0]
        if word in PART_OF:
            return PART_OF[word]
    return "train"


def _read(
    files: list[Path], name: str, image_size: tuple[int, int] | None
) -> tuple[Array, Array, tuple[str, ...] | None]:
    """The images, the labels as they are, and the names of the classes that the file's metadata give."""
    library = optional.load("parquet", "pyarrow", PURPOSE, "pyarrow.parquet")
    with ExitStack() as closing:
        open_files = [closing.enter_context(_open(library, file)) for file in files]
        return _gather(open_files, files, name, image_size)


def _gather(
    open_files: list[Any], files: list[Path], name: str, image_size: tuple[int, int] | None
) -> tuple[Array, Array, tuple[str, ...] | None]:
    rows = sum(file.metadata.num_rows for file in open_files)
    if rows == 0:
        raise DatasetError(f"{name}: holds no rows")
    stack = Stack(rows, image_size, name)
    arrays = list[Array]()
    marks = list[Any]()
    for path, file in zip(files, open_files, strict=True):
        image, label = _columns(file.schema_arrow, path)
        for row, picture, mark in _rows(file, path, image, label):
            where = f"{path}: row {row}"
            if len(marks) == rows:
                raise DatasetError(f"{where}: is one row more than its table says")
            if isinstance(picture, dict):
                picture = picture.get("bytes")
            if isinstance(picture, bytes):
                stack.add(picture, where)
            elif isinstance(picture, list):
                arrays.append(_numbers(picture, where))
                if len(arrays) == 1:
                    require_memory(name, rows * arrays[0].nbytes)
                if arrays[-1].shape != arrays[0].shape:
                    raise DatasetError(f"{where}: is {arrays[-1].shape}, the first image {arrays[0].shape}")
            else:
                raise DatasetError(
                    f"{where}: the column {image} holds {quoted(picture)}, not the bytes of an image file"
                )
            marks.append(_label(mark, where))
    if len(marks) < rows:
        raise DatasetError(f"{name}: holds {count(len(marks), 'row')}, and its tables say {rows:,}")
    if arrays and len(arrays) < rows:
        raise DatasetError(f"{name}: some images are files and some are lists of numbers")
    if len({type(mark) for mark in marks}) > 1:
        raise DatasetError(f"{name}: some labels are numbers and some are text")
    images = arrange(np.stack(arrays), name=name) if arrays else stack.images()
    schema = open_files[0].schema_arrow
    _, label = _columns(schema, files[0])
    return images, np.array(marks), _class_names(schema, label)


def _open(library: Any, path: Path) -> Any:
    try:
        if not path.is_file():
            raise DatasetError(f"{path}: not a regular file")
        file = library.ParquetFile(path, memory_map=False)
        table = file.metadata
        file_size = path.stat().st_size
        unpacked_bytes = sum(table.row_group(i).total_byte_size for i in range(table.num_row_groups))
    except DatasetError:
        raise
    except Exception as error:  # pyarrow raises anything for a damaged file.
        raise DatasetError(f"{path}: is damaged, or not a Parquet file: {optional.reason(error)}") from error
    most = max(ALWAYS_UNPACKED, MAX_RATIO * file_size)
    if unpacked_bytes > most or table.num_rows > most:
        raise DatasetError(
            f"{path}: {table.num_rows:,} rows and {unpacked_bytes:,} bytes, but {file_size:,} stored bytes may unpack "
            f"to {most:,} at most"
        )
    return file


def _columns(schema: Any, path: Path) -> tuple[str, str]:
    """The names of the image column and the label column."""
    columns = []
    for kind, names in (("images", IMAGES), ("labels", LABELS)):
        column = next((name for name in names if name in schema.names), None)
        if column is None:
            raise DatasetError(
                f"{path}: has no column of {kind} ({', '.join(names)}), only {quoted(schema.names)}; rename the column"
            )
        columns.append(column)
    return columns[0], columns[1]


def _rows(file: Any, path: Path, image: str, label: str) -> Iterator[tuple[int, Any, Any]]:
    row = 0
    batches = file.iter_batches(BATCH, columns=[image, label])
    while True:
        try:
            batch = next(batches)
            pairs = list(zip(batch.column(image).to_pylist(), batch.column(label).to_pylist(), strict=True))
        except StopIteration:
            return
        except Exception as error:  # pyarrow raises anything for a damaged file.
            raise DatasetError(f"{path}: is damaged after row {row}: {optional.reason(error)}") from error
        for picture, mark in pairs:
            yield row, picture, mark
            row += 1


def _label(mark: Any, where: str) -> int | str:
    if type(mark) not in (int, str):
        raise DatasetError(f"{where}: the label is {quoted(mark)}; allowed are whole numbers and text")
    if isinstance(mark, int) and not 0 <= mark < MAX_CLASSES:
        raise DatasetError(f"{where}: label {mark} is out of range; allowed are 0 to {MAX_CLASSES - 1}")
    label: int | str = mark
    return label


def _numbers(picture: list[Any], where: str) -> Array:
    try:
        array = np.array(picture)
    except ValueError as error:
        raise DatasetError(f"{where}: is not a rectangle of numbers") from error
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3):
        raise DatasetError(f"{where}: is {array.shape} {array.dtype}; allowed are numbers (h, w) or (h, w, c)")
    is_bytes = array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 255
    return array.astype(np.uint8) if is_bytes else array


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """The names that Hugging Face writes into the file's metadata, or None if there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
        return tuple(names) if names and all(isinstance(name, str) for name in names) else None
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
