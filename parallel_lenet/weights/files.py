"""Reads arrays by name from untrusted files: first names, types and shapes, then the arrays asked for.

A file's own sizes decide no allocation. An array is read only after its shape was compared with the network's, and its
bytes are counted. Nothing is unpickled.
"""

import math
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import optional
from parallel_lenet.archive import CheckpointError, path_string
from parallel_lenet.checkpoint import Checkpoint
from parallel_lenet.checks import quoted
from parallel_lenet.trained import from_checkpoint
from parallel_lenet.weights.convention import named_weights

Array = NDArray[Any]

MOST_ARRAYS = 10_000
MOST_HEADER = 2**24  # Bytes of a safetensors header: a thousand for each of `MOST_ARRAYS` arrays.
FLOATS = ("F16", "F32", "F64")  # As safetensors names them.
ZIP = b"PK\x03\x04"


class WeightsError(ValueError):
    """A file of weights that cannot be used. The message names the file, and the array that does not fit."""


@dataclass(frozen=True)
class WeightsFile:
    """An open file of weights."""

    path: str
    shapes: dict[str, tuple[int, ...]]
    """The shape of each array, by name."""
    read: Callable[[str], Array]
    """Returns an array by name, of the shape in `shapes`."""


@contextmanager
def open_weights(path: str | os.PathLike[str]) -> Iterator[WeightsFile]:
    """The file's arrays. Raises WeightsError if it is missing, damaged, or neither safetensors nor ``.npz``."""
    path = path_string(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # Checked before opening: opening a pipe waits for its writer.
            raise WeightsError(f"{path}: can't be read: it is not a regular file")
        with open(path, "rb") as file:
            first = file.read(8)
            size = file.seek(0, os.SEEK_END)
            if first[:4] == ZIP:
                with _zip(path, file) as weights:
                    yield weights
                return
    except OSError as error:
        raise WeightsError(f"{path}: can't be read: {error.strerror or error}") from error
    if path.lower().endswith(".onnx"):
        raise WeightsError(f"{path}: ONNX is only written, not read: export the same run with --format safetensors")
    header = int.from_bytes(first, "little")
    if len(first) < 8 or not 2 <= header <= size - 8:
        raise WeightsError(f"{path}: is damaged, or neither a safetensors file nor an .npz file of arrays by name")
    if header > MOST_HEADER:
        raise WeightsError(f"{path}: has a header of {header:,} bytes, and at most {MOST_HEADER:,} are read")
    with _safetensors(path) as weights:
        yield weights


@contextmanager
def _safetensors(path: str) -> Iterator[WeightsFile]:
    library = optional.load("export", "safetensors", "reading safetensors files")
    try:
        with library.safe_open(path, "np") as file:
            names = file.keys()
            _require_count(path, len(names))
            slices = {name: file.get_slice(name) for name in names}
            for name, each in slices.items():
                _require_float(path, name, each.get_dtype(), each.get_dtype() in FLOATS)
            shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}
            yield WeightsFile(path, shapes, file.get_tensor)
    except (library.SafetensorError, OSError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: is damaged, or not a safetensors file: {optional.reason(error)}") from error


@contextmanager
def _zip(path: str, file: IO[bytes]) -> Iterator[WeightsFile]:
    """An ``.npz`` of arrays by name, or a checkpoint."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if {"parameters.npy", "metadata.npy"} <= set(names):
                yield _checkpoint(path)
                return
            _require_count(path, len(names))
            if len(set(names)) < len(names):
                raise ValueError("two of its members have one name")
            headers = {}
            for info in archive.infolist():
                with archive.open(info) as member:
                    headers[info.filename.removesuffix(".npy")] = info, *_header(member)
            for name, (_, _, dtype, _) in headers.items():
                _require_float(path, name, str(dtype), dtype.kind == "f" and dtype.itemsize <= 8)
            shapes = {name: shape for name, (_, shape, _, _) in headers.items()}
            yield WeightsFile(path, shapes, lambda name: _member(archive, headers[name][0], name))
    except (WeightsError, CheckpointError, MemoryError):
        raise
    except Exception as error:  # The parsers raise anything for a crafted file: BadZipFile, zlib.error, TokenError, ...
        raise WeightsError(f"{path}: is damaged, or not an .npz file of arrays: {optional.reason(error)}") from error


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, dtype and order of a ``.npy`` file, whose data follow."""
    version = np.lib.format.read_magic(member)
    if version != (1, 0):  # Others have headers of up to 4 GiB.
        raise ValueError(f"an array has a header of version {version}, not (1, 0)")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    return shape, dtype, fortran


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Array:
    """An array of the archive. Raises ValueError unless it has exactly the bytes that its header says."""
    with archive.open(info) as member:
        shape, dtype, fortran = _header(member)
        size = math.prod(shape) * dtype.itemsize
        data = member.read(size + 1)
    if len(data) != size:
        raise ValueError(
            f"{quoted(name)} has {'more' if len(data) > size else len(data)} bytes, its header says {size}"
        )
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _checkpoint(path: str) -> WeightsFile:
    """The weights in a checkpoint of this package, as other programs store them if its network can be built."""
    checkpoint = Checkpoint.load(path)
    parameters = checkpoint.state.parameters
    try:
        arrays = named_weights(from_checkpoint(checkpoint, "naive").model, parameters)
    except CheckpointError:  # A model of the user's own.
        arrays = checkpoint.layout.views(parameters)
    return WeightsFile(path, {name: array.shape for name, array in arrays.items()}, arrays.__getitem__)


def _require_count(path: str, arrays: int) -> None:
    if arrays > MOST_ARRAYS:
        raise WeightsError(f"{path}: holds {arrays:,} arrays, and at most {MOST_ARRAYS:,} are read")


def _require_float(path: str, name: str, dtype: str, is_float: bool) -> None:
    if not is_float:
        raise WeightsError(f"{path}: {quoted(name)} is {dtype}: float16, float32 and float64 are read")
