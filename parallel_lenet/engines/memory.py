"""Memory that processes share, without a name: nothing can be left behind and no one else can open it.

The block is an anonymous file (`memfd_create`, or an unlinked temporary file where there is none); a worker inherits
its descriptor. Not `multiprocessing.shared_memory`: its segments have names, need room in /dev/shm (64 MB in many
containers), and its resource tracker is one more process that outlives the run. Windows has no such descriptors; there
the block is a page-file mapping with a random name, which ends with its last user.
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

ALIGNMENT = 64  # A cache line; every array starts on one.


Place = tuple[int, tuple[int, ...], str, tuple[int, ...] | None]
"""Where an array lies in a block: offset, shape, dtype, and strides, or None in C order."""


class SharedBlock:
    """Arrays of the given shapes and types, shared with the processes that are given ``handle`` and ``size``.

    Raises OSError, which says how much was wanted, if there is no room for them.
    """

    def __init__(self, contents: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
        self.places: list[Place] = []
        self.size = 0
        for shape, dtype in contents:
            self.places.append((self.size, shape, dtype.str, None))
            self.size += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        require_memory(self.size)
        try:
            with above_standard():
                self._file: io.FileIO | str
                if sys.platform == "win32":
                    self._file = f"parallel-lenet-{secrets.token_hex(16)}"
                else:
                    self._file = _anonymous_file(self.size)
                block = attach(self.handle, self.size)
        except (OSError, OverflowError) as error:
            code = getattr(error, "errno", None) or errno.ENOMEM
            raise OSError(code, f"{_no_room(self.size)}: {os.strerror(code)}") from error
        self.arrays = [view(block, place) for place in self.places]

    @property
    def handle(self) -> int | str:
        """How a process attaches to it: the name on Windows, elsewhere the descriptor, -1 if it was given up."""
        if isinstance(self._file, str):
            return self._file
        return -1 if self._file.closed else self._file.fileno()

    def close(self) -> None:
        """Give up the descriptor; the memory goes when the last array in it does."""
        if isinstance(self._file, io.FileIO):
            self._file.close()


def _no_room(size: int) -> str:
    return f"no room for the {size:,} bytes of memory to share with workers"


def require_memory(size: int) -> None:
    """Raise OSError if the system would have to end a process to reserve so many bytes."""
    room = available_memory() if size else math.inf
    if size > room:
        raise OSError(errno.ENOMEM, f"{_no_room(size)}: {room:,} bytes are left")


def _anonymous_file(size: int) -> io.FileIO:
    """An object, not a number: the file is closed with it, whatever exception or interrupt comes."""
    try:
        file = io.FileIO(os.memfd_create("parallel-lenet", os.MFD_CLOEXEC), "r+b")
    except (AttributeError, OSError):  # Not every system has it, and sandboxes refuse it.
        with tempfile.TemporaryFile() as temporary:
            file = io.FileIO(os.dup(temporary.fileno()), "r+b")
    try:
        os.ftruncate(file.fileno(), size)
        if hasattr(os, "posix_fallocate"):
            # Reserved now, so that too little room is an error here and not a SIGBUS at the first write.
            os.posix_fallocate(file.fileno(), 0, size)
    except BaseException:
        file.close()
        raise
    return file


def block_of(size: int) -> SharedBlock:
    """A block of so many bytes, as one array."""
    return SharedBlock([((size,), np.dtype(np.uint8))])


def attach(handle: int | str, size: int, only_read: bool = False) -> mmap.mmap:
    """Map a block by its handle, or a file that is only read."""
    if isinstance(handle, str):
        if sys.platform == "win32":
            return mmap.mmap(-1, size, tagname=handle)
        raise ValueError("named blocks exist on Windows only")
    return mmap.mmap(handle, size, access=mmap.ACCESS_READ if only_read else mmap.ACCESS_WRITE)


def take(handle: int | str, size: int, only_read: bool = False) -> mmap.mmap:
    """Map a block whose handle this process was given, and close the handle, which its own processes would inherit."""
    try:
        return attach(handle, size, only_read)
    finally:
        if isinstance(handle, int):
            os.close(handle)


def view(block: mmap.mmap, place: Place) -> NDArray[Any]:
    """The array at a place of a mapped block."""
    offset, shape, dtype, strides = place
    return np.ndarray(shape, dtype, buffer=block, offset=offset, strides=strides)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, refusing to be written to."""
    array.flags.writeable = False
    return array
