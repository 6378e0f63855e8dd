"""IDX files, the format of MNIST: four bytes of type and dimensions, the sizes, then the values, all big-endian.

The format: http://yann.lecun.com/exdb/mnist/. Files are untrusted: a header's sizes are compared with the file before
memory is allocated for them, and a gzip stream is never unpacked further than one byte beyond what its header
announces, nor to more than 100 MB or a hundred times its size, whichever is more.
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
# What a gzipped file may unpack to: MNIST's have 4 times their size, but deflate can pack 1,032 bytes in one.
MAX_RATIO = 100
ALWAYS_UNPACKED = 100_000_000  # Bytes.
# Files from this size on are not read but mapped, since the system can drop their pages when it needs memory.
MAPPED_FROM = 1 << 30
CHUNK = 1 << 16


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Return the array that an IDX file holds, gzipped or not (told by its content), in native byte order.

    Values are of any IDX type, in one to four dimensions, none of them zero. A plain file of at least 1 GiB of bytes
    (uint8), or of more than half of the memory that is available, is memory-mapped, read-only: a program ends with
    SIGBUS if such a file is shortened while it is in use.
    Everything else is read into memory, once. Raises DatasetError if the file cannot be read, is not a regular file, is
    not IDX, holds another number of bytes than its header says, or is gzipped and unpacks to more than 100 MB and 100
    times its size.
    """
    try:
        # Asked before opening: to open a pipe waits for its writer.
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
    """Read header and values; ``file`` stands at its start."""
    stored = os.fstat(file.fileno()).st_size
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream = _Gunzip(file) if zipped else _Plain(file)

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
    # Python's integers: a product of dimensions can't overflow.
    shape = tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4))
    if 0 in shape:
        raise DatasetError(f"{path}: holds no values; its header says {shape}")
    dtype = np.dtype(TYPES[magic[2]])
    wanted = math.prod(shape) * dtype.itemsize
    says = f"its header says {shape} {dtype.newbyteorder('=')}, {wanted} bytes of values"

    most = max(ALWAYS_UNPACKED, MAX_RATIO * stored)
    if zipped and wanted > most:
        raise DatasetError(
            f"{path}: {says}, but {stored} bytes of gzip may unpack to {most} at most; unpack it with gunzip"
        )
    if not zipped and wanted != stored - 4 - len(sizes):
        raise DatasetError(f"{path}: {says}, but {stored - 4 - len(sizes)} follow")
    if not zipped and dtype.itemsize == 1 and (wanted >= MAPPED_FROM or wanted > available_memory() / 2):
        return np.memmap(file, dtype.newbyteorder("="), "r", 4 + len(sizes), shape)
    require_memory(os.fsdecode(path), wanted)
    values = stream.read(wanted)
    if len(values) < wanted:
        raise DatasetError(f"{path}: truncated; {says}, but {len(values)} follow")
    if stream.read(1):
        raise DatasetError(f"{path}: {says}, but more follow")
    array = np.frombuffer(values, dtype).reshape(shape)
    # In place: a second copy would double the memory.
    return array if dtype.isnative else array.byteswap(inplace=True).view(dtype.newbyteorder("="))


class _Plain:
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
        self._packed = b""
        self._member = zlib.decompressobj(wbits=31)

    def read(self, size: int) -> bytearray:
        """Return the next ``size`` bytes, fewer only at the end of the stream."""
        # Grows with what really comes out, whatever size a header made the caller ask for.
        values = bytearray()
        while len(values) < size:
            self._packed = self._packed or self._file.read(CHUNK)
            if not self._packed and self._member.eof:
                break
            if not self._packed:
                raise zlib.error("it is cut off")
            if self._member.eof:
                self._member = zlib.decompressobj(wbits=31)
            values += self._member.decompress(self._packed, size - len(values))
            self._packed = self._member.unconsumed_tail or self._member.unused_data
        return values
