"""Evaluation and prediction: what a coordinator computes without training.

Workers evaluate a dataset, block by block. The caller's own process predicts, in the calling thread.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import finite
from parallel_lenet.batching import Block, BlockSizes, blocks
from parallel_lenet.checkpoint import TrainingState
from parallel_lenet.checks import quoted
from parallel_lenet.datasets import Dataset
from parallel_lenet.engines import Context, Engine
from parallel_lenet.engines.serial import one_blas_thread
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.parameters import Layout, Vector
from parallel_lenet.tree import TreeSum
from parallel_lenet.turns import Turns

Array = NDArray[Any]

INTERVAL = 0.1  # Seconds between two metrics of `Evaluator.iterate`, about.


class Evaluator:
    """Evaluates the ``model`` of one coordinator with the workers of its ``engine``."""

    def __init__(self, model: Model, engine: Engine, turns: Turns, sizes: BlockSizes) -> None:
        self._model = model
        self._engine = engine
        self._turns = turns
        self._sizes = sizes

    def evaluate(self, state: TrainingState, dataset: Dataset) -> Metrics:
        """The metrics of the state's parameters on all samples.

        Raises NonFiniteError if NaN or infinity spoils them.
        """
        finite.require_finite(state.step, self._model.layout, state.parameters)
        with self._open(state, dataset) as context:
            self._engine.start(context)
            return self.metrics(context, state, 0)

    def iterate(self, state: TrainingState, dataset: Dataset) -> Iterator[Metrics]:
        """The metrics so far, again and again. The last ones are those of all samples."""
        finite.require_finite(state.step, self._model.layout, state.parameters)
        context = self._turns.run("evaluate", lambda: self._open(state, dataset))
        return self._iterate(context, state)

    def metrics(self, context: Context, state: TrainingState, dataset: int) -> Metrics:
        """The metrics on all samples of dataset number ``dataset`` of a context."""
        sums = TreeSum[Metrics]()
        self._add(context, state, self._blocks(context, dataset), sums)
        return sums.total()

    def _open(self, state: TrainingState, dataset: Dataset) -> Context:
        return self._engine.open(self._model, (dataset,), state.parameters, (self._sizes.shard_size,))

    def _iterate(self, context: Context, state: TrainingState) -> Iterator[Metrics]:
        with context:
            self._turns.run("evaluate", lambda: self._engine.start(context))
            remaining_blocks = self._blocks(context, 0)
            sums = TreeSum[Metrics]()
            at_once = self._engine.n_workers
            while remaining_blocks:
                batch = remaining_blocks[:at_once]
                remaining_blocks = remaining_blocks[at_once:]
                start = time.perf_counter()
                self._turns.run("evaluate", lambda: self._add(context, state, batch, sums))  # noqa: B023
                if time.perf_counter() - start < INTERVAL / 2:
                    at_once *= 2
                yield sums.total()

    def _blocks(self, context: Context, dataset: int) -> list[Block]:
        """A dataset in larger blocks than for training: a block without a gradient is less work."""
        samples = len(context.datasets[dataset].inputs)
        sizes = replace(self._sizes, least=self._sizes.shard_size, most=2 * self._sizes.most)
        return blocks(np.arange(samples), sizes, self._engine.n_workers, dataset)

    def _add(self, context: Context, state: TrainingState, batch: list[Block], sums: TreeSum[Metrics]) -> None:
        results = self._engine.metrics(context, state.parameters, batch)
        for block, metrics in zip(batch, results, strict=True):
            if not math.isfinite(metrics.loss_sum):
                raise finite.evaluation_error(state.step, metrics.loss_sum)
            sums.append(metrics, self._sizes.leaves(block))


def predictions(
    method: Callable[[Vector, Array], Array], layout: Layout, parameters: Vector, inputs: Array, step: int = 0
) -> Array:
    """The result of a model's ``method`` for ``(parameters, inputs)``, computed in this thread with one BLAS thread.

    Raises NonFiniteError, which names the ``step``, if the parameters hold NaN or infinity, and ValueError if the
    method does not return one row per input.
    """
    finite.require_finite(step, layout, parameters)
    with one_blas_thread():
        result: object = method(parameters, inputs)
    if not isinstance(result, np.ndarray) or result.shape[:1] != inputs.shape[:1]:
        found = f"an array of shape {result.shape}" if isinstance(result, np.ndarray) else quoted(result)
        name = getattr(method, "__name__", "the model")
        raise ValueError(f"{name} must return an array with one row per input, got {found} for {inputs.shape}")
    return result
