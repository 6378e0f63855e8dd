"""Suggests a command, an option or a choice for a word that is not known."""

import difflib
from collections.abc import Iterable


def closest_name(word: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, or None. Initials, beginnings and similar spellings are compared."""
    names = list(names)
    word = word.lower().replace("_", "-")
    initials = [name for name in names if "-" in name and "".join(part[:1] for part in name.split("-")) == word]
    beginnings = [name for name in names if len(word) > 1 and name.startswith(word)]
    return next(iter([*initials, *beginnings, *difflib.get_close_matches(word, names, 1)]), None)


def did_you_mean(word: str, names: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence about an unknown word, empty if nothing is similar: ``; did you mean compare?``."""
    name = closest_name(word, names)
    return f"; did you mean {prefix}{name}?" if name else ""
