"""The calls that change a coordinator's state. Only one thread at a time may make them."""

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
    """A call by one thread that changes the state. A call of ``fit`` or ``iterate`` has data."""

    context: Context
    data: EpochData

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def begin(self, context: Context) -> None:
        """Start training with the model and the data of this context."""
        self.context = context
        self.data = EpochData(context.datasets[0], holder=context)

    def close(self) -> None:
        """End the training, if it has started: its next step raises RuntimeError."""
        if hasattr(self, "context"):
            self.context.close()

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The order of the samples in an epoch, int64."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(seed, epoch, len(self.context.datasets[0].inputs))
        return self._order[1]


class Calls:
    """The calls of one coordinator that have not ended."""

    def __init__(self) -> None:
        self._calls: weakref.WeakSet[Call] = weakref.WeakSet()
        self._guard = threading.Lock()

    def begin(self, action: str) -> Call:
        """Register a call by this thread.

        ``action`` is a verb, such as "load". Raises RuntimeError if another has one.
        """
        mine = Call()
        with self._guard:
            for call in self._calls:
                if call.thread is not mine.thread and call.thread.is_alive():
                    raise RuntimeError(
                        f"can't {action} now: another thread, {call.thread.name}, trains, loads or closes with this "
                        "coordinator; wait until that has ended"
                    )
            self._calls.add(mine)
        return mine

    def end(self, call: Call) -> None:
        self._calls.discard(call)

    @contextmanager
    def exclusive(self, action: str) -> Iterator[None]:
        """A block that must not run while another thread trains. Raises as `begin` does."""
        mine = self.begin(action)
        try:
            yield
        finally:
            self.end(mine)

    def close(self) -> None:
        with self._guard:
            calls = list(self._calls)
        for call in calls:
            call.close()
