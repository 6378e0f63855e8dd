"""The messages between the coordinator's process and a worker, over a socket that only these two have.

The first message is a pickled `WorkerSetup`. Then tasks go to the worker and answers come back in the same order, a few
packed numbers each. Between the tasks go pickled messages about contexts and memory. Arrays stay in shared memory.
"""

import os
import pickle
import socket
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from parallel_lenet.batching import Block
from parallel_lenet.engines.memory import ArrayLocation
from parallel_lenet.metrics import Metrics

GRADIENT, METRICS, CONTEXTS = 0, 1, 2  # Kinds of message to a worker.
READY, RESULT, FAILED, SKIPPED, REFUSED = 0, 1, 2, 3, 4  # Kinds of answer.

_LENGTH = struct.Struct("<Q")
_TASK = struct.Struct("<BQQIIQ?QQ")
_ANSWER = struct.Struct("<Bdqqdd?d")
_READ = 1 << 14  # Bytes read at a time: enough for all messages that usually wait.
_DESCRIPTORS = socket.CMSG_SPACE(4 * 64) if hasattr(socket, "CMSG_SPACE") else 0  # Bytes of descriptors.


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs before its first task."""

    parameters_memory: tuple[int | str, int]
    """Handle and size of the memory with the parameters, which all workers share."""
    parameters: ArrayLocation
    stamps_memory: tuple[int | str, int]
    """Handle and size of memory that only the coordinator and this worker share."""
    stamps: ArrayLocation
    """For each row of gradients the stamp of the task that is still wanted. The coordinator may change it."""


class MemoryHandle(NamedTuple):
    """Memory or a file for a worker to map."""

    number: int
    handle: int | str
    """A name, or any number if a descriptor is sent with the message: it is the next one received."""
    size: int
    read_only: bool


class ContextOpening(NamedTuple):
    """A context to open. The answer is READY, or REFUSED with the context's number as the count of the metrics."""

    context: int
    model: bytes
    """The model, pickled by cloudpickle, which sends a class of a script or notebook with its code."""
    memory: tuple[MemoryHandle, ...]
    """What the worker does not have yet."""
    datasets: tuple[tuple[tuple[int, ArrayLocation], ...], ...]
    """For each dataset the memory and the location of its inputs, its targets and its weights if it has any."""
    call_sizes: tuple[int, ...]
    """How many samples to warm up with."""

    def pack(self) -> bytes:
        return bytes([CONTEXTS]) + pickle.dumps(self)


class ContextClosing(NamedTuple):
    """Contexts and memory that are not needed any more. There is no answer."""

    contexts: tuple[int, ...]
    memory: tuple[int, ...]

    def pack(self) -> bytes:
        return bytes([CONTEXTS]) + pickle.dumps(self)


class GradientRow(NamedTuple):
    """Memory for one of the worker's gradients, before a task that writes there. It replaces what the row had before.

    There is no answer.
    """

    row: int
    memory: MemoryHandle
    location: ArrayLocation

    def pack(self) -> bytes:
        return bytes([CONTEXTS]) + pickle.dumps(self)


class BlockTask(NamedTuple):
    """One block to compute."""

    kind: int
    stamp: int
    """The step's. The worker skips the task if `WorkerSetup.stamps` has another one for the row."""
    context: int
    row: int
    """The row of the worker's gradients to write to."""
    block: Block

    def pack(self) -> bytes:
        kind, stamp, context, row, (rows, dataset, shard_size, key) = self
        seed, epoch = key or (0, 0)
        packed = _TASK.pack(kind, stamp, context, row, dataset, shard_size, key is not None, seed, epoch)
        return packed + rows.tobytes()

    @classmethod
    def unpack(cls, message: bytes) -> "BlockTask":
        kind, stamp, context, row, dataset, shard_size, keyed, seed, epoch = _TASK.unpack_from(message)
        rows = np.frombuffer(message, np.int64, offset=_TASK.size)
        return cls(kind, stamp, context, row, Block(rows, dataset, shard_size, (seed, epoch) if keyed else None))


