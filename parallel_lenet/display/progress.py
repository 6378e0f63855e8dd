"""Progress bars, drawn by rich on a terminal's standard error or in a notebook's cell. Elsewhere nothing is written.

A terminal has one cursor, so all bars of all threads are lines of one picture. The thread that reports draws it a few
times per second. Nothing runs in the background, and a step that draws nothing only reads the clock. If the terminal
disappears, the work continues without bars.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TextIO

from parallel_lenet import optional
from parallel_lenet.reports import EpochReport, StepReport

SECONDS = 0.2  # Between two pictures. Rich takes a millisecond for one.
BAR = 24  # Characters of the bar itself. A narrow terminal has half as many.
WIDE = 90  # Characters per line of a terminal that is not narrow.
FIGURES = 17  # Characters for per cent, time and the spaces between columns.


class Update(Protocol):
    """Updates a bar. It may be called as often as there is progress."""

    def __call__(self, done: int, text: str | Callable[[], str], title: str | None = None) -> None:
        """Show ``done`` of the total and ``text``. If it is a function, only a bar that is drawn now calls it."""


class _Screen(Protocol):
    """The place of bars: a notebook's cell or the terminal."""

    def draw(self) -> None:
        """Draw the bars as they are now."""

    def end(self, task: Any) -> None:
        """Finish the bar of a task."""


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is an open terminal."""
    return stream is not None and not getattr(stream, "closed", False) and stream.isatty()


def require_rich(purpose: str) -> tuple[Any, Any]:
    """Rich's modules for bars and consoles. Raises ExtraError with ``purpose`` if rich is missing or broken."""
    progress, console = (optional.load("cli", "rich", purpose, f"rich.{name}") for name in ("progress", "console"))
    return progress, console


def with_bar(
    reports: Iterator[StepReport | EpochReport],
    epochs: range,
    samples: int,
    cursor: int,
    current_report: Callable[[], EpochReport],
) -> Generator[StepReport | EpochReport, None, None]:
    """The reports of a training, with a bar while they come.

    ``epochs`` are those to train, counted from 0, with ``samples`` samples each. ``cursor`` of the first are done.
    ``current_report`` returns a report on the current epoch.
    """
    total = len(epochs) * samples
    done = cursor
    title = f"epoch {epochs.start + 1}/{epochs.stop}"
    with bar(title, total, done=cursor) as update:
        for report in reports:
            if isinstance(report, StepReport):
                done += report.count
                title = f"epoch {report.epoch}/{epochs.stop}"
                update(done, lambda: epoch_figures(current_report()), title)
            else:
                update(done, epoch_figures(report))
            yield report


def epoch_figures(report: EpochReport) -> str:
    """The text of a bar: loss, accuracy and speed of an epoch so far."""
    text = f"loss {report.train_loss:.4f}"
    if report.train_accuracy:  # A model that predicts numbers has none.
        text += f", {report.train_accuracy:.2%}"
    if report.validation_loss is not None:
        text += f"  validation {report.validation_loss:.4f}"
        text += f", {report.validation_accuracy:.2%}" if report.validation_accuracy else ""
    return f"{text}  {report.images_per_second:,.0f} images/s"


@contextmanager
def bar(title: str, total: int, *, done: int = 0, transient: bool = False) -> Iterator[Update]:
    """A bar within the ``with`` block. Afterwards it stays as it was last, unless it is ``transient``.

    Raises ExtraError if rich is missing or does not work.
    """
    progress, consoles = require_rich("a progress bar")
    screen: _Screen
    if consoles.Console().is_jupyter:
        bars = _bars(progress, consoles.Console(), transient)
        task = bars.add_task(title, total=total, text="")
        screen = _Cell(bars)
    elif is_terminal(sys.stderr):
        console = consoles.Console(file=_Stream())
        bars, task, screen = _Terminal.begin(lambda: _bars(progress, console, transient), title, total)
    else:
        yield lambda done, text, title=None: None
        return
    latest: tuple[int, str | Callable[[], str], str] = (done, "starting", title)
    due = 0.0

    def show() -> None:
        done, text, title = latest
        text = text if isinstance(text, str) else text()
        room = bars.console.width - len(title) - (bars.columns[1].bar_width or 0) - FIGURES
        if len(text) > room:
            text = text[: max(0, room) + 1].rpartition(" ")[0].rstrip(" ,")  # Cut between words and numbers.
        bars.update(task, completed=done, text=text, description=title)
        screen.draw()

    def update(done: int, text: str | Callable[[], str], title: str | None = None) -> None:
        nonlocal latest, due
        latest = (done, text, title or latest[2])
        now = time.monotonic()
        if now >= due:
            due = now + SECONDS
            show()

    try:
        show()
        yield update
    finally:
        try:
            show()
        finally:
            screen.end(task)


def _bars(progress: Any, console: Any, transient: bool) -> Any:
    bar_column = progress.BarColumn(BAR if console.width >= WIDE else BAR // 2)
    columns = (
        progress.TextColumn("{task.description}"),
        bar_column,
        progress.TextColumn("{task.percentage:>3.0f}%"),  # In the page's own colour, light or dark.
        progress.TimeRemainingColumn(elapsed_when_finished=True),
        progress.TextColumn("{task.fields[text]}", markup=False),
    )
    # Lines of other threads and warnings are put above the bars. Standard output may be a file, and is not used.
    return progress.Progress(
        *columns, console=console, transient=transient, auto_refresh=False, redirect_stdout=False, redirect_stderr=True
    )


class _Cell:
    """A notebook's cell. Its output is replaced, which works in every notebook without ipywidgets."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._display: Any = None

    def draw(self) -> None:
        """Show one of rich's tables, which notebooks display as HTML."""
        from IPython.display import display  # Only in a notebook, which has it.

        if self._display is None:
            self._display = display(self._bars.make_tasks_table(self._bars.tasks), display_id=True)
        else:
            self._display.update(self._bars.make_tasks_table(self._bars.tasks))

    def end(self, task: Any) -> None:
        """Nothing to do: the last output stays."""


class _Stream:
    """Standard error at this moment. If it is closed, writing to it has no effect."""

    def __init__(self) -> None:
        self._stream = sys.stderr

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Terminal:
    """The picture of all bars of this process."""

    _lock = threading.Lock()
    _current: "_Terminal | None" = None

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._process = os.getpid()
        self._running: set[Any] = set()

    @classmethod
    def begin(cls, make: Callable[[], Any], title: str, total: int) -> tuple[Any, Any, "_Terminal"]:
        """Add a bar to the picture of this process, or to a new one."""
        with cls._lock:
            screen = cls._current
            if screen is None or screen._process != os.getpid():
                screen = cls(make())
                cls._current = screen
                screen._bars.start()
            task = screen._bars.add_task(title, total=total, text="")
            screen._running.add(task)
        return screen._bars, task, screen

    def draw(self) -> None:
        self._bars.refresh()

    def end(self, task: Any) -> None:
        """Finish a bar. The last one ends the picture."""
        with self._lock:
            self._running.discard(task)
            if not self._running:
                _Terminal._current = None
                self._bars.stop()
