"""Snapshots of models and datasets. An engine's calls compute with these while the program may change the originals.

A *context* belongs to one call. It has a copy of the model, and its datasets. The arrays of all contexts are copies. An
array is copied only if there is no copy yet with the same shape, dtype and bytes: comparing 47 MB takes 4 ms. A copy
that no context uses any more stays for a while, since the next call usually has the same data. Its memory may also be
overwritten with other data, because new memory takes several times as long as the copying.

An array that is mapped read-only from a file is not copied: see `mapped_files`.
"""

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.datasets import Dataset
from parallel_lenet.engines import Context
from parallel_lenet.engines.mapped_files import MappedFile, is_mapped
from parallel_lenet.engines.memory import ALIGNMENT, read_only
from parallel_lenet.parameters import Vector
from parallel_lenet.worker import Samples

Array = NDArray[Any]
M = TypeVar("M")
"""An engine's copy of a model."""

COMPARISON_BYTES = 1 << 17  # Compared at a time. They fit the cache with the other array and the result.
IDLE_ARRAYS = 6  # Unused copies to keep for the next call: inputs and targets to train, validate and test on.
IDLE_BYTES = 256 * 2**20  # The memory of unused copies. The copy used last is kept at any size.

_numbers = itertools.count(1)  # Numbers of contexts and arrays. They differ in all engines of the process.


class Storage(Protocol):
    """Memory or a file that holds an array."""

    @property
    def handle(self) -> int | str:
        """The handle that other processes attach with."""

    @property
    def size(self) -> int:
        """The number of bytes."""

    def close(self) -> None:
        """Close the handle. Memory is freed with the last array in it."""


class ArrayMemory(Storage, Protocol):
    """Memory that an array is copied to."""

    @property
    def arrays(self) -> list[Array]:
        """One uint8 array of all bytes."""


class PrivateMemory:
    """Memory of this process, which no other one shares."""

    handle = -1

    def __init__(self, size: int) -> None:
        self.size = size
        self.arrays: list[Array] = [np.empty(size, np.uint8)]

    def close(self) -> None:
        self.arrays = []


class StoredArray:
    """An array that contexts use."""

    def __init__(self, storage: Storage, array: Array, offset: int = 0) -> None:
        self.number = next(_numbers)
        self.storage = storage
        self.array = read_only(array.view())
        self.offset = offset
        """Bytes before the array in its storage."""
        self.users = 0
        """How many contexts use it."""


class OpenContext(Generic[M]):
    """The data that an engine keeps for an open context."""

    def __init__(
        self,
        number: int,
        model: M,
        datasets: Sequence[Sequence[StoredArray]],
        parameters: Vector,
        call_sizes: Sequence[int],
    ) -> None:
        self.number = number
        self.model = model
        self.arrays = [each for stored in datasets for each in stored]
        """The arrays of all datasets."""
        self.stored = tuple(datasets)
        """The inputs, the targets and, if it has them, the weights of each dataset."""
        self.datasets = tuple(Samples(*(each.array for each in stored)) for stored in self.stored)
        self.call_sizes = tuple(call_sizes)
        """Numbers of samples to warm up with."""
        self.shape = parameters.shape
        self.dtype = parameters.dtype
        self.context: weakref.ref[Context] | None = None


