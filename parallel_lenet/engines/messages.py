"""What the coordinator's process and a worker say to each other.

First comes one `Setup`, pickled: it travels over a socket that only these two processes hold, never through a file.
Then tasks one way and answers the other, a few packed numbers each; arrays stay in shared memory. Every task carries
the stamp of its step and its answer repeats it, so that an answer to a step given up isn't taken for one of the next.
"""

import struct
from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np

from parallel_lenet.batching import Rows
from parallel_lenet.engines.memory import Place
from parallel_lenet.model import ShardMetrics

GRADIENT, METRICS = 0, 1  # kinds of task
READY, RESULT, FAILED = 0, 1, 2  # kinds of answer

_TASK = struct.Struct("<BQIII")
_ANSWER = struct.Struct("<BQIIdqqd")


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


class Task(NamedTuple):
    """One shard to compute."""

    kind: int
    stamp: int
    shard: int
    slot: int
    """The row of the worker's gradients to write."""
    dataset: int
    rows: Rows

    def pack(self) -> bytes:
        """As bytes."""
        return _TASK.pack(*self[:5]) + self.rows.tobytes()

    @classmethod
    def unpack(cls, message: bytes) -> "Task":
        """From bytes."""
        kind, stamp, shard, slot, dataset = _TASK.unpack_from(message)
        return cls(kind, stamp, shard, slot, dataset, np.frombuffer(message, np.int64, offset=_TASK.size))


class Answer(NamedTuple):
    """What came of a task."""

    kind: int
    stamp: int
    shard: int
    slot: int
    metrics: ShardMetrics
    seconds: float
    """What the computation took."""
    failure: bytes = b""
    """The pickled exception and its traceback, where it failed."""

    def pack(self) -> bytes:
        """As bytes."""
        return _ANSWER.pack(*self[:4], *astuple(self.metrics), self.seconds) + self.failure

    @classmethod
    def unpack(cls, message: bytes) -> "Answer":
        """From bytes."""
        kind, stamp, shard, slot, loss_sum, correct, count, seconds = _ANSWER.unpack_from(message)
        metrics = ShardMetrics(loss_sum, correct, count)
        return cls(kind, stamp, shard, slot, metrics, seconds, message[_ANSWER.size :])
