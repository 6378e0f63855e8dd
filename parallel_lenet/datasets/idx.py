"""IDX files, the format of MNIST: four bytes of type and dimensions, the sizes, then the values, all big-endian.

Source: http://yann.lecun.com/exdb/mnist/. Files are untrusted. A header's sizes are compared with the file before
memory is allocated for them. A gzip stream is unpacked at most one byte beyond what its header announces. The limit is
100 MB or a hundred times the file's size, whichever is more.
"""

import math
import os
import stat
import zlib
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.datasets.values import DatasetError, require_memory
from parallel_lenet.limits import available_memory

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_DIMENSIONS = 4
# A gzipped file may unpack to this many times its size: MNIST's files to 4 times, but deflate can reach 1,032.
MAX_RATIO = 100
ALWAYS_UNPACKED = 100_000_000  # Bytes to which each file may unpack.
# Files from this size on are not read but mapped, since the system can drop their pages when it needs memory.
MAPPED_FROM = 1 << 30
CHUNK = 1 << 16


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Return the array that an IDX file holds, gzipped or not (told by its content), in native byte order.

    Values are of any IDX type, in one to four dimensions, none of them zero. Plain files of bytes (uint8) are
    memory-mapped, read-only, if they have at least 1 GiB or more than half of the available memory. A program ends with
    SIGBUS if such a file is shortened while it is in use. All other files are read into memory, once.

    Raises DatasetError if the file cannot be read, is not a regular file, is not IDX, or holds another number of bytes
    than its header says. It is also raised if a gzipped file unpacks to more than 100 MB and 100 times its size.
    """
    try:
        # Checked before opening: opening a pipe waits for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DatasetError(f"{path}: not a regular file")
        with open(path, "rb") as file:
            return _read_array(file, path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise DatasetError(f"{path}: does not fit into memory") from error
    except zlib.error as error:
        raise DatasetError(f"{path}: corrupt gzip data ({error})") from error


def _read_array(file: BinaryIO, path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read header and values. ``file`` must be at its start."""
    file_size = os.fstat(file.fileno()).st_size
    is_gzipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream = _Gunzip(file) if is_gzipped else _PlainFile(file)

    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= MAX_DIMENSIONS:
        types = ", ".join(f"{code:02x}" for code in TYPES)
        raise DatasetError(
            f"{path}: not an IDX file; it starts with the bytes {magic.hex(' ') or '(none)'}, "
            f"not with 00 00, a type ({types}) and a number of dimensions (1 to {MAX_DIMENSIONS})"
        )
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DatasetError(f"{path}: truncated inside its header")
    # Python's integers: their product can't overflow.
    shape = tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4))
    if 0 in shape:
        raise DatasetError(f"{path}: holds no values; its header says {shape}")
    dtype = np.dtype(TYPES[magic[2]])
    size = math.prod(shape) * dtype.itemsize
    says = f"its header says {shape} {dtype.newbyteorder('=')}, {size} bytes of values"

    most = max(ALWAYS_UNPACKED, MAX_RATIO * file_size)
    if is_gzipped and size > most:
        raise DatasetError(
            f"{path}: {says}, but {file_size} bytes of gzip may unpack to {most} at most; unpack it with gunzip"
        )
    if not is_gzipped and size != file_size - 4 - len(sizes):
        raise DatasetError(f"{path}: {says}, but {file_size - 4 - len(sizes)} follow")
    if not is_gzipped and dtype.itemsize == 1 and (size >= MAPPED_FROM or size > available_memory() / 2):
        return np.memmap(file, dtype.newbyteorder("="), "r", 4 + len(sizes), shape)
    require_memory(os.fsdecode(path), size)
    values = stream.read(size)
    if len(values) < size:
        raise DatasetError(f"{path}: truncated; {says}, but {len(values)} follow")
    if stream.read(1):
        raise DatasetError(f"{path}: {says}, but more follow")
    array = np.frombuffer(values, dtype).reshape(shape)
    # In place: a second copy would double the memory.
    return array if dtype.isnative else array.byteswap(inplace=True).view(dtype.newbyteorder("="))


class _PlainFile:
    """Reads a file into memory that may be written to."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytearray:
        """Return the next ``size`` bytes, fewer only at the end."""
        values = bytearray(size)
        del values[self._file.readinto(values) :]  # type: ignore[attr-defined]
        return values


class _Gunzip:
    """Unpacks a gzip file up to the requested byte, and holds at most a chunk of it.

    Unlike ``gzip.GzipFile`` it does not ignore bytes that follow the stream, not even zeros. Further gzip members,
    which the format allows, are unpacked as part of the stream. zlib checks each member's checksum at its end.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._compressed = b""
        self._member = zlib.decompressobj(wbits=31)

    def read(self, size: int) -> bytearray:
        """Return the next ``size`` bytes, fewer only at the end of the stream."""
        # Grows with the unpacked bytes: the requested size comes from a header.
        values = bytearray()
        while len(values) < size:
            self._compressed = self._compressed or self._file.read(CHUNK)
            if not self._compressed and self._member.eof:
                break
            if not self._compressed:
                raise zlib.error("it is cut off")
            if self._member.eof:
                self._member = zlib.decompressobj(wbits=31)
            values += self._member.decompress(self._compressed, size - len(values))
            self._compressed = self._member.unconsumed_tail or self._member.unused_data
        return values
