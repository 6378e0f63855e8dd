"""A whole pass over a network as one call of compiled code.

A call of a loop from Python takes 1 to 2 us, most of it for the types of its arrays. A pass has 30 such calls, with the
same arrays every time: only the parameters, the gradient and the data are at other addresses. So `record` runs a pass
once with a `Recorder` in place of the kernels, which notes the loops and their arguments. The resulting
`Program` runs the loops one after another. They are the same loops, so the bits are the same.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, cast

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.cgutils import ir  # type: ignore[attr-defined]  # llvmlite's, on which Numba rests.
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled.jit import Call, compiled, compiled_for

Array = NDArray[Any]
Arguments = tuple[Any, ...]
Kinds = tuple[Any, ...]
"""Numba's types of a loop's arguments."""

Planner = Callable[..., Call | list[Call] | None]
Pair = Callable[[Arguments, Arguments], tuple[Call, Array, Array] | None]

I64 = ir.IntType(64)


class Recorder:
    """Replaces the kernel module. Its functions compute nothing: they add the loops that they would call to `calls`.

    ``planners`` return for each kernel function the call or calls of its loops. They return None if more is needed than
    calls, and ``complete`` becomes False. ``pairs`` are for two functions that follow one another. They return one call
    for both, the array in which the result was wanted, and the array that has it, or None if there is no such call.
    """

    def __init__(self, planners: Mapping[str, Planner], pairs: Mapping[tuple[str, str], Pair]) -> None:
        self.calls: list[Call] = []
        self.complete = True
        self._planners = planners
        self._pairs = pairs
        self._last: tuple[str, Arguments] = ("", ())
        self._elsewhere: dict[int, Array] = {}
        """The array that has a result, by the address of the array in which later functions expect it."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._note, name)

    def _note(self, name: str, *arguments: Any, **numbers: float) -> None:
        current = tuple(self._current(argument) for argument in arguments)
        last, before = self._last
        self._last = (name, current)
        both = self._pairs[last, name](before, current) if (last, name) in self._pairs else None
        if both is not None:
            self.calls[-1], wanted, written = both
            self._elsewhere[_data(wanted)] = written
            return
        calls = self._planners[name](*current, **numbers)
        if calls is None:
            self.complete = False
        else:
            self.calls += calls if isinstance(calls, list) else [calls]

    def _current(self, argument: Any) -> Any:
        """The argument, or the array that has its content now."""
        if not isinstance(argument, np.ndarray):
            return argument
        if any(np.may_share_memory(argument, written) for written in self._elsewhere.values()):
            self.complete = False  # It is overwritten already.
        written = self._elsewhere.get(_data(argument), argument)
        return written.reshape(argument.shape)


class Program:
    """The noted calls, ready to run with other ``external`` arrays of the same shapes and dtypes, C-contiguous."""

    def __init__(self, calls: Sequence[Call], external: Sequence[Array]) -> None:
        kinds = tuple(tuple(_kind(argument) for argument in arguments) for _, arguments in calls)
        self._loops = np.array([_address(loop, kind) for (loop, _), kind in zip(calls, kinds, strict=True)], np.int64)
        self._internal: list[
            Array
        ] = []  # Kept so that their addresses stay valid. The caller keeps the external arrays.
        slots: list[int] = []
        relocations: list[tuple[int, int, int]] = []
        starts = [_data(array) for array in external]
        for argument in (argument for _, arguments in calls for argument in arguments):
            if not isinstance(argument, np.ndarray):
                slots.append(_bits(argument))
                continue
            data = _data(argument)
            outside = [i for i, array in enumerate(external) if starts[i] <= data < starts[i] + array.nbytes]
            if outside:
                relocations.append((len(slots), outside[0], data - starts[outside[0]]))
            else:
                self._internal.append(argument)
            slots.extend((data, *argument.shape))
        self._slots = np.array(slots, np.int64)
        self._relocations = np.array(relocations, np.int64).reshape(-1, 3)
        self._starts = np.empty(len(external), np.int64)
        self._run = _runner(kinds)

    def __call__(self, external: Sequence[Array]) -> None:
        _find(self._starts, tuple(external))
        self._run(self._loops, self._slots, self._relocations, self._starts)


@compiled
def _find(starts: Array, arrays: tuple[Array, ...]) -> None:
    _write_addresses(starts, arrays)  # type: ignore[call-arg]


