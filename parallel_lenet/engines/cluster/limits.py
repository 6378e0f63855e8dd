"""Time limits for calls to a cluster library.

Dask and Ray wait forever, or for many minutes, for a process that is stopped but not dead. So each call to them runs in
a daemon thread. After the time limit the thread is abandoned.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, TypeVar

from parallel_lenet.engines.cluster.guard import LEAVE_LIMIT

START_LIMIT = 60.0  # Seconds for a new cluster, or its workers, to start.
CONNECT_LIMIT = 30.0  # Seconds to join a running cluster, and to find a first worker there.
SILENCE_LIMIT = 30.0  # Seconds without an answer of the cluster, or a heartbeat of a worker, until it counts as lost.
POLL_INTERVAL = 1.0  # Seconds between two questions to the cluster.

Value = TypeVar("Value")
Outcome: TypeAlias = "queue.SimpleQueue[tuple[Any, BaseException | None]]"


class UnansweredError(TimeoutError):
    """A call to a cluster library did not return within its time limit."""


def call_within(seconds: float, purpose: str, call: Callable[[], Value]) -> Value:
    """The result of ``call``, or its exception. Raises UnansweredError if it takes longer than ``seconds``."""
    outcome: Outcome = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((call(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True, name="cluster call").start()
    value: Value = _result_of(outcome, seconds, purpose)
    return value


def call_to_leave(call: Callable[[], object]) -> bool:
    """Make a call that leaves a cluster. Returns whether it ended within `LEAVE_LIMIT` seconds without an exception."""
    try:
        call_within(LEAVE_LIMIT, "leaving", call)
    except Exception:
        return False
    return True


def results_within(call: Callable[[], Iterable[Value]], check: Callable[[], None], seconds: float) -> Iterator[Value]:
    """The values that ``call`` yields in a thread of its own. ``check`` is called every second while none comes.

    Raises what these two raise, and TimeoutError if no value comes for ``seconds``.
    """
    outcomes: Outcome = queue.SimpleQueue()

    def run() -> None:
        try:
            for value in call():
                outcomes.put((value, None))
            outcomes.put((None, StopIteration()))
        except BaseException as error:
            outcomes.put((None, error))

    threading.Thread(target=run, daemon=True, name="cluster call").start()
    silence = 0.0
    while True:
        try:
            value, error = outcomes.get(timeout=min(POLL_INTERVAL, seconds))
        except queue.Empty:
            silence += min(POLL_INTERVAL, seconds)
            check()
            if silence >= seconds:
                raise TimeoutError from None
            continue
        silence = 0.0
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error
        yield value


def _result_of(outcome: Outcome, seconds: float, purpose: str) -> Any:
    try:
        value, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise UnansweredError(f"{purpose} took longer than {seconds:g} s") from None
    if error is not None:
        raise error
    return value


class Watch:
    """Joins a cluster and then polls it every second, in a thread of its own that may hang."""

    def __init__(self) -> None:
        self.silence = 0.0
        """Seconds without an answer. A thread counts them, so none pass while this program is stopped."""
        self.ended = threading.Event()

    def begin(
        self, join: Callable[[], None], poll: Callable[[], object], undo: Callable[[], None], limit: float
    ) -> None:
        """Run ``join`` and ``poll``, then ``poll`` every second. Raises what the first calls raise, or UnansweredError.

        The thread that ran ``join`` lives as long as the cluster, since Linux kills Ray's processes with the thread
        that started them. If ``join`` returns after ``stop``, the thread runs ``undo``.
        """
        outcome: Outcome = queue.SimpleQueue()

        def run() -> None:
            try:
                join()
                poll()
            except BaseException as error:
                outcome.put((None, error))
                return
            outcome.put((None, None))
            if self.ended.is_set():
                undo()
            while not self.ended.wait(POLL_INTERVAL):
                try:
                    poll()
                except Exception:  # Any exception, depending on what has ended.
                    continue
                self.silence = 0.0

        threading.Thread(target=run, daemon=True, name="cluster watch").start()
        _result_of(outcome, limit, "joining it")
        threading.Thread(target=self._count, daemon=True, name="cluster clock").start()

    def _count(self) -> None:
        while not self.ended.wait(POLL_INTERVAL):
            self.silence += POLL_INTERVAL

    def stop(self) -> None:
        """Stop polling."""
        self.ended.set()
