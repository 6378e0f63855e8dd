"""The serial engine: one block after the other in this process, to debug models and check other engines."""

import copy
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from parallel_lenet.batching import Block
from parallel_lenet.datasets import Dataset
from parallel_lenet.display import Displayed, Summary
from parallel_lenet.engines import BlockGradient, Context, Engine
from parallel_lenet.engines.copying import copy_model
from parallel_lenet.engines.memory import read_only
from parallel_lenet.engines.snapshots import PrivateMemory, Snapshots
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.parameters import Vector
from parallel_lenet.worker import block_gradient, block_metrics

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


@cache
def blas() -> "ThreadpoolController":
    """Controls the threads of the BLAS that NumPy loaded."""
    # Imported lazily, because threadpoolctl sets an environment variable when it is imported.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


_lock = threading.Lock()
_limits: dict[int, tuple[int, Any]] = {}
"""By thread: the number of callers that need one BLAS thread now, and the limiter that restores the old number."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread inside the block. After the last of nested or parallel blocks the number is restored.

    A matrix product on two threads may differ from that on one in its last bits, and workers have one BLAS thread.
    """
    # The number belongs to the process, except in OpenBLAS over OpenMP, where each thread has its own.
    per_thread = any(getattr(library, "threading_layer", "") == "openmp" for library in blas().lib_controllers)
    key = threading.get_ident() if per_thread else 0
    with _lock:
        callers, limiter = _limits.get(key, (0, None))
        if limiter is None:
            limiter = _blas_for_this_thread().limit(limits=1)
        _limits[key] = (callers + 1, limiter)
    try:
        yield
    finally:
        with _lock:
            callers, limiter = _limits.pop(key)
            if callers > 1:
                _limits[key] = (callers - 1, limiter)
            else:
                _blas_for_this_thread()
                limiter.restore_original_limits()


def _blas_for_this_thread() -> "ThreadpoolController":
    """BLAS for changes by this thread.

    By default threadpoolctl lets only the first thread that set a limit change it.
    """
    for library in blas().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)
    return blas()


class SerialEngine(Displayed, Engine):
    """An engine with one worker, the calling thread.

    >>> from parallel_lenet import Coordinator, SGD, lenet5
    >>> Coordinator(lenet5(kernel="im2col"), SGD(0.1), engine=SerialEngine()).n_workers
    1
    """

    n_workers = 1

    def __init__(self) -> None:
        self._snapshots: Snapshots[tuple[Model, Vector, list[Vector]]] = Snapshots(
            PrivateMemory, may_overwrite=lambda: True
        )

    def _summary(self) -> Summary:
        return Summary("SerialEngine()")

    def open(
        self, model: Model, datasets: Sequence[Dataset], parameters: Vector, call_sizes: Sequence[int] = (1,)
    ) -> Context:
        """Copy model and datasets. ``copy.deepcopy`` is used because unpickling may define the model's class again."""
        gradient = np.empty_like(parameters)
        return self._snapshots.open((copy_model(model, copy.deepcopy), gradient, []), datasets, parameters)

    def start(self, context: Context) -> None:
        self._snapshots.get(context)

    def gradients(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[BlockGradient]:
        """Each gradient is computed when the caller asks for it, in the same memory."""
        model, gradient, spare = self._snapshots.get(context).model
        fixed_parameters = read_only(parameters.view())
        result = read_only(gradient.view())
        for block in blocks:
            self._snapshots.get(context)
            with one_blas_thread():
                start = time.perf_counter()
                sums = block_gradient(model, context.datasets, fixed_parameters, block, gradient, spare)
                seconds = time.perf_counter() - start
            yield BlockGradient(sums.metrics, result, seconds=seconds, finite=sums.finite, start=start)

    def metrics(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[Metrics]:
        """The metrics of a block are computed when the caller asks for them."""
        model, *_ = self._snapshots.get(context).model
        fixed_parameters = read_only(parameters.view())
        for block in blocks:
            self._snapshots.get(context)
            with one_blas_thread():
                metrics = block_metrics(model, context.datasets, fixed_parameters, block)
            yield metrics

    def resize(self, n_workers: int) -> None:
        """Raises ValueError for any number but 1."""
        if n_workers != 1:
            raise ValueError(f"the serial engine has 1 worker, the calling thread, and can't have {n_workers!r}")

    def close(self) -> None:
        self._snapshots.clear()
