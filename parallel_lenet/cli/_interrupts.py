"""Signals and time limits while a command runs: the current step is finished or dropped, and nothing is left behind.

Terminals, batch systems and service managers end programs with more signals than SIGINT and SIGTERM: all in `ENDING`
are treated alike. The first one only leaves a mark, which the training loop looks at after each step: an exception at
any moment could be raised where it is swallowed, or while a process is being started. If the loop has not looked for
half a second (a slow kernel, a download), an alarm raises `Interrupted`, repeatedly until it is handled. The end of
``--max-time`` works the same way. Python allows signal handlers in the main thread only: in others, nothing is done.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from parallel_lenet.cli._console import write

PATIENCE = 0.5  # Seconds: many steps of the fast kernels; and four times this is still what people call at once.
ECHO = 0.05  # Seconds within which the same signal counts once: timeout(1) and other wrappers send it twice.

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGXCPU", "SIGBREAK")
ENDING = tuple(signal.Signals[name] for name in _NAMES if hasattr(signal, name))
# Those that a person sends to end the program at once; batch systems may repeat the others.
_AT_ONCE = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGBREAK")

Handler = Callable[[int, FrameType | None], Any]


class Interrupted(BaseException):
    """A signal, or the end of the time limit, asked the program to end."""


class Ended(BaseException):
    """A signal asked a command that has nothing to save to end; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _take(handlers: dict[int, Handler]) -> dict[int, Any]:
    """Install the handlers, except for signals that this program was started to ignore; returns those before."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # Ignored: nohup, or a shell's background job.
                before[number] = signal.signal(number, handler)
    return before


def _give_back(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def ending_signals_raise() -> Iterator[None]:
    """Raise `Ended` for each of the ending signals but SIGINT, for which Python raises KeyboardInterrupt."""

    def raise_ended(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    before = _take({number: raise_ended for number in ENDING if number != signal.SIGINT})
    try:
        yield
    finally:
        _give_back(before)


class Interrupts:
    """Takes the signals while the ``with`` block lasts; ``at_once`` is called before a second one ends the program."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal that came."""
        self.timed_out = False
        """Whether the deadline has passed."""
        self.at_once: Callable[[], None] = lambda: None
        self._came = 0.0
        self._deadline: float | None = None
        self._alarms = False
        self._delayed = False
        self._over = False
        self._before: dict[int, Any] = {}
        self._timer_before = (0.0, 0.0)

    def __enter__(self) -> Self:
        """Take the signals, except for those that this program was started to ignore."""
        self._before = _take(dict.fromkeys(ENDING, self._signalled))
        if hasattr(signal, "setitimer"):
            taken = _take({signal.SIGALRM: self._alarm})
            self._alarms = bool(taken)
            self._before |= taken
        if self._alarms:
            self._timer_before = signal.setitimer(signal.ITIMER_REAL, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give back the signals and the timer."""
        self.stop_raising()
        _give_back(self._before)
        if self._alarms and self._timer_before[0]:
            signal.setitimer(signal.ITIMER_REAL, *self._timer_before)

    def limit(self, deadline: float) -> None:
        """From ``deadline`` on, by `time.monotonic`, act as if a signal had come."""
        self._deadline = deadline
        if self.number is None:
            self._set_timer(max(deadline - time.monotonic(), 0.001))

    def check(self) -> None:
        """Raise Interrupted if a signal has come or the deadline has passed."""
        if self._deadline is not None and time.monotonic() >= self._deadline and self.number is None:
            self.timed_out = True
        if self.number is not None or self.timed_out:
            self.stop_raising()  # Or the alarm might come once more, while this is being caught.
            raise Interrupted

    def stop_raising(self) -> None:
        """From now on nothing is raised: the program is ending."""
        self._delayed = self._over = True
        self._set_timer(0)

    @contextmanager
    def delayed(self) -> Iterator[None]:
        """Nothing is raised within the block, which is to be short: a file is being written."""
        before, self._delayed = self._delayed, True
        try:
            yield
        finally:
            self._delayed = before or self._over

    def _set_timer(self, seconds: float) -> None:
        if self._alarms:
            signal.setitimer(signal.ITIMER_REAL, seconds, PATIENCE if seconds else 0)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is not None:
            echo = number == self.number and now - self._came < ECHO
            if not echo and signal.Signals(number).name in _AT_ONCE:
                self._leave(number)
            return
        self.number, self._came = number, now
        if self._over:  # No alarm: it might come when it is no longer caught.
            return
        if self._alarms:
            self._set_timer(PATIENCE)
        elif not self._delayed:  # Windows has no alarm.
            raise Interrupted

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        if self.number is None and not self.timed_out:
            if self._deadline is None or time.monotonic() < self._deadline - ECHO:
                self._signalled(number, frame)  # An alarm from elsewhere, which would end any other program.
            else:
                self.timed_out = True
        elif not self._delayed:
            raise Interrupted

    def _leave(self, number: int) -> None:
        try:
            self.at_once()
            write(sys.stderr, "parallel-lenet: ended at once")
        finally:
            os._exit(128 + number)
