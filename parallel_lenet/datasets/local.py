"""The user's images: recognises the form in which a folder or a file holds them."""

import os
from pathlib import Path
from typing import NamedTuple

from parallel_lenet.checks import whole_number
from parallel_lenet.datasets.array_files import is_array_file, read_array_files
from parallel_lenet.datasets.folder import holds_idx, read_folder
from parallel_lenet.datasets.image_folder import entries, read_image_folder
from parallel_lenet.datasets.parquet import read_parquet
from parallel_lenet.datasets.parts import PART_OF, Parts, resize_parts
from parallel_lenet.datasets.values import DatasetError, folder_error

FORMS = (
    "four IDX files (train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, "
    "each with or without .gz), image files in train/CLASS/ and test/CLASS/, .npz or .npy files with names such as "
    "x_train and y_train, or .parquet files"
)
TEXT_TABLES = (".csv", ".tsv")
LARGEST_SIDE = 10_000  # Pixels per side of an ``image_size``.


class LocalData(NamedTuple):
    """The data, and whether they are pictures."""

    parts: Parts
    pictures: bool
    """Whether they were image files. If so, `predict` shows the network whole pictures, not digits."""


def load_folder(path: str | os.PathLike[str], image_size: tuple[int, int] | int | None = None) -> Parts:
    """The images in a folder or a file of your own: ``train``, ``test`` and ``validation``, the last two if they exist.

    ``path`` is, in this order of preference:

    - a folder of four IDX files, as MNIST and EMNIST have, or such a folder and the name of one of several sets.
    - a ``.npz`` file, or a folder of ``.npz`` and ``.npy`` files. The names of arrays and files say what they hold,
      such as ``x_train`` and ``y_train``, or ``train-images.npy`` and ``train-labels.npy``.
    - a ``.parquet`` file, or a folder of such files, as Hugging Face has them (extra ``parquet``).
    - a folder of images, ``train/CLASS/*.png`` and likewise ``test`` and ``validation`` (extra ``pictures``).

    ``image_size``, ``(height, width)`` or one number for both, resizes all images: each pixel becomes the mean of the
    area that it covers. Without it, all must have the same size.

    Images are grey ``(n, h, w)`` or ``(n, 3, h, w)``. Large plain IDX and ``.npy`` files stay on disk, memory-mapped:
    see `read_idx`. Files are untrusted: nothing is unpickled, and sizes are checked before memory is allocated. Raises
    DatasetError, which names the file, if the data can't be read or used.
    """
    return read_local(path, image_size).parts


def read_local(path: str | os.PathLike[str], image_size: tuple[int, int] | int | None = None) -> LocalData:
    """Reads as `load_folder` does, and also returns the form of the data."""
    size = None if image_size is None else height_and_width(image_size)
    name = os.fsdecode(path)
    parts, pictures = _read(Path(name), name, size)
    return LocalData(parts if size is None else resize_parts(parts, size), pictures)


def height_and_width(image_size: object) -> tuple[int, int]:
    """The image size as ``(height, width)``. Raises ValueError unless both are whole numbers from 1 to 10,000."""
    sides = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(sides) != 2:
        raise ValueError(f"image_size must be (height, width) or one number, got {image_size!r}")
    height, width = (whole_number("each side of image_size", side, 1, LARGEST_SIDE) for side in sides)
    return height, width


def _read(path: Path, name: str, image_size: tuple[int, int] | None) -> LocalData:
    try:
        is_file = path.is_file()
        is_folder = path.is_dir()
        content = sorted(path.iterdir()) if is_folder else []
    except (OSError, ValueError) as error:  # ValueError for a name with a null character.
        raise folder_error(name, error) from error
    if not is_folder and not is_file:
        return LocalData(Parts(*read_folder(name), None), False)  # One of several sets, or an error.
    if is_file and path.suffix.lower() == ".npz":
        parts = read_array_files([path], name)
        if parts is not None:
            return LocalData(parts, False)
    if is_file and path.suffix.lower() == ".parquet":
        return LocalData(read_parquet([path], name, image_size), True)
    if is_file:
        _refuse_text_tables(name, [path])
        raise DatasetError(f"{name}: is a file; allowed are a .npz or .parquet file, or a folder with {FORMS}")
    if holds_idx(content):
        return LocalData(Parts(*read_folder(name), None), False)
    folders = [each for each in content if each.is_dir() and each.name.lower() in PART_OF]
    inside = [each for folder in folders for each in entries(folder)]
    parts = read_array_files([each for each in (*content, *inside) if is_array_file(each)], name)
    if parts is not None:
        return LocalData(parts, False)
    tables = sorted(each for pattern in ("*.parquet", "*/*.parquet", "*/*/*.parquet") for each in path.glob(pattern))
    if tables:
        return LocalData(read_parquet(tables, name, image_size), True)
    parts = read_image_folder(path, image_size)
    if parts is not None:
        return LocalData(parts, True)
    _refuse_text_tables(name, content)
    raise DatasetError(f"{name}: holds no data set that is known: {FORMS}")


def _refuse_text_tables(name: str, files: list[Path]) -> None:
    """Raises DatasetError, which says how to convert it, if one of the files is a table of text."""
    for file in files:
        if file.suffix.lower() in TEXT_TABLES:
            raise DatasetError(
                f"{name}: {file.name!r} is a table of text, which is not read: save its pixels and labels as "
                "arrays, with numpy.savez('digits.npz', x_train=pixels.reshape(-1, 28, 28), y_train=labels)"
            )
