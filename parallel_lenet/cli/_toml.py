"""Values as TOML writes them. Not as JSON does, whose surrogate pairs and Infinity TOML does not read."""

import math


def literal(value: str | float) -> str:
    """The value so that `tomllib.loads` gives it back, whatever the string."""
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(character: str) -> str:
    if character < " " or character == "\x7f":
        return f"\\u{ord(character):04x}"
    return f"\\{character}" if character in '"\\' else character
