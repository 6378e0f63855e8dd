"""What people see: notes, a progress bar, tables; with rich where it is installed, plain text where not."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from parallel_lenet import optional

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
        self._noted = False

    def _rich(self, *modules: str) -> list[Any]:
        """Some of rich's modules, imported when something is to be drawn; none if it is missing or does not work."""
        try:
            return [optional.load("cli", "rich", "output with colours and bars", f"rich.{name}") for name in modules]
        except optional.ExtraError as error:
            if error.installed and not self._noted:
                self._noted = True
                self.note(f"note: {error}")
            return []

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
        """Show each warning when it comes, as often as it comes: a lost worker is news every time.

        So too what the library logs.
        """

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            self.note(f"note: {message}")

        with warnings.catch_warnings(), _logged(lambda text: self.note(f"note: {text}")):
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = show
            yield

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        """A bar on standard error while it lasts, if that is a terminal: a log file has no use for it."""
        rich = [] if self.quiet or not sys.stderr.isatty() else self._rich("progress", "console")
        if not rich:
            yield lambda done, text: None
            return
        bar, console = rich
        columns = (
            *(bar.TextColumn("{task.description}"), bar.BarColumn(), bar.TaskProgressColumn()),
            *(bar.TimeRemainingColumn(), bar.TextColumn("{task.fields[text]}")),
        )
        with bar.Progress(*columns, console=console.Console(stderr=True), transient=True) as bars:
            task = bars.add_task(title, total=total, text="")
            yield lambda done, text: bars.update(task, completed=done, text=text)

    def restore(self) -> None:
        """Give a terminal its cursor back, which a bar hides, where the bar can't end."""
        if "rich" in sys.modules and sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h\n")

    def table(self, title: str, header: Row, rows: Sequence[Row]) -> None:
        """A table of results; numbers, which is all but the first column, to the right."""
        print(title, file=self._out)
        rich = self._rich("table", "console")
        if rich:
            tables, console = rich
            table = tables.Table()
            for i, name in enumerate(header):
                table.add_column(name, justify="right" if i else "left", overflow="fold")
            for row in rows:
                table.add_row(*row)
            wide = None if self._out.isatty() else 1000  # A file has no edge to fold at.
            console.Console(file=self._out, width=wide).print(table)
        else:
            print(plain_table(header, rows), file=self._out)


@contextmanager
def _logged(show: Callable[[str], None]) -> Iterator[None]:
    """Show what the library logs, instead of passing it to the program's handlers."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(record.getMessage())

    logger, handler = logging.getLogger("parallel_lenet"), Handler()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


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
