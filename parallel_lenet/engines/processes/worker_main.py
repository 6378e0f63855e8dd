"""The program of a worker process: it answers the coordinator's messages until the socket closes.

`start` starts it with the arguments SOCKET PARENT THREAD PATH... It is not based on multiprocessing, which would import
the user's script again, so that the script would need ``if __name__ == "__main__"``.
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
from parallel_lenet.engines.memory import ArrayLocation, attach_and_close, read_only, view
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
    ContextClosing,
    ContextOpening,
    GradientRow,
    MemoryHandle,
    WorkerSetup,
)
from parallel_lenet.engines.processes.start import WORKER_VARIABLE
from parallel_lenet.engines.remote_exceptions import pickled_exception
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.parameters import Vector
from parallel_lenet.worker import Samples, block_gradient, block_metrics, warm_up

PR_SET_PDEATHSIG = 1  # From Linux's prctl.h.
COORDINATOR_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGXCPU", "SIGALRM")
"""Signals that may be sent to a whole job: the coordinator decides what they mean."""


class _Context(NamedTuple):
    """The model and the data of one call of the coordinator."""

    model: Model
    datasets: tuple[Samples, ...]
    spare: list[Vector]
    """Vectors for `block_gradient`."""


class _TaskServer:
    """The memory, the contexts and the models of this worker, and its answers to tasks."""

    def __init__(self, setup: WorkerSetup) -> None:
        self.parameters = view(attach_and_close(*setup.parameters_memory, only_read=True), setup.parameters)
        self.stamps = view(attach_and_close(*setup.stamps_memory, only_read=True), setup.stamps)
        self.gradients: dict[int, Vector] = {}
        """The memory for gradients, by row."""
        self.memory: dict[int, mmap.mmap] = {}
        self.contexts: dict[int, _Context] = {}
        self.warmed_up = set[tuple[bytes, int]]()
        """The model that was warmed up last, pickled, with each number of samples."""

    def apply(
        self, message: ContextOpening | ContextClosing | GradientRow, descriptors: deque[int]
    ) -> BlockAnswer | None:
        """Open or close contexts, or use new memory for gradients. The answer is None if none is expected."""
        if isinstance(message, GradientRow):
            self.gradients[message.row] = view(_attached(message.memory, descriptors), message.location)
            return None
        if isinstance(message, ContextClosing):
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
                self.memory[each.number] = attach_and_close(handle, each.size, each.read_only)
            datasets = tuple(Samples(*(self._array(*each) for each in stored)) for stored in message.datasets)
            model = unpickle_model(message.model)
            if hasattr(model, "warm_up"):
                # Compiling and loading now does not count as computing a block.
                self.warmed_up = {each for each in self.warmed_up if each[0] == message.model}
                for size in message.call_sizes:
                    if (message.model, size) not in self.warmed_up:
                        warm_up(model, self.parameters, datasets[0], size)
                        self.warmed_up.add((message.model, size))
            self.contexts[message.context] = _Context(model, datasets, [])
        except Exception as error:
            return BlockAnswer(REFUSED, Metrics(count=message.context), failure=pickled_exception(error))
        return BlockAnswer(READY)

    def _array(self, number: int, location: ArrayLocation) -> NDArray[Any]:
        return read_only(view(self.memory[number], location))

    def answer(self, task: BlockTask) -> BlockAnswer:
        """Compute a block, or skip it if it is not wanted any more."""
        if self.stamps[task.row] != task.stamp:
            return BlockAnswer(SKIPPED)
        start = time.perf_counter()
        try:
            model, datasets, spare = self.contexts[task.context]
            if task.kind == GRADIENT:
                gradient = self.gradients[task.row]
                metrics, finite = block_gradient(model, datasets, self.parameters, task.block, gradient, spare)
            else:
                metrics, finite = block_metrics(model, datasets, self.parameters, task.block), True
        except BaseException as error:  # SystemExit too: it is raised in the coordinator's program.
            return BlockAnswer(FAILED, failure=pickled_exception(error))
        return BlockAnswer(RESULT, metrics, time.perf_counter() - start, finite, start)


def _attached(memory: MemoryHandle, descriptors: deque[int]) -> mmap.mmap:
    handle = memory.handle if isinstance(memory.handle, str) else descriptors.popleft()
    return attach_and_close(handle, memory.size, memory.read_only)


def _exit_after_parent(parent: int) -> None:
    """End this process soon after its parent, even while it computes a long block."""
    while os.getppid() == parent:  # On Windows this never changes, and the closed socket ends the worker.
        time.sleep(0.25)
    os._exit(1)


def _request_death_signal(parent: int, thread: int) -> None:
    """Have Linux kill this process when its parent ends, even in native code that holds the interpreter's lock.

    Linux sends the signal when the *thread* that started this process ends. So this asks for it only if that was the
    first thread, which has the process's number and ends with the process. In other cases `_exit_after_parent` ends the
    worker. It also does so if the parent has ended before this call, since it sees another parent.
    """
    if sys.platform == "linux" and thread == parent:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _socket(argument: str) -> socket.socket:
    """The inherited socket: a descriptor, or on Windows what ``socket.share`` wrote to standard input."""
    if sys.platform == "win32":
        return socket.fromshare(sys.stdin.buffer.read())
    connected = socket.socket(fileno=int(argument))
    connected.setblocking(True)  # The program may have set a timeout for all its sockets.
    connected.set_inheritable(False)  # A model's own processes must not keep it open after this worker's death.
    return connected


def _signals() -> None:
    """Do nothing on signals to the whole job: the coordinator decides, and a worker ends when its socket closes.

    The signals get handlers. If they were ignored, the programs that a model starts would ignore them too.
    """
    numbers = [getattr(signal, name) for name in COORDINATOR_SIGNALS if hasattr(signal, name)]
    for number in numbers:
        signal.signal(number, lambda number, frame: None)
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=lambda: [signal.signal(number, signal.SIG_DFL) for number in numbers])
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # They were blocked until now: see `start`.


def _serve(channel: Channel) -> NoReturn:
    """Answer the `WorkerSetup`, and then all other messages. Raises EOFError or OSError when the socket closes."""
    server = None
    while True:
        for message in channel.receive(descriptors=True):
            answer: BlockAnswer | None = BlockAnswer(READY)
            if server is None:
                server = _TaskServer(pickle.loads(message))
            elif message[0] == CONTEXTS:
                answer = server.apply(pickle.loads(message[1:]), channel.descriptors)
            else:
                answer = server.answer(BlockTask.unpack(message))
            if answer is not None:
                channel.send(answer.pack())


def main() -> None:
    """Serve until the socket closes."""
    os.environ.pop(WORKER_VARIABLE, None)
    _signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # A line appears when it is printed, also if the worker is killed.
    descriptor, parent, thread = sys.argv[1:4]
    _request_death_signal(int(parent), int(thread))
    threading.Thread(target=_exit_after_parent, args=(int(parent),), daemon=True).start()
    # The coordinator checks the results, and its error names the layer: a warning from each worker would say less.
    np.seterr(over="ignore", invalid="ignore", divide="ignore")
    logging.getLogger("parallel_lenet").setLevel(logging.ERROR)  # The coordinator's process logs the same, once.
    with suppress(EOFError, OSError):  # The coordinator has closed the socket, or has ended.
        _serve(Channel(_socket(descriptor)))
