"""The check of a kernel module: its results against `naive`, its side effects, and finite differences.

The file has a little more than 300 lines: each part of the check is a method with the sentences that it can find.
"""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checking.calls import Call, Results, calls, large_call
from parallel_lenet.checking.diagnosis import diagnose, is_close, location, output_name
from parallel_lenet.checking.report import CheckReport
from parallel_lenet.checks import quoted, whole_number
from parallel_lenet.kernels.files import FUNCTIONS
from parallel_lenet.model import takes
from parallel_lenet.network.gradcheck import LAYERS, TOLERANCE, layer_errors
from parallel_lenet.user_files import origin

Array = NDArray[Any]

IN_PLACE = {"tanh": "x", "relu": "x", "tanh_gradient": "dy", "relu_gradient": "dy"}  # May be given as ``out``.
RETURNS = "softmax_cross_entropy"


def check_kernels(module: Any) -> CheckReport:
    """Check a kernel module of your own: all functions of the contract in `parallel_lenet.kernels`.

    Each function is called with small arrays of both dtypes, and compared with the loops of `naive`. It must not write
    to its inputs, must write its outputs whole, and must not depend on earlier calls or on chance. Its gradients are
    also compared with finite differences of its own functions. Each problem of the report is a sentence that names the
    mistake, if it is a known one. Nothing is raised for mistakes of the module.

    The functions run in this process, so `check_kernels` does not return if one of them never ends. ``parallel-lenet
    check FILE.py`` runs them in another process, with a time limit.

    >>> from parallel_lenet import check_kernels
    >>> from parallel_lenet.kernels import im2col
    >>> check_kernels(im2col).ok
    True
    """
    name = getattr(module, "__name__", None) or type(module).__name__
    problems = list(constants(module))
    for function in FUNCTIONS:
        problems += check_function(module, function)
    errors = {} if problems else finite_differences(module)
    problems += [
        f"{name_and_array}: the gradient differs from finite differences by {error:.2g}"
        for name_and_array, error in errors.items()
        if not error < TOLERANCE
    ]
    return CheckReport(f"kernels of {name}", tuple(problems), errors)


def constants(module: Any) -> Iterator[str]:
    """What is wrong with ``LEAF`` and ``SHARD_SIZE``."""
    for name, none, allowed in (("LEAF", True, "None, or a whole number of at least 1"), ("SHARD_SIZE", False, "")):
        value = getattr(module, name, None if none else 1)
        try:
            if not (none and value is None):
                whole_number(name, value, 1)
        except ValueError as error:
            yield f"{name} must be {allowed}, got {quoted(value)}" if allowed else str(error)


def finite_differences(module: Any) -> dict[str, float]:
    """The largest errors of the layers' gradients with these kernels, by layer and array, or infinity if one raises."""
    rng = np.random.default_rng(0)
    errors: dict[str, float] = {}
    for name, layer, shape in LAYERS:
        try:
            for of, error in layer_errors(module, layer, shape, rng):
                errors[f"{name}, {of}"] = error
        except (Exception, SystemExit) as raised:
            errors[f"{name}, which raises {type(raised).__name__}{origin(raised)}"] = math.inf
    return errors


def check_function(module: Any, name: str) -> list[str]:
    """One sentence per mistake of a function. Special cases are checked only if the simplest case is right."""
    function = getattr(module, name, None)
    if not callable(function):
        return [
            f"{name} is missing: define it, or take another kernel's with "
            f"`from parallel_lenet.kernels.im2col import {name}`"
        ]
    cases = [call for call in calls(name) if all(takes(function, option) for option in call.options)]
    try:
        for call in cases:
            problems = list(dict.fromkeys(_results(function, call)))
            if problems:
                return problems
        problems = list(dict.fromkeys(_side_effects(function, cases[0], getattr(module, "LEAF", None))))
        extreme = large_call(name)
        if extreme is not None and not problems:
            problems = _large_input_problems(function, extreme)
        return problems
    except _RaisedError as error:
        return [str(error)]


class _RaisedError(Exception):
    """The function raised an exception. The text is the problem."""


