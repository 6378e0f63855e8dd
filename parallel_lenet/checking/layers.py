"""The check of a user's layer: its shapes, what it reads and writes, and its gradients against finite differences.

The file has a little more than 300 lines: each part of the check is a method with the sentences that it can find.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import kernels
from parallel_lenet.checking.report import CheckReport
from parallel_lenet.checks import quoted
from parallel_lenet.engines.imports import pickle_model, unpickle_model
from parallel_lenet.jsonable import describe
from parallel_lenet.model import takes
from parallel_lenet.network.gradcheck import STEP, TOLERANCE
from parallel_lenet.network.layers import Activation, Flatten, Layer, Shape
from parallel_lenet.sample_keys import SampleKeys
from parallel_lenet.user_files import origin

Array = NDArray[Any]
Parameters = dict[str, Array]

IMAGES = 4
SAMPLES = np.arange(IMAGES)
MOST = 400  # Numbers of an array that are compared one by one: the others take too long.


def check_layer(layer: Layer, shape: Shape, *, kernel: str = "auto") -> CheckReport:
    """Check a layer of your own for inputs of ``shape``, without the batch: ``(channels, height, width)``.

    The layer must write whole arrays, leave its inputs as they are, treat each image separately, and sum the gradients
    of its parameters over the images. The gradients must agree with finite differences of its own `forward`. Each
    problem of the report is a sentence, which names the mistake if it is a known one. Nothing is raised for mistakes of
    the layer. Raises ValueError if there is no such kernel.

    >>> from parallel_lenet import Conv2d, check_layer
    >>> check_layer(Conv2d(2, 3), (1, 6, 5)).ok
    True
    """
    checking = _Checking(layer, tuple(shape), kernels.load(kernels.resolve(kernel)))
    problems: list[str] = []
    try:
        for part in (checking.shapes, checking.forward, checking.gradients, checking.sending):
            found = list(dict.fromkeys(part()))
            problems += found
            if found and part is not checking.gradients:
                break
    except _StopError as stop:
        problems.append(str(stop))
    return CheckReport(f"{type(layer).__name__} for inputs of shape {tuple(shape)}", tuple(problems), checking.errors)


class _StopError(Exception):
    """The rest cannot be checked. The text is the problem."""


class _Checking:
    def __init__(self, layer: Layer, shape: Shape, kernel: Any) -> None:
        self.layer = layer
        self.shape = shape
        self.kernel = kernel
        self.name = type(layer).__name__
        self.errors: dict[str, float] = {}
        self.in_place = isinstance(layer, Activation | Flatten)
        self.output: Shape = ()
        self.r: Array = np.empty(0)
        self.parameters: Parameters = {}
        size = math.prod(shape) * IMAGES  # Even.
        rng = np.random.default_rng(0)
        # Evenly spaced, without 0: no step of a difference crosses a kink.
        self.x: Array = (rng.permutation(np.arange(1 - size, size, 2)) / max(1, size)).reshape(*shape, IMAGES)
        self.rng = rng

    def call(self, method: str, *arguments: Any, samples: Array = SAMPLES) -> Any:
        """Call a method. An exception stops the check, with the file and line that raised it."""
        function: Callable[..., Any] = getattr(self.layer, method)
        more: dict[str, Any] = {}
        if takes(function, "keys"):
            more["keys"] = SampleKeys(0, 0, samples)
        try:
            with np.errstate(all="ignore"):
                return function(*arguments, **more)
        except Exception as error:
            text = " ".join(str(error).split())
            raise _StopError(f"{self.name}.{method} raises {type(error).__name__}{origin(error)}: {text}") from error

    def shapes(self) -> Iterator[str]:
        """What the layer says about itself."""
        for method in (
            "output_shape",
            "forward",
            "input_gradient",
            "parameter_gradient",
            "parameter_shapes",
            "initial",
        ):
            if isinstance(self.layer, type) or not callable(getattr(self.layer, method, None)):
                raise _StopError(
                    f"{quoted(self.layer)} has no method {method}: derive the class from Layer, and make one"
                )
        self.output = self.call("output_shape", self.shape)
        if not _is_shape(self.output):
            raise _StopError(
                f"{self.name}.output_shape must return a tuple of whole numbers, got {quoted(self.output)}"
            )
        shapes = self.call("parameter_shapes", self.shape)
        if not isinstance(shapes, dict) or not all(
            isinstance(name, str) and _is_shape(s) for name, s in shapes.items()
        ):
            raise _StopError(
                f"{self.name}.parameter_shapes must return a dict of names and shapes, got {quoted(shapes)}"
            )
        first, again = (self.call("initial", self.shape, np.random.default_rng(1)) for _ in range(2))
        if not isinstance(first, dict) or first.keys() != shapes.keys():
            raise _StopError(
                f"{self.name}.initial must return arrays for {quoted(sorted(shapes))}, the names of parameter_shapes, "
                f"got {quoted(sorted(first) if isinstance(first, dict) else first)}"
            )
        for name, expected in shapes.items():
            if np.shape(first[name]) != expected:
                yield f"{self.name}.initial: {name} must have shape {expected}, got {np.shape(first[name])}"
            elif not np.isfinite(first[name]).all():
                yield f"{self.name}.initial: {name} holds NaN or infinity"
            elif not np.array_equal(first[name], again[name]):
                yield f"{self.name}.initial: {name} depends on more than rng: draw from rng"
        if self.in_place and math.prod(self.output) != math.prod(self.shape):
            yield f"{self.name} is an Activation, but its output has another shape than its input: {self.output}"
        self.parameters = {name: np.asarray(self.rng.standard_normal(expected)) for name, expected in shapes.items()}

    def run(
        self, x: Array, dtype: str = "float64", fill: float = np.nan, samples: Array = SAMPLES
    ) -> tuple[Array, list[str]]:
        """The output for ``x``, and the problems of the call."""
        parameters = {name: array.astype(dtype) for name, array in self.parameters.items()}
        x = x.astype(dtype)
        x_before = x.copy()
        parameters_before = copy.deepcopy(parameters)
        images = x.shape[-1]
        if self.in_place:
            self.call("forward", self.kernel, parameters, x, x, samples=samples)
            y = x.reshape(*self.output, images)
        else:
            y = np.full((*self.output, images), fill, dtype)
            self.call("forward", self.kernel, parameters, x, y, samples=samples)
        problems = []
        if not self.in_place and not np.array_equal(x, x_before):
            problems.append(f"{self.name}.forward writes into its input x")
        problems += [
            f"{self.name}.forward writes into its parameter {name}"
            for name in parameters
            if not np.array_equal(parameters[name], parameters_before[name])
        ]
        return y, problems

    def forward(self) -> Iterator[str]:
        """Whether `forward` writes its whole output, only from its arguments, image by image."""
        state = np.random.get_state(legacy=False)  # noqa: NPY002
        y, problems = self.run(self.x)
        if repr(np.random.get_state(legacy=False)) != repr(state):  # noqa: NPY002
            yield f"{self.name}.forward changes the global state of random numbers: use keys"
        yield from problems
        other, _ = self.run(self.x, fill=7.0)
        if np.isnan(y).any():
            if (other[np.isnan(y)] == 7).any():
                yield f"{self.name}.forward does not write its whole output y: it must be overwritten"
            elif np.isfinite(other).all():
                yield f"{self.name}.forward adds to what y held before: it must be overwritten"
            else:
                yield f"{self.name}.forward computes NaN"
            return
        if other.tobytes() != y.tobytes():
            random = "random numbers need keys"
            yield f"{self.name}.forward: two calls with the same arguments have different outputs: {random}"
            return
        part, _ = self.run(self.x[..., :2], samples=SAMPLES[:2])
        if not _is_close(part, y[..., :2]):
            yield f"{self.name}.forward: the output for an image depends on the images beside it, or on their number"
        single, _ = self.run(self.x, "float32")
        if not _is_close(single, y, 1e-3):
            yield f"{self.name}.forward has other results in float32 than in float64"
        if isinstance(self.layer, Activation):  # After another activation it is not called in place.
            separate = np.full((*self.output, IMAGES), np.nan)
            x = self.x.copy()
            self.call("forward", self.kernel, self.parameters, x, separate)
            if not (np.array_equal(separate, y) and np.array_equal(x, self.x)):
                yield f"{self.name} is an Activation, but forward does not do the same if y is another array than x"

    def _compute_gradients(self, images: slice, fill: float = np.nan) -> tuple[Array, Parameters, list[str]]:
        """The gradients of ``sum(r * y)``, of the input and of the parameters."""
        x = self.x[..., images].copy()
        samples = SAMPLES[images]
        y, _ = self.run(x, samples=samples)
        r = self.r[..., images].copy()
        x_before = x.copy()
        r_before = r.copy()
        parameters_before = copy.deepcopy(self.parameters)
        gradients = {name: np.full_like(array, fill) for name, array in self.parameters.items()}
        self.call("parameter_gradient", self.kernel, x, r, gradients, samples=samples)
        problems = []
        if not np.array_equal(r, r_before):
            problems.append(f"{self.name}.parameter_gradient writes into dy")
        if self.in_place:
            dy = r_before.copy()
            dx = dy.reshape(x.shape)
            self.call("input_gradient", self.kernel, self.parameters, y.reshape(x.shape), y, dy, dx, samples=samples)
        else:
            dx = np.full_like(x, fill)
            self.call("input_gradient", self.kernel, self.parameters, x, y, r, dx, samples=samples)
            if not np.array_equal(r, r_before):
                problems.append(f"{self.name}.input_gradient writes into dy")
        if not np.array_equal(x, x_before):
            problems.append(f"{self.name}: a gradient writes into the input x")
        if any(not np.array_equal(array, self.parameters[name]) for name, array in parameters_before.items()):
            problems.append(f"{self.name}: a gradient writes into the parameters")
        return dx, gradients, problems

    def gradients(self) -> Iterator[str]:
        """Whether both gradients are those of `forward`."""
        self.r = self.rng.standard_normal((*self.output, IMAGES))
        dx, gradients, problems = self._compute_gradients(slice(None))
        yield from problems
        second_dx, second_gradients, _ = self._compute_gradients(slice(None), 7.0)
        _, first, _ = self._compute_gradients(slice(0, 2))
        _, second, _ = self._compute_gradients(slice(2, None))
        found = {
            "input": (dx, second_dx, self.x),
            **{name: (gradients[name], second_gradients[name], self.parameters[name]) for name in gradients},
        }
        for name, (gradient, again, values) in found.items():
            method = "input_gradient" if name == "input" else "parameter_gradient"
            subject = f"{self.name}.{method}: the gradient of the {'input' if name == 'input' else name}"
            if np.isnan(gradient).any():
                if (again == 7).all():
                    yield f"{subject} is missing: it is not written"
                elif (again[np.isnan(gradient)] == 7).any():
                    yield f"{subject} is not written whole"
                else:
                    yield f"{subject} is added to what the array held before: it must be overwritten"
                continue
            places, numeric = self._central_differences(values)
            analytic = gradient.reshape(-1)[places]
            error = _error(analytic, numeric)
            self.errors[f"{self.name}, {name}"] = error
            if error > TOLERANCE:
                yield self._mistake(subject, name, gradient, analytic, numeric)
            elif name != "input" and not _is_close(first[name] + second[name], gradient):
                yield f"{subject} is not the sum over the images: those of two halves must add up to it"

    def _central_differences(self, values: Array) -> tuple[Array, Array]:
        """Some places of ``values``, and the central differences of ``sum(r * y)`` there."""
        flat = values.reshape(-1)
        places = np.sort(self.rng.permutation(flat.size)[:MOST])
        numeric = np.empty(len(places))
        for i, place in enumerate(places):
            value = flat[place]
            sides = []
            for neighbour in (value + STEP, value - STEP):
                flat[place] = neighbour
                sides.append(self.run(self.x)[0])
            flat[place] = value
            numeric[i] = (self.r * (sides[0] - sides[1])).sum() / ((value + STEP) - (value - STEP))
        return places, numeric

    def _mistake(self, subject: str, name: str, gradient: Array, analytic: Array, numeric: Array) -> str:
        """The mistake, if it is a known one."""
        is_complete = len(analytic) == gradient.size
        norm = float((numeric * numeric).sum())
        factor = float((analytic * numeric).sum()) / norm if norm else math.nan
        if math.isfinite(factor) and _is_close(analytic, factor * numeric, 1e-5):
            if abs(factor + 1) < 1e-5:
                return f"{subject} has the wrong sign"
            if abs(factor * IMAGES - 1) < 1e-4:
                return f"{subject} is averaged over the images, but must be summed"
            if abs(factor) < 1e-9:
                return f"{subject} is 0"
            return f"{subject} is {factor:.4g} times what it must be"
        right = numeric.reshape(gradient.shape) if is_complete else None
        if right is not None:
            square = name != "input" and gradient.ndim >= 2 and gradient.shape[-1] == gradient.shape[-2]
            if square and _is_close(gradient, right.swapaxes(-1, -2), 1e-5):
                return f"{subject} has its last two axes, rows and columns, swapped"
            if gradient.ndim >= 3:
                rotated = right[..., ::-1, ::-1] if name != "input" else right[:, ::-1, ::-1]
                if _is_close(gradient, rotated, 1e-5):
                    return f"{subject} is turned by 180 degrees"
            if _is_close(gradient, right[::-1], 1e-5):
                return f"{subject} has its first axis in reverse order"
        if name == "input" and self.output == self.shape and is_complete and _is_close(gradient, self.r, 1e-5):
            return f"{subject} is dy itself: it must be multiplied by the slope of the layer"
        worst_index = int(np.abs(analytic - numeric).argmax())
        return (
            f"{subject} disagrees with finite differences by {_error(analytic, numeric):.2g}: for example it is "
            f"{analytic[worst_index]:.6g}, and must be {numeric[worst_index]:.6g}"
        )

    def sending(self) -> Iterator[str]:
        """Whether the layer can be sent to workers, and described in a checkpoint."""
        try:
            unpickle_model(pickle_model(self.layer))  # type: ignore[arg-type]
        except Exception as error:
            yield f"{self.name} cannot be sent to workers: {' '.join(str(error).split())}"
        try:
            describe(self.layer)
        except (TypeError, ValueError) as error:
            yield f"{self.name} cannot be described in a checkpoint: {' '.join(str(error).split())}"


def _is_shape(value: object) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(size, int | np.integer) and not isinstance(size, bool) and size >= 1 for size in value
    )


def _is_close(found: Array, expected: Array, tolerance: float = 1e-9) -> bool:
    return np.shape(found) == np.shape(expected) and bool(
        np.abs(found - expected).max(initial=0) <= tolerance * (np.abs(expected).max(initial=0) or 1.0)
    )


def _error(analytic: Array, numeric: Array) -> float:
    scale = max(np.abs(analytic).max(initial=0), np.abs(numeric).max(initial=0), 1e-3)
    error = float(np.abs(analytic - numeric).max(initial=0) / scale)
    return error if math.isfinite(error) else math.inf
