"""Time limits for calls to a cluster library.

Dask and Ray wait forever, or for many minutes, for a process that is stopped but not dead. So each call to them runs in
a daemon thread, which is abandoned after its time limit.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, TypeVar

from parallel_lenet.engines.cluster.guard import LEAVE

START = 60.0  # Seconds for a new cluster, or its workers, to start.
CONNECT = 30.0  # Seconds to join a running cluster, and to find a first worker there.
SILENT = 30.0  # Seconds without an answer of the cluster or a heartbeat of a worker after which it counts as lost.
LOOK_EVERY = 1.0  # Seconds between two questions to the cluster.

Value = TypeVar("Value")
Outcome: TypeAlias = "queue.SimpleQueue[tuple[Any, BaseException | None]]"


class UnansweredError(TimeoutError):
    """A call to a cluster library did not return within its time limit."""


def call_within(seconds: float, what: str, call: Callable[[], Value]) -> Value:
    """The result of ``call``, or its exception. Raises UnansweredError if it takes longer than ``seconds``."""
    outcome: Outcome = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((call(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True, name="cluster call").start()
    value: Value = _received(outcome, seconds, what)
    return value


def call_to_leave(call: Callable[[], object]) -> bool:
    """Make a call that leaves a cluster. Returns whether it ended within LEAVE seconds without an exception."""
    try:
        call_within(LEAVE, "leaving", call)
    except Exception:
        return False
    return True


def results_within(call: Callable[[], Iterable[Value]], look: Callable[[], None], seconds: float) -> Iterator[Value]:
    """The values that ``call`` yields in a thread of its own. ``look`` is called every second while none comes.

    Raises what these two raise, and TimeoutError if no value comes for ``seconds``.
    """
    received: Outcome = queue.SimpleQueue()

    def run() -> None:
        try:
            for value in call():
                received.put((value, None))
            received.put((None, StopIteration()))
        except BaseException as error:
            received.put((None, error))

    threading.Thread(target=run, daemon=True, name="cluster call").start()
    waited = 0.0
    while True:
        try:
            value, error = received.get(timeout=min(LOOK_EVERY, seconds))
        except queue.Empty:
            waited += min(LOOK_EVERY, seconds)
            look()
            if waited >= seconds:
                raise TimeoutError from None
            continue
        waited = 0.0
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error
        yield value


def _received(outcome: Outcome, seconds: float, what: str) -> Any:
    try:
        value, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise UnansweredError(f"{what} took longer than {seconds:g} s") from None
    if error is not None:
        raise error
    return value


class Watch:
    """Joins a cluster, then asks it for an answer every second, in a thread of its own that may hang."""

    def __init__(self) -> None:
        self.silent = 0.0
        """Seconds without an answer, counted by a thread: none pass while this program is stopped."""
        self.left = threading.Event()

    def begin(
        self, join: Callable[[], None], ask: Callable[[], object], undo: Callable[[], None], limit: float
    ) -> None:
        """Run ``join`` and ``ask``, then ``ask`` every second. Raises what the first calls raise, or UnansweredError.

        The thread that ran ``join`` lives as long as the cluster, since Linux kills Ray's processes with the thread
        that started them. If ``join`` returns after ``stop``, the thread runs ``undo``.
        """
        joined: Outcome = queue.SimpleQueue()

        def run() -> None:
            try:
                join()
                ask()
            except BaseException as error:
                joined.put((None, error))
                return
            joined.put((None, None))
            if self.left.is_set():
                undo()
            while not self.left.wait(LOOK_EVERY):
                try:
                    ask()
                except Exception:  # Anything, depending on what has ended.
                    continue
                self.silent = 0.0

        threading.Thread(target=run, daemon=True, name="cluster watch").start()
        _received(joined, limit, "joining it")
        threading.Thread(target=self._count, daemon=True, name="cluster clock").start()

    def _count(self) -> None:
        while not self.left.wait(LOOK_EVERY):
            self.silent += LOOK_EVERY

    def stop(self) -> None:
        """Stop asking."""
        self.left.set()
