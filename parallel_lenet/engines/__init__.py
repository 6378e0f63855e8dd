"""The engine contract: where blocks are computed. Implemented by `serial`, `processes` and `cluster`.

An engine moves work and results; it never averages and knows nothing of epochs. Every call of the coordinator opens a
*context*: the model and the datasets as they are then. Whatever happens to them later, the call computes with those,
and a worker computes with a copy of the model that this context alone uses. So what a model writes to itself lasts as
long as the call, at most, and never reaches the caller's model. Several contexts may be open at a time.

Every engine gives the same container, order and errors:

- ``gradients`` and ``metrics`` are lazy iterators, one result per block, *in block order*, whatever order they were
  computed in. So the coordinator can add the first gradients while the last are being computed; `cluster` alone
  collects those of a call first. Blocks of one call may have any sizes; `worker.block_gradient` computes them.
- An exception of the model is raised as itself, that of the first block that fails, with a note that names the samples
  and another one with the worker's traceback if it was another process.
- A worker that is lost is replaced, with a WorkerWarning; what cannot be computed for that raises WorkerError.
- Dropping an iterator half way is allowed; the engine stays usable.

An engine is used by one thread at a time: `turns` sees to that. Only contexts may be closed, or dropped, by any thread.
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
    """A worker was lost: the message says which, on what, and how it ended."""


class WorkerWarning(UserWarning):
    """A worker was lost and replaced: the run goes on, and its result is what it would have been."""


class BlockGradient(NamedTuple):
    """The result for one block."""

    metrics: Metrics
    gradient: Vector
    """Summed over the samples; read-only, and valid until the next result is asked for that is not `ready`. After the
    last result no more is asked for: those that are valid then are so until the engine is used again."""
    worker: str = "this process"
    """Who computed it, for people."""
    seconds: float = 0.0
    """What the computation took there."""
    finite: bool = True
    """Whether the loss and the gradient are, as `worker.Sums` has it."""
    ready: int = 0
    """How many of the results that follow are here: no one has to wait for them."""
    start: float = 0.0
    """When the computation began, by this machine's `time.perf_counter`; 0 if it is not known."""


class Context(Closeable):
    """The model and the data of one call. Dropping it closes it."""

    closed = True  # Until it is made, or an interrupt in `__init__` ends it.

    def __init__(self, number: int, datasets: tuple[Samples, ...], closing: deque[int]) -> None:
        self.number = number
        self.datasets = datasets
        """Copies, read-only. The same arrays in all contexts that are open with equal data; none in a closed one."""
        self._closing = closing
        self.closed = False

    def close(self) -> None:
        """Let the engine free what it holds for this call, when the engine is used next."""
        if not self.closed:
            self.closed = True
            self.datasets = ()
            self._closing.append(self.number)

    __del__ = close


class Engine(Closeable):
    """Where workers run. Every engine derives from this class, also one of your own.

    An engine starts workers when it first needs them, and again after `close`: it can be used as long as it exists.
    The caller who created an engine closes it, usually with a ``with`` block. A `Coordinator` closes only the engine
    that it created itself, from a name.
    """

    n_workers: int

    @abstractmethod
    def open(
        self, model: Model, datasets: Sequence[Dataset], parameters: Vector, call_sizes: Sequence[int] = (1,)
    ) -> Context:
        """Copy model and datasets as they are now, to compute with vectors like ``parameters``.

        Workers that start or get the copies call the model's ``warm_up``, if it has one, once per number of samples in
        ``call_sizes``. Raises TypeError if the model cannot be copied.
        """

    @abstractmethod
    def start(self, context: Context) -> None:
        """Start the workers that are missing, and wait until they are ready. ``gradients`` does it too."""

    @abstractmethod
    def gradients(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[BlockGradient]:
        """The gradient of each block at ``parameters``, in block order. RuntimeError if the context is closed."""

    @abstractmethod
    def metrics(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[Metrics]:
        """Loss and correct answers of each block at ``parameters``, in block order, as ``gradients``."""

    @abstractmethod
    def resize(self, n_workers: int) -> None:
        """Have this number of workers from the next step on; results stay the same.

        Raises ValueError if the engine cannot have this number.
        """

    @abstractmethod
    def close(self) -> None:
        """End all workers, close all contexts and free what they held. A second call does nothing."""

    def worker_pids(self) -> list[int]:
        """The process ids of the workers that run now; empty if the engine has no processes of its own."""
        return []

    def __reduce__(self) -> NoReturn:
        """Raises TypeError: an engine cannot be copied or pickled."""
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or pickled, since it holds workers: create another one instead"
        )
