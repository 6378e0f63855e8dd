"""Worker processes on this machine, with shared memory: the default engine.

Datasets (as stored) and parameters lie in a block that all workers map; each worker writes its gradients into rows of a
block of its own. So a step sends each worker the positions of its samples, and gets a few numbers back.

What can happen, and what follows:

- *Hand out.* Shards go out in order, each to the worker with the fewest unanswered, up to two: the second waits in the
  worker's socket, so that it needn't wait for us. A worker gets one only if it has a free row.
- *Answer.* It is kept until all shards before it have been yielded, then yielded; the row is free again when the
  next result is asked for. An answer with another stamp belongs to a step given up: its row is free, nothing else.
- *A new step.* It ends the one before, whose iterator raises if it is asked again: all rows are free but those that
  unanswered shards will still write.
- *An interrupt* while we talk to the workers may have cut a message in two: the engine is closed.
- *Failure.* The model raised: so do we, once all shards before it have been yielded. So it is always the same error.
- *Hang-up.* The socket of a worker closes when it dies, at once: WorkerError, and the engine is closed.

Each worker is a program of its own that inherits one end of a socket pair: nothing has a name that others could
open, nothing needs the user's ``__main__``, and when either side dies the other reads the end of the stream.
"""

import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import NoReturn, Self

import numpy as np

from parallel_lenet.batching import Shard
from parallel_lenet.datasets import Dataset
from parallel_lenet.engines import ShardGradient, WorkerError
from parallel_lenet.engines.memory import SharedBlock, read_only
from parallel_lenet.engines.messages import FAILED, GRADIENT, METRICS, Answer, Setup, Task
from parallel_lenet.model import Model, ShardMetrics
from parallel_lenet.parameters import Vector

ROWS = 8  # Gradients a worker can hold: two under way, the others waiting for another worker's earlier shard.
SHORT = 0.02  # Seconds: of shards shorter than this a worker is given the next while it computes one.

_THREADS = ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM", "NUMEXPR_NUM", "NUMBA_NUM")


def _environment() -> dict[str, str]:
    """The environment, with the caller's import path and one thread for every library: the workers are the parallelism.

    Set before the worker starts, since BLAS reads it when NumPy loads it.
    """
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, **{f"{library}_THREADS": "1" for library in _THREADS}}


def _pickle(model: Model) -> bytes:
    """With classes and functions of ``__main__`` whole, which a worker couldn't import."""
    from joblib.externals.loky.backend.reduction import dumps  # Late: 0.1 s, while the workers start anyway.

    return bytes(dumps(model))


class _Worker:
    """One process, our end of its socket, and its rows of gradients."""

    def __init__(self, number: int, shared: SharedBlock, parameters: Vector) -> None:
        self.number = number
        self.block = SharedBlock([((ROWS, parameters.size), parameters.dtype)])
        self.rows = [read_only(row) for row in self.block.arrays[0]]
        self.free = list(range(ROWS))
        self.unanswered: list[Task] = []
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "parallel_lenet.engines.child", str(theirs.fileno()), str(os.getpid())]
        if sys.platform == "win32":
            self.process = subprocess.Popen(command, env=_environment(), stdin=subprocess.PIPE)
            self.process.communicate(theirs.share(self.process.pid), timeout=0)
        else:
            handles = [handle for handle in (shared.handle, self.block.handle) if isinstance(handle, int)]
            self.process = subprocess.Popen(
                command,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *handles],
                process_group=0,  # So that Ctrl-C in a terminal reaches the coordinator only.
            )
        theirs.close()
        self.connection = Connection(ours.detach())

    def lost(self) -> WorkerError:
        """What to raise when the socket has closed: how the process ended, and what it was doing."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            ending = "stopped answering"
        else:
            ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        work = f"computing shard {self.unanswered[0].shard}" if self.unanswered else "waiting for work"
        return WorkerError(f"worker {self.number} (process {self.process.pid}) {ending} while {work}")


def _raise(worker: _Worker, answer: Answer) -> NoReturn:
    """The model's exception, with the traceback it had in the worker."""
    error, traceback = pickle.loads(answer.failure)
    error.add_note(f"In worker {worker.number}:\n{traceback}")
    raise error


def _end(workers: list[_Worker], blocks: list[SharedBlock]) -> None:
    """Hang up; kill whoever is still computing, for nothing irreplaceable lives in a worker; wait for all."""
    for worker in workers:
        worker.connection.close()
        if worker.unanswered:
            worker.process.kill()
    for worker in workers:
        try:
            worker.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.block.close()
    for block in blocks:
        block.close()
    workers.clear()
    blocks.clear()


