"""What people see: notes, a progress bar, tables; with rich where it is installed, plain text where not."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol, TextIO

Row = Sequence[str]


class Progress(Protocol):
    """A bar that shows how far an epoch is."""

    def __call__(self, done: int, text: str) -> None:
        """``done`` images of the epoch, and what else to show."""


class Console:
    """``json``: standard output belongs to one JSON object, all else goes to standard error. ``quiet``: less of it."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.quiet = quiet
        self._out = sys.stderr if json else sys.stdout
        self._rich = find_spec("rich") is not None

    def note(self, text: str) -> None:
        """How things are done, on standard error."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        """A result on the way."""
        if not self.quiet:
            print(text, file=self._out, flush=True)

    @contextmanager
    def warnings_as_notes(self) -> Iterator[None]:
        """Show each warning when it comes, as often as it comes: a lost worker is news every time."""

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            self.note(f"note: {message}")

        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = show
            yield

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        """A bar on standard error while it lasts, if that is a terminal: a log file has no use for it."""
        if self.quiet or not self._rich or not sys.stderr.isatty():
            yield lambda done, text: None
            return
        from rich.console import Console as RichConsole  # Late: an extra, and slow to import.
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Bars(
            *columns, TextColumn("{task.fields[text]}"), console=RichConsole(stderr=True), transient=True
        ) as bars:
            task = bars.add_task(title, total=total, text="")
            yield lambda done, text: bars.update(task, completed=done, text=text)

    def restore(self) -> None:
        """Give a terminal its cursor back, which a bar hides, where the bar can't end."""
        if self._rich and sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h\n")

    def table(self, title: str, header: Row, rows: Sequence[Row]) -> None:
        """A table of results; numbers, which is all but the first column, to the right."""
        print(title, file=self._out)
        if self._rich:
            from rich.console import Console as RichConsole
            from rich.table import Table

            table = Table()
            for i, name in enumerate(header):
                table.add_column(name, justify="right" if i else "left", overflow="fold")
            for row in rows:
                table.add_row(*row)
            wide = None if self._out.isatty() else 1000  # A file has no edge to fold at.
            RichConsole(file=self._out, width=wide).print(table)
        else:
            print(plain_table(header, rows), file=self._out)


def plain_table(header: Row, rows: Sequence[Row]) -> str:
    """The table as aligned text."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def count(number: int, noun: str) -> str:
    """``1 worker``, ``2 workers``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
