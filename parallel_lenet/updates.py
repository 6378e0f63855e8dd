"""The coordinator's operations on vectors of any length: copies, sums, and the update by an optimizer.

Long vectors are computed slice by slice, by as many threads of this process as there are workers, which wait meanwhile.
All of this happens in the coordinator, not in workers. The bits are those of whole vectors on one thread.
"""

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from parallel_lenet.checks import quoted
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
            result, after = _checked_update(optimizer, parameters, gradient, state)

    def is_finite(part: slice) -> bool:
        if in_slices:
            with np.errstate(over="ignore", invalid="ignore"):
                update_into(optimizer, part, (parameters, gradient, state), (result, after))
        return bool(np.isfinite(result[part]).all())

    return result, after, all(threads.map(is_finite, parameters.size))


def _checked_update(
    optimizer: Optimizer, parameters: Vector, gradient: Vector, state: OptimizerState
) -> tuple[Vector, OptimizerState]:
    """The result of the optimizer's ``update``. Raises TypeError or ValueError if it is not what `Optimizer` says.

    Another dtype would give other bits with another engine.
    """
    result: object = optimizer.update(parameters, gradient, state)
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], OptimizerState):
        raise TypeError(f"the optimizer's update must return parameters and an OptimizerState, got {quoted(result)}")
    new, after = result
    if after.step != state.step + 1:
        raise ValueError(f"the optimizer's update must return a state of step {state.step + 1}, got {after.step}")
    if after.slots.keys() != state.slots.keys():
        raise ValueError(
            f"the optimizer's update must return a state with the vectors of its init, {list(state.slots)}, got "
            f"{list(after.slots)}"
        )
    _require_vectors("the optimizer's update", parameters, {"parameters": new, **after.slots})
    return new, after


def initial_state(optimizer: Optimizer, parameters: Vector) -> OptimizerState:
    """The result of the optimizer's ``init``. Raises TypeError or ValueError if it is not what `Optimizer` says."""
    state: object = optimizer.init(parameters)
    if not isinstance(state, OptimizerState):
        raise TypeError(f"the optimizer's init must return an OptimizerState, got {quoted(state)}")
    _require_vectors("the optimizer's init", parameters, state.slots)
    return state


def _require_vectors(source: str, parameters: Vector, vectors: Mapping[str, Any]) -> None:
    """Raises ValueError unless each is a vector of the shape and dtype of the parameters."""
    for name, vector in vectors.items():
        if not isinstance(vector, np.ndarray) or (vector.shape, vector.dtype) != (parameters.shape, parameters.dtype):
            kind = f"{vector.dtype} of shape {vector.shape}" if isinstance(vector, np.ndarray) else quoted(vector)
            raise ValueError(
                f"{source} must return {name} as {parameters.dtype} of shape {parameters.shape}, got {kind}"
            )


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
        update[:], after = _checked_update(optimizer, parameters, gradient, state)
        for name, slot in slots.items():
            slot[:] = after.slots[name]


def state_slice(state: OptimizerState, part: slice) -> OptimizerState:
    """A slice of each vector of the state."""
    return OptimizerState(state.step, {name: slot[part] for name, slot in state.slots.items()})
