"""Files from which arrays are mapped read-only. Workers map them too, so nothing is copied.

Linux lists the mappings of a process in ``/proc/self/maps``. On other systems such arrays are copied like others.
"""

import io
import mmap
import os
import sys
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.descriptors import above_standard

Array = NDArray[Any]


class MappedFile:
    """A file that an array is mapped from, opened again, so that other processes can map it too."""

    def __init__(self, file: io.FileIO, offset: int) -> None:
        self._file = file  # An object: it closes the file even if an exception or an interrupt comes.
        self.size = os.fstat(file.fileno()).st_size
        self.offset = offset
        """Bytes before the array in the file."""

    @property
    def handle(self) -> int:
        """The file's descriptor, or -1 after `close`."""
        return -1 if self._file.closed else self._file.fileno()

    def close(self) -> None:
        self._file.close()

    @classmethod
    def of(cls, array: Array) -> "MappedFile | None":
        """The file that an array is mapped from, or None.

        None also if it is not certain that the file at the path is still the same one: a new mapping of it must have
        the same device and inode.
        """
        if not is_mapped(array) or sys.platform != "linux":
            return None
        start = array.__array_interface__["data"][0]
        region = _region(start)
        if region is None or start + array.nbytes > region.end or "w" in region.access:
            return None
        with suppress(OSError, ValueError), above_standard():
            file = io.FileIO(region.path)
            try:
                again = _region_of(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                if again is not None and again.file == region.file:
                    return cls(file, region.offset + start - region.start)
            except BaseException:
                file.close()
                raise
            file.close()
        return None


def is_mapped(array: Array) -> bool:
    """Whether the array is in a read-only mapping of a file, without gaps, as ``np.memmap`` and ``np.load`` make it.

    Its axes may be in another order than in the file: for example, images with their channels last.
    """
    if array.flags.writeable or array.nbytes == 0:
        return False
    if not array.transpose(sorted(range(array.ndim), key=lambda axis: -array.strides[axis])).flags.c_contiguous:
        return False
    base: Any = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return False
        base = base.base
    return isinstance(base, mmap.mmap)


class _Region(NamedTuple):
    """A line of ``/proc/self/maps``."""

    start: int
    end: int
    access: str
    offset: int
    file: tuple[str, str]
    """Device and inode."""
    path: str


def _region(address: int) -> _Region | None:
    """The mapping that an address of this process lies in."""
    with open("/proc/self/maps", encoding=sys.getfilesystemencoding(), errors="surrogateescape") as maps:
        for line in maps:
            addresses, access, offset, device, inode, *path = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(address, 16) for address in addresses.split("-"))
            if start <= address < end:
                return _Region(start, end, access, int(offset, 16), (device, inode), "".join(path))
    return None


def _region_of(mapping: mmap.mmap) -> _Region | None:
    return _region(np.frombuffer(mapping, np.uint8).__array_interface__["data"][0])
