"""The functions of ``kernels/naive.py`` as the page shows them: their own source, lightly coloured."""

import inspect
import io
import keyword
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parallel_lenet.kernels import naive


@dataclass(frozen=True)
class Source:
    """A function's text in pieces, each with the class of its colour ("" for none)."""

    name: str
    line: int
    pieces: tuple[tuple[str, str], ...]


def source(name: str) -> Source:
    """The function ``name`` of `naive`, without text if the installation has no source files."""
    function: Callable[..., Any] = getattr(naive, name)
    try:
        lines, line = inspect.getsourcelines(function)
    except OSError:
        return Source(name, 0, ())
    return Source(name, line, tuple(_pieces("".join(lines).rstrip("\n"))))


def _pieces(text: str) -> list[tuple[str, str]]:
    """The text in pieces: comments, strings, Python's keywords and the function's name are pieces of their own."""
    lines = text.splitlines(keepends=True)
    pieces: list[tuple[str, str]] = []
    row = 1
    column = 0
    before = ""

    def plain(to_row: int, to_column: int) -> str:
        part = lines[row - 1][column:to_column] if row == to_row else lines[row - 1][column:]
        if row != to_row:
            part += "".join(lines[row : to_row - 1]) + lines[to_row - 1][:to_column]
        return part

    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        style = _style(token, before)
        if style:
            pieces.append(("", plain(*token.start)))
            pieces.append((style, token.string))
            row, column = token.end
        if token.string.strip():
            before = token.string
    pieces.append(("", plain(len(lines), len(lines[-1]))))
    return [piece for piece in pieces if piece[1]]


def _style(token: tokenize.TokenInfo, before: str) -> str:
    if token.type == tokenize.COMMENT:
        return "comment"
    if token.type == tokenize.STRING:
        return "string"
    if token.type == tokenize.NAME:
        return "keyword" if keyword.iskeyword(token.string) else "name" if before == "def" else ""
    return ""
