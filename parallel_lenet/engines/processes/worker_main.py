"""The program a worker process runs: set up once, then block after block until the coordinator hangs up.

`start` starts it, with the arguments SOCKET PARENT THREAD PATH... Not multiprocessing: that would import the user's
script again, which then needs ``if __name__ == "__main__"``.
"""

import ctypes
import io
import logging
import mmap
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.engines.imports import unpickle_model
from parallel_lenet.engines.memory import Place, read_only, take, view
from parallel_lenet.engines.processes.messages import (
    CONTEXTS,
    FAILED,
    GRADIENT,
    READY,
    REFUSED,
    RESULT,
    SKIPPED,
    BlockAnswer,
    BlockTask,
    Channel,
    Closing,
    Memory,
    Opening,
    Row,
    WorkerSetup,
)
from parallel_lenet.engines.processes.start import GUARD
from parallel_lenet.engines.remote_exceptions import pickled_exception
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.parameters import Vector
from parallel_lenet.worker import Samples, block_gradient, block_metrics, warm_up

PR_SET_PDEATHSIG = 1  # From Linux's prctl.h.
COORDINATORS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGXCPU", "SIGALRM")  # Signals.


class _Context(NamedTuple):
    """The model and the data of one of the coordinator's calls."""

    model: Model
    datasets: tuple[Samples, ...]
    written: set[int]
    """The rows of gradients that this model has written to."""
    spare: list[Vector]
    """Where it adds the shards of a block."""


class _Worker:
    def __init__(self, setup: WorkerSetup) -> None:
        shared, own = take(*setup.shared), take(*setup.own)
        self.parameters = read_only(view(shared, setup.parameters))
        self.gradients: dict[int, Vector] = {}
        """By row: where to write them."""
        self.wanted = read_only(view(own, setup.wanted))
        self.memory: dict[int, mmap.mmap] = {}
        self.contexts: dict[int, _Context] = {}
        self.warm = set[tuple[bytes, int]]()
        """The model that was warmed up last, pickled, and with how many samples."""

    def take(self, message: Opening | Closing | Row, descriptors: deque[int]) -> BlockAnswer | None:
        """Open or close contexts, or use new memory for gradients."""
        if isinstance(message, Row):
            self.gradients[message.row] = view(_mapped(message.memory, descriptors), message.place)
            return None
        if isinstance(message, Closing):
            for context in message.contexts:
                self.contexts.pop(context, None)
            for number in message.memory:
                self.memory.pop(number, None)
            return None
        try:
            handles = [
                each.handle if isinstance(each.handle, str) else descriptors.popleft() for each in message.memory
            ]
            for each, handle in zip(message.memory, handles, strict=True):
                self.memory[each.number] = take(handle, each.size, each.read_only)
            datasets = tuple(Samples(*(self._array(*each) for each in stored)) for stored in message.datasets)
            model = unpickle_model(message.model)
            if hasattr(model, "warm_up"):
                # What is compiled or loaded now does not count as computing a block.
                self.warm = {each for each in self.warm if each[0] == message.model}
                for size in message.call_sizes:
                    if (message.model, size) not in self.warm:
                        warm_up(model, self.parameters, datasets[0], size)
                        self.warm.add((message.model, size))
            self.contexts[message.context] = _Context(model, datasets, set(), [])
        except Exception as error:
            return BlockAnswer(REFUSED, Metrics(count=message.context), failure=pickled_exception(error))
        return BlockAnswer(READY)

    def _array(self, number: int, place: Place) -> NDArray[Any]:
        return read_only(view(self.memory[number], place))

    def answer(self, task: BlockTask) -> BlockAnswer:
        if self.wanted[task.row] != task.stamp:
            return BlockAnswer(SKIPPED)
        start = time.perf_counter()
        try:
            model, datasets, written, spare = self.contexts[task.context]
            if task.kind == GRADIENT:
                gradient = self.gradients[task.row]
                if task.row not in written:
                    written.add(task.row)
                    gradient[:] = np.nan  # What a model forgets to write is noticed.
                metrics, finite = block_gradient(model, datasets, self.parameters, task.block, gradient, spare)
            else:
                metrics, finite = block_metrics(model, datasets, self.parameters, task.block), True
        except BaseException as error:  # SystemExit too: it is for the coordinator's program to leave, or not.
            return BlockAnswer(FAILED, failure=pickled_exception(error))
        return BlockAnswer(RESULT, metrics, time.perf_counter() - start, finite)


