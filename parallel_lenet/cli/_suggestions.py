"""Suggests a command, an option or a choice for a word that is not known."""

import difflib
from collections.abc import Iterable


def meant(word: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant: by its initials, its beginning or similar spelling; None if there is none."""
    names = list(names)
    word = word.lower().replace("_", "-")
    initials = [name for name in names if "-" in name and "".join(part[:1] for part in name.split("-")) == word]
    beginnings = [name for name in names if len(word) > 1 and name.startswith(word)]
    return next(iter([*initials, *beginnings, *difflib.get_close_matches(word, names, 1)]), None)


def did_you_mean(word: str, names: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence about an unknown word, empty if nothing is similar: ``; did you mean compare?``."""
    name = meant(word, names)
    return f"; did you mean {prefix}{name}?" if name else ""