class BlockAnswer(NamedTuple):
    """The answer to the first task that this worker has not answered yet."""

    kind: int
    metrics: Metrics = Metrics()
    seconds: float = 0.0
    """Of the computation."""
    finite: bool = True
    """As in `worker.Sums`."""
    start: float = 0.0
    """When it began, by `time.perf_counter`, which is the same clock in all processes of a machine."""
    failure: bytes = b""
    """The pickled exception and its traceback if the task failed."""

    def pack(self) -> bytes:
        sums = self.metrics
        numbers = (sums.loss_sum, sums.correct, sums.count, sums.weight)
        return _ANSWER.pack(self.kind, *numbers, self.seconds, self.finite, self.start) + self.failure

    @classmethod
    def unpack(cls, message: bytes) -> "BlockAnswer":
        kind, loss_sum, correct, count, weight, seconds, finite, start = _ANSWER.unpack_from(message)
        metrics = Metrics(loss_sum, correct, count, weight)
        return cls(kind, metrics, seconds, finite, start, message[_ANSWER.size :])


def _duplicate(descriptor: int) -> int:
    """A copy of a descriptor, with a number of at least 3."""
    import fcntl  # Imported lazily: Windows has neither this module nor descriptors to send.

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


class Channel:
    """Messages over a stream socket, each after its length. Descriptors may be sent with a message.

    If the socket does not block, neither does this class: a stopped process reads nothing, and must not stop the other
    one. What the socket does not take waits in ``outbox`` for `flush`.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._process = os.getpid()
        self.outbox = deque[tuple[bytearray, list[int]]]()
        self.descriptors = deque[int]()
        """Received, but not yet used."""
        self._inbox = bytearray()
        self._buffer = bytearray(_READ)

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a message, or as much of it as the socket takes. Raises OSError if the other end is closed."""
        framed = _LENGTH.pack(len(message)) + message
        if self.outbox or descriptors:
            # Copies of the descriptors: the message may wait for longer than the originals are open.
            self.outbox.append((bytearray(framed), [_duplicate(descriptor) for descriptor in descriptors]))
            self.flush()
            return
        try:  # The usual case.
            sent = self.socket.send(framed)
        except BlockingIOError:
            sent = 0
        if sent < len(framed):
            self.outbox.append((bytearray(framed[sent:]), []))

    def flush(self) -> None:
        """Send what waits in ``outbox``, or as much of it as the socket takes. Raises OSError as `send`."""
        while self.outbox:
            data, descriptors = self.outbox[0]
            try:
                sent = socket.send_fds(self.socket, [data], descriptors) if descriptors else self.socket.send(data)
            except BlockingIOError:
                return
            while descriptors:
                os.close(descriptors.pop())
            del data[:sent]
            if not data:
                self.outbox.popleft()

    def shut_down(self) -> None:
        """End the connection, even if other processes have the socket too. Received messages can still be read.

        Does nothing in a process that was forked from this one: the socket is its parent's.
        """
        if os.getpid() == self._process:
            with suppress(OSError):  # The other end has been closed.
                self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Shut down, and close the socket and the descriptors that were not sent."""
        self.shut_down()
        self.socket.close()
        for _, descriptors in self.outbox:
            while descriptors:
                os.close(descriptors.pop())
        self.outbox.clear()

    def receive(self, descriptors: bool = False) -> list[bytes]:
        """Wait for data if the socket blocks, and return the messages that are complete.

        ``descriptors`` says whether descriptors may come with them. Raises EOFError or OSError if the other end is
        closed.
        """
        try:
            if descriptors and _DESCRIPTORS:
                flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
                size, extra, _, _ = self.socket.recvmsg_into([self._buffer], _DESCRIPTORS, flags)
                for _, _, packed in extra:
                    self.descriptors += struct.unpack(f"{len(packed) // 4}i", packed[: len(packed) // 4 * 4])
            else:
                size = self.socket.recv_into(self._buffer)
        except BlockingIOError:
            return []
        if not size:
            raise EOFError
        if not self._inbox and size >= _LENGTH.size and _LENGTH.unpack_from(self._buffer)[0] == size - _LENGTH.size:
            return [bytes(self._buffer[_LENGTH.size : size])]  # The usual case.
        self._inbox += self._buffer[:size]
        messages = []
        start = 0
        while len(self._inbox) >= start + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._inbox, start)
            end = start + _LENGTH.size + length
            if len(self._inbox) < end:
                break
            messages.append(bytes(self._inbox[start + _LENGTH.size : end]))
            start = end
        del self._inbox[:start]
        return messages
