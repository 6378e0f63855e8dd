"""Compiles the code that training needs, in the coordinator's process, before any worker needs it."""

import numpy as np

from parallel_lenet.engines.serial import one_blas_thread
from parallel_lenet.model import Model
from parallel_lenet.optimizers import Optimizer
from parallel_lenet.parameters import Vector
from parallel_lenet.worker import Samples, warm_up


class WarmUp:
    """Calls the model's ``warm_up`` once per number of samples, and the optimizer's compiled step once."""

    def __init__(self, model: Model, optimizer: Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer
        self._sizes: set[int] = set()
        """The numbers of samples for which the model is compiled."""
        self.n_workers = 0
        """The number of workers for which everything is compiled, or 0 before the first time."""

    def run(
        self,
        parameters: Vector,
        data: Samples,
        call_sizes: tuple[int, ...],
        n_workers: int,
    ) -> None:
        """Compile what is missing for ``call_sizes``, which depend on ``n_workers``."""
        if hasattr(self._model, "warm_up"):
            is_compiled = getattr(self._model, "is_compiled", lambda size: False)
            for size in set(call_sizes) - self._sizes:
                if not is_compiled(size):
                    with one_blas_thread():
                        warm_up(self._model, parameters, data, size)
                self._sizes.add(size)
        if self.n_workers == 0 and getattr(self._optimizer, "fused", False) is not False:
            self._optimizer.update(parameters, np.zeros_like(parameters), self._optimizer.init(parameters))
        self.n_workers = n_workers
