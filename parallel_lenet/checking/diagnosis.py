"""Finds the mistake behind a wrong result: computes what known mistakes would give, and compares.

The file has more than 300 lines: half of it is the list of known mistakes, with the sentence for each.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checking.calls import Call, Results

Array = NDArray[Any]
Mistake = tuple[str, Callable[[Call], Any]]
"""A mistake: the end of a sentence about an output, and a function that computes what the output would be."""

TOLERANCE = {"float64": 1e-8, "float32": 1e-3}  # Of the largest number. Sums here have some dozen terms.

OUTPUT_NAMES = {
    ("conv2d_weight_gradient", "dw"): "the kernel gradient dw",
    ("dense_weight_gradient", "dw"): "the weight gradient dw",
    ("conv2d_weight_gradient", "db"): "the bias gradient db",
    ("dense_weight_gradient", "db"): "the bias gradient db",
    ("softmax_cross_entropy", "d_logits"): "the gradient d_logits",
    ("softmax_cross_entropy", "loss"): "the loss",
    ("softmax_cross_entropy", "correct"): "the number of correct answers",
}


def output_name(function: str, output: str) -> str:
    """The name of an output in messages."""
    default = "the input gradient out" if function.endswith("_gradient") else "the output out"
    return OUTPUT_NAMES.get((function, output), default)


def is_close(found: Any, expected: Any, dtype: str = "float64") -> bool:
    """Whether the numbers are the same except for rounding."""
    expected = np.asarray(expected, np.float64)
    if np.shape(found) != expected.shape:
        return False
    with np.errstate(all="ignore"):
        scale = float(np.abs(expected).max()) if expected.size else 0.0
        return bool(np.all(np.abs(np.asarray(found, np.float64) - expected) <= TOLERANCE[dtype] * (scale or 1.0)))


def diagnose(call: Call, output: str, found: Any, expected: Results, dtype: str) -> str:
    """A sentence about a wrong output: the mistake if it is a known one, else where it is wrong and by how much."""
    subject = f"{call.function}: {output_name(call.function, output)}"
    right = np.asarray(expected[output], np.float64)
    if np.isnan(np.asarray(found, np.float64)).any() and np.isfinite(right).all():
        if np.ndim(found) == 0:
            return f"{subject} is NaN{call.setting}"
        holds = location(np.isnan(found), call, output)
        return f"{subject} holds NaN{holds}{call.setting}: it was computed, or was there before and is not overwritten"
    known: list[tuple[str, Callable[[], Any]]] = [
        *((sentence, partial(result, call)) for sentence, result in _KNOWN.get((call.function, output), ())),
        *((sentence, partial(result, right, call.axes.get(output, ()))) for sentence, result in _GENERAL),
    ]
    for sentence, result in known:
        candidate = _result_of_mistake(result, output)
        if candidate is not None and not is_close(candidate, right, dtype) and is_close(found, candidate, dtype):
            return f"{subject} {sentence}{call.setting}"
    factor = _factor(call, output, np.asarray(found, np.float64), right, dtype)
    if factor is not None:
        return f"{subject} {factor}{call.setting}"
    wrong = np.abs(np.asarray(found, np.float64) - right) > TOLERANCE[dtype] * (np.abs(right).max() or 1.0)
    if right.ndim == 0:
        return f"{subject} is wrong{call.setting}: it is {found:.6g}, and must be {float(right):.6g}"
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{subject} is wrong{location(wrong, call, output)}{call.setting}: for example {output}{list(place)} is "
        f"{float(np.asarray(found)[place]):.6g}, and must be {float(right[place]):.6g}"
    )


def _result_of_mistake(result: Callable[[], Any], output: str) -> Any:
    """What a mistake would give, or None if this call leaves no room for it."""
    try:
        with np.errstate(all="ignore"):
            candidate = result()
    except (ValueError, IndexError):
        return None
    return candidate[output] if isinstance(candidate, dict) else candidate


def _factor(call: Call, output: str, found: Array, right: Array, dtype: str) -> str | None:
    """If the result is a multiple of the right one: the factor, and why."""
    norm = float((right * right).sum())
    if norm == 0:
        return None
    factor = float((found * right).sum()) / norm
    if not np.isfinite(factor) or not is_close(found, factor * right, dtype):
        return None
    n = call.images
    inputs = call.inputs
    reasons = [(-1.0, "has the wrong sign")]
    if n > 1:
        reasons.append((1 / n, "is averaged over the images, but must be summed"))
        reasons.append((float(n), "is multiplied by the number of images"))
    if "size" in inputs:
        area = inputs["size"] ** 2
        summed = "is the sum of each window instead of its mean"
        spread = "is not divided by the size of the window"
        if call.function.startswith("avg"):
            reasons.append((float(area), spread if call.function.endswith("gradient") else summed))
            reasons.append((1 / area, "is divided by the size of the window twice"))
    if "dy" in inputs and inputs["dy"].ndim == 4:
        positions = inputs["dy"].shape[1] * inputs["dy"].shape[2]
        reasons.append((1 / positions, "is averaged over the positions of the window, but must be summed"))
        reasons.append((1 / (positions * n), "is averaged over images and positions, but must be summed"))
    for known, reason in reasons:
        if abs(factor - known) < 1e-3 * abs(known):
            return reason
    return "is 0" if factor == 0 else f"is {factor:.4g} times what it must be"


def location(wrong: Array, call: Call, output: str) -> str:
    """Which part of an array is wrong, as the end of a sentence, or "" if it is spread over all of it."""
    places = []
    for axis, name in enumerate(call.axes.get(output, ())):
        length = wrong.shape[axis]
        indices = [i for i in range(length) if np.take(wrong, i, axis).any()]
        if length == 1 or len(indices) == length:
            continue
        if len(indices) == length - 1 and length > 2:
            (fine,) = set(range(length)) - set(indices)
            places.append(f"all {name}s but {'the first' if fine == 0 else f'{name} {fine}'}")
        elif indices in ([0], [length - 1]):
            places.append(f"the {'first' if indices == [0] else 'last'} {name}")
        elif len(indices) > 3 and indices[-1] - indices[0] == len(indices) - 1:
            places.append(f"{name}s {indices[0]} to {indices[-1]}")
        else:
            more = f" and {len(indices) - 8} more" if len(indices) > 8 else ""
            places.append(f"{name}s {', '.join(map(str, indices[:8]))}{more}")
    return f" in {' of '.join(places)}" if places else ""


def _keep_one(array: Array, axis: int, index: int) -> Array:
    """The array, with zeros everywhere but at one index of an axis."""
    result = np.zeros_like(array)
    place = (slice(None),) * axis + (index,)
    result[place] = array[place]
    return result


def _crop(call: Call, output: str, **replacements: Any) -> Array:
    """The output for other settings, cut to the size of the right one."""
    shape = call.outputs[output]
    settings = call.inputs | replacements
    window = settings["weight"].shape[2:] if "weight" in settings else (settings["size"],) * 2
    padding = settings.get("padding", 0)
    rows, columns = (
        (size + 2 * padding - k) // settings["stride"] + 1
        for size, k in zip(settings["x"].shape[1:3], window, strict=True)
    )
    padded = Call(call.function, call.inputs, {output: (shape[0], rows, columns, shape[3])}, call.axes).reference(
        **replacements
    )
    result: Array = padded[output][:, : shape[1], : shape[2]]
    return result


def _move(x: Array, rows: int, columns: int) -> Array:
    """The images, moved down and to the right. Zeros come in from outside."""
    result = np.zeros_like(x)
    h, w = x.shape[1:3]
    result[:, max(0, rows) : h + min(0, rows), max(0, columns) : w + min(0, columns)] = x[
        :, max(0, -rows) : h - max(0, rows), max(0, -columns) : w - max(0, columns)
    ]
    return result


def _pad(x: Array, padding: int, mode: str = "constant") -> Array:
    """The images with another padding: on one side, or with other numbers."""
    ends = {"begin": (2 * padding, 0), "end": (0, 2 * padding)}.get(mode)
    each = ends or (padding, padding)
    return np.pad(x, ((0, 0), each, each, (0, 0)), mode="constant" if ends else mode)  # type: ignore[call-overload, no-any-return]


def _with_padding(mode: str) -> Callable[[Call], Results]:
    return lambda call: call.reference(x=_pad(call.inputs["x"], call.inputs["padding"], mode), padding=0)


def _windows(call: Call) -> Iterator[tuple[int, int, slice, slice]]:
    """Row and column of each output, and its window in the padded input."""
    dy = call.inputs["dy"]
    stride = call.inputs["stride"]
    kh, kw = call.inputs["weight"].shape[2:] if "weight" in call.inputs else (call.inputs.get("size", 0),) * 2
    for row in range(dy.shape[1]):
        for column in range(dy.shape[2]):
            top = row * stride
            left = column * stride
            yield row, column, slice(top, top + kh), slice(left, left + kw)


def _overwrite_windows(call: Call) -> Array:
    """An input gradient whose windows overwrite each other."""
    dy = call.inputs["dy"]
    padding = call.inputs.get("padding", 0)
    c, h, w, n = call.outputs["out"]
    dx = np.zeros((c, h + 2 * padding, w + 2 * padding, n))
    for row, column, rows, columns in _windows(call):
        error = dy[:, row, column]
        if "weight" in call.inputs:
            dx[:, rows, columns] = np.einsum("fn,fcij->cijn", error, call.inputs["weight"])
        else:
            dx[:, rows, columns] = (error / call.inputs["size"] ** 2)[:, None, None]
    return dx[:, padding : padding + h, padding : padding + w]


def _crop_at_corner(call: Call) -> Array:
    """The upper left part of the padded input gradient, in place of its centre."""
    c, h, w, n = call.outputs["out"]
    padding = call.inputs["padding"]
    shape = (c, h + 2 * padding, w + 2 * padding, n)
    padded = Call(call.function, call.inputs | {"padding": 0}, {"out": shape}, call.axes).reference()["out"]
    result: Array = padded[:, :h, :w]
    return result


def _max_gradient(call: Call, receiver: str) -> Array:
    """The gradient of max pooling if it goes to other numbers of a window than the first maximum."""
    x = call.inputs["x"]
    dy = call.inputs["dy"]
    dx = np.zeros(call.outputs["out"])
    for row, column, rows, columns in _windows(call):
        window = x[:, rows, columns]
        error = dy[:, row, column]
        flat = window.reshape(window.shape[0], -1, window.shape[-1])
        if receiver == "every":
            share = (flat == flat.max(axis=1, keepdims=True)).astype(float)
        elif receiver == "shared":
            share = (flat == flat.max(axis=1, keepdims=True)).astype(float)
            share /= share.sum(axis=1, keepdims=True)
        elif receiver == "window":
            share = np.ones_like(flat)
        elif receiver == "mean":
            share = np.full_like(flat, 1 / flat.shape[1])
        else:
            last = flat.shape[1] - 1 - flat[:, ::-1].argmax(axis=1)
            first = flat.argmin(axis=1)
            target = last if receiver == "last" else first
            share = (np.arange(flat.shape[1])[:, None] == target[:, None]).astype(float)
        dx[:, rows, columns] += (share * error[:, None]).reshape(window.shape)
    return dx


def _pool(call: Call, reduce: Callable[..., Any]) -> Array:
    """Pooling by this function of the window."""
    x, size, stride = (call.inputs[name] for name in ("x", "size", "stride"))
    out = np.empty(call.outputs["out"])
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            window = x[:, row * stride : row * stride + size, column * stride : column * stride + size]
            out[:, row, column] = reduce(window, axis=(1, 2))
    return out


def _one_hot(call: Call) -> Array:
    classes = len(call.inputs["logits"])
    one_hot: Array = (np.arange(classes)[:, None] == call.inputs["targets"]).astype(float)
    return one_hot


def _without_smoothing(call: Call) -> Call:
    return replace(call, options={})


def _losses(call: Call) -> Array:
    one = _without_smoothing(call).reference(weights=np.ones(call.images))
    p = one["d_logits"] + _one_hot(call)
    losses: Array = -np.log((p * _one_hot(call)).sum(axis=0))
    return losses


def _prepare(call: Call, *, centred: bool = True, border: bool = True, up: int = 0) -> Array:
    images = call.inputs["images"]
    scale, shift = (np.reshape(call.inputs[name], (-1, 1, 1, 1)) for name in ("scale", "shift"))
    out = np.full(call.outputs["out"], shift if border else 0.0)
    top, left = ((out.shape[1 + i] - images.shape[2 + i] + up) // 2 if centred else 0 for i in (0, 1))
    values = np.moveaxis(images, 0, -1) * scale + shift
    out[:, top : top + images.shape[2], left : left + images.shape[3]] = values
    return out


def _first_channel(call: Call) -> Any:
    scale, shift = (float(np.ravel(call.inputs[name])[0]) for name in ("scale", "shift"))
    return call.reference(scale=scale, shift=shift)


Axes = tuple[str, ...]


def _swap_rows_and_columns(right: Array, axes: Axes) -> Array:
    return right.swapaxes(axes.index("row"), axes.index("column"))


def _reverse(*names: str) -> Callable[[Array, Axes], Array]:
    return lambda right, axes: np.flip(right, tuple(axes.index(name) for name in names))


def _move_by(step: int) -> Callable[[Array, Axes], Array]:
    return lambda right, axes: _move(right, step, step) if axes[1:3] == ("row", "column") else right


_GENERAL: list[tuple[str, Callable[[Array, Axes], Array]]] = [
    ("has rows and columns swapped", _swap_rows_and_columns),
    ("is turned by 180 degrees", _reverse("row", "column")),
    ("has its rows in reverse order", _reverse("row")),
    ("has its columns in reverse order", _reverse("column")),
    ("has its channels in reverse order", _reverse("channel")),
    ("has its filters in reverse order", _reverse("filter")),
    ("has its images in reverse order", _reverse("image")),
    ("is 0 for all images but the first", lambda right, axes: _keep_one(right, axes.index("image"), 0)),
    ("is the absolute value of what it must be", lambda right, axes: np.abs(right)),
    ("is cut off at 0, as by ReLU", lambda right, axes: np.maximum(right, 0)),
    ("is moved by one row and one column", _move_by(1)),
    ("is moved by one row and one column", _move_by(-1)),
]
"""Mistakes computed from the right result and the names of its axes."""


def _with_inputs(**replacements: Callable[[Array], Any]) -> Callable[[Call], Results]:
    """The results for changed inputs."""
    return lambda call: call.reference(**{name: change(call.inputs[name]) for name, change in replacements.items()})


_FIRST_IMAGE: list[Mistake] = [
    ("counts only the first image", lambda call: call.part(slice(0, 1)).reference()),
    ("counts only the last image", lambda call: call.part(slice(-1, None)).reference()),
    ("leaves out the last image", lambda call: call.part(slice(0, -1)).reference()),
]

_PADDING: list[Mistake] = [
    ("has all padding before the first row and column, and none after the last", _with_padding("begin")),
    ("has all padding after the last row and column, and none before the first", _with_padding("end")),
    ("repeats the numbers at the border instead of 0", _with_padding("edge")),
    ("mirrors the images at the border instead of adding 0", _with_padding("reflect")),
]

_BIAS: list[Mistake] = [
    ("lacks the bias", _with_inputs(bias=np.zeros_like)),
    ("has the bias subtracted instead of added", _with_inputs(bias=np.negative)),
    ("has the bias added twice", _with_inputs(bias=lambda bias: 2 * bias)),
]

_KNOWN: dict[tuple[str, str], list[Mistake]] = {
    ("prepare_images", "out"): [
        ("has the images at the upper left instead of in the centre", lambda call: _prepare(call, centred=False)),
        ("has the wider border at the beginning: it belongs at the end", lambda call: _prepare(call, up=1)),
        ("has a border of 0: the border must be scaled and shifted too", lambda call: _prepare(call, border=False)),
        ("has the scale and the shift of the first channel in all channels", lambda call: _first_channel(call)),
        ("lacks the shift", lambda call: call.reference(shift=0.0)),
        ("lacks the scale", lambda call: call.reference(scale=1.0)),
        (
            "is shifted before it is scaled",
            lambda call: call.reference(shift=call.inputs["shift"] * call.inputs["scale"]),
        ),
    ],
    ("conv2d", "out"): [
        (
            "is a true convolution, with filters turned by 180 degrees: the window must not be flipped",
            _with_inputs(weight=lambda weight: weight[:, :, ::-1, ::-1]),
        ),
        (
            "is computed with rows and columns of the filters swapped",
            _with_inputs(weight=lambda weight: weight.swapaxes(2, 3) if weight.shape[2] == weight.shape[3] else weight),
        ),
        ("is computed with the channels in reverse order", _with_inputs(x=lambda x: x[::-1])),
        ("is computed with the filters in reverse order", _with_inputs(weight=lambda weight: weight[::-1])),
        *_BIAS,
        (
            "has the bias added once per channel",
            lambda call: call.reference(bias=call.inputs["bias"] * len(call.inputs["x"])),
        ),
        (
            "has the bias added once per product",
            lambda call: call.reference(bias=call.inputs["bias"] * call.inputs["weight"][0].size),
        ),
        (
            "is the mean of the products instead of their sum",
            lambda call: call.reference(weight=call.inputs["weight"] / call.inputs["weight"][0].size),
        ),
        (
            "is divided as a whole by the number of products: it must be their sum",
            lambda call: call.reference()["out"] / call.inputs["weight"][0].size,
        ),
        ("counts only the first channel", _with_inputs(x=lambda x: _keep_one(x, 0, 0))),
        (
            "counts only the last channel: the channels overwrite each other",
            _with_inputs(x=lambda x: _keep_one(x, 0, len(x) - 1)),
        ),
        ("ignores the stride", lambda call: _crop(call, "out", stride=1)),
        *_PADDING,
        ("takes windows that begin one row and one column too late", _with_inputs(x=lambda x: _move(x, -1, -1))),
        (
            "takes windows that begin one row and one column too late",
            _with_inputs(x=lambda x: np.roll(x, (-1, -1), (1, 2))),
        ),
        ("takes windows that begin one row too late", _with_inputs(x=lambda x: np.roll(x, -1, 1))),
        ("takes windows that begin one column too late", _with_inputs(x=lambda x: np.roll(x, -1, 2))),
        (
            "takes windows that begin one row and one column too early",
            _with_inputs(x=lambda x: np.roll(x, (1, 1), (1, 2))),
        ),
        ("takes windows that begin one row and one column too early", _with_inputs(x=lambda x: _move(x, 1, 1))),
    ],
    ("conv2d_input_gradient", "out"): [
        (
            "is computed with the filters turned by 180 degrees",
            _with_inputs(weight=lambda weight: weight[:, :, ::-1, ::-1]),
        ),
        (
            "is computed with rows and columns of the filters swapped",
            _with_inputs(weight=lambda weight: weight.swapaxes(2, 3) if weight.shape[2] == weight.shape[3] else weight),
        ),
        ("is computed with the filters in reverse order", _with_inputs(weight=lambda weight: weight[::-1])),
        ("has overlapping windows that overwrite each other instead of being added", _overwrite_windows),
        ("counts only the first filter", _with_inputs(dy=lambda dy: _keep_one(dy, 0, 0))),
        (
            "counts only the last filter: the filters overwrite each other",
            _with_inputs(dy=lambda dy: _keep_one(dy, 0, len(dy) - 1)),
        ),
        ("ignores the stride", lambda call: call.reference(stride=1)),
        ("ignores the padding", _crop_at_corner),
    ],
    ("conv2d_weight_gradient", "dw"): [
        *_FIRST_IMAGE,
        ("ignores the stride", lambda call: call.reference(stride=1)),
        *_PADDING,
        ("is computed with the channels in reverse order", _with_inputs(x=lambda x: x[::-1])),
        (
            "takes windows that begin one row and one column too late",
            _with_inputs(x=lambda x: np.roll(x, (-1, -1), (1, 2))),
        ),
        ("takes windows that begin one row and one column too late", _with_inputs(x=lambda x: _move(x, -1, -1))),
    ],
    ("conv2d_weight_gradient", "db"): list(_FIRST_IMAGE),
    ("avg_pool2d", "out"): [
        ("is the largest number of each window instead of the mean", lambda call: _pool(call, np.max)),
        ("ignores the stride", lambda call: _crop(call, "out", stride=1)),
        (
            "takes windows that begin one row and one column too late",
            _with_inputs(x=lambda x: np.roll(x, (-1, -1), (1, 2))),
        ),
        ("is the upper left number of each window", lambda call: _pool(call, lambda x, axis: x[:, 0, 0])),
    ],
    ("avg_pool2d_gradient", "out"): [
        ("has overlapping windows that overwrite each other instead of being added", _overwrite_windows),
        ("ignores the stride", lambda call: call.reference(stride=1)),
    ],
    ("max_pool2d", "out"): [
        ("is the mean of each window instead of the largest number", lambda call: _pool(call, np.mean)),
        ("is the smallest number of each window instead of the largest", lambda call: _pool(call, np.min)),
        (
            "begins with 0: it is 0 where all numbers are negative",
            lambda call: np.maximum(call.reference()["out"], 0),
        ),
        ("ignores the stride", lambda call: _crop(call, "out", stride=1)),
    ],
    ("max_pool2d_gradient", "out"): [
        ("goes to every one of equal maxima: only the first in row order gets it", lambda c: _max_gradient(c, "every")),
        ("is divided among equal maxima: only the first in row order gets it", lambda c: _max_gradient(c, "shared")),
        ("goes to the last of equal maxima, but must go to the first in row order", lambda c: _max_gradient(c, "last")),
        ("goes to the smallest number of the window", lambda call: _max_gradient(call, "min")),
        ("goes to the whole window: only the largest number gets it", lambda call: _max_gradient(call, "window")),
        ("is spread over the window, as for average pooling", lambda call: _max_gradient(call, "mean")),
    ],
    ("tanh", "out"): [
        ("lacks the amplitude", lambda call: call.reference(amplitude=1.0)),
        ("has the amplitude inside of tanh", lambda call: np.tanh(call.inputs["amplitude"] * call.inputs["x"])),
    ],
    ("tanh_gradient", "out"): [
        (
            "treats y as the input x: the slope must be computed from y, amplitude - y * y / amplitude",
            lambda call: call.inputs["dy"] * call.inputs["amplitude"] * (1 - np.tanh(call.inputs["y"]) ** 2),
        ),
        (
            "treats y as the input x: the slope must be computed from y, amplitude - y * y / amplitude",
            lambda call: call.inputs["dy"] * (1 - np.tanh(call.inputs["y"]) ** 2),
        ),
        ("ignores the amplitude", lambda call: call.inputs["dy"] * (1 - call.inputs["y"] ** 2)),
        (
            "has the amplitude in one place only: it is amplitude - y * y / amplitude",
            lambda call: call.inputs["dy"] * call.inputs["amplitude"] * (1 - call.inputs["y"] ** 2),
        ),
        (
            "is divided by the amplitude: the slope is amplitude - y * y / amplitude",
            lambda call: call.reference()["out"] / call.inputs["amplitude"],
        ),
        ("lacks the factor dy", lambda call: call.reference(dy=np.ones_like(call.inputs["dy"]))),
    ],
    ("relu", "out"): [
        ("is x itself: negative numbers must become 0", lambda call: call.inputs["x"]),
        ("is the absolute value of x", lambda call: np.abs(call.inputs["x"])),
        ("keeps the negative numbers instead of the positive ones", lambda call: np.minimum(call.inputs["x"], 0)),
        *(
            (f"multiplies negative numbers by {slope} instead of 0 (a leaky ReLU)", _leaky)
            for slope, _leaky in (
                (slope, lambda call, slope=slope: np.where(call.inputs["x"] > 0, 1, slope) * call.inputs["x"])
                for slope in (0.01, 0.1, 0.2, 0.3)
            )
        ),
    ],
    ("relu_gradient", "out"): [
        ("is not masked: dy must pass only where y is positive", lambda call: call.inputs["dy"]),
        ("is masked by dy instead of y", lambda call: np.maximum(call.inputs["dy"], 0)),
        ("is only the mask: the factor dy is missing", lambda call: (call.inputs["y"] > 0).astype(float)),
        (
            "passes where y is 0 instead of where it is positive",
            lambda c: np.where(c.inputs["y"] > 0, 0, c.inputs["dy"]),
        ),
    ],
    ("dense", "out"): list(_BIAS),
    ("dense_input_gradient", "out"): [],
    ("dense_weight_gradient", "dw"): list(_FIRST_IMAGE),
    ("dense_weight_gradient", "db"): list(_FIRST_IMAGE),
    ("softmax", "out"): [
        (
            "is divided by the sum over the images instead of the classes",
            lambda call: np.exp(call.inputs["logits"]) / np.exp(call.inputs["logits"]).sum(axis=1, keepdims=True),
        ),
        (
            "is divided by the sum over everything instead of the classes of each image",
            lambda call: np.exp(call.inputs["logits"]) / np.exp(call.inputs["logits"]).sum(),
        ),
        ("is only the exponential: it must be divided by the sum", lambda call: np.exp(call.inputs["logits"])),
        ("is the logarithm of the softmax", lambda call: np.log(call.reference()["out"])),
    ],
    ("softmax_cross_entropy", "d_logits"): [
        ("is only the softmax: 1 must be subtracted at the target", lambda c: c.reference()["d_logits"] + _one_hot(c)),
        ("ignores the smoothing", lambda call: _without_smoothing(call).reference()),
        ("ignores the weights", lambda call: call.reference(weights=np.ones(call.images))),
        (
            "has 1 added at the target instead of subtracted",
            lambda call: call.reference()["d_logits"] + 2 * _one_hot(call),
        ),
        (
            "is the mean over the images, but must be that of the sum",
            lambda call: call.reference(weights=call.inputs["weights"] / call.images),
        ),
    ],
    ("softmax_cross_entropy", "loss"): [
        ("ignores the smoothing", lambda call: _without_smoothing(call).reference()),
        ("ignores the weights", lambda call: _losses(call).sum()),
        ("is the mean over the images, but must be their sum", lambda call: call.reference()["loss"] / call.images),
        ("is the loss of the first image only", lambda call: _losses(call)[0]),
        ("is computed with the logarithm to base 2", lambda call: call.reference()["loss"] / np.log(2)),
        (
            "is the sum of the probabilities of the targets, not of their logarithms",
            lambda c: np.exp(-_losses(c)).sum(),
        ),
        ("is divided by the sum of the weights", lambda c: c.reference()["loss"] / c.inputs["weights"].sum()),
    ],
    ("softmax_cross_entropy", "correct"): [
        ("is the number of wrong answers", lambda call: call.images - call.reference()["correct"]),
        ("is the share of correct answers, but must be their number", lambda c: c.reference()["correct"] / c.images),
    ],
}
