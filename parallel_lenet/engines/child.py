"""The program a worker process runs: set up once, then shard after shard until the coordinator hangs up.

Started as ``python -m parallel_lenet.engines.child SOCKET PARENT``, not through multiprocessing: that would import the
user's script again, which then needs ``if __name__ == "__main__"``.
"""

import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection

from parallel_lenet.batching import Shard
from parallel_lenet.datasets import Dataset
from parallel_lenet.engines.memory import attach, read_only, view
from parallel_lenet.engines.messages import FAILED, GRADIENT, READY, RESULT, Answer, Setup, Task
from parallel_lenet.model import Model, ShardMetrics
from parallel_lenet.worker import shard_gradient, shard_metrics

NOTHING = ShardMetrics()


def _failure(error: BaseException) -> bytes:
    """The exception as itself where it can be pickled and unpickled, with its traceback as text."""
    text = "".join(traceback.format_exception(error))
    for dumps in (pickle.dumps, _cloudpickle):
        try:
            message = bytes(dumps((error, text)))
            pickle.loads(message)
        except Exception:  # An exception can fail to pickle, and to unpickle, in any way it likes.
            continue
        return message
    try:
        described = f"{type(error).__name__}: {error}"
    except Exception:  # And to be printed.
        described = type(error).__name__
    return pickle.dumps((RuntimeError(described), text))


def _cloudpickle(failure: tuple[BaseException, str]) -> bytes:
    """An exception whose class came with the model from the coordinator's ``__main__`` is that class again there."""
    from joblib.externals.loky.backend.reduction import dumps  # Late: 0.1 s, for failures only.

    return bytes(dumps(failure))


class _Worker:
    def __init__(self, setup: Setup) -> None:
        shared = attach(*setup.shared)
        self.parameters = read_only(view(shared, setup.parameters))
        self.datasets = [
            Dataset(read_only(view(shared, inputs)), read_only(view(shared, targets)))
            for inputs, targets in setup.datasets
        ]
        self.gradients = view(attach(*setup.own), setup.gradients)
        self.model: Model = pickle.loads(setup.model)

    def compute(self, task: Task) -> Answer:
        shard = Shard(task.rows, task.dataset)
        start = time.perf_counter()
        if task.kind == GRADIENT:
            gradient = self.gradients[task.slot]
            metrics = shard_gradient(self.model, self.datasets, self.parameters, shard, gradient)
        else:
            metrics = shard_metrics(self.model, self.datasets, self.parameters, shard)
        return Answer(RESULT, task.stamp, task.shard, task.slot, metrics, time.perf_counter() - start)


def _leave_with(parent: int) -> None:
    """End this process soon after its parent, even in the middle of a long shard: there is no one left to answer."""
    while os.getppid() == parent:  # On Windows this never changes; there the closed socket has to do.
        time.sleep(0.25)
    os._exit(1)


def _socket(argument: str) -> socket.socket:
    """The inherited socket: a descriptor, or on Windows what ``socket.share`` wrote to standard input."""
    if sys.platform == "win32":
        return socket.fromshare(sys.stdin.buffer.read())
    return socket.socket(fileno=int(argument))


def main() -> None:
    """Serve until the socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the coordinator decides.
    os.dup2(2, 1)  # What a model prints must not mix with the output of the coordinator's program.
    descriptor, parent = sys.argv[1:]
    threading.Thread(target=_leave_with, args=(int(parent),), daemon=True).start()
    connection = Connection(_socket(descriptor).detach())
    try:
        setup = pickle.loads(connection.recv_bytes())
        try:
            worker = _Worker(setup)
        except Exception as error:
            connection.send_bytes(Answer(FAILED, 0, 0, 0, NOTHING, 0.0, _failure(error)).pack())
            return
        connection.send_bytes(Answer(READY, 0, 0, 0, NOTHING, 0.0).pack())
        while True:
            task = Task.unpack(connection.recv_bytes())
            try:
                answer = worker.compute(task)
            except Exception as error:
                answer = Answer(FAILED, task.stamp, task.shard, task.slot, NOTHING, 0.0, _failure(error))
            connection.send_bytes(answer.pack())
    except (EOFError, OSError):
        return  # The coordinator has hung up, or is gone.


if __name__ == "__main__":
    main()
