"""The engine contract: where blocks are computed. Implemented by `serial`, `processes` and `cluster`.

An engine moves work and results. It never averages, and knows nothing of epochs. Each call of the coordinator opens a
*context*: the model and the datasets as they are at that moment. The call computes with those, and later changes by the
program have no effect on it. A worker computes with a copy of the model that only this context uses. So what a model
writes to its own attributes lasts until the end of the call at most, and never reaches the caller's model. Several
contexts may be open at a time.

Every engine gives the same container, order and errors:

- ``gradients`` and ``metrics`` are lazy iterators, one result per block, *in block order*, also if they were
  computed in another order. So the coordinator can add the first gradients while the last ones are computed. Only
  `cluster` collects the results of a call first. Blocks of one call may have any sizes. `worker.block_gradient`
  computes them.
- An exception of the model is raised as itself: that of the first block that fails. A note names the samples, and
  another one has the worker's traceback if the worker is another process.
- A lost worker is replaced, with a WorkerWarning. If a block cannot be computed, WorkerError is raised.
- An iterator may be dropped before its end. The engine stays usable.

One thread at a time uses an engine: see `turns`. Only contexts may be closed, or dropped, by any thread.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn

from parallel_lenet.batching import Block
from parallel_lenet.closing import Closeable
from parallel_lenet.datasets import Dataset
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.parameters import Vector
from parallel_lenet.worker import Samples


class WorkerError(RuntimeError):
    """Lost workers left a block without a result. The message says which workers, on what, and how they ended."""


class WorkerWarning(UserWarning):
    """A worker was lost and replaced: training continues, and the result is not affected."""


class BlockGradient(NamedTuple):
    """The result for one block."""

    metrics: Metrics
    gradient: Vector
    """Summed over the samples, read-only. It is valid until the caller asks for the next result, or for one more than
    ``ready`` further results. After the last result it is valid until the engine is used again."""
    worker: str = "this process"
    """The worker that computed it, as messages name it."""
    seconds: float = 0.0
    """The duration of the computation."""
    finite: bool = True
    """Whether loss and gradient are finite, as in `worker.Sums`."""
    ready: int = 0
    """How many of the next results the caller can ask for while this gradient stays valid. These are the results that
    have come already, or all results if there is a worker for each block."""
    start: float = 0.0
    """When the computation started, by this machine's `time.perf_counter`, or 0 if it is not known."""


class Context(Closeable):
    """The model and the data of one call. A context that nothing refers to closes itself."""

    closed = True  # Until `__init__` is done: an interrupt may end it.

    def __init__(self, number: int, datasets: tuple[Samples, ...], closing: deque[int]) -> None:
        self.number = number
        self.datasets = datasets
        """Read-only copies. Open contexts with equal data have the same arrays. A closed context has none."""
        self._closing = closing
        self.closed = False

    def close(self) -> None:
        """Let the engine free the memory of this call when it is used next."""
        if not self.closed:
            self.closed = True
            self.datasets = ()
            self._closing.append(self.number)

    __del__ = close


class Engine(Closeable):
    """The base class of engines. Every engine derives from this class, and so does one of your own.

    An engine starts workers when it first needs them, and again after `close`, so it can be used at any time. The code
    that creates an engine has to close it, usually with a ``with`` block. A `Coordinator` closes only an engine that it
    created from a name.
    """

    n_workers: int

    @abstractmethod
    def open(
        self, model: Model, datasets: Sequence[Dataset], parameters: Vector, call_sizes: Sequence[int] = (1,)
    ) -> Context:
        """Copy model and datasets as they are now, to compute with vectors of the shape and dtype of ``parameters``.

        Workers that get the copies call the model's ``warm_up``, if it has one, once per number of samples in
        ``call_sizes``. Raises TypeError if the model cannot be copied.
        """

    @abstractmethod
    def start(self, context: Context) -> None:
        """Start the workers if they do not run, and wait until they are ready. ``gradients`` does so too."""

    @abstractmethod
    def gradients(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[BlockGradient]:
        """The gradient of each block at ``parameters``, in block order.

        Raises RuntimeError if the context is closed.
        """

    @abstractmethod
    def metrics(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[Metrics]:
        """The metrics of each block at ``parameters``, in block order. Raises as ``gradients`` does."""

    @abstractmethod
    def resize(self, n_workers: int) -> None:
        """Use this number of workers from the next step on. Results stay the same.

        Raises ValueError if the engine cannot have this number.
        """

    @abstractmethod
    def close(self) -> None:
        """End all workers, close all contexts and free their memory. A second call does nothing."""

    def worker_pids(self) -> list[int]:
        """The process ids of the workers that run now. Empty if the engine has no processes of its own."""
        return []

    def __reduce__(self) -> NoReturn:
        """Raises TypeError: an engine cannot be copied or pickled."""
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or pickled, since it holds workers: create another one instead"
        )
