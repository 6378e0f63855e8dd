"""What the coordinator's process and a worker say to each other, over a socket that only these two hold.

First comes one `Setup`, pickled. Then tasks one way and answers the other, a few packed numbers each, in the same
order; arrays stay in shared memory.
"""

import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from parallel_lenet.batching import Shard
from parallel_lenet.engines.memory import Place
from parallel_lenet.model import ShardMetrics

GRADIENT, METRICS = 0, 1  # kinds of task
READY, RESULT, FAILED, SKIPPED = 0, 1, 2, 3  # kinds of answer

_LENGTH = struct.Struct("<Q")
_TASK = struct.Struct("<BQIII")
_ANSWER = struct.Struct("<Bdqqd")
_READ = 1 << 16  # Bytes read at a time: more messages than ever wait.


@dataclass(frozen=True)
class Setup:
    """All that a worker needs before its first task."""

    model: bytes
    """The model, by cloudpickle: a class defined in a script or notebook travels whole."""
    shared: tuple[int | str, int]
    """Handle and size of the block with parameters and datasets."""
    parameters: Place
    datasets: tuple[tuple[Place, Place], ...]
    own: tuple[int | str, int]
    """Handle and size of the block with this worker's gradients."""
    gradients: Place
    wanted: Place
    """For each row of the gradients the stamp of the task to compute, which may change its mind."""


class Task(NamedTuple):
    """One shard to compute."""

    kind: int
    stamp: int
    """Of the step; the worker skips the task where another stands in ``wanted``."""
    row: int
    """Of the worker's gradients, to write."""
    shard: Shard

    def pack(self) -> bytes:
        """As bytes."""
        rows, dataset, cut = self.shard
        return _TASK.pack(self.kind, self.stamp, self.row, dataset, cut) + rows.tobytes()

    @classmethod
    def unpack(cls, message: bytes) -> "Task":
        """From bytes."""
        kind, stamp, row, dataset, cut = _TASK.unpack_from(message)
        return cls(kind, stamp, row, Shard(np.frombuffer(message, np.int64, offset=_TASK.size), dataset, cut))


class Answer(NamedTuple):
    """What came of a task, the first that this worker hasn't answered yet."""

    kind: int
    metrics: ShardMetrics = ShardMetrics()
    seconds: float = 0.0
    """What the computation took."""
    failure: bytes = b""
    """The pickled exception and its traceback, where it failed."""

    def pack(self) -> bytes:
        """As bytes."""
        sums = self.metrics
        return _ANSWER.pack(self.kind, sums.loss_sum, sums.correct, sums.count, self.seconds) + self.failure

    @classmethod
    def unpack(cls, message: bytes) -> "Answer":
        """From bytes."""
        kind, loss_sum, correct, count, seconds = _ANSWER.unpack_from(message)
        return cls(kind, ShardMetrics(loss_sum, correct, count), seconds, message[_ANSWER.size :])


class Channel:
    """Messages over a stream socket, each behind its length.

    Over a socket that doesn't block, neither does this: a process that has been stopped reads nothing, and must not
    stop the other one. What the socket won't take waits in ``outbox`` for `flush`.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._process = os.getpid()
        self.outbox = bytearray()
        self._inbox = bytearray()

    def send(self, message: bytes) -> None:
        """Send one message, or what a socket that does not block takes of it; OSError if the other end is closed."""
        self.outbox += _LENGTH.pack(len(message)) + message
        self.flush()

    def flush(self) -> None:
        """Send what waits: all of it, or what a socket that does not block takes."""
        try:
            while self.outbox:
                sent = self.socket.send(self.outbox)
                del self.outbox[:sent]
        except BlockingIOError:
            return

    def close(self) -> None:
        """Hang up, also if a process that was forked from this one has a copy of the socket: closing that does not."""
        if os.getpid() == self._process:
            with suppress(OSError):  # The other end has been closed.
                self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def receive(self) -> list[bytes]:
        """The messages that are here, once something is; EOFError or OSError where the other end is closed."""
        try:
            data = self.socket.recv(_READ)
        except BlockingIOError:
            return []
        if not data:
            raise EOFError
        self._inbox += data
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
