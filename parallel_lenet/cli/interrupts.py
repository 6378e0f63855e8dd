"""Ctrl-C and SIGTERM while training: the step under way is finished or dropped, and nothing is left behind.

The first signal only leaves a mark, which the loop looks at after each step: an exception at any moment could strike
where it is swallowed, or in the middle of starting a process. If no one has looked for half a second (a slow kernel, a
download), an alarm raises `Interrupted` after all, again and again until it is heeded. The second signal ends the
program at once.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

PATIENCE = 0.5  # Seconds: many steps of the fast kernels; and four times this is still what people call at once.


class Interrupted(BaseException):
    """A signal asked the program to leave."""


class Interrupts:
    """Takes the signals while the ``with`` block lasts; ``at_once`` is called before a second one ends the program."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal that came."""
        self.at_once: Callable[[], None] = lambda: None
        self._held = False
        self._over = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take SIGINT and SIGTERM, unless this program was started so that it doesn't hear them."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # As shells do for programs in the background.
                self._before[number] = signal.signal(number, self._signalled)
        if hasattr(signal, "setitimer"):
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._overdue)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give them back."""
        self.heed()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.number is not None:
            self.heed()  # Or the alarm might strike once more, where this is being caught.
            raise Interrupted

    def heed(self) -> None:
        """From now on nothing is raised: the program is on its way out, with its result or without."""
        self._held = self._over = True
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is raised within the block, which is to be short: a file is being written."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            self._leave(number)
        self.number = number
        if self._over:  # No alarm: it might strike when no one takes it any more.
            return
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
        else:  # Windows has no alarm.
            self._overdue(number, frame)

    def _overdue(self, number: int, frame: FrameType | None) -> None:
        if not self._held:
            raise Interrupted

    def _leave(self, number: int) -> None:
        try:
            self.at_once()
            print("parallel-lenet: left at once", file=sys.stderr, flush=True)
        finally:
            os._exit(128 + number)
