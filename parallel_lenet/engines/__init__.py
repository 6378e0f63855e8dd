"""The engine contract: where shards are computed. Implemented by `serial`, `processes` and `cluster`.

An engine moves work and results; it never averages and knows nothing of epochs. Every engine gives the same
container, order and errors:

- ``gradients`` and ``metrics`` are lazy iterators, one result a shard, *in shard order*, whatever order they were
  computed in. So the coordinator can add the first gradients while the last are being computed; `cluster` alone
  collects those of a call first. A shard with a ``cut`` is two: its gradient is that of the first plus that of the
  second, as `worker.shard_gradient` computes it.
- An exception of the model is raised as itself, with the worker's traceback as a note where it was another process.
- A worker that is lost is replaced, with a WorkerWarning; what can't be computed for that raises WorkerError.
- Dropping an iterator half way is allowed; the engine stays usable.
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from parallel_lenet.batching import Shard
from parallel_lenet.datasets import Dataset
from parallel_lenet.model import Model, ShardMetrics
from parallel_lenet.parameters import Vector


class WorkerError(RuntimeError):
    """A worker was lost: the message says which, on what, and how it ended."""


class WorkerWarning(UserWarning):
    """A worker was lost and replaced: the run goes on, and its result is what it would have been."""


class ShardGradient(NamedTuple):
    """The result for one shard."""

    metrics: ShardMetrics
    gradient: Vector
    """Summed over the samples; read-only, and valid until the next result is asked for."""


class Engine(Protocol):
    """Where workers run; a context manager that closes itself."""

    n_workers: int
    model: Model | None
    datasets: tuple[Dataset, ...]
    """What it is open with; None and empty when it is closed."""

    def open(self, model: Model, datasets: Sequence[Dataset], parameters: Vector) -> None:
        """Make ready to compute shards of these datasets with vectors like ``parameters``; closes what was open."""

    def gradients(self, parameters: Vector, shards: Sequence[Shard]) -> Iterator[ShardGradient]:
        """The gradient of each shard at ``parameters``, in shard order."""

    def metrics(self, parameters: Vector, shards: Sequence[Shard]) -> Iterator[ShardMetrics]:
        """Loss and correct answers of each shard at ``parameters``, in shard order."""

    def resize(self, n_workers: int) -> None:
        """Have so many workers from the next step on; the results stay the same. ValueError if it can't."""

    def close(self) -> None:
        """End all workers and free what they shared; a second call does nothing."""

    def __enter__(self) -> Self:
        """The engine itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
