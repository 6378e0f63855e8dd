"""Turns of the threads that use one coordinator, or one engine: in the order of their calls."""

import os
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class _Turn:
    """A call in the queue."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Locked until the turn has ended or was given up."""
        self.before: _Turn | None = None
        """The turn that this one still waits for."""


class Turns:
    """Runs one function at a time, in the order of the calls, so that no call waits forever.

    The locks are used by plain ``with`` statements: an interrupt may come anywhere in Python code, but not between such
    a lock and its release.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._last = _Turn()
        self._owner = 0

    def run(self, call: str, function: Callable[[], T]) -> T:
        """Wait for the turn of this call, which ``call`` names, and return the function's result.

        Raises RuntimeError if this thread is inside another turn, for example in a signal handler or a model that calls
        its coordinator: it would wait for itself.
        """
        if self._process != os.getpid():  # Forked: the thread that had a turn does not exist in this process.
            self._begin()
        me = threading.get_ident()
        if self._owner == me:
            raise RuntimeError(f"{call} was called during another call of this coordinator, by the same thread")
        mine = _Turn()
        with mine.lock:
            with self._guard:
                mine.before, self._last = self._last, mine
            while mine.before is not None:
                with mine.before.lock:  # If this is interrupted, the next in the queue waits for `before`.
                    mine.before = mine.before.before
            try:
                self._owner = me
                return function()
            finally:
                self._owner = 0


_turns: weakref.WeakKeyDictionary[object, Turns] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def turns_of(engine: object) -> Turns:
    """The turns of all coordinators that use this engine."""
    with _guard:
        return _turns.setdefault(engine, Turns())
