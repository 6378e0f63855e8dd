"""``.npy`` and ``.npz`` files of NumPy, read without trusting them.

Nothing is unpickled. The sizes in a header are compared with the file before memory is allocated for them. A compressed
member is unpacked to at most 100 MB or a hundred times its size, whichever is more.
"""

import io
import math
import os
import stat
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.datasets.idx import ALWAYS_UNPACKED, MAPPED_FROM, MAX_RATIO
from parallel_lenet.datasets.values import DatasetError, require_memory
from parallel_lenet.limits import available_memory
from parallel_lenet.optional import reason

Array = NDArray[Any]
T = TypeVar("T")

LONGEST_HEADER = 10_000  # Bytes: NumPy's own limit.
MAX_DIMENSIONS = 8
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npy(path: str | os.PathLike[str]) -> Array:
    """The array that a ``.npy`` file holds, in native byte order: numbers or text.

    A file of at least 1 GiB, or of more than half of the available memory, is memory-mapped, read-only. A program ends
    with SIGBUS if such a file is shortened while it is in use. Raises DatasetError if the file can't be read, holds
    Python objects or records, or another number of bytes than its header says.
    """
    name = os.fsdecode(path)
    try:
        with _open_regular(path) as file:
            shape, fortran, dtype = _header(file, name)
            start = file.tell()
            end = os.fstat(file.fileno()).st_size
            size = math.prod(shape) * dtype.itemsize
            if size != end - start:
                raise DatasetError(f"{name}: {_header_claim(shape, dtype)}, but {end - start:,} follow")
            if dtype.isnative and (size >= MAPPED_FROM or size > available_memory() / 2):
                return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
            return _values(file, name, shape, fortran, dtype)
    except OSError as error:
        raise DatasetError(f"{name}: cannot be read: {error.strerror or error}") from error


def npz_members(path: str | os.PathLike[str]) -> dict[str, Callable[[], Array]]:
    """Functions that read the arrays of a ``.npz`` file, by name.

    They and this function raise DatasetError as `read_npy` does. It is also raised if an array would be unpacked to
    more than 100 MB and a hundred times its compressed size.
    """
    name = os.fsdecode(path)

    def member(info: zipfile.ZipInfo) -> Array:
        return _with_dataset_errors(name, lambda: _member(path, f"{name}: {info.filename}", info))

    def members() -> dict[str, Callable[[], Array]]:
        with _open_regular(path) as file, zipfile.ZipFile(file) as archive:
            infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        return {info.filename.removesuffix(".npy"): lambda info=info: member(info) for info in infos}  # type: ignore[misc]

    return _with_dataset_errors(name, members)


def _with_dataset_errors(name: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(f"{name}: cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise DatasetError(f"{name}: does not fit into memory") from error
    except Exception as error:  # zipfile raises anything for a crafted file: BadZipFile, zlib.error, EOFError, ...
        raise DatasetError(f"{name}: is damaged, or not a .npz file: {reason(error)}") from error


def _member(path: str | os.PathLike[str], name: str, info: zipfile.ZipInfo) -> Array:
    if info.compress_type not in COMPRESSIONS or info.flag_bits & 1:
        raise DatasetError(f"{name}: is encrypted or compressed in a way that NumPy does not use")
    most = max(ALWAYS_UNPACKED, MAX_RATIO * info.compress_size)
    if info.file_size > most:
        raise DatasetError(
            f"{name}: {info.file_size:,} bytes, but {info.compress_size:,} compressed bytes may unpack to {most:,} at "
            "most; store it uncompressed, with np.save"
        )
    with _open_regular(path) as file, zipfile.ZipFile(file) as archive, archive.open(info) as stream:
        shape, fortran, dtype = _header(stream, name)
        remaining_bytes = info.file_size - stream.tell()
        if math.prod(shape) * dtype.itemsize != remaining_bytes:
            raise DatasetError(f"{name}: {_header_claim(shape, dtype)}, but {remaining_bytes:,} follow")
        return _values(stream, name, shape, fortran, dtype)


def _open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open the file. Raises DatasetError if it is not a regular one: opening a pipe waits for its writer."""
    try:
        is_regular = stat.S_ISREG(os.stat(path).st_mode)
    except ValueError as error:  # A name with a null character.
        raise DatasetError(f"{os.fsdecode(path)!r}: cannot be read: {error}") from error
    if not is_regular:
        raise DatasetError(f"{os.fsdecode(path)}: not a regular file")
    return open(path, "rb")


def _header(file: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first index varies fastest, and type. Afterwards the file is at the values."""
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or start[6:] not in (b"\1\0", b"\2\0"):
        raise DatasetError(
            f"{name}: is not a .npy file of version 1 or 2; it starts with {start.hex(' ') or 'nothing'}"
        )
    digits = file.read(2 if start[6] == 1 else 4)
    length = int.from_bytes(digits, "little")
    text = file.read(min(length, LONGEST_HEADER))
    if len(text) < length:
        raise DatasetError(f"{name}: its header of {length:,} bytes is cut off or has more than {LONGEST_HEADER:,}")
    read = np.lib.format.read_array_header_1_0 if start[6] == 1 else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(io.BytesIO(digits + text))
    except Exception as error:  # The parser raises anything for a crafted header.
        raise DatasetError(f"{name}: its header is damaged: {reason(error)}") from error
    if dtype.hasobject:
        raise DatasetError(f"{name}: holds Python objects, which are not read; allowed are numbers and text")
    if dtype.kind not in "buifUS" or dtype.itemsize == 0:
        raise DatasetError(f"{name}: holds {dtype}; allowed are numbers and text")
    if not all(type(size) is int and size > 0 for size in shape) or not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise DatasetError(f"{name}: holds no values, its header says {shape}")
    return shape, fortran, dtype


def _header_claim(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"its header says {shape} {dtype}, {math.prod(shape) * dtype.itemsize:,} bytes of values"


def _values(file: Any, name: str, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]) -> Array:
    size = math.prod(shape) * dtype.itemsize
    require_memory(name, size)
    values = bytearray(size)
    view = memoryview(values)
    done = 0
    while done < size:
        length = file.readinto(view[done:])
        if not length:
            raise DatasetError(f"{name}: truncated; {_header_claim(shape, dtype)}, but {done:,} follow")
        done += length
    array = np.frombuffer(values, dtype)
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
