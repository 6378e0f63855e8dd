"""The display of objects: one line as ``repr``, tables as ``str``, tables and pictures as HTML in a notebook.

A class derives from `Displayed` and defines ``_summary``. The HTML is self-contained: every text is escaped, styles are
inline, pictures are SVG or data URIs, and nothing is loaded. Colours are those of the page around it, so that light and
dark notebooks are both readable.
"""

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import Any, NewType

from parallel_lenet.checks import quoted

Html = NewType("Html", str)
"""Markup that is safe to put into a page."""

Row = Sequence[str]

MOST_ROWS = 20
LINE = "rgba(128,128,128,.4)"  # The colour of rules and grids, visible on white and on black.


def shorten(rows: Sequence[Row]) -> Sequence[Row]:
    """All rows, or the first and the last of many, with dots between."""
    if len(rows) <= MOST_ROWS:
        return rows
    return [*rows[: MOST_ROWS // 2], ["..." for _ in rows[0]], *rows[-(MOST_ROWS // 2) :]]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text. The columns after the first ``texts`` hold numbers, which are aligned to the right."""

    header: Row
    """Empty for a table of names and values."""
    rows: Sequence[Row]
    texts: int = 1

    def text(self) -> str:
        rows = list(self.rows)
        if self.header:
            rows.insert(0, self.header)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        if self.header:
            rows.insert(1, ["-" * width for width in widths])
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i < self.texts else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )

    def html(self) -> Html:
        lines = [self._line("th", self.header, "font-weight:bold;")] if self.header else []
        lines += [self._line("td", row) for row in self.rows]
        return Html(f'<table style="border-collapse:collapse;margin:.4em 0;color:inherit">{"".join(lines)}</table>')

    def _line(self, tag: str, row: Row, style: str = "") -> str:
        cells = "".join(
            f'<{tag} style="{style}padding:.15em .7em;border-bottom:1px solid {LINE};background:none;'
            f'text-align:{"left" if i < self.texts else "right"}">{html.escape(cell)}</{tag}>'
            for i, cell in enumerate(row)
        )
        return f"<tr>{cells}</tr>"


@dataclasses.dataclass(frozen=True)
class Summary:
    """The content of an object's display."""

    line: str
    """The object in one line, for ``repr``."""
    parts: Sequence[Table | Html] = ()
    """Tables and pictures: HTML shows all of them, ``str`` the tables."""


class Displayed:
    """An object whose ``repr``, ``str`` and HTML come from ``_summary``. None of them ever raises.

    If ``_summary`` raises, for example for an object that is not complete, ``repr`` is Python's own.
    """

    __slots__ = ()

    def _summary(self) -> Summary:
        raise NotImplementedError

    def __repr__(self) -> str:
        try:
            return self._summary().line
        except Exception:
            return object.__repr__(self)

    def __str__(self) -> str:
        try:
            summary = self._summary()
            return "\n".join([summary.line, *(part.text() for part in summary.parts if isinstance(part, Table))])
        except Exception:
            return object.__repr__(self)

    def _repr_html_(self) -> str | None:
        """The object as HTML for notebooks, or None if that fails. Then notebooks show the ``repr``."""
        try:
            summary = self._summary()
            parts = "".join(part.html() if isinstance(part, Table) else part for part in summary.parts)
            return f"<div><code>{html.escape(summary.line)}</code>{parts}</div>"
        except Exception:
            return None


class Settings(Displayed):
    """A dataclass whose ``repr`` is the call that makes it."""

    __slots__ = ()

    def _summary(self) -> Summary:
        return Summary(call(self))


def call(record: Any) -> str:
    """A dataclass as the call that makes it, without the settings that have their default."""
    fields = [field for field in dataclasses.fields(record) if field.init and field.repr]
    names = [field.name for field in fields if not _is_same(getattr(record, field.name), field.default)]
    return f"{type(record).__name__}({', '.join(f'{name}={quoted(getattr(record, name))}' for name in names)})"


def _is_same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))


def number(value: float | None) -> str:
    """A measured number with four digits."""
    return "" if value is None else f"{value:.4g}"


def percent(value: float | None) -> str:
    """A fraction in per cent: ``12.34%``."""
    return "" if value is None else f"{value:.2%}" if math.isfinite(value) else f"{value}"


def count(number: int, noun: str) -> str:
    """``1 worker``, ``2 workers``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
