"""What classes are called: the rule for names that come with a dataset or a checkpoint, which are untrusted text."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 300  # Characters: a folder's name has at most 255 bytes.


def of_metadata(metadata: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """The list ``class_names`` of a checkpoint's metadata, or None unless it holds one text per class."""
    names = metadata.get("class_names")
    if not isinstance(names, list) or len(names) != classes:
        return None
    return tuple(names) if all(isinstance(name, str) for name in names) else None


def name_of(names: Sequence[str] | None, label: int) -> str:
    """What a class is called, or its number if it has no name or one that can't be seen."""
    if names is None or label >= len(names):
        return str(label)
    visible = any(each.isprintable() and each != " " for each in names[label])
    return names[label] if visible else str(label)


def display_name(names: Sequence[str] | None, label: int) -> str:
    """`name_of` in one line of at most `LONGEST` characters, with escapes for those that are not valid in UTF-8."""
    name = name_of(names, label)[: 4 * LONGEST].encode("utf-8", "backslashreplace").decode()
    return truncate(" ".join(name.split()), LONGEST)


def truncate(text: str, columns: int) -> str:
    """The text if a terminal shows it in this number of ``columns`` or fewer, else its beginning and ``…``."""
    if width(text) <= columns:
        return text
    length = 0
    columns_used = 1  # A column for the last sign.
    while columns_used + width(text[length]) <= columns:
        columns_used += width(text[length])
        length += 1
    return f"{text[:length]}…"


def width(text: str) -> int:
    """The columns of a terminal that a text takes: two for a wide character, none for one that joins another."""
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )
