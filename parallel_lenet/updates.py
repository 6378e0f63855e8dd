"""The coordinator's operations on vectors of any length: copies, sums, and the update by an optimizer.

Long vectors are computed slice by slice, by as many threads of this process as there are workers, which wait meanwhile.
All of this happens in the coordinator, not in workers. The bits are those of whole vectors on one thread.
"""

import weakref

import numpy as np

from parallel_lenet.optimizers import Adam, Optimizer, OptimizerState
from parallel_lenet.parameters import Vector
from parallel_lenet.slices import LONG, Threads


class VectorPool:
    """Vectors of one size and dtype. Their memory is used again when no reference to them or to a view is left.

    The system clears the memory of a new long vector page by page when it is first written, which takes as long as an
    update. Short vectors are in memory that the process has already.
    """

    def __init__(self) -> None:
        self._free: list[Vector] = []

    def empty_like(self, vector: Vector) -> Vector:
        """A vector of the same size and dtype, with arbitrary content."""
        if vector.size <= LONG:
            return np.empty_like(vector)
        while self._free:
            memory = self._free.pop()
            if memory.shape == vector.shape and memory.dtype == vector.dtype:
                break
        else:
            memory = np.empty_like(vector)
        # A view of `lent` keeps `lent` alive, since the memory under it is not an array.
        lent: Vector = np.frombuffer(memory.data, vector.dtype)
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return lent

    def clear(self) -> None:
        """Free the memory that is not in use. The rest is freed after use."""
        self._free = []


def copy_of(vector: Vector, memory: VectorPool, threads: Threads) -> Vector:
    copy = memory.empty_like(vector)
    if threads.number == 1:
        np.copyto(copy, vector)
        return copy

    def copy_slice(part: slice) -> None:
        copy[part] = vector[part]

    threads.map(copy_slice, vector.size)
    return copy


def add(left: Vector, right: Vector, total: Vector, threads: Threads) -> None:
    """Write the sum into ``total``, which may be one of the two."""
    if threads.number == 1:
        np.add(left, right, out=total)
        return

    def add_slice(part: slice) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # The check of the sum says more than a warning.
            np.add(left[part], right[part], out=total[part])

    threads.map(add_slice, total.size)


def quotient(total: Vector, weight: float, result: Vector, threads: Threads) -> Vector:
    """Write the quotient into ``result``, which may be ``total``, and return it."""

    def divide_slice(part: slice) -> None:
        np.divide(total[part], weight, out=result[part])

    threads.map(divide_slice, total.size)
    return result


def update(
    optimizer: Optimizer,
    parameters: Vector,
    gradient: Vector,
    state: OptimizerState,
    memory: VectorPool,
    threads: Threads,
) -> tuple[Vector, OptimizerState, bool]:
    """The next parameters and state, and whether these parameters are finite. Nothing is changed in place.

    An optimizer that is elementwise gets the slices of a long vector one by one, any other whole vectors.
    """
    in_slices = parameters.size > LONG and is_elementwise(optimizer)
    if in_slices:
        result, after = next_state(parameters, state, memory)
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # The check says more than a warning.
            result, after = optimizer.update(parameters, gradient, state)

    def is_finite(part: slice) -> bool:
        if in_slices:
            with np.errstate(over="ignore", invalid="ignore"):
                update_into(optimizer, part, (parameters, gradient, state), (result, after))
        return bool(np.isfinite(result[part]).all())

    return result, after, all(threads.map(is_finite, parameters.size))


def next_state(parameters: Vector, state: OptimizerState, memory: VectorPool) -> tuple[Vector, OptimizerState]:
    """Memory for the next parameters and optimizer state, with arbitrary content."""
    slots = {name: memory.empty_like(slot) for name, slot in state.slots.items()}
    return memory.empty_like(parameters), OptimizerState(state.step + 1, slots)


def is_elementwise(optimizer: Optimizer) -> bool:
    """Whether the class that defines ``update`` also sets ``elementwise``. A subclass that overrides one sets both."""
    defining = next((kind for kind in type(optimizer).__mro__ if "update" in vars(kind)), None)
    return defining is not None and vars(defining).get("elementwise") is True


def update_into(
    optimizer: Optimizer, part: slice, old: tuple[Vector, Vector, OptimizerState], new: tuple[Vector, OptimizerState]
) -> None:
    """Write a slice of the update of ``old`` (parameters, gradient, state) into ``new``.

    The optimizer is elementwise.
    """
    parameters = old[0][part]
    gradient = old[1][part]
    state = state_slice(old[2], part)
    update = new[0][part]
    slots = state_slice(new[1], part).slots
    if isinstance(optimizer, Adam) and type(optimizer).update is Adam.update:
        optimizer.update(parameters, gradient, state, out=(update, slots["first_moment"], slots["second_moment"]))
    else:
        update[:], after = optimizer.update(parameters, gradient, state)
        for name, slot in slots.items():
            slot[:] = after.slots[name]


def state_slice(state: OptimizerState, part: slice) -> OptimizerState:
    """A slice of each vector of the state."""
    return OptimizerState(state.step, {name: slot[part] for name, slot in state.slots.items()})