@intrinsic
def _write_addresses(typing: Any, starts: Any, arrays: Any) -> Any:
    """Write the addresses of the arrays into ``starts``, in a quarter of the time of `_data`."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = context.make_array(starts)(context, builder, arguments[0]).data
        for i, kind in enumerate(arrays):
            array = context.make_array(kind)(context, builder, builder.extract_value(arguments[1], i))
            builder.store(builder.ptrtoint(array.data, I64), builder.gep(place, [ir.Constant(I64, i)]))
        return context.get_dummy_value()

    return types.void(starts, arrays), emit


def _data(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _bits(number: Any) -> int:
    """The content of a number's slot: its bits."""
    if isinstance(number, np.floating):
        return int(number.view(f"i{number.itemsize}"))
    return int(number)


def _kind(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        return types.Array(numba.from_dtype(argument.dtype), argument.ndim, "C")
    return numba.typeof(argument)


def _address(loop: Any, kinds: Kinds) -> int:
    """The address of the machine code for arguments of these types, which is compiled if it has not been yet."""
    loop.compile(kinds)
    code = loop.overloads[kinds]
    return int(code.library.get_pointer_to_function(code.fndesc.llvm_func_name))


_kinds_of: dict[str, tuple[Kinds, ...]] = {}
"""The types of the arguments of each loop of a program, by the digest that its runner has as a constant.

A closure over the types would differ in each process, so Numba would not find the kept code.
"""


@cache
def _runner(kinds: tuple[Kinds, ...]) -> Callable[[Array, Array, Array, Array], None]:
    """A function that calls ``len(kinds)`` loops by their addresses, with the arguments that the slots hold.

    A slot has 8 bytes. A number takes one, an array one for its address and one for each length.
    """
    digest = hashlib.sha256(repr(kinds).encode()).hexdigest()
    _kinds_of[digest] = kinds

    @compiled_for(int(digest[:16], 16))
    def run(loops: Array, slots: Array, relocations: Array, starts: Array) -> None:
        for k in range(len(relocations)):
            slots[relocations[k, 0]] = starts[relocations[k, 1]] + relocations[k, 2]
        _call_all(loops, slots, digest)  # type: ignore[call-arg]

    return cast(Callable[[Array, Array, Array, Array], None], run)


@intrinsic(prefer_literal=True)
def _call_all(typing: Any, loops: Any, slots: Any, digest: Any) -> Any:
    kinds = _kinds_of[digest.literal_value]

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        addresses, values = (
            context.make_array(kind)(context, builder, argument).data
            for kind, argument in zip(signature.args[:2], arguments[:2], strict=True)
        )
        position = 0
        for i, kind in enumerate(kinds):
            loop_arguments = []
            for argument_kind in kind:
                loop_argument, position = _from_slots(context, builder, argument_kind, values, position)
                loop_arguments.append(loop_argument)
            code = context.call_conv.get_function_type(types.none, kind)
            loop = builder.inttoptr(_at(builder, addresses, i), code.as_pointer())
            status, _ = context.call_conv.call_function(builder, loop, types.none, kind, loop_arguments)
            with cgutils.if_unlikely(builder, status.is_error):  # No memory.
                context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.void(loops, slots, digest), emit


def _at(builder: Any, array: Any, position: int) -> Any:
    return builder.load(builder.gep(array, [ir.Constant(I64, position)]))


def _from_slots(context: Any, builder: Any, kind: Any, slots: Any, position: int) -> tuple[Any, int]:
    """The argument whose first slot is at ``position``, and the position after its last."""
    first = _at(builder, slots, position)
    if isinstance(kind, types.Array):
        end = position + 1 + kind.ndim
        shape = [_at(builder, slots, k) for k in range(position + 1, end)]
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        strides = [itemsize]
        for length in reversed(shape[1:]):
            strides.insert(0, builder.mul(strides[0], length))
        array = context.make_array(kind)(context, builder)
        data = builder.inttoptr(first, array.data.type)
        populate_array(array, data, shape, strides, itemsize, None)
        return array._getvalue(), end
    if isinstance(kind, types.Float):
        whole = builder.trunc(first, ir.IntType(kind.bitwidth)) if kind.bitwidth < 64 else first
        return builder.bitcast(whole, context.get_value_type(kind)), position + 1
    return first, position + 1
