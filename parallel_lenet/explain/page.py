"""The lesson as one HTML file."""

import base64
from importlib.resources import files
from typing import Any

import numpy as np

from parallel_lenet.explain import parallel
from parallel_lenet.explain.backward import ADAM_STEPS, LEARNING_RATE, STEP_SIZES
from parallel_lenet.explain.figures import figures
from parallel_lenet.explain.figures.words import kind, size
from parallel_lenet.explain.lesson import Array, Lesson, filters_of
from parallel_lenet.explain.numbers import Number, places_of_sum
from parallel_lenet.explain.source import source
from parallel_lenet.network.layers import AvgPool2d, Conv2d, MaxPool2d, Tanh
from parallel_lenet.report.page import class_name, data, render

SCRIPTS = ("numbers.js", "player.js", "figures.js", "page.js")  # Joined in this order: each uses the ones before it.
MOST_NUMBERS = 50_000  # The largest array for JavaScript. Figures of larger layers do not play.


def page(lesson: Lesson, title: str = "", command: str = "") -> str:
    """The HTML of the lesson: complete in itself, at most 2 MB for networks of LeNet-5's size.

    ``title`` names the network, ``command`` is what makes the page again. Raises ExtraError if jinja2 is missing.
    """
    arrays = _arrays(lesson)
    folder = files(__package__ or "parallel_lenet.explain").joinpath("scripts")
    script = "\n".join(folder.joinpath(name).read_text("utf-8") for name in SCRIPTS)
    return render(
        "explain.html",
        package="parallel_lenet.explain",
        scripts=[script],
        lesson=lesson,
        class_name=lambda label: class_name(lesson.class_names, label),
        numbers=lesson.numbers,
        images=lesson.model.images,
        figures={figure.name: figure for figure in figures(lesson)},
        title=title or "a network",
        command=command,
        shapes=_shapes(lesson),
        names=_names(lesson),
        source=source,
        shown_functions=_shown_functions(lesson),
        size=size,
        places_of_sum=places_of_sum,
        kind=kind,
        arrays=data("lesson", arrays),
        played=arrays.keys(),
        wide=lesson.model.dtype == "float64",
        fallback=lesson.model.kernel != "naive",
        average=isinstance(lesson.roles.pool.layer, AvgPool2d) if lesson.roles.pool else True,
        tanh=isinstance(lesson.roles.activation.layer, Tanh) if lesson.roles.activation else True,
        step_sizes=[f"{h:.7f}".rstrip("0").rstrip(".") for h in STEP_SIZES],
        adam_steps=ADAM_STEPS,
        learning_rate=f"{LEARNING_RATE:g}",
        blocks=parallel.blocks(lesson),
        lost=parallel.blocks(lesson)[parallel.lost_block(lesson)],
        larger_shard=parallel.larger_shard(lesson),
        hash=_hash(lesson),
        order=_order(lesson),
    )


def _shown_functions(lesson: Lesson) -> set[str]:
    """The functions whose code the page shows: those of layers that this network has."""
    roles = lesson.roles
    found: set[str] = set()
    if roles.deep:
        found |= {"conv2d", "conv2d_input_gradient", "conv2d_weight_gradient"}
    if roles.pool:
        found |= {"avg_pool2d", "max_pool2d", "avg_pool2d_gradient", "max_pool2d_gradient"}
    if roles.dense:
        found |= {"dense", "dense_input_gradient", "dense_weight_gradient"}
    return found


def _hash(lesson: Lesson) -> list[Number]:
    """The hashes of the gradients with and without the death, in hexadecimal."""
    shown = [f"{int(value):016x}" for value in lesson.numbers["death.hashes"]]
    return [Number(f"death.hashes[{i}]", str(int(text, 16)), text) for i, text in enumerate(shown)]


def _order(lesson: Lesson) -> dict[str, Any]:
    """The weight of the chapter on orders of addition."""
    index = int(lesson.numbers["order.index"])
    for name, place in lesson.model.layout.slices.items():
        if place.start <= index < place.stop:
            shape = dict(lesson.model.layout.entries)[name]
            at = np.unravel_index(index - place.start, shape)
            return {"name": f"{name}[{', '.join(str(int(i)) for i in at)}]", "same": index == lesson.weight_index}
    raise ValueError(f"no parameter has the place {index}")


