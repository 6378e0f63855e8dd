"""Values in TOML's notation. JSON's is not enough: TOML does not read its surrogate pairs and Infinity."""

import math


def literal(value: str | float) -> str:
    """The value in TOML's notation, which `tomllib.loads` reads back for every string, number and boolean."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    return '"' + "".join(map(_escape, value)) + '"'


def _escape(character: str) -> str:
    if character < " " or character == "\x7f":
        return f"\\u{ord(character):04x}"
    return f"\\{character}" if character in '"\\' else character
