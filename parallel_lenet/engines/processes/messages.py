"""What the coordinator's process and a worker say to each other, over a socket that only these two hold.

First comes one `WorkerSetup`, pickled. Then tasks one way and answers the other, a few packed numbers each, in the same
order; and between the tasks, pickled, which contexts the worker has to open and to close. Arrays stay in shared memory.
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
from parallel_lenet.engines.memory import Place
from parallel_lenet.metrics import Metrics

GRADIENT, METRICS, CONTEXTS = 0, 1, 2  # kinds of message to a worker
READY, RESULT, FAILED, SKIPPED, REFUSED = 0, 1, 2, 3, 4  # kinds of answer

_LENGTH = struct.Struct("<Q")
_TASK = struct.Struct("<BQQIIQ")
_ANSWER = struct.Struct("<Bdqqdd?")
_READ = 1 << 14  # Bytes read at a time: more messages than usually wait.
_DESCRIPTORS = socket.CMSG_SPACE(4 * 64) if hasattr(socket, "CMSG_SPACE") else 0  # The same, for what comes along.


@dataclass(frozen=True)
class WorkerSetup:
    """All that a worker needs before its first task."""

    shared: tuple[int | str, int]
    """Handle and size of the block with the parameters."""
    parameters: Place
    own: tuple[int | str, int]
    """Handle and size of a block that only this worker has."""
    wanted: Place
    """For each row of gradients the stamp of the task to compute, which may change its mind."""


class Memory(NamedTuple):
    """Memory for a worker to map: a block, or a file."""

    number: int
    handle: int | str
    """A name; or any number if a descriptor comes along with the message, which then is the next one."""
    size: int
    read_only: bool


class Opening(NamedTuple):
    """A context to open, answered with READY, or REFUSED and the context's number as the metrics' count."""

    context: int
    model: bytes
    """The model, by cloudpickle: a class defined in a script or notebook travels whole."""
    memory: tuple[Memory, ...]
    """What the worker does not have yet."""
    datasets: tuple[tuple[tuple[int, Place], ...], ...]
    """For each, in which memory and where the inputs, the targets and, if there are any, the weights lie."""
    call_sizes: tuple[int, ...]
    """How many samples to warm up with."""

    def pack(self) -> bytes:
        """As bytes."""
        return bytes([CONTEXTS]) + pickle.dumps(self)


class Closing(NamedTuple):
    """Contexts and memory that are not needed any more; it is not answered."""

    contexts: tuple[int, ...]
    memory: tuple[int, ...]

    def pack(self) -> bytes:
        """As bytes."""
        return bytes([CONTEXTS]) + pickle.dumps(self)


class Row(NamedTuple):
    """Memory for one of the worker's gradients, before its first task that writes there; it is not answered."""

    row: int
    memory: Memory
    place: Place

    def pack(self) -> bytes:
        """As bytes."""
        return bytes([CONTEXTS]) + pickle.dumps(self)


class BlockTask(NamedTuple):
    """One block to compute."""

    kind: int
    stamp: int
    """Of the step; the worker skips the task where another stands in ``wanted``."""
    context: int
    row: int
    """Of the worker's gradients, to write."""
    block: Block

    def pack(self) -> bytes:
        """As bytes."""
        kind, stamp, context, row, (rows, dataset, shard_size) = self
        return _TASK.pack(kind, stamp, context, row, dataset, shard_size) + rows.tobytes()

    @classmethod
    def unpack(cls, message: bytes) -> "BlockTask":
        """From bytes."""
        kind, stamp, context, row, dataset, shard_size = _TASK.unpack_from(message)
        rows = np.frombuffer(message, np.int64, offset=_TASK.size)
        return cls(kind, stamp, context, row, Block(rows, dataset, shard_size))


class BlockAnswer(NamedTuple):
    """What came of a task, the first that this worker hasn't answered yet."""

    kind: int
    metrics: Metrics = Metrics()
    seconds: float = 0.0
    """What the computation took."""
    finite: bool = True
    """As `worker.Sums` has it."""
    failure: bytes = b""
    """The pickled exception and its traceback, where it failed."""

    def pack(self) -> bytes:
        """As bytes."""
        sums = self.metrics
        numbers = (sums.loss_sum, sums.correct, sums.count, sums.weight)
        return _ANSWER.pack(self.kind, *numbers, self.seconds, self.finite) + self.failure

    @classmethod
    def unpack(cls, message: bytes) -> "BlockAnswer":
        """From bytes."""
        kind, loss_sum, correct, count, weight, seconds, finite = _ANSWER.unpack_from(message)
        return cls(kind, Metrics(loss_sum, correct, count, weight), seconds, finite, message[_ANSWER.size :])


def _copy(descriptor: int) -> int:
    """Of a descriptor, not among the first three even if they are free."""
    import fcntl  # Lazily: Windows does not have it, nor descriptors to send.

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


class Channel:
    """Messages over a stream socket, each behind its length; descriptors may come along with one.

    Over a socket that doesn't block, neither does this: a process that has been stopped reads nothing, and must not
    stop the other one. What the socket won't take waits in ``outbox`` for `flush`.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._process = os.getpid()
        self.outbox = deque[tuple[bytearray, list[int]]]()
        self.descriptors = deque[int]()
        """Received, and not yet used."""
        self._inbox = bytearray()
        self._buffer = bytearray(_READ)

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one message, or as much of it as goes; OSError if the other end is closed."""
        framed = _LENGTH.pack(len(message)) + message
        if self.outbox or descriptors:
            # Copies of the descriptors: the message may wait for longer than the originals are open.
            self.outbox.append((bytearray(framed), [_copy(descriptor) for descriptor in descriptors]))
            self.flush()
            return
        try:  # As nearly always.
            sent = self.socket.send(framed)
        except BlockingIOError:
            sent = 0
        if sent < len(framed):
            self.outbox.append((bytearray(framed[sent:]), []))

    def flush(self) -> None:
        """Send what waits, or as much of it as goes."""
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

    def hang_up(self) -> None:
        """Say that no more will come, whoever else holds either end. What has been received can still be read.

        A process that was forked from this one does not: the socket is its parent's.
        """
        if os.getpid() == self._process:
            with suppress(OSError):  # The other end has been closed.
                self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up, and give up the socket."""
        self.hang_up()
        self.socket.close()
        for _, descriptors in self.outbox:
            while descriptors:
                os.close(descriptors.pop())
        self.outbox.clear()

    def receive(self, descriptors: bool = False) -> list[bytes]:
        """The messages that are here, once something is; EOFError or OSError if the other end is closed.

        ``descriptors`` says whether any may come along.
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
            return [bytes(self._buffer[_LENGTH.size : size])]  # As nearly always.
        self._inbox += self._buffer[:size]
        messages, start = [], 0
        while len(self._inbox) >= start + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._inbox, start)
            end = start + _LENGTH.size + length
            if len(self._inbox) < end:
                break
            messages.append(bytes(self._inbox[start + _LENGTH.size : end]))
            start = end
        del self._inbox[:start]
        return messages