def _names(lesson: Lesson) -> dict[str, str]:
    """The names of layers that the text uses."""
    roles = lesson.roles
    steps = lesson.trace.steps

    def before(step: Any) -> str:
        place = steps.index(step)
        return steps[place - 1].name if place else "input"

    return {
        "scores": steps[-1].name,
        "weight": f"{lesson.weight[0]}[{', '.join(map(str, lesson.weight[1]))}]",
        "before_activation": before(roles.activation) if roles.activation else "",
        "before_deep": before(roles.deep) if roles.deep else "",
        "before_dense": before(roles.dense) if roles.dense else "",
    }


def _shapes(lesson: Lesson) -> list[dict[str, Any]]:
    """One row per layer: its windows, its shapes and its weights."""
    rows = []
    for step in lesson.trace.steps:
        layer = step.layer
        windows = isinstance(layer, Conv2d | AvgPool2d | MaxPool2d)
        k = layer.kernel_size if isinstance(layer, Conv2d) else layer.size if windows else None  # type: ignore[attr-defined]
        rows.append(
            {
                "name": step.name,
                "kind": kind(step),
                "x": size(step.x.shape),
                "y": size(step.y.shape),
                "h": step.x.shape[1] if windows else None,
                "rows": step.y.shape[1] if windows else None,
                "k": k,
                "stride": layer.stride if windows else None,  # type: ignore[attr-defined]
                "padding": layer.padding if isinstance(layer, Conv2d) else 0,
                "weights": f"{sum(values.size for values in step.parameters.values()):,}",
            }
        )
    return rows


def _arrays(lesson: Lesson) -> dict[str, Any]:
    """The data that JavaScript needs to play the figures: arrays to the last bit, and first places."""
    found: dict[str, Any] = {"wide": lesson.model.dtype == "float64"}
    numbers = lesson.numbers
    roles = lesson.roles
    if roles.conv is not None and max(roles.conv.x.size, roles.conv.y.size) <= MOST_NUMBERS:
        step = roles.conv
        assert isinstance(step.layer, Conv2d)
        found["convolution"] = {
            "x": _pack(step.x),
            "w": _pack(filters_of(step)),
            "b": _pack(step.parameters["bias"]),
            "y": _pack(step.y),
            "stride": step.layer.stride,
            "padding": step.layer.padding,
            "at": roles.conv_at,
        }
    if roles.deep is not None and max(roles.deep.x.size, roles.deep.dy.size) <= MOST_NUMBERS:
        step = roles.deep
        assert isinstance(step.layer, Conv2d)
        channel = int(numbers["deep.place"][0])
        f, c = lesson.weight[1][:2]
        shared = {"stride": step.layer.stride, "padding": step.layer.padding}
        found["scatter"] = {
            "dy": _pack(step.dy),
            "w": _pack(filters_of(step)[:, channel]),
            "dx": _pack(step.dx[channel]),
            "at": roles.deep_at,
            **shared,
        }
        found["kernel-gradient"] = {
            "x": _pack(step.x[c]),
            "dy": _pack(step.dy[f]),
            "dw": _pack(numbers["kernel.sum"][f, c]),
            "largest": float(np.abs(step.dy).max()),
            "at": [int(i) for i in numbers["kernel.place"][1:]],
            **shared,
        }
    found["difference"] = {
        "steps": [float(h) for h in STEP_SIZES],
        **{
            name.replace(".", "_"): [float(v) if np.isfinite(v) else None for v in numbers[name]]
            for name in ("difference.slope", "difference64.slope", "difference64.above", "difference64.below")
        },
        "gradient": float(numbers["difference64.gradient"]),
        "loss": lesson.trace.loss,
    }
    return found


def _pack(values: Array) -> dict[str, Any]:
    """Shape, and the numbers as little-endian bytes in base64."""
    flat = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return {"shape": values.shape, "data": base64.b64encode(flat.tobytes()).decode()}
