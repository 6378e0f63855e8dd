"""Signals and time limits while a command runs: the current step is finished or dropped, and nothing remains.

Terminals, batch systems and service managers end programs with more signals than SIGINT and SIGTERM. All signals in
`ENDING` have the same effect. The first one only sets an attribute, which the training loop checks after each step. An
exception that is raised at any moment could be swallowed, or come while a process starts. If the loop has not checked
for half a second (a slow kernel, a download), an alarm raises `Interrupted`, repeatedly until it is handled. The end of
``--max-time`` works the same way. Python allows signal handlers only in the main thread. In other threads this module
does nothing.
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

PATIENCE = 0.5  # Seconds: many steps of the fast kernels take less, and a user waits at most four times this long.
ECHO = 0.05  # Seconds within which the same signal counts once: timeout(1) and other wrappers send it twice.

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGXCPU", "SIGBREAK")
ENDING = tuple(signal.Signals[name] for name in _NAMES if hasattr(signal, name))
# The signals that end the program at once if they come a second time. Batch systems may repeat the others.
_AT_ONCE = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGBREAK")

Handler = Callable[[int, FrameType | None], Any]


class Interrupted(BaseException):
    """A signal, or the end of the time limit, asked the program to end."""


class OutOfTime(Exception):  # noqa: N818
    """The time of an `Interrupts.time_limit` has passed."""


class EndingSignal(BaseException):
    """Signal ``number`` ended a command that has nothing to save."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _install(handlers: dict[int, Handler]) -> dict[int, Any]:
    """Install the handlers and return the previous ones. Signals that were ignored at the program's start stay so."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # Ignored under nohup or in the background.
                before[number] = signal.signal(number, handler)
    return before


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def ending_signals_raise() -> Iterator[None]:
    """Raise `EndingSignal` for each of the ending signals but SIGINT, for which Python raises KeyboardInterrupt."""

    def raise_ending_signal(number: int, frame: FrameType | None) -> None:
        raise EndingSignal(number)

    before = _install({number: raise_ending_signal for number in ENDING if number != signal.SIGINT})
    try:
        yield
    finally:
        _restore(before)


class Interrupts:
    """Handles the signals of `ENDING` within the ``with`` block.

    ``at_once`` is called before a second signal ends the program at once.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """The first signal that came, or None."""
        self.timed_out = False
        """Whether the deadline has passed."""
        self.at_once: Callable[[], None] = lambda: None
        self._signal_time = 0.0
        self._deadline: float | None = None
        self._alarms = False
        self._delayed = False
        self._ending = False
        self._has_time_limit = False
        self._before: dict[int, Any] = {}
        self._timer_before = (0.0, 0.0)

    def __enter__(self) -> Self:
        """Install the handlers, except for signals that this program was started to ignore."""
        self._before = _install(dict.fromkeys(ENDING, self._handle_signal))
        if hasattr(signal, "setitimer"):
            alarm_before = _install({signal.SIGALRM: self._handle_alarm})
            self._alarms = bool(alarm_before)
            self._before |= alarm_before
        if self._alarms:
            self._timer_before = signal.setitimer(signal.ITIMER_REAL, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restore the previous handlers and the timer."""
        self.stop_raising()
        _restore(self._before)
        if self._alarms and self._timer_before[0]:
            signal.setitimer(signal.ITIMER_REAL, *self._timer_before)

    def limit(self, deadline: float) -> None:
        """After ``deadline``, in seconds of `time.monotonic`, act as if a signal had come."""
        self._deadline = deadline
        if self.number is None:
            self._set_timer(max(deadline - time.monotonic(), 0.001))

    def check(self) -> None:
        """Raises Interrupted if a signal has come or the deadline has passed."""
        if self._deadline is not None and time.monotonic() >= self._deadline and self.number is None:
            self.timed_out = True
        if self.number is not None or self.timed_out:
            self.stop_raising()  # Otherwise the alarm might come again while this exception is caught.
            raise Interrupted

    def stop_raising(self) -> None:
        """Raise nothing more: the program is ending."""
        self._delayed = True
        self._ending = True
        self._set_timer(0)

    @contextmanager
    def delay(self) -> Iterator[None]:
        """Raise nothing within the block, which writes a file and has to be short."""
        before = self._delayed
        self._delayed = True
        try:
            yield
        finally:
            self._delayed = before or self._ending

    @contextmanager
    def time_limit(self, end: float | None) -> Iterator[None]:
        """Raises OutOfTime within the block after ``end``, in seconds of `time.monotonic`. None is no limit.

        It is for programs that are ending. Systems without alarms check the time only when the block begins.
        """
        if end is None:
            yield
            return
        seconds = end - time.monotonic()
        if seconds <= 0:
            raise OutOfTime
        self._has_time_limit = True
        self._set_timer(seconds)
        try:
            yield
        except Exception as error:
            if time.monotonic() < end:
                raise
            raise OutOfTime from error  # The code that was interrupted may have raised another exception.
        finally:
            self._has_time_limit = False
            self._set_timer(0)

    def _set_timer(self, seconds: float) -> None:
        if self._alarms:
            signal.setitimer(signal.ITIMER_REAL, seconds, PATIENCE if seconds else 0)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is not None:
            echo = number == self.number and now - self._signal_time < ECHO
            if not echo and signal.Signals(number).name in _AT_ONCE:
                self._exit_at_once(number)
            return
        self.number = number
        self._signal_time = now
        if self._ending:  # No alarm: its exception might come when nothing catches it.
            return
        if self._alarms:
            self._set_timer(PATIENCE)
        elif not self._delayed:  # Windows has no alarm.
            raise Interrupted

    def _handle_alarm(self, number: int, frame: FrameType | None) -> None:
        if self._has_time_limit:
            raise OutOfTime
        if self.number is None and not self.timed_out:
            if self._deadline is None or time.monotonic() < self._deadline - ECHO:
                self._handle_signal(number, frame)  # An alarm from outside, which ends a program by default.
            else:
                self.timed_out = True
        elif not self._delayed:
            raise Interrupted

    def _exit_at_once(self, number: int) -> None:
        try:
            self.at_once()
            write(sys.stderr, "parallel-lenet: ended at once")
        finally:
            os._exit(128 + number)
