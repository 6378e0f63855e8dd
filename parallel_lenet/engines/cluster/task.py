"""The tasks and answers between the coordinator and a cluster's workers, and how a worker computes a task.

Model and datasets, the *setup*, are sent to a worker process once. A task names its setup by a key. A worker that does
not have it says so, and gets the blocks again together with the setup. So workers may start at any time, in any
cluster. Each thread that computes creates its own model per context.
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

MOST_SETUPS = 3  # Per worker, which may serve two coordinators, or several calls of one. Older ones free their memory.

Blob = NDArray[np.uint8]


@dataclass(frozen=True)
class ModelAndData:
    """The setup: what all tasks of a context need."""

    model: bytes
    """Pickled by cloudpickle, which sends a class of a script with its code."""
    datasets: tuple[Samples, ...]


# Not a tuple: joblib's Ray backend puts each argument of 100 bytes or more, by sys.getsizeof, into Ray's object store.
# It stays there as long as the pool exists, so the parameters of all steps would fill the store. An instance has 48
# bytes.
@dataclass(frozen=True)
class GroupTask:
    """A group of blocks at one version of the parameters."""

    version: int
    key: str
    """The key of the setup."""
    context: str
    """The unique name of the context."""
    parameters: Vector
    blocks: Sequence[tuple[int, Block]]
    """The blocks, each with its number in the step."""
    gradients: bool
    """Whether to compute gradients, or only metrics."""
    versions: dict[str, str] = field(default_factory=versions)
    """The coordinator's versions. A worker with other ones computes nothing."""

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return int(self.parameters.nbytes + sum(block.rows.nbytes for _, block in self.blocks))


class Result(NamedTuple):
    """The result of one block, with the version of the parameters and the number of the block."""

    version: int
    block: int
    metrics: Metrics
    gradient: Vector | None = None
    failure: bytes = b""
    """The model's exception and its traceback, pickled. Empty if it raised none."""
    worker: str = ""
    """The worker's name. Set by the coordinator."""
    seconds: float = 0.0
    """The block's share of the task's seconds, by samples. Set by the coordinator."""
    finite: bool = True
    """Whether loss and gradient are finite, as in `worker.Sums`."""


@dataclass(frozen=True)
class GroupAnswer:
    """The answer to a task."""

    worker: str
    seconds: float
    """The duration of the computation."""
    results: Sequence[Result]
    """Empty if the worker does not have the setup, or has other versions. The first failure is the last result."""
    versions: dict[str, str] = field(default_factory=versions)
    """The worker's versions."""

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(result.gradient.nbytes for result in self.results if result.gradient is not None)


_local_setups: dict[str, tuple[ModelAndData, Model | None]] = {}
"""The setups of this process's engines, by key."""
_models = threading.local()
"""The last few models of each thread, by context."""
_users = Counter[str]()
"""How many contexts use a local setup, by key."""
_received_setups: OrderedDict[str, ModelAndData] = OrderedDict()
"""The last few setups that this process received, by key."""
_lock = threading.Lock()


def dumps(value: object) -> bytes:
    """Pickle with cloudpickle."""
    from joblib.externals.loky.backend.reduction import dumps  # Imported lazily: it takes 0.1 s.

    return bytes(dumps(value))


def pack(setup: ModelAndData) -> Blob:
    """The setup's bytes, to send with a task."""
    return np.frombuffer(dumps(setup), np.uint8)


def keep_locally(key: str, setup: ModelAndData, model: Model | None) -> None:
    """Keep a setup in the coordinator's process, for tasks that joblib runs there.

    There the model is copied: unpickling it would define the model's class again.
    """
    with _lock:
        _local_setups[key] = setup, model
        _users[key] += 1


def forget(key: str) -> None:
    """Free a local setup with its last user, and received setups whose keys start with ``key``."""
    with _lock:
        _users[key] -= 1
        if _users[key] <= 0:
            del _users[key]
            _local_setups.pop(key, None)
            for received_key in [each for each in _received_setups if key and each.startswith(key)]:
                del _received_setups[received_key]


def _unpack(key: str, blob: Blob) -> ModelAndData:
    """Unpack a setup in a worker's process."""
    # This limit stays: threadpoolctl lets only one thread set OpenBLAS's limit, so tasks in several threads of a worker
    # cannot each set it. Dask, Ray and loky start their workers with one BLAS thread too, by default.
    blas().limit(limits=1)
    setup: ModelAndData = pickle.loads(blob.data)
    for data in setup.datasets:
        for array in data:
            if array is not None:
                read_only(array)
    with _lock:
        _received_setups[key] = setup
        while len(_received_setups) > MOST_SETUPS:
            _received_setups.popitem(last=False)
    return setup


def _thread_model(task: GroupTask, setup: ModelAndData) -> Model:
    """The model of this thread for the context. It is created if it does not exist."""
    models: OrderedDict[str, Model] = _models.__dict__.setdefault("by_context", OrderedDict())
    if task.context not in models:
        _, local = _local_setups.get(task.key, (setup, None))
        models[task.context] = pickle.loads(setup.model) if local is None else copy.deepcopy(local)
        while len(models) > MOST_SETUPS:
            models.popitem(last=False)
    return models[task.context]


def compute(task: GroupTask, blob: Blob | None) -> GroupAnswer:
    """Compute each block of the task in turn, up to the first that fails. An exception of the model is a result.

    If the exception were raised here, the call would end without its other results, and loky's pool would end.
    """
    worker = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
    results: list[Result] = []
    if task.versions != versions():  # Checked before the coordinator's setup is unpickled.
        return GroupAnswer(worker, 0.0, results)
    setup = _local_setups[task.key][0] if task.key in _local_setups else _received_setups.get(task.key)
    if setup is None and blob is None:
        return GroupAnswer(worker, 0.0, results)
    # A copy: an array from a message may lie at any address, and NumPy adds unaligned numbers in another order.
    parameters = read_only(task.parameters.copy())
    spare = list[Vector]()
    start = time.perf_counter()
    for number, block in task.blocks:
        gradient = np.empty_like(parameters) if task.gradients else None
        finite = True
        try:
            if setup is None and blob is not None:
                setup = _unpack(task.key, blob)
            assert setup is not None
            model = _thread_model(task, setup)
            if gradient is None:
                metrics = block_metrics(model, setup.datasets, parameters, block)
            else:
                metrics, finite = block_gradient(model, setup.datasets, parameters, block, gradient, spare)
        except BaseException as error:  # SystemExit too: the coordinator raises it in its program.
            if isinstance(error, KeyboardInterrupt) and task.key in _local_setups:
                raise  # This is the coordinator's program.
            results.append(Result(task.version, number, Metrics(), failure=pickled_exception(error)))
            break
        results.append(Result(task.version, number, metrics, gradient, finite=finite))
    return GroupAnswer(worker, time.perf_counter() - start, results)
