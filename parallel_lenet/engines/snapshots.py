"""What the calls of an engine compute with: models and data as they were when each call began.

A *context* is what one call opened: a copy of the model, and its datasets. The arrays of all contexts are copies in
blocks of memory. An array is copied only if no block holds the same shape, type and bytes: comparing 47 MB takes 4 ms.
A block that no context uses any more stays for a while, since the next call mostly brings the same data; or it is
overwritten with other data, since fresh memory costs several times what the copying does.

An array that is mapped read-only from a file is not copied: see `Mapped`.
"""

import io
import itertools
import mmap
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.datasets import Dataset
from parallel_lenet.descriptors import above_standard
from parallel_lenet.engines import Context
from parallel_lenet.engines.memory import ALIGNMENT, read_only
from parallel_lenet.parameters import Vector
from parallel_lenet.worker import Samples

Array = NDArray[Any]
M = TypeVar("M")
"""An engine's copy of a model."""

COMPARED_AT_ONCE = 1 << 17  # Bytes: what is compared and the result stay in the cache.
IDLE_ARRAYS = 6  # Kept for the next call: inputs and targets to train, validate and test on.
IDLE_BYTES = 256 * 2**20  # The array used last is kept whatever its size.

_numbers = itertools.count(1)  # Of contexts and arrays, in all engines: one engine's mean nothing to another.


class Memory(Protocol):
    """Where an array lies: a block of memory, or a file."""

    @property
    def handle(self) -> int | str:
        """How other processes get at it."""

    @property
    def size(self) -> int:
        """Bytes."""

    def close(self) -> None:
        """Give it up. Memory itself goes with the last array in it."""


class Block(Memory, Protocol):
    """Memory that arrays are copied to."""

    @property
    def arrays(self) -> list[Array]:
        """One array: all its bytes."""


class PrivateBlock:
    """A block that only this process has."""

    handle = -1

    def __init__(self, size: int) -> None:
        self.size = size
        self.arrays: list[Array] = [np.empty(size, np.uint8)]

    def close(self) -> None:
        """Give up the array."""
        self.arrays = []


class Mapped:
    """A file that an array is mapped from, opened anew: other processes can map it too, and nothing is copied.

    Only where it is certain to be that file: a new mapping of it has the same device and inode in ``/proc/self/maps``.
    """

    def __init__(self, file: io.FileIO, offset: int) -> None:
        self._file = file  # An object, not a number: it is closed with this, whatever exception or interrupt comes.
        self.size = os.fstat(file.fileno()).st_size
        self.offset = offset
        """Of the array in the file."""

    @property
    def handle(self) -> int:
        """The file's descriptor; -1 after `close`."""
        return -1 if self._file.closed else self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @classmethod
    def behind(cls, array: Array) -> "Mapped | None":
        """The file behind an array, or None."""
        if not _is_mapped(array) or sys.platform != "linux":
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


