"""One worker's process, as the coordinator's process sees it: it starts, gets messages, and ends.

The process inherits one end of a socket pair. So nothing has a name that another user could open, nothing needs the
user's ``__main__``, and if either side dies, the other reads the end of the stream.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress

import numpy as np

from parallel_lenet.descriptors import above_standard
from parallel_lenet.engines.mapped_files import MappedFile
from parallel_lenet.engines.memory import ArrayLocation, SharedMemory, read_only
from parallel_lenet.engines.processes.dispatcher import ROWS, Worker
from parallel_lenet.engines.processes.messages import (
    BlockAnswer,
    Channel,
    ContextClosing,
    ContextOpening,
    GradientRow,
    MemoryHandle,
    WorkerSetup,
)
from parallel_lenet.engines.processes.start import start
from parallel_lenet.engines.snapshots import OpenContext, StoredArray
from parallel_lenet.parameters import Vector

GRACE_SECONDS = 1.0  # Seconds that processes get to end by themselves.


class WorkerProcess(Worker):
    """A worker with its process, the coordinator's end of its socket, and the memory that the two share.

    The rows stay mapped as long as a reference to one of them exists, even after the process has ended.
    """

    def __init__(self, number: int, shared: SharedMemory, now: float) -> None:
        stamps = SharedMemory([((ROWS,), np.dtype(np.int64))])
        super().__init__(number, stamps.arrays[0], now)
        self.rows: dict[int, Vector] = {}
        """Gradients to read, by row: see `add_row`."""
        setup = WorkerSetup(
            parameters_memory=(shared.handle, shared.size),
            parameters=shared.locations[0],
            stamps_memory=(stamps.handle, stamps.size),
            stamps=stamps.locations[0],
        )
        try:
            with above_standard():
                coordinator_socket, worker_socket = socket.socketpair()
                coordinator_socket.setblocking(False)
                self.channel = Channel(coordinator_socket)
                with worker_socket:
                    try:
                        self.process = start(worker_socket, [shared.handle, stamps.handle])
                    except BaseException:
                        self.channel.close()
                        raise
                self.sentinel = _sentinel(self.process.pid)
        finally:
            stamps.close()
        self.name = f"worker {number} (pid {self.process.pid})"
        """The worker's name in messages."""
        self.dismissed = False
        self._kill_reason = ""
        self._arrays: set[int] = set()  # The numbers of the arrays that it has.
        self._models: set[int] = set()  # Hashes of the models it got, each with a number of samples to warm up with.
        self.send(pickle.dumps(setup))

    def open(self, context: OpenContext[bytes]) -> None:
        """Have it open a context. It gets no tasks until it has answered."""
        new = {stored.number: stored for stored in context.arrays if stored.number not in self._arrays}
        self._arrays |= new.keys()
        opening = ContextOpening(
            context.number,
            context.model,
            tuple(
                MemoryHandle(each.number, each.storage.handle, each.storage.size, isinstance(each.storage, MappedFile))
                for each in new.values()
            ),
            tuple(tuple(_location(each) for each in stored) for stored in context.stored),
            context.call_sizes,
        )
        models = {hash((context.model, size)) for size in context.call_sizes}
        known = models <= self._models
        self._models |= models
        self.opens_quickly = known and (self.ready or self.opens_quickly)
        self.pending_openings += 1
        self.send(
            opening.pack(), [each.storage.handle for each in new.values() if isinstance(each.storage.handle, int)]
        )

    def close(self, contexts: Sequence[int], kept: set[int]) -> None:
        """Have it forget these contexts, and all arrays except those with the numbers ``kept``."""
        unused = self._arrays - kept
        if contexts or unused:
            self._arrays &= kept
            self.send(ContextClosing(tuple(contexts), tuple(unused)).pack())

    def add_row(self, row: int, parameters: Vector) -> None:
        """Give the row memory for a gradient, before it is used: a row that is never used costs no memory."""
        with closing(SharedMemory([(parameters.shape, parameters.dtype)])) as block:
            memory = MemoryHandle(0, block.handle, block.size, read_only=False)
            handles = [block.handle] if isinstance(block.handle, int) else []
            self.send(GradientRow(row, memory, block.locations[0]).pack(), handles)
            self.rows[row] = read_only(block.arrays[0])

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a message, or as much of it as the socket takes: see `Channel.outbox`."""
        try:
            self.channel.send(message, descriptors)
        except OSError:  # It has died. Its last answers can still be read, and then the end of the stream.
            return

    def flush(self) -> None:
        """Send more of the messages that wait."""
        with suppress(OSError):
            self.channel.flush()

    def receive(self) -> list[BlockAnswer]:
        """The answers that have come. Raises EOFError or OSError if no more will come."""
        return [BlockAnswer.unpack(message) for message in self.channel.receive()]

    def kill(self, reason: str = "") -> None:
        """End the process at once, even if it is stopped. Its last answers can still be read.

        Without a ``reason`` the death is expected (`dismissed`) and is not reported.
        """
        self._kill_reason = reason
        self.dismissed = not reason
        self.process.kill()

    def wait(self, deadline: float) -> None:
        """Close the socket, and wait until the process has ended, or until the deadline of `time.monotonic`."""
        self.channel.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, deadline - time.monotonic()))

    def end(self) -> None:
        """Kill the process if it still runs, and wait for its end."""
        self.process.kill()
        self.process.wait()
        if self.sentinel is not None:
            os.close(self.sentinel)
            self.sentinel = None

    def ending(self, activity: str) -> str:
        """A sentence about how the process ended, after `wait`, and during which ``activity``."""
        code = self.process.returncode
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        if self._kill_reason:
            how = f"was killed because {self._kill_reason}"
        return f"{self.name} {how} while {activity}"


def _sentinel(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None if the system has none."""
    if sys.platform == "linux":
        with suppress(OSError):  # The kernel is older than 5.3, or a sandbox does not allow it.
            return os.pidfd_open(pid)
    return None


def _location(stored: StoredArray) -> tuple[int, ArrayLocation]:
    """The number of an array's memory, and its location there."""
    array = stored.array
    return stored.number, (stored.offset, array.shape, array.dtype.str, array.strides)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # A real-time signal.
        return f"signal {number}"


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay signals until the block is done, so that no handler of the program raises inside it.

    Python runs handlers in the main thread only. In any other thread this does nothing.
    """
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    waiting: list[int] = []
    try:
        for number in handlers:
            signal.signal(number, lambda caught, _: waiting.append(caught))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for caught in waiting:
        signal.raise_signal(caught)


def end_all(workers: list[WorkerProcess]) -> None:
    """End all workers and empty the list. Idle ones may end by themselves, busy ones are killed: they hold no state."""
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        if worker.copies or not worker.ready:
            worker.process.kill()
        worker.channel.close()
    for worker in workers:
        worker.wait(deadline)
        worker.end()
    workers.clear()
