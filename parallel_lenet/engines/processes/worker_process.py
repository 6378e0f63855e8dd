"""One worker's process: how it is started, spoken to and ended.

It is a program of its own that inherits one end of a socket pair: nothing has a name that others could open, nothing
needs the user's ``__main__``, and when either side dies the other reads the end of the stream.
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
from parallel_lenet.engines.memory import Place, SharedBlock, read_only
from parallel_lenet.engines.processes.dispatcher import ROWS, Worker
from parallel_lenet.engines.processes.messages import BlockAnswer, Channel, Closing, Memory, Opening, Row, WorkerSetup
from parallel_lenet.engines.processes.start import start
from parallel_lenet.engines.snapshots import Mapped, OpenContext, Stored
from parallel_lenet.parameters import Vector

GRACE = 1.0  # Seconds that processes get to end by themselves.


class WorkerProcess(Worker):
    """A worker with its process, our end of its socket, and memory: what is wanted of it, and for gradients.

    The rows stay mapped for as long as anyone holds one of them, even when the process is gone.
    """

    def __init__(self, number: int, shared: SharedBlock, now: float) -> None:
        own = SharedBlock([((ROWS,), np.dtype(np.int64))])
        super().__init__(number, own.arrays[0], now)
        self.rows: dict[int, Vector] = {}
        """Gradients, for the coordinator to read: see `give_row`."""
        setup = WorkerSetup(
            shared=(shared.handle, shared.size),
            parameters=shared.places[0],
            own=(own.handle, own.size),
            wanted=own.places[0],
        )
        try:
            with above_standard():
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                self.channel = Channel(ours)
                with theirs:
                    try:
                        self.process = start(theirs, [shared.handle, own.handle])
                    except BaseException:
                        self.channel.close()
                        raise
                self.sentinel = _sentinel(self.process.pid)
        finally:
            own.close()
        self.name = f"worker {number} (pid {self.process.pid})"
        """For people."""
        self.dismissed = False
        self._killed_for = ""
        self._held: set[int] = set()  # Which memory of contexts it has.
        self._models: set[int] = set()  # Hashes of those it has been given, each with what it warms up with.
        self.send(pickle.dumps(setup))

    def open(self, context: OpenContext[bytes]) -> None:
        """Have it take over a context; until it has, it gets no tasks."""
        new = {stored.number: stored for stored in context.arrays if stored.number not in self._held}
        self._held |= new.keys()
        opening = Opening(
            context.number,
            context.model,
            tuple(
                Memory(stored.number, stored.memory.handle, stored.memory.size, isinstance(stored.memory, Mapped))
                for stored in new.values()
            ),
            tuple(tuple(_place(each) for each in stored) for stored in context.stored),
            context.call_sizes,
        )
        models = {hash((context.model, size)) for size in context.call_sizes}
        known = models <= self._models
        self._models |= models
        self.hurried = known and (self.ready or self.hurried)
        self.opening += 1
        self.send(opening.pack(), [each.memory.handle for each in new.values() if isinstance(each.memory.handle, int)])

    def close(self, contexts: Sequence[int], held: set[int]) -> None:
        """Have it forget contexts, and the memory that the engine doesn't hold any more."""
        gone = self._held - held
        if contexts or gone:
            self._held &= held
            self.send(Closing(tuple(contexts), tuple(gone)).pack())

    def give_row(self, row: int, parameters: Vector) -> None:
        """Have memory for a gradient of such parameters there. A row that is never needed has none."""
        if row not in self.rows:
            with closing(SharedBlock([(parameters.shape, parameters.dtype)])) as block:
                memory = Memory(0, block.handle, block.size, read_only=False)
                handles = [block.handle] if isinstance(block.handle, int) else []
                self.send(Row(row, memory, block.places[0]).pack(), handles)
                self.rows[row] = read_only(block.arrays[0])

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send what the socket takes; `Channel.outbox` has the rest."""
        with suppress(OSError):  # It has died. Answers that it sent before may still be read, and then its end.
            self.channel.send(message, descriptors)

    def flush(self) -> None:
        """Send more of what waits."""
        with suppress(OSError):
            self.channel.flush()

    def receive(self) -> list[BlockAnswer]:
        """The answers that are here; EOFError or OSError when there will be no more."""
        return [BlockAnswer.unpack(message) for message in self.channel.receive()]

    def kill(self, reason: str = "") -> None:
        """End the process at once, even one that is stopped; what it has answered can still be read.

        Without a reason to tell it is `dismissed`: no one needs to hear of it.
        """
        self._killed_for = reason
        self.dismissed = not reason
        self.process.kill()

    def wait(self, deadline: float) -> None:
        """Hang up, and wait until the process has ended, or for the deadline by `time.monotonic`."""
        self.channel.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, deadline - time.monotonic()))

    def end(self) -> None:
        """Leave no process behind."""
        self.process.kill()
        self.process.wait()
        if self.sentinel is not None:
            os.close(self.sentinel)
            self.sentinel = None

    def ending(self, doing: str) -> str:
        """How the process ended, once it has been waited for, and while ``doing`` what."""
        code = self.process.returncode
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        if self._killed_for:
            how = f"was killed because {self._killed_for}"
        return f"{self.name} {how} while {doing}"


def _sentinel(pid: int) -> int | None:
    """A descriptor that can be read once the process has ended; None if the system has no such thing."""
    if sys.platform == "linux":
        with suppress(OSError):  # The kernel is older than 5.3, or a sandbox does not allow it.
            return os.pidfd_open(pid)
    return None


def _place(stored: Stored) -> tuple[int, Place]:
    """Where an array lies, for a worker."""
    return stored.number, (stored.offset, stored.array.shape, stored.array.dtype.str)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # A real-time signal.
        return f"signal {number}"


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay signals until the block is done, so that no handler of the program raises inside it.

    Python runs handlers in the main thread only: in any other there is nothing to do.
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
    """End them all and empty the list: nothing irreplaceable lives in a worker, but an idle one may leave by itself."""
    deadline = time.monotonic() + GRACE
    for worker in workers:
        if worker.copies or not worker.ready:
            worker.process.kill()
        worker.channel.close()
    for worker in workers:
        worker.wait(deadline)
        worker.end()
    workers.clear()
