"""Output: notes, a progress bar and tables, drawn by rich if it is installed and works, else as plain text.

A standard stream may be missing (in a daemon, or under pythonw), closed, in another encoding, or a terminal that is
gone.
"""

import errno
import io
import json
import logging
import math
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from parallel_lenet import optional
from parallel_lenet.display import Row, Table
from parallel_lenet.display.progress import Update, bar, is_terminal


def open_standard_descriptors() -> None:
    """Open the null device for each closed descriptor from 0 to 2. Otherwise the next open file gets its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # Takes the lowest free number, which is this.


def write(stream: TextIO | None, text: str) -> None:
    """Print a line, with escapes for characters that can't be encoded.

    Without a stream, or if its terminal is gone, nothing is printed. Raises OSError if a result can't be written.
    """
    if stream is None or getattr(stream, "closed", False):
        return
    try:
        try:
            print(text, file=stream, flush=True)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        if error.errno != errno.EIO and stream is sys.stdout:  # A note may be lost. A result may not be.
            raise OSError(error.errno, error.strerror or str(error), "standard output") from error


def drop_unread_output() -> None:
    """After a BrokenPipeError, discard what the streams still hold: Python would report it at its exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
        except (OSError, ValueError):
            pass


def to_json(value: object) -> str:
    """One line of JSON. NaN and the infinities, which JSON does not have, become null."""
    return json.dumps(_without_nan(value), allow_nan=False)


def _without_nan(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return value


class Console:
    """The output of a command.

    With ``json`` standard output gets one JSON object and everything else goes to standard error. With ``quiet`` there
    are no notes, intermediate results or bars.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.quiet = quiet
        self.listener: Callable[[type[Warning], str], None] | None = None
        """Called with every warning, whether it is shown or not."""
        self._json = json
        self._rich_error_noted = False

    @property
    def _out(self) -> TextIO | None:
        return sys.stderr if self._json else sys.stdout

    def note(self, text: str) -> None:
        """Print a note on standard error."""
        if not self.quiet:
            write(sys.stderr, text)

    def detail(self, text: str) -> None:
        """Print a note about this process, which differs for each run and needs no attention."""
        self.note(text)

    def line(self, text: str) -> None:
        """Print an intermediate result."""
        if not self.quiet:
            write(self._out, text)

    def result(self, value: Mapping[str, Any]) -> None:
        """Print the one JSON object on standard output."""
        write(sys.stdout, to_json(value))

    @contextmanager
    def warnings_as_notes(self) -> Iterator[None]:
        """Show each warning as a note, as often as it is raised, and each log record of the library.

        In the main thread only: the filters of warnings belong to the whole process, so another thread could not
        restore them reliably.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            self.note(f"note: {message}")
            if self.listener is not None:
                self.listener(category, str(message))

        with warnings.catch_warnings(), _logging_as_notes(lambda text: self.note(f"note: {text}")):
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = show
            yield

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Update]:
        """A progress bar on standard error within the block, if that is a terminal."""
        if self.quiet or not is_terminal(sys.stderr) or not self._rich("progress", "console"):
            yield lambda done, text, title=None: None
            return
        with bar(title, total, transient=True) as update:
            yield update

    @property
    def width(self) -> int | None:
        """The columns of the terminal that shows the results, or None for a file or a pipe."""
        return shutil.get_terminal_size().columns if is_terminal(self._out) else None

    def restore(self) -> None:
        """Show the terminal's cursor again. A bar hides it, and a program that ends at once does not end the bar."""
        if "rich" in sys.modules and is_terminal(sys.stderr):
            sys.stderr.write("\x1b[?25h\n")

    def table(self, title: str, header: Row, rows: Sequence[Row], texts: int = 1) -> None:
        """Print a table of results. The columns after the first ``texts`` hold numbers, which are aligned right."""
        draws_boxes = (getattr(self._out, "encoding", None) or "").lower().startswith("utf")
        rich = self._rich("table", "console") if draws_boxes else []
        if rich:
            tables, console = rich
            table = tables.Table()
            for i, name in enumerate(header):
                table.add_column(name, justify="left" if i < texts else "right", overflow="fold")
            for row in rows:
                table.add_row(*row)
            drawn = io.StringIO()
            # A file has no width to fold at. Markup is off because a path may hold brackets.
            width = self.width or 1000
            console.Console(file=drawn, width=width, markup=False, emoji=False, highlight=False).print(table)
            text = drawn.getvalue().rstrip("\n")
        else:
            text = Table(header, rows, texts).text()
        write(self._out, f"{title}\n{text}")

    def _rich(self, *modules: str) -> list[Any]:
        """Some of rich's modules, imported lazily. The list is empty if rich is missing or does not work."""
        try:
            return [optional.load("cli", "rich", "output with colours and bars", f"rich.{name}") for name in modules]
        except optional.ExtraError as error:
            if error.installed and not self._rich_error_noted:
                self._rich_error_noted = True
                self.note(f"note: {error}")
            return []


def printable(text: str) -> str:
    """Text from a file, with escapes in place of the characters that control a terminal."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


@contextmanager
def _logging_as_notes(show: Callable[[str], None]) -> Iterator[None]:
    """Show what the library logs, instead of passing it to the program's handlers.

    Records about the number of workers are not shown: `_run_notes.note_limits` names flags of the command line.
    """

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name != "parallel_lenet.workforce":
                show(record.getMessage())

    logger = logging.getLogger("parallel_lenet")
    handler = Handler()
    propagates = logger.propagate
    level = logger.level
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