def _is_mapped(array: Array) -> bool:
    """Whether it lies in a read-only mapping of a file, as ``np.memmap`` and ``np.load`` make them, without gaps.

    Its axes may be in another order than in the file: images with their channels last are seen with channels first.
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
            places, access, offset, device, inode, *path = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(place, 16) for place in places.split("-"))
            if start <= address < end:
                return _Region(start, end, access, int(offset, 16), (device, inode), "".join(path))
    return None


def _region_of(mapping: mmap.mmap) -> _Region | None:
    return _region(np.frombuffer(mapping, np.uint8).__array_interface__["data"][0])


class Stored:
    """An array that contexts use."""

    def __init__(self, memory: Memory, array: Array, offset: int = 0) -> None:
        self.number = next(_numbers)
        self.memory = memory
        self.array = read_only(array.view())
        self.offset = offset
        """Of the array in its memory."""
        self.holders = 0
        """How many contexts use it."""


class OpenContext(Generic[M]):
    """What an engine keeps of a live context."""

    def __init__(
        self,
        number: int,
        model: M,
        datasets: Sequence[Sequence[Stored]],
        parameters: Vector,
        call_sizes: Sequence[int],
    ) -> None:
        self.number = number
        self.model = model
        self.arrays = [each for stored in datasets for each in stored]
        """Of all datasets."""
        self.stored = tuple(datasets)
        """The inputs, the targets and, if there are any, the weights of each dataset."""
        self.datasets = tuple(Samples(*(each.array for each in stored)) for stored in self.stored)
        self.call_sizes = tuple(call_sizes)
        """How many samples to warm up with."""
        self.shape = parameters.shape
        self.dtype = parameters.dtype
        self.context: weakref.ref[Context] | None = None


class Snapshots(Generic[M]):
    """The live contexts of an engine, and the memory of their data.

    - ``block``: makes a block of so many bytes.
    - ``quiet``: whether it is certain that no worker reads data of a context that is closed, so that they may be
      overwritten.
    - ``maps``: whether a file that an array is mapped from is opened anew, for other processes. Else the array itself
      is used.
    """

    def __init__(self, block: Callable[[int], Block], quiet: Callable[[], bool], maps: bool = False) -> None:
        self._block = block
        self._quiet = quiet
        self._maps = maps
        self._live: dict[int, OpenContext[M]] = {}
        self._closed: deque[int] = deque()  # Contexts are dropped in any thread, at any time: this alone is touched.
        self._blocks: list[Stored] = []
        """Every block, the one used last at the end."""

    def open(
        self, model: M, datasets: Sequence[Dataset], parameters: Vector, call_sizes: Sequence[int] = (1,)
    ) -> Context:
        """A context of this copy of a model and of the datasets as they are now."""
        self.sweep()
        found: list[list[Stored]] = []
        try:
            for data in datasets:
                found.append([])
                for array in (data.inputs, data.targets, data.weights):
                    if array is not None:
                        found[-1].append(self._stored(array))
                        found[-1][-1].holders += 1
        except BaseException:
            for each in (each for stored in found for each in stored):
                self._release(each)
            raise
        opened = OpenContext(next(_numbers), model, found, parameters, call_sizes)
        self._live[opened.number] = opened
        context = Context(opened.number, opened.datasets, self._closed)
        opened.context = weakref.ref(context)
        return context

    def get(self, context: Context) -> OpenContext[M]:
        """What is kept of a context; RuntimeError if it is closed."""
        opened = self._live.get(context.number)
        if opened is None or context.closed:
            raise RuntimeError("this call has ended, or its engine was closed: begin another")
        return opened

    def live(self) -> list[OpenContext[M]]:
        """All contexts that are open."""
        return list(self._live.values())

    def sweep(self) -> list[OpenContext[M]]:
        """Free what was closed since the last time; the contexts that were."""
        ended = []
        while self._closed:
            opened = self._live.pop(self._closed.popleft(), None)
            if opened is not None:
                ended.append(opened)
                for stored in opened.arrays:
                    self._release(stored)
        self._trim()
        return ended

    def held(self) -> set[int]:
        """The numbers of all arrays that are held, whether a context uses them or not."""
        return {stored.number for stored in self._blocks} | {
            stored.number for opened in self._live.values() for stored in opened.arrays
        }

    def clear(self) -> None:
        """Close all contexts and free all memory."""
        arrays = {*self._blocks, *(stored for opened in self._live.values() for stored in opened.arrays)}
        for opened in self.live():
            context = None if opened.context is None else opened.context()
            if context is not None:
                context.close()
        self._live.clear()
        self._closed.clear()
        self._blocks.clear()
        for stored in arrays:
            stored.memory.close()

    def _stored(self, array: Array) -> Stored:
        """The array in memory that the workers can read: where it is already, or a copy."""
        if _is_mapped(array):
            file: Memory | None = Mapped.behind(array) if self._maps else PrivateBlock(0)
            if file is not None:
                return Stored(file, array, getattr(file, "offset", 0))
        for stored in self._blocks:
            if _equal(array, stored.array):
                self._blocks.remove(stored)
                self._blocks.append(stored)
                return stored
        block = self._room(max(1, -(-array.nbytes // ALIGNMENT)) * ALIGNMENT)
        try:
            copy: Array = np.ndarray(array.shape, array.dtype, buffer=block.arrays[0])
            np.copyto(copy, array)
            self._blocks.append(Stored(block, copy))
        except BaseException:
            block.close()
            raise
        return self._blocks[-1]

    def _room(self, size: int) -> Block:
        """A block of at least this size: a new one, or one that no context uses any more."""
        idle = [stored for stored in self._blocks if not stored.holders]
        reusable = idle if self._quiet() else []
        for stored in reusable:
            if stored.memory.size == size or (len(idle) >= IDLE_ARRAYS and stored.memory.size > size):
                self._blocks.remove(stored)
                return cast("Block", stored.memory)
        self._trim(size)
        return self._block(size)

    def _trim(self, coming: int = 0) -> None:
        """Free the idle blocks that are too many, the oldest first, before one of ``coming`` bytes is made."""
        idle = [stored for stored in self._blocks if not stored.holders]
        held = sum(stored.memory.size for stored in idle)
        while idle and (
            len(idle) > IDLE_ARRAYS - (coming > 0) or (held + coming > IDLE_BYTES and (len(idle) > 1 or coming > 0))
        ):
            stored = idle.pop(0)
            held -= stored.memory.size
            self._blocks.remove(stored)
            stored.memory.close()

    def _release(self, stored: Stored) -> None:
        stored.holders -= 1
        if stored.holders == 0 and stored not in self._blocks:
            stored.memory.close()


def _equal(array: Array, stored: Array) -> bool:
    """The same shape, type and bytes."""
    if array.shape != stored.shape or array.dtype != stored.dtype:
        return False
    if array.nbytes == 0:
        return True
    rows = max(1, COMPARED_AT_ONCE // (array.nbytes // len(array)))
    return all(
        np.array_equal(_bytes(array[start : start + rows]), _bytes(stored[start : start + rows]))
        for start in range(0, len(array), rows)
    )


def _bytes(array: Array) -> Array:
    """Its bytes, by eights if they can be: NaN equals itself then, and 0.0 is not -0.0."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat.view(np.uint64) if flat.size % 8 == 0 else flat
