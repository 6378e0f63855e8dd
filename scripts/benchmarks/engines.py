"""``benchmark.py engines``: the time that an engine adds to a step of any model."""

import argparse
from functools import partial
from typing import Any

import numpy as np

from benchmarks.common import Report, alternate
from parallel_lenet import Layout, Metrics, load_dataset
from parallel_lenet.batching import BlockSizes, blocks
from parallel_lenet.engines import Context, Engine
from parallel_lenet.engines.processes.engine import ProcessesEngine
from parallel_lenet.engines.serial import SerialEngine


class NoOp:
    """A model that computes nothing, with as many parameters as LeNet-5: only the engine's time is left."""

    layout = Layout.of({"weight": (61_706,)})

    def __init__(self, preferred_shard_size: int = 32) -> None:
        self.preferred_shard_size = preferred_shard_size

    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        return np.zeros(self.layout.size, np.float32)

    def loss_and_gradient(self, parameters: Any, inputs: Any, targets: Any, gradient: Any) -> Metrics:
        """The same numbers everywhere, but not zeros, whose norm takes longer than others."""
        if gradient is not None:
            gradient.fill(1e-3)
        return Metrics(0.0, 0, len(inputs))

    def predict(self, parameters: Any, inputs: Any) -> Any:
        return inputs


def measure(arguments: argparse.Namespace) -> Report:
    """Milliseconds per step that an engine adds: a batch of 128 in shards of 32, and their gradients added up."""
    train, _ = load_dataset()
    model = NoOp()
    parameters = model.initial_parameters(np.random.default_rng(0))
    sizes = BlockSizes.of(None, 32, 32)
    engines: dict[str, Engine] = {
        "serial": SerialEngine(),
        **{f"processes, {n} worker{'s' * (n > 1)}": ProcessesEngine(n) for n in (1, 2)},
    }

    def step(engine: Engine, context: Context) -> None:
        total = np.zeros_like(parameters)
        for result in engine.gradients(context, parameters, blocks(np.arange(128), sizes, engine.n_workers)):
            total += result.gradient

    try:
        steps = {
            name: partial(step, engine, engine.open(model, [train], parameters)) for name, engine in engines.items()
        }
        ms = {name: seconds * 1e3 for name, seconds in alternate(steps, 20 * arguments.rounds).items()}
    finally:
        for engine in engines.values():
            engine.close()
    return Report(
        title="An engine's own time per step: 61,706 parameters, 4 shards, a model that does nothing",
        header=("engine", "ms per step"),
        rows=[(name, f"{value:.3f}") for name, value in ms.items()],
        results={"ms_a_step": ms},
    )