class ProcessesEngine:
    """An engine of ``n_workers`` processes."""

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self.datasets: tuple[Dataset, ...] = ()
        self._parameters: Vector = np.empty(0)
        self._stamp = 0
        self._shard_seconds = 0.0
        self._workers: list[_Worker] = []
        self._blocks: list[SharedBlock] = []
        self._held: dict[int, tuple[_Worker, Answer]] = {}  # Answers to the current step, until they are yielded.
        self._selector = selectors.DefaultSelector()
        # Ends the workers when the engine is garbage or the interpreter leaves, if nobody called close.
        self._finalizer = weakref.finalize(self, _end, self._workers, self._blocks)

    def open(self, model: Model, datasets: Sequence[Dataset], parameters: Vector) -> None:
        """Start the workers and wait until each has the model."""
        self.close()
        arrays = [parameters, *(array for data in datasets for array in (data.inputs, data.targets))]
        shared = SharedBlock([(array.shape, array.dtype) for array in arrays])
        self._blocks.append(shared)
        for copy, array in zip(shared.arrays, arrays, strict=True):
            copy[...] = array
        self._parameters = shared.arrays[0]
        places = shared.places
        try:
            for number in range(self.n_workers):
                worker = _Worker(number, shared, parameters)
                self._workers.append(worker)
                self._selector.register(worker.connection, selectors.EVENT_READ, worker)
            pickled = _pickle(model)
            for worker in self._workers:
                setup = Setup(
                    model=pickled,
                    shared=(shared.handle, shared.size),
                    parameters=places[0],
                    datasets=tuple(zip(places[1::2], places[2::2], strict=True)),
                    own=(worker.block.handle, worker.block.size),
                    gradients=worker.block.places[0],
                )
                self._send(worker, pickle.dumps(setup))
            for worker in self._workers:
                answer = self._receive(worker)
                if answer.kind == FAILED:
                    _raise(worker, answer)
            self.datasets = tuple(datasets)
        except BaseException:
            self.close()
            raise

    def gradients(self, parameters: Vector, shards: Sequence[Shard]) -> Iterator[ShardGradient]:
        """The gradients are views of the workers' memory."""
        for worker, answer in self._results(GRADIENT, parameters, shards):
            yield ShardGradient(answer.metrics, worker.rows[answer.slot])

    def metrics(self, parameters: Vector, shards: Sequence[Shard]) -> Iterator[ShardMetrics]:
        """As ``gradients``, but nothing is written."""
        for _, answer in self._results(METRICS, parameters, shards):
            yield answer.metrics

    def _results(self, kind: int, parameters: Vector, shards: Sequence[Shard]) -> Iterator[tuple[_Worker, Answer]]:
        """Hand out, receive, and yield in order."""
        if not self._workers:
            raise RuntimeError("the engine is closed: open it first")
        self._stamp += 1
        self._parameters[:] = parameters
        waiting = deque(
            Task(kind, self._stamp, index, 0, shard.dataset, shard.rows) for index, shard in enumerate(shards)
        )
        held = self._held = {}
        for worker in self._workers:
            worker.free = [row for row in range(ROWS) if all(row != task.slot for task in worker.unanswered)]
        for index in range(len(shards)):
            self._wait(index, waiting)
            worker, answer = held[index]
            if answer.kind == FAILED:
                _raise(worker, answer)
            yield worker, answer
            if self._held is not held:
                raise RuntimeError("the engine has been closed or begun another step: these results are gone")
            del held[index]
            worker.free.append(answer.slot)

    def _wait(self, index: int, waiting: deque[Task]) -> None:
        """Keep the workers busy until the answer to the shard is held."""
        try:
            self._hand_out(waiting)
            while index not in self._held:
                for key, _ in self._selector.select():
                    worker: _Worker = key.data
                    answer = self._receive(worker)
                    if answer.stamp == self._stamp:
                        self._held[answer.shard] = (worker, answer)
                        self._shard_seconds = answer.seconds
                    else:
                        worker.free.append(answer.slot)
                self._hand_out(waiting)
        except BaseException:
            self.close()
            raise

    def _hand_out(self, waiting: deque[Task]) -> None:
        """Give the next shards to the workers that can take one."""
        for already in (0, 1) if self._shard_seconds < SHORT else (0,):
            for worker in self._workers:
                if waiting and len(worker.unanswered) == already and worker.free:
                    task = waiting.popleft()._replace(slot=worker.free.pop())
                    worker.unanswered.append(task)
                    self._send(worker, task.pack())

    def _send(self, worker: _Worker, message: bytes) -> None:
        try:
            worker.connection.send_bytes(message)
        except OSError:
            raise self._lost(worker) from None

    def _receive(self, worker: _Worker) -> Answer:
        """The worker's next answer."""
        try:
            answer = Answer.unpack(worker.connection.recv_bytes())
        except (EOFError, OSError):
            raise self._lost(worker) from None
        if worker.unanswered:
            worker.unanswered.pop(0)  # A worker answers in the order it was asked.
        return answer

    def _lost(self, worker: _Worker) -> WorkerError:
        error = worker.lost()
        self.close()
        return error

    def close(self) -> None:
        """End the workers and free the memory."""
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
        _end(self._workers, self._blocks)
        self._held = {}
        self._parameters = np.empty(0)  # The last view of the shared block, which goes with it.
        self.datasets = ()
        self._stamp = 0
        self._shard_seconds = 0.0

    def __enter__(self) -> Self:
        """The engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
