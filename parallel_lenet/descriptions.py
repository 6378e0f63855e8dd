"""Descriptions of networks and settings in checkpoints: compares two of them, and builds a network from one.

Descriptions from a file are not trusted: only layers of this package are created from them, each value is checked, and
no arrays are allocated.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from parallel_lenet.checks import quoted
from parallel_lenet.jsonable import json_value
from parallel_lenet.model import Model
from parallel_lenet.network import layers
from parallel_lenet.network.images import Images
from parallel_lenet.network.losses import CROSS_ENTROPY, LOSSES
from parallel_lenet.network.sequential import Sequential

LAYERS: dict[str, type[layers.Layer]] = {
    kind.__name__: kind
    for kind in (
        layers.AvgPool2d,
        layers.Conv2d,
        layers.Dense,
        layers.Dropout,
        layers.Flatten,
        layers.MaxPool2d,
        layers.ReLU,
        layers.Tanh,
    )
}
MOST_LAYERS = 1000
MOST_NUMBERS = 2**28  # For one image in all layers: 1 GiB of float32.
LARGEST = 2**31  # Whole numbers in a description from a file are below it.
MOST_DIFFERENCES = 5  # That an error names.


def of_model(model: Model) -> Any:
    """The model's optional member ``description`` as JSON, or None if it has none."""
    return json_value("the model's description", getattr(model, "description", None))


def text_of(description: Any) -> str:
    """A description as an error shows it: ``Tanh(amplitude=1.7159)``."""
    text = _full_text(description)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _full_text(description: Any) -> str:
    if isinstance(description, dict) and isinstance(description.get("class"), str):
        settings = ", ".join(f"{key}={_full_text(item)}" for key, item in description.items() if key != "class")
        return f"{_name(description['class'])}({settings})"
    if isinstance(description, dict) and isinstance(description.get("function"), str):
        return _name(description["function"])
    return quoted(description)


def _name(text: str) -> str:
    """The text if it is a name, else its repr, which has no control characters."""
    return text if text.replace(".", "").replace("<", "").replace(">", "").isidentifier() else quoted(text)


def differences(saved: Any, ours: Any, where: str) -> list[str]:
    """Sentences that say what differs between a checkpoint's description and the present one, which is in ``where``."""
    if saved is None:
        return ["the checkpoint does not describe its model"]
    theirs = _labels(saved)
    mine = _labels(ours)
    return [
        f"{label} is {_text_or_missing(theirs, label)} in the checkpoint, {_text_or_missing(mine, label)} in {where}"
        for label in {**mine, **theirs}
        if (label in theirs, theirs.get(label)) != (label in mine, mine.get(label))
    ]


def first_sentences(sentences: list[str]) -> str:
    """The first few sentences, joined into one."""
    more = len(sentences) - MOST_DIFFERENCES
    return "; ".join(sentences[:MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _labels(description: Any) -> dict[str, Any]:
    """The parts of a description by the labels that an error shows."""
    if not isinstance(description, dict) or "class" in description:
        return {"the description": description}
    parts: dict[str, Any] = {}
    for key, value in description.items():
        if key == "images" and isinstance(value, dict):
            parts |= {f"{name} of the images": item for name, item in value.items() if name != "class"}
        elif key == "layers" and isinstance(value, list):
            parts |= {f"layer {i}": item for i, item in enumerate(value, start=1)}
        else:
            parts[key] = value
    return parts


def _text_or_missing(parts: dict[str, Any], label: str) -> str:
    return text_of(parts[label]) if label in parts else "missing"


def build(description: Any, kernel: str = "auto") -> Sequential:
    """The network that a checkpoint describes, without parameters.

    Raises ValueError if a layer is not of this package.
    """
    keys = {"images", "layers", "dtype"}
    if not isinstance(description, dict) or description.keys() not in (keys, keys | {"loss"}):
        raise ValueError(
            "it does not describe a network of this package's layers: make the model, and use Coordinator.load"
        )
    stack = description["layers"]
    if not isinstance(stack, list) or len(stack) > MOST_LAYERS:
        raise ValueError(f"its layers must be a list of at most {MOST_LAYERS:,}")
    loss = description.get("loss", CROSS_ENTROPY)
    if not isinstance(description["dtype"], str):
        raise ValueError(f"its dtype must be float32 or float64, got {quoted(description['dtype'])}")
    if not isinstance(loss, str):
        raise ValueError(f"its loss must be one of {', '.join(LOSSES)}, got {quoted(loss)}")
    images = _make({"Images": Images}, description["images"])
    network = Sequential(images, tuple(_make(LAYERS, each) for each in stack), kernel, description["dtype"], loss)
    if sum(map(math.prod, network.shapes)) > MOST_NUMBERS:
        raise ValueError(f"one image takes more than {MOST_NUMBERS:,} numbers")
    return network


def _make(kinds: Mapping[str, Callable[..., Any]], description: Any) -> Any:
    if not isinstance(description, dict) or not isinstance(description.get("class"), str):
        raise ValueError(f"{quoted(description)} is not a layer")
    kind = kinds.get(description["class"])
    if kind is None:
        raise ValueError(f"it has a layer of another program, {quoted(description['class'])}: build the model there")
    settings = {name: value for name, value in description.items() if name != "class"}
    fields = {field.name for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    if settings.keys() != fields:
        raise ValueError(
            f"{description['class']} must have the settings {sorted(fields)}, got {quoted(sorted(settings))}"
        )
    for name, value in settings.items():
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, bool | int | float | None) or (isinstance(item, int) and abs(item) >= LARGEST):
                raise ValueError(f"{description['class']}: {name} can't be {quoted(value)}")
    return kind(**settings)
