"""In this process, one block after the other: the engine to debug a model with, and the yardstick for the others."""

import copy
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from parallel_lenet.batching import Block
from parallel_lenet.datasets import Dataset
from parallel_lenet.display import Displayed, Summary
from parallel_lenet.engines import BlockGradient, Context, Engine
from parallel_lenet.engines.copying import copied
from parallel_lenet.engines.memory import read_only
from parallel_lenet.engines.snapshots import PrivateBlock, Snapshots
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.parameters import Vector
from parallel_lenet.worker import block_gradient, block_metrics


@cache
def blas() -> ThreadpoolController:
    """The BLAS that NumPy loaded."""
    return ThreadpoolController().select(user_api="blas")


_lock = threading.Lock()
_limits: dict[int, tuple[int, Any]] = {}  # How many blocks of `one_blas_thread` are being run, and what puts it back.


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS at one thread; the last of several threads that do so puts the number back to what it was.

    A matrix product on two threads may differ from that on one in its last bits, and workers have one.
    """
    # The number is that of the whole process, save for OpenBLAS over OpenMP: there it is each thread's own.
    own = any(getattr(library, "threading_layer", "") == "openmp" for library in blas().lib_controllers)
    key = threading.get_ident() if own else 0
    with _lock:
        inside, limiter = _limits.get(key, (0, None))
        _limits[key] = inside + 1, _released().limit(limits=1) if limiter is None else limiter
    try:
        yield
    finally:
        with _lock:
            inside, limiter = _limits.pop(key)
            if inside > 1:
                _limits[key] = inside - 1, limiter
            else:
                _released()
                limiter.restore_original_limits()


def _released() -> ThreadpoolController:
    """BLAS, for whichever thread: threadpoolctl lets only the thread that set a limit first change it, unless told."""
    for library in blas().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)
    return blas()


class SerialEngine(Displayed, Engine):
    """An engine of one worker: the caller."""

    n_workers = 1

    def __init__(self) -> None:
        self._snapshots: Snapshots[tuple[Model, Vector, list[Vector]]] = Snapshots(PrivateBlock, quiet=lambda: True)

    def _summary(self) -> Summary:
        return Summary("SerialEngine()")

    def open(
        self, model: Model, datasets: Sequence[Dataset], parameters: Vector, call_sizes: Sequence[int] = (1,)
    ) -> Context:
        """Copies of both. Unlike unpickling, copying in this process leaves the model's class alone."""
        gradient = np.full_like(parameters, np.nan)  # What a model forgets to write is noticed.
        return self._snapshots.open((copied(model, copy.deepcopy), gradient, []), datasets, parameters)

    def start(self, context: Context) -> None:
        """The caller is ready."""
        self._snapshots.get(context)

    def gradients(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[BlockGradient]:
        """Each gradient is computed when it is asked for, into the same buffer."""
        model, gradient, spare = self._snapshots.get(context).model
        frozen, result = read_only(parameters.view()), read_only(gradient.view())
        for block in blocks:
            self._snapshots.get(context)
            with one_blas_thread():
                start = time.perf_counter()
                sums = block_gradient(model, context.datasets, frozen, block, gradient, spare)
                seconds = time.perf_counter() - start
            yield BlockGradient(sums.metrics, result, seconds=seconds, finite=sums.finite, start=start)

    def metrics(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[Metrics]:
        """Each is computed when it is asked for."""
        model, *_ = self._snapshots.get(context).model
        frozen = read_only(parameters.view())
        for block in blocks:
            self._snapshots.get(context)
            with one_blas_thread():
                metrics = block_metrics(model, context.datasets, frozen, block)
            yield metrics

    def resize(self, n_workers: int) -> None:
        """The serial engine has exactly one worker: ValueError for any other number."""
        if n_workers != 1:
            raise ValueError(f"the serial engine has 1 worker, the caller, and can't have {n_workers!r}")

    def close(self) -> None:
        """Forget models and data."""
        self._snapshots.clear()
