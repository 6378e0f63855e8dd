"""Errors for attributes and arguments of a Coordinator that do not exist or are read-only. They say what to do."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")

OWNERS = {
    "kernel": "the model, such as lenet5(kernel=...)",
    "activation": "the model, such as lenet5(activation=...)",
    "dtype": "the model, such as lenet5(dtype=...)",
    "augment": "the model, such as lenet5(augment=...)",
    "label_smoothing": "the model, such as lenet5(label_smoothing=...)",
    "learning_rate": "the optimizer, such as Adam(learning_rate=...)",
    "lr": "the optimizer, such as Adam(learning_rate=...)",
    "momentum": "the optimizer, such as SGD(momentum=...)",
    "weight_decay": "the optimizer, such as AdamW(weight_decay=...)",
    "epochs": "fit(train, epochs=...)",
    "validation": "fit(train, validation=...)",
    "progress": "fit(train, progress=...)",
}
"""The places of arguments that users give to Coordinator by mistake."""


class ReadOnly:
    """A base class: after `_freeze`, assigning or deleting an attribute without an underscore is an AttributeError."""

    _frozen = False

    def _freeze(self) -> None:
        self._frozen = True

    def __setattr__(self, name: str, value: object) -> None:
        if self._frozen and not name.startswith("_"):
            raise AttributeError(_advice(type(self), name))
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        if not name.startswith("_"):
            raise AttributeError(_advice(type(self), name))
        object.__delattr__(self, name)


def _advice(coordinator: type, name: str) -> str:
    """What to do instead of assigning an attribute of a coordinator."""
    settings = inspect.signature(coordinator).parameters
    if name == "n_workers":
        return "n_workers of a Coordinator is read-only: call resize(n_workers) for another number of workers"
    if name == "model":
        return "model of a Coordinator is read-only: create another one, Coordinator(model, optimizer)"
    if name == "parameters":
        remedy = "create another one, Coordinator(model, optimizer, parameters=...)"
    elif name == "optimizer":
        remedy = "create another one, Coordinator(model, optimizer, parameters=coordinator.parameters)"
    elif name in settings:
        remedy = f"create another one, Coordinator(model, optimizer, {name}=..., parameters=coordinator.parameters)"
    elif hasattr(coordinator, name) or name == "leaf":
        return f"{name} of a Coordinator is read-only: fit, iterate and load change what it trains"
    else:
        return (
            f"a Coordinator has no attribute {name}: give settings to Coordinator(...), such as batch_size, or to its "
            "optimizer, such as learning_rate"
        )
    return f"{name} of a Coordinator is read-only: {remedy}"


def names_unknown_settings(constructor: Callable[P, None]) -> Callable[P, None]:
    """The constructor of Coordinator. For an unknown argument it raises a TypeError that says where it belongs."""
    known = inspect.signature(constructor).parameters

    @wraps(constructor)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        for name in kwargs:
            if name not in known:
                remedy = f"give it to {OWNERS[name]}" if name in OWNERS else f"it has {', '.join([*known][1:])}"
                raise TypeError(f"Coordinator has no argument {name}: {remedy}")
        constructor(*args, **kwargs)

    return call
