"""Memory that processes share. It has no name, so nothing can remain and no other user can open it.

It is an anonymous file (`memfd_create`, or an unlinked temporary file if the system lacks that), whose descriptor a
worker inherits. `multiprocessing.shared_memory` is not used: its segments have names and need room in /dev/shm (64 MB
in many containers), and its resource tracker is one more process, which outlives the run. Windows has no such
descriptors. There the memory is a page-file mapping with a random name, which ends with its last user.
"""

import errno
import io
import math
import mmap
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.descriptors import above_standard
from parallel_lenet.limits import available_memory

ALIGNMENT = 64  # Bytes of a cache line. Each array starts on one.

ArrayLocation = tuple[int, tuple[int, ...], str, tuple[int, ...] | None]
"""The location of an array: offset in bytes, shape, dtype, and strides, which are None in C order."""


class SharedMemory:
    """Arrays of these shapes and dtypes. Processes that get ``handle`` and ``size`` can map them too.

    Raises OSError, which says how many bytes were requested, if there is no room for them.
    """

    def __init__(self, contents: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
        self.locations: list[ArrayLocation] = []
        self.size = 0
        """Bytes."""
        for shape, dtype in contents:
            self.locations.append((self.size, shape, dtype.str, None))
            self.size += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        require_memory(self.size)
        try:
            with above_standard():
                self._file: io.FileIO | str
                if sys.platform == "win32":
                    self._file = f"parallel-lenet-{secrets.token_hex(16)}"
                else:
                    self._file = _anonymous_file(self.size)
                mapping = attach(self.handle, self.size)
        except (OSError, OverflowError) as error:
            code = getattr(error, "errno", None) or errno.ENOMEM
            raise OSError(code, f"{_no_room(self.size)}: {os.strerror(code)}") from error
        self.arrays = [view(mapping, location) for location in self.locations]

    @property
    def handle(self) -> int | str:
        """The handle to attach with: a name on Windows, elsewhere the descriptor, or -1 after `close`."""
        if isinstance(self._file, str):
            return self._file
        return -1 if self._file.closed else self._file.fileno()

    def close(self) -> None:
        """Close the descriptor. The memory is freed with the last array in it."""
        if isinstance(self._file, io.FileIO):
            self._file.close()


def _no_room(size: int) -> str:
    return f"no room for the {size:,} bytes of memory to share with workers"


def require_memory(size: int) -> None:
    """Raise OSError if the system would have to end a process to reserve ``size`` bytes."""
    room = available_memory() if size else math.inf
    if size > room:
        raise OSError(errno.ENOMEM, f"{_no_room(size)}: {room:,} bytes are left")


def _anonymous_file(size: int) -> io.FileIO:
    """A file object, not a descriptor: it closes the file even if an exception or an interrupt comes."""
    try:
        file = io.FileIO(os.memfd_create("parallel-lenet", os.MFD_CLOEXEC), "r+b")
    except (AttributeError, OSError):  # Not every system has it, and sandboxes refuse it.
        with tempfile.TemporaryFile() as temporary:
            file = io.FileIO(os.dup(temporary.fileno()), "r+b")
    try:
        os.ftruncate(file.fileno(), size)
        if hasattr(os, "posix_fallocate"):
            # Reserves the memory, so that too little room is an error here and not a SIGBUS at the first write.
            os.posix_fallocate(file.fileno(), 0, size)
    except BaseException:
        file.close()
        raise
    return file


def shared_bytes(size: int) -> SharedMemory:
    """Memory of ``size`` bytes, as one uint8 array."""
    return SharedMemory([((size,), np.dtype(np.uint8))])


def attach(handle: int | str, size: int, only_read: bool = False) -> mmap.mmap:
    """Map memory by its handle, or a file that is only read."""
    if isinstance(handle, str):
        if sys.platform == "win32":
            return mmap.mmap(-1, size, tagname=handle)
        raise ValueError("named memory exists on Windows only")
    return mmap.mmap(handle, size, access=mmap.ACCESS_READ if only_read else mmap.ACCESS_WRITE)


def attach_and_close(handle: int | str, size: int, only_read: bool = False) -> mmap.mmap:
    """Map memory by a handle that this process received, and close it: child processes would inherit it."""
    try:
        return attach(handle, size, only_read)
    finally:
        if isinstance(handle, int):
            os.close(handle)


def view(mapping: mmap.mmap, location: ArrayLocation) -> NDArray[Any]:
    """The array at a location of mapped memory."""
    offset, shape, dtype, strides = location
    return np.ndarray(shape, dtype, buffer=mapping, offset=offset, strides=strides)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, made read-only."""
    array.flags.writeable = False
    return array