def _mapped(memory: Memory, descriptors: deque[int]) -> mmap.mmap:
    handle = memory.handle if isinstance(memory.handle, str) else descriptors.popleft()
    return take(handle, memory.size, memory.read_only)


def _leave_with(parent: int) -> None:
    """End this process soon after its parent, even in the middle of a long block: there is no one left to answer."""
    while os.getppid() == parent:  # On Windows this never changes; there the closed socket has to do.
        time.sleep(0.25)
    os._exit(1)


def _die_with(parent: int, thread: int) -> None:
    """The same where the kernel can do it: `_leave_with` waits for native code that holds the interpreter's lock.

    Linux sends the signal when the *thread* that started this process ends. So it is asked for only if that was the
    first thread, whose number is the process's and which ends with it; elsewhere `_leave_with` has to do. If the parent
    has gone before, no signal comes, but `_leave_with`, which is started after this, sees another parent.
    """
    if sys.platform == "linux" and thread == parent:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _socket(argument: str) -> socket.socket:
    """The inherited socket: a descriptor, or on Windows what ``socket.share`` wrote to standard input."""
    if sys.platform == "win32":
        return socket.fromshare(sys.stdin.buffer.read())
    connected = socket.socket(fileno=int(argument))
    connected.setblocking(True)  # The program may have set a timeout for all its sockets.
    connected.set_inheritable(False)  # What a model starts must not keep it open when this worker has died.
    return connected


def _signals() -> None:
    """Leave it to the coordinator what a signal means that the whole job gets. A worker ends when its socket closes.

    Handlers, as what is ignored stays ignored in the programs that a model starts, which need to be ended.
    """
    numbers = [getattr(signal, name) for name in COORDINATORS if hasattr(signal, name)]
    for number in numbers:
        signal.signal(number, lambda number, frame: None)
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=lambda: [signal.signal(number, signal.SIG_DFL) for number in numbers])
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # They were blocked until now: see `start`.


def _serve(channel: Channel) -> NoReturn:
    """Answer the first message, which sets up, and then each other; EOFError or OSError when the socket closes."""
    worker = None
    while True:
        for message in channel.receive(descriptors=True):
            answer: BlockAnswer | None = BlockAnswer(READY)
            if worker is None:
                worker = _Worker(pickle.loads(message))
            elif message[0] == CONTEXTS:
                answer = worker.take(pickle.loads(message[1:]), channel.descriptors)
            else:
                answer = worker.answer(BlockTask.unpack(message))
            if answer is not None:
                channel.send(answer.pack())


def main() -> None:
    """Serve until the socket closes."""
    os.environ.pop(GUARD, None)
    _signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # A line appears when it is printed, also if the worker is killed.
    descriptor, parent, thread = sys.argv[1:4]
    _die_with(int(parent), int(thread))
    threading.Thread(target=_leave_with, args=(int(parent),), daemon=True).start()
    # The coordinator looks for what comes of it, and tells where: a warning from every worker tells less.
    np.seterr(over="ignore", invalid="ignore", divide="ignore")
    logging.getLogger("parallel_lenet").setLevel(logging.ERROR)  # The coordinator's process logs the same, once.
    with suppress(EOFError, OSError):  # The coordinator has hung up, or is gone.
        _serve(Channel(_socket(descriptor)))
