"""Copies a user's model for the workers. An error names the part of the model that cannot be copied."""

from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from parallel_lenet.checks import quoted

T = TypeVar("T")

MOST_LEVELS = 5  # Levels of attributes within attributes to search.


def copy_model(model: object, copy: Callable[[Any], T]) -> T:
    """The result of ``copy``, such as a pickler, for the model.

    Raises TypeError, which names the model's class and the attribute, if the model cannot be copied.
    """
    try:
        return copy(model)
    except MemoryError:
        raise
    except Exception as error:  # A pickler and a model's own __getstate__ raise anything.
        name = type(model).__qualname__
        where, value, cause = _culprit(name, model, error, copy)
        if where == name:
            where = _global_culprit(model, copy) or "it"
            value = None
        part = f"{where}, an object of type {type(value).__name__}," if value is not None else where
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise TypeError(
            f"the model, an object of type {name}, cannot be copied for the workers: {part} cannot be pickled "
            f"({reason}); create it when it is first used, or leave it out with __getstate__"
        ) from error


def _culprit(
    where: str, value: object, error: Exception, copy: Callable[[Any], object], level: int = 0
) -> tuple[str, object, Exception]:
    """The innermost part of the value that cannot be copied: its name, itself and its error."""
    if level < MOST_LEVELS:
        for name, part in _parts(value):
            failure = _failure(part, copy)
            if failure is not None:
                return _culprit(where + name, part, failure, copy, level + 1)
    return where, value, error


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    """The parts of the value, each with the text that its name adds to the value's name."""
    if isinstance(value, dict):
        yield from ((f"[{quoted(key)}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif not isinstance(value, type | FunctionType | ModuleType):
        try:
            state = value.__getstate__()
        except Exception:  # It is the culprit itself.
            return
        for attributes in state if isinstance(state, tuple) else (state,):  # Those in slots come second.
            if isinstance(attributes, dict):
                yield from ((f".{name}", item) for name, item in attributes.items())


def _failure(value: object, copy: Callable[[Any], object]) -> Exception | None:
    """The exception if the value cannot be copied, or None if it can."""
    try:
        copy(value)
    except Exception as error:
        return error
    return None


def _global_culprit(model: object, copy: Callable[[Any], object]) -> str:
    """The first global variable of the class's methods that cannot be copied, or "" if there is none."""
    for function in vars(type(model)).values():
        if isinstance(function, FunctionType):
            for name in function.__code__.co_names:
                if name in function.__globals__ and _failure(function.__globals__[name], copy) is not None:
                    return f"the global variable {name}, which {function.__qualname__} uses,"
    return ""