class Snapshots(Generic[M]):
    """The open contexts of an engine, and the memory of their data.

    - ``allocate``: returns memory of this number of bytes.
    - ``may_overwrite``: returns whether unused copies may be overwritten, since no worker reads them any more.
    - ``reopens_files``: whether a file that an array is mapped from is opened again for other processes. Otherwise the
      array itself is used.
    """

    def __init__(
        self,
        allocate: Callable[[int], ArrayMemory],
        may_overwrite: Callable[[], bool],
        reopens_files: bool = False,
    ) -> None:
        self._allocate = allocate
        self._may_overwrite = may_overwrite
        self._reopens_files = reopens_files
        self._open: dict[int, OpenContext[M]] = {}
        self._closed: deque[int] = deque()  # A context changes only this, since any thread may drop it.
        self._copies: list[StoredArray] = []
        """All copies. The one used last is at the end."""

    def open(
        self, model: M, datasets: Sequence[Dataset], parameters: Vector, call_sizes: Sequence[int] = (1,)
    ) -> Context:
        """A context with this copy of a model, and with the datasets as they are now."""
        self.free_closed()
        stored_datasets: list[list[StoredArray]] = []
        try:
            for data in datasets:
                stored_datasets.append([])
                for array in (data.inputs, data.targets, data.weights):
                    if array is not None:
                        stored_datasets[-1].append(self._store(array))
                        stored_datasets[-1][-1].users += 1
        except BaseException:
            for each in (each for stored in stored_datasets for each in stored):
                self._release(each)
            raise
        open_context = OpenContext(next(_numbers), model, stored_datasets, parameters, call_sizes)
        self._open[open_context.number] = open_context
        context = Context(open_context.number, open_context.datasets, self._closed)
        open_context.context = weakref.ref(context)
        return context

    def get(self, context: Context) -> OpenContext[M]:
        """The data of a context. Raises RuntimeError if it is closed."""
        open_context = self._open.get(context.number)
        if open_context is None or context.closed:
            raise RuntimeError("this call has ended, or its engine was closed: start another call")
        return open_context

    def open_contexts(self) -> list[OpenContext[M]]:
        return list(self._open.values())

    def free_closed(self) -> list[OpenContext[M]]:
        """Free the memory of the contexts that were closed since the last call, and return these contexts."""
        closed_contexts = []
        while self._closed:
            open_context = self._open.pop(self._closed.popleft(), None)
            if open_context is not None:
                closed_contexts.append(open_context)
                for stored in open_context.arrays:
                    self._release(stored)
        self._free_idle()
        return closed_contexts

    def array_numbers(self) -> set[int]:
        """The numbers of all arrays in memory, used or not."""
        return {stored.number for stored in self._copies} | {
            stored.number for open_context in self._open.values() for stored in open_context.arrays
        }

    def clear(self) -> None:
        """Close all contexts and free all memory."""
        arrays = {*self._copies, *(stored for open_context in self._open.values() for stored in open_context.arrays)}
        for open_context in self.open_contexts():
            context = None if open_context.context is None else open_context.context()
            if context is not None:
                context.close()
        self._open.clear()
        self._closed.clear()
        self._copies.clear()
        for stored in arrays:
            stored.storage.close()

    def _store(self, array: Array) -> StoredArray:
        """The array in storage that the workers can read: its file, a copy that exists, or a new copy."""
        if is_mapped(array):
            file: Storage | None = MappedFile.of(array) if self._reopens_files else PrivateMemory(0)
            if file is not None:
                return StoredArray(file, array, getattr(file, "offset", 0))
        for stored in self._copies:
            if _is_equal(array, stored.array):
                self._copies.remove(stored)
                self._copies.append(stored)
                return stored
        memory = self._memory(max(1, -(-array.nbytes // ALIGNMENT)) * ALIGNMENT)
        try:
            copy: Array = np.ndarray(array.shape, array.dtype, buffer=memory.arrays[0])
            np.copyto(copy, array)
            self._copies.append(StoredArray(memory, copy))
        except BaseException:
            memory.close()
            raise
        return self._copies[-1]

    def _memory(self, size: int) -> ArrayMemory:
        """Memory of at least this size: that of an unused copy, or new memory."""
        idle_arrays = [stored for stored in self._copies if not stored.users]
        reusable = idle_arrays if self._may_overwrite() else []
        for stored in reusable:
            if stored.storage.size == size or (len(idle_arrays) >= IDLE_ARRAYS and stored.storage.size > size):
                self._copies.remove(stored)
                return cast("ArrayMemory", stored.storage)
        self._free_idle(size)
        return self._allocate(size)

    def _free_idle(self, requested_bytes: int = 0) -> None:
        """Free unused copies, oldest first, if they are too many or leave no room for ``requested_bytes`` bytes."""
        idle_arrays = [stored for stored in self._copies if not stored.users]
        size = sum(stored.storage.size for stored in idle_arrays)
        most = IDLE_ARRAYS - 1 if requested_bytes else IDLE_ARRAYS
        least = 0 if requested_bytes else 1
        while len(idle_arrays) > most or (len(idle_arrays) > least and size + requested_bytes > IDLE_BYTES):
            stored = idle_arrays.pop(0)
            size -= stored.storage.size
            self._copies.remove(stored)
            stored.storage.close()

    def _release(self, stored: StoredArray) -> None:
        stored.users -= 1
        if stored.users == 0 and stored not in self._copies:
            stored.storage.close()


def _is_equal(array: Array, stored: Array) -> bool:
    """Whether shape, dtype and bytes are the same."""
    if array.shape != stored.shape or array.dtype != stored.dtype:
        return False
    if array.nbytes == 0:
        return True
    rows = max(1, COMPARISON_BYTES // (array.nbytes // len(array)))
    return all(
        np.array_equal(_bytes(array[start : start + rows]), _bytes(stored[start : start + rows]))
        for start in range(0, len(array), rows)
    )


def _bytes(array: Array) -> Array:
    """The array's bytes, in groups of eight if possible. As bytes, NaN equals itself and 0.0 differs from -0.0."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat.view(np.uint64) if flat.size % 8 == 0 else flat
