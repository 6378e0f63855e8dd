"""What a worker of a cluster does with a task, and what the coordinator's side and it say to each other.

Model and datasets, the *setup*, travel to a worker process once. A task names its setup by a key of its own; a
worker that hasn't got it says so, and is sent the blocks again with the setup beside them. So it doesn't matter how a
worker came to be there, with the cluster, later, or in place of one that died, nor which cluster it is. Each thread
that computes makes a model of its own for each context.
"""

import copy
import os
import pickle
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.batching import Block
from parallel_lenet.engines.cluster.versions import versions
from parallel_lenet.engines.memory import read_only
from parallel_lenet.engines.remote_exceptions import pickled_exception
from parallel_lenet.engines.serial import blas
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.parameters import Vector
from parallel_lenet.worker import Samples, block_gradient, block_metrics

# A worker may serve two coordinators, or the calls of one in turn, but must not gather the datasets of all it ever had.
SETUPS_KEPT = 3

Blob = NDArray[np.uint8]


@dataclass(frozen=True)
class ModelAndData:
    """What every task of a context needs."""

    model: bytes
    """By cloudpickle, so that a class defined in a script travels whole."""
    datasets: tuple[Samples, ...]


# Not a tuple: joblib's Ray backend puts every argument of 100 bytes or more, by sys.getsizeof, into Ray's object store
# and keeps it there as long as the pool, which would fill it with the parameters of every step. An instance has 48.
@dataclass(frozen=True)
class GroupTask:
    """A group of blocks at one version of the parameters."""

    version: int
    key: str
    """Of the setup."""
    context: str
    """Unique."""
    parameters: Vector
    blocks: Sequence[tuple[int, Block]]
    """Each with its number in the step."""
    gradients: bool
    """Whether they are wanted, or the metrics alone."""
    versions: dict[str, str] = field(default_factory=versions)
    """The coordinator's: a worker with others computes nothing."""

    @property
    def nbytes(self) -> int:
        """What its arrays weigh."""
        return int(self.parameters.nbytes + sum(block.rows.nbytes for _, block in self.blocks))


class Result(NamedTuple):
    """What came of one block: stamped with version and block, so that it can't be taken for another's."""

    version: int
    block: int
    metrics: Metrics
    gradient: Vector | None = None
    failure: bytes = b""
    """The model's exception and its traceback, pickled, where it raised."""
    worker: str = ""
    """Filled in when it has come back, as is the next."""
    seconds: float = 0.0
    """The task's, divided among its blocks by their samples."""
    finite: bool = True
    """As `worker.Sums` has it."""


@dataclass(frozen=True)
class GroupAnswer:
    """What came of a task."""

    worker: str
    seconds: float
    """What the computation took."""
    results: Sequence[Result]
    """Empty if the worker does not have the setup, or has other versions; it ends with the first failure."""
    versions: dict[str, str] = field(default_factory=versions)
    """The worker's."""

    @property
    def nbytes(self) -> int:
        """What its arrays weigh."""
        return sum(result.gradient.nbytes for result in self.results if result.gradient is not None)


_own: dict[str, tuple[ModelAndData, Model | None]] = {}
_models = threading.local()
"""The thread's own models, by context, the last few."""
_holders = Counter[str]()
_sent: OrderedDict[str, ModelAndData] = OrderedDict()
_lock = threading.Lock()


def dumps(value: object) -> bytes:
    """By cloudpickle."""
    from joblib.externals.loky.backend.reduction import dumps  # Late: 0.1 s.

    return bytes(dumps(value))


def pack(setup: ModelAndData) -> Blob:
    """A setup's bytes, to send."""
    return np.frombuffer(dumps(setup), np.uint8)


def hold(key: str, setup: ModelAndData, model: Model | None) -> None:
    """Have a setup ready in the coordinator's process, for tasks that joblib runs there.

    There the model is copied, not unpickled: that would change its class, if that is one of the program's own.
    """
    with _lock:
        _own[key] = setup, model
        _holders[key] += 1


def forget(key: str) -> None:
    """Hold it no longer in this process, unless another engine here does; a worker, none whose key begins so."""
    with _lock:
        _holders[key] -= 1
        if _holders[key] <= 0:
            del _holders[key]
            _own.pop(key, None)
            for sent in [sent for sent in _sent if key and sent.startswith(key)]:
                del _sent[sent]


def _unpack(key: str, blob: Blob) -> ModelAndData:
    """Make this process, which is a worker's, ready for the tasks of a setup."""
    # For good: threadpoolctl lets only one thread set OpenBLAS's limit, so tasks in several threads of a worker can't
    # each have their own. Dask, Ray and loky start their workers with one BLAS thread too, unless told otherwise.
    blas().limit(limits=1)
    setup: ModelAndData = pickle.loads(blob.data)
    for data in setup.datasets:
        for array in data:
            if array is not None:
                read_only(array)
    with _lock:
        _sent[key] = setup
        while len(_sent) > SETUPS_KEPT:
            _sent.popitem(last=False)
    return setup


def _model(task: GroupTask, setup: ModelAndData) -> Model:
    """The model that this thread has made for the context."""
    held: OrderedDict[str, Model] = _models.__dict__.setdefault("held", OrderedDict())
    if task.context not in held:
        own = _own.get(task.key, (setup, None))[1]
        held[task.context] = pickle.loads(setup.model) if own is None else copy.deepcopy(own)
        while len(held) > SETUPS_KEPT:
            held.popitem(last=False)
    return held[task.context]


def compute(task: GroupTask, blob: Blob | None) -> GroupAnswer:
    """Each block of the task in turn, up to the first that fails; what the model raises is a value, not an exception.

    An exception would end the pool in loky, and the call, with all other results, everywhere.
    """
    worker = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
    results: list[Result] = []
    if task.versions != versions():  # Before anything of the coordinator's is unpickled.
        return GroupAnswer(worker, 0.0, results)
    setup = _own[task.key][0] if task.key in _own else _sent.get(task.key)
    if setup is None and blob is None:
        return GroupAnswer(worker, 0.0, results)
    # A copy: what comes out of a message may lie at any address, and NumPy adds unaligned numbers in another order.
    parameters = read_only(task.parameters.copy())
    spare = list[Vector]()
    start = time.perf_counter()
    for number, block in task.blocks:
        gradient = np.full_like(parameters, np.nan) if task.gradients else None  # If the model forgets to write it.
        finite = True
        try:
            if setup is None and blob is not None:
                setup = _unpack(task.key, blob)
            assert setup is not None
            model = _model(task, setup)
            if gradient is None:
                metrics = block_metrics(model, setup.datasets, parameters, block)
            else:
                metrics, finite = block_gradient(model, setup.datasets, parameters, block, gradient, spare)
        except BaseException as error:  # SystemExit too: it is for the coordinator's program to leave, or not.
            if isinstance(error, KeyboardInterrupt) and task.key in _own:
                raise  # This is the coordinator's program.
            results.append(Result(task.version, number, Metrics(), failure=pickled_exception(error)))
            break
        results.append(Result(task.version, number, metrics, gradient, finite=finite))
    return GroupAnswer(worker, time.perf_counter() - start, results)
