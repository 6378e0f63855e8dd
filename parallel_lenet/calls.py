"""Which threads use a coordinator: one at a time may change its state."""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.batching import epoch_order
from parallel_lenet.engines import Context
from parallel_lenet.fingerprint import EpochData


class Call:
    """A call of a thread that changes the state; one of ``fit`` or ``iterate`` has data."""

    context: Context
    data: EpochData

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def begin(self, context: Context) -> None:
        """Train with this."""
        self.context = context
        self.data = EpochData(context.datasets[0], holder=context)

    def close(self) -> None:
        """End the training that has begun, if any: its next step raises RuntimeError."""
        if hasattr(self, "context"):
            self.context.close()

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The order of the samples in an epoch."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(seed, epoch, len(self.context.datasets[0].inputs))
        return self._order[1]


class Calls:
    """The calls of one coordinator that are under way."""

    def __init__(self) -> None:
        self._calls: weakref.WeakSet[Call] = weakref.WeakSet()
        self._guard = threading.Lock()

    def begin(self, what: str) -> Call:
        """A call of this thread; RuntimeError, which names ``what`` it wants, if another thread has one."""
        mine = Call()
        with self._guard:
            for call in self._calls:
                if call.thread is not mine.thread and call.thread.is_alive():
                    raise RuntimeError(
                        f"can't {what} now: this coordinator is used by another thread, {call.thread.name}, which "
                        "trains, loads or closes; wait until that has ended"
                    )
            self._calls.add(mine)
        return mine

    def end(self, call: Call) -> None:
        """The call has ended."""
        self._calls.discard(call)

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Do something that must not happen while another thread trains."""
        mine = self.begin(what)
        try:
            yield
        finally:
            self.end(mine)

    def close(self) -> None:
        """End the training of all calls."""
        with self._guard:
            calls = list(self._calls)
        for call in calls:
            call.close()