class _Outcome:
    """What a function did in one call."""

    def __init__(
        self,
        function: Callable[..., Any],
        call: Call,
        fill: float,
        dtype: str,
        place: str = "",
        earlier: "_Outcome | None" = None,
    ) -> None:
        self.arguments = call.arguments(dtype)
        if earlier is not None:  # The arrays of that call, with other numbers.
            for name, value in self.arguments.items():
                if isinstance(value, np.ndarray):
                    earlier.arguments[name][...] = value
            self.arguments = earlier.arguments
        self.outputs = {name: np.full(shape, fill, dtype) for name, shape in call.outputs.items()}
        if place:
            self.outputs = {"out": self.arguments[place]}
        before = {name: np.copy(value) for name, value in self.arguments.items()}
        earlier_state = _random_state()
        try:
            np.random.seed(1234567)  # noqa: NPY002  # A state that the function would not set.
            random.seed(1234567)
            state = _random_state()
            with np.errstate(all="ignore"):
                self.return_value = function(*self.arguments.values(), *self.outputs.values(), **call.options)
            self.draws = repr(_random_state()) != repr(state)
        except (Exception, SystemExit) as error:
            raise _RaisedError(_exception_text(call, error)) from error
        finally:
            np.random.set_state(earlier_state[0])  # noqa: NPY002
            random.setstate(earlier_state[1])
        self.changed_arguments = [
            name
            for name, value in self.arguments.items()
            if name != place and not np.array_equal(value, before[name], equal_nan=np.asarray(value).dtype.kind == "f")
        ]

    def results(self) -> Results:
        """The outputs, and what was returned."""
        if isinstance(self.return_value, tuple) and len(self.return_value) == 2:
            return self.outputs | dict(zip(("loss", "correct"), self.return_value, strict=True))
        return dict(self.outputs)

    def bits(self) -> list[bytes]:
        return [np.asarray(value).tobytes() for value in self.results().values()]


def _random_state() -> tuple[Any, Any]:
    """The state of NumPy's and of Python's global generator."""
    state = np.random.get_state(legacy=True)  # noqa: NPY002
    assert isinstance(state, tuple)
    return (state[0], list(state[1]), *state[2:]), random.getstate()


def _exception_text(call: Call, error: BaseException) -> str:
    """The exception, and the line of the user's file that raised it."""
    shapes = ", ".join(f"{name} {shape}" for name, shape in call.outputs.items())
    text = " ".join(str(error).split())
    hint = ""
    if isinstance(error, ValueError) and "broadcast" in text:
        hint = f"; shapes do not fit: it must write {shapes}"
    return f"{call.function}: raises {type(error).__name__}{call.setting}{origin(error)}: {text}{hint}"


def _results(function: Callable[..., Any], call: Call) -> Iterator[str]:
    """Whether the results of a call are right, in float64 and then in float32."""
    expected = call.reference()
    for dtype in ("float64", "float32"):
        outcome = _Outcome(function, call, np.nan, dtype)
        found = outcome.results()
        for name in outcome.changed_arguments:
            yield f"{call.function}: writes into its input {name}"
        if call.function == RETURNS:
            wrong = _return_problem(outcome.return_value)
            if wrong is not None:
                yield f"{call.function}: must return the loss and the number of correct answers, {wrong}"
                return
        problem = False
        for name in expected:
            if is_close(found[name], expected[name], dtype):
                continue
            problem = True
            if name in call.outputs:
                problem_of_writing = _overwrite_problem(
                    function, call, name, found[name], expected, outcome.return_value, dtype
                )
                if problem_of_writing:
                    yield problem_of_writing
                    continue
            sentence = diagnose(call, name, found[name], expected, dtype)
            if _Outcome(function, call, np.nan, dtype).bits() != outcome.bits():
                sentence = f"{call.function}: two calls with the same arguments have different results{call.setting}"
            yield sentence + (" (in float32; float64 is right)" if dtype == "float32" else "")
        if problem or outcome.changed_arguments:
            return


def _return_problem(value: Any) -> str | None:
    """What is wrong with the value that the loss returns, or None."""
    if not isinstance(value, tuple) or len(value) != 2:
        return f"got {quoted(value)}"
    loss, correct = value
    if np.ndim(loss) or not isinstance(loss, float | np.floating):
        return f"a float and an int, got the loss {quoted(loss)}"
    if np.ndim(correct) or not isinstance(correct, int | np.integer | float | np.floating):
        return f"a float and an int, got the number {quoted(correct)}"
    return None


