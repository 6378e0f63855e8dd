"""Values and objects as JSON, for the metadata of a checkpoint."""

import dataclasses
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from parallel_lenet.checks import quoted

DEEPEST = 50  # Levels of lists and dicts in metadata.
DEEPEST_SETTING = 8  # Levels of objects. A schedule in a schedule of an optimizer has 3, and cycles have no end.


def json_value(name: str, value: object, depth: int = 0) -> Any:
    """The value as JSON: None, bools, ints, floats, strings, lists, and dicts with strings for keys.

    NumPy's scalars become Python's, tuples become lists. NaN and infinity, which JSON does not have, become the
    strings "nan", "inf" and "-inf", which ``float()`` reads. Raises TypeError for any other object, and ValueError if
    the nesting is too deep. Both name the key or index.
    """
    if depth > DEEPEST:
        raise ValueError(f"{name.partition('[')[0]} is nested more than {DEEPEST} deep, or contains itself")
    if isinstance(value, np.ndarray):
        if value.ndim:
            raise TypeError(f"{name} is an array of shape {value.shape}, which JSON does not have: use its .tolist()")
        value = value[()]
    if value is None:
        return None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        if abs(int(value)).bit_length() > 4096:
            raise ValueError(f"{name} is an integer of more than 4,096 bits")
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list | tuple):
        return [json_value(f"{name}[{i}]", item, depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if isinstance(key, bool) or not isinstance(key, str | int | np.integer):
                raise TypeError(f"{name} has the key {quoted(key)}, but JSON's keys are strings")
        return {str(key): json_value(f"{name}[{str(key)!r}]", item, depth + 1) for key, item in value.items()}
    raise TypeError(f"{name} is of type {type(value).__name__}, which JSON does not have")


def describe(value: object, depth: int = 0) -> Any:
    """An object and its settings as JSON.

    The settings are a dataclass's fields that count in a comparison, an object's ``description`` if it has one, or else
    its public attributes. A plain function is described by its name, an array by a checksum.
    """
    if depth > DEEPEST_SETTING:
        return {"class": type(value).__name__}
    if value is None or isinstance(value, bool | int | float | str | np.generic):
        return json_value("a setting", value)
    if isinstance(value, np.ndarray):
        return {
            "class": "array",
            "shape": list(value.shape),
            "dtype": value.dtype.str,
            "crc": zlib.crc32(value.tobytes()),
        }
    if isinstance(value, list | tuple):
        return [describe(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {str(key): describe(item, depth + 1) for key, item in value.items()}
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return {"function": value.__qualname__}
    result = {"class": type(value).__name__}
    if dataclasses.is_dataclass(value):
        settings = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if _is_setting(field)}
    elif hasattr(value, "description"):
        settings = {"description": value.description}
    else:
        settings = {name: item for name, item in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    return {**result, **{name: describe(item, depth + 1) for name, item in settings.items()}}


def _is_setting(field: "dataclasses.Field[Any]") -> bool:
    """Whether a dataclass's field is a setting that decides what the object does."""
    return field.init and field.compare
