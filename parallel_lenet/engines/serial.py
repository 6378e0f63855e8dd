"""In this process, one shard after the other: the engine to debug a model with, and the yardstick for the others."""

from collections.abc import Iterator, Sequence
from functools import cache
from types import TracebackType
from typing import Self

import numpy as np
from threadpoolctl import ThreadpoolController

from parallel_lenet.batching import Shard
from parallel_lenet.datasets import Dataset
from parallel_lenet.engines import ShardGradient
from parallel_lenet.engines.memory import read_only
from parallel_lenet.model import Model, ShardMetrics
from parallel_lenet.parameters import Vector
from parallel_lenet.worker import shard_gradient, shard_metrics


@cache
def blas() -> ThreadpoolController:
    """The BLAS that NumPy loaded. ``blas().limit(limits=1)`` holds it at one thread for a while.

    A matrix product on two threads may differ from that on one in its last bits, and workers have one.
    """
    return ThreadpoolController().select(user_api="blas")


class SerialEngine:
    """An engine of one worker: the caller."""

    n_workers = 1

    def __init__(self) -> None:
        self.model: Model | None = None
        self.datasets: tuple[Dataset, ...] = ()

    def open(self, model: Model, datasets: Sequence[Dataset], parameters: Vector) -> None:
        """Keep what the shards need; ``parameters`` gives the gradients' size and type."""
        self.model = model
        self._gradient = np.full_like(parameters, np.nan)  # What a model forgets to write is noticed.
        self.datasets = tuple(datasets)

    def gradients(self, parameters: Vector, shards: Sequence[Shard]) -> Iterator[ShardGradient]:
        """Each gradient is computed when it is asked for, into the same buffer."""
        model = self._opened()
        frozen, result = read_only(parameters.view()), read_only(self._gradient.view())
        for shard in shards:
            with blas().limit(limits=1):
                metrics = shard_gradient(model, self.datasets, frozen, shard, self._gradient)
            yield ShardGradient(metrics, result)

    def metrics(self, parameters: Vector, shards: Sequence[Shard]) -> Iterator[ShardMetrics]:
        """Each is computed when it is asked for."""
        model = self._opened()
        frozen = read_only(parameters.view())
        for shard in shards:
            with blas().limit(limits=1):
                metrics = shard_metrics(model, self.datasets, frozen, shard)
            yield metrics

    def _opened(self) -> Model:
        if self.model is None:
            raise RuntimeError("the engine is closed: open it first")
        return self.model

    def resize(self, n_workers: int) -> None:
        """There is one of us."""
        if n_workers != 1:
            raise ValueError(f"the serial engine has 1 worker, the caller, and can't have {n_workers!r}")

    def close(self) -> None:
        """Forget model and data."""
        self.model, self.datasets = None, ()

    def __enter__(self) -> Self:
        """The engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