def _overwrite_problem(
    function: Callable[..., Any], call: Call, name: str, found: Array, expected: Results, return_value: Any, dtype: str
) -> str | None:
    """A sentence if the function does not overwrite an output, else None."""
    subject = f"{call.function}: {output_name(call.function, name)}"
    if not np.isnan(found).any():
        return None
    again = _Outcome(function, call, 7.0, dtype).results()[name]
    if (again == 7).all():
        if isinstance(return_value, np.ndarray):
            instead = f"the function returns an array of {return_value.dtype} instead of writing into {name}"
            return f"{subject} is not written: {instead}"
        return f"{subject} is not written{call.setting}: what is written may be a copy, as reshape and transpose make"
    if is_close(again - 7, expected[name], dtype):
        return f"{subject} is added to what the array held before: it must be overwritten{call.setting}"
    untouched = np.isnan(found)
    if (again[untouched] == 7).all():
        return f"{subject} is not written{location(untouched, call, name)}{call.setting}: it must be written whole"
    return None


def _side_effects(function: Callable[..., Any], call: Call, leaf: int | None) -> Iterator[str]:
    """Side effects that a function must not have, although its results are right."""
    first = _Outcome(function, call, np.nan, "float64")
    if first.draws:
        yield f"{call.function}: changes the global state of random numbers"
    if _Outcome(function, call, 7.0, "float64").bits() != first.bits():
        yield f"{call.function}: two calls with the same arguments have different results"
        return
    first_bits = first.bits()
    other = Call(
        call.function,
        {
            name: value[::-1] * 0.5 if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
            for name, value in call.inputs.items()
        },
        call.outputs,
        call.axes,
    )
    second = _Outcome(function, other, np.nan, "float64").results()
    expected = other.reference()
    if not all(is_close(second[name], expected[name]) for name in expected):
        yield f"{call.function}: keeps data of an earlier call: a call with other arguments has wrong results"
        return
    if first.bits() != first_bits:
        yield f"{call.function}: keeps a reference to the arrays of an earlier call, and writes into them later"
        return
    third = _Outcome(function, other, np.nan, "float64", earlier=first).results()
    if not all(is_close(third[name], expected[name]) for name in expected):
        problem = "a call with the same arrays, which hold other numbers by then, has wrong results"
        yield f"{call.function}: keeps data of an earlier call: {problem}"
        return
    if call.function in IN_PLACE:
        place = IN_PLACE[call.function]
        if not is_close(_Outcome(function, call, np.nan, "float64", place).outputs["out"], call.reference()["out"]):
            yield f"{call.function}: is wrong if out is {place}, which a network makes use of"
    if leaf is not None:
        yield from _sum_tree(function, call, leaf)


def _sum_tree(function: Callable[..., Any], call: Call, leaf: int) -> Iterator[str]:
    """Whether sums over images follow the tree, bit by bit, as ``LEAF`` promises."""
    n = call.images
    pair = _Outcome(function, call.part(slice(0, 2)), np.nan, "float32").results()
    halves = [_Outcome(function, call.part(slice(i, i + 1)), np.nan, "float32").results() for i in range(2)]
    if leaf != 1 or n < 2:
        return
    for name, value in pair.items():
        one, two = (half[name] for half in halves)
        is_sum = name in ("loss", "correct") or "image" not in call.axes[name]
        expected = one + two if is_sum else np.concatenate([one, two], axis=-1)
        if np.asarray(expected).tobytes() != np.asarray(value).tobytes():
            rule = "is not the sum of those for its halves" if is_sum else "depends on the images beside it"
            yield (
                f"{call.function}: LEAF is 1, but {output_name(call.function, name)} {rule}, bit for bit: "
                "follow the tree of sums, or say LEAF = None"
            )


def _large_input_problems(function: Callable[..., Any], call: Call) -> list[str]:
    """Whether large numbers overflow."""
    problems = []
    expected = call.reference()
    for name, value in _Outcome(function, call, np.nan, "float64").results().items():
        if not is_close(value, expected[name]):
            remedy = ": take the largest logit off before exp" if call.function.startswith("softmax") else ""
            kind = "is NaN or infinite" if not np.isfinite(value).all() else "is wrong"
            problems.append(f"{call.function}: {output_name(call.function, name)} {kind} for large inputs{remedy}")
    return problems
