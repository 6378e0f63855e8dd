"""Prove on this machine that the result does not depend on the workers: compare the hashes of several computations.

The parameters must have the same SHA-256 with one worker and with several, with shards that are computed or arrive in
another order, and after the death of workers. The same holds after a resume from a checkpoint file, and on a cluster
with --engine. With kernel compiled the SHA-256 must also be the one that is published for this version.
"""

import argparse
import os
import random
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.batching import Block
from parallel_lenet.checks import LEAST
from parallel_lenet.cli import _engines, _published
from parallel_lenet.cli._console import Console
from parallel_lenet.cli._options import TrainOptions, add_train_options, as_usage, require_count, worker_count
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.datasets import Dataset, load
from parallel_lenet.display import count
from parallel_lenet.engines import BlockGradient, Context
from parallel_lenet.engines.serial import SerialEngine
from parallel_lenet.metrics import Metrics
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.optimizers import Optimizer
from parallel_lenet.parameters import Vector
from parallel_lenet.reports import StepReport

HELP = "show here that workers, their death and a resume change no bit"
EXAMPLES = (
    ("this machine, in eight ways", "verify"),
    ("as many workers as this machine has cores, and one more", "verify --workers 3"),
)


class BackwardEngine(SerialEngine):
    """Computes the blocks last to first, and yields them in block order, as every engine must."""

    def gradients(self, context: Context, parameters: Vector, blocks: Sequence[Block]) -> Iterator[BlockGradient]:
        """Computes all of them before it yields the first."""
        results = [
            result._replace(gradient=result.gradient.copy())
            for result in super().gradients(context, parameters, blocks[::-1])
        ]
        return iter(results[::-1])


class SlowModel:
    """A model that waits up to 5 ms before each shard, at random. So results arrive in another order."""

    def __init__(self, model: Sequential) -> None:
        self.model = model
        self.layout = model.layout
        self.preferred_shard_size = model.preferred_shard_size
        self.leaf = getattr(model, "leaf", None)
        self.initial_parameters = model.initial_parameters
        self.predict = model.predict

    def loss_and_gradient(
        self, parameters: Vector, inputs: NDArray[Any], targets: NDArray[Any], gradient: Vector | None
    ) -> Metrics:
        """The result of the model, after a random delay."""
        time.sleep(random.Random(os.getpid() ^ time.monotonic_ns()).uniform(0, 0.005))
        return self.model.loss_and_gradient(parameters, inputs, targets, gradient)


@dataclass(frozen=True)
class Proof:
    """The training that all ways repeat: one model, and the same steps."""

    model: Sequential
    optimizer: Optimizer
    train: Dataset
    steps: int
    batch_size: int
    workers: int
    name: str
    where: dict[str, Any]
    """The arguments of `Coordinator` that name the engine to compare with the others."""

    def coordinator(self, model: Any = None, **settings: Any) -> Coordinator:
        """A new coordinator at its first step."""
        return Coordinator(model or self.model, self.optimizer, batch_size=self.batch_size, **settings)

    def run(self, coordinator: Coordinator, after_step: Callable[[Coordinator], object] | None = None) -> str:
        """The hash after all steps. ``after_step`` is called after each of them."""
        with coordinator, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Workers are lost on purpose.
            _train(coordinator, self.train, self.steps - coordinator.step, after_step)
            return coordinator.parameters_sha256()

    def kill_workers(self) -> str:
        """Kill a worker a third of the way, and another after two thirds."""
        at = {max(1, self.steps // 3), max(1, 2 * self.steps // 3)}

        def kill(coordinator: Coordinator) -> None:
            if coordinator.step in at:
                os.kill(coordinator.worker_pids()[0], signal.SIGTERM if os.name == "nt" else signal.SIGKILL)

        return self.run(self.coordinator(n_workers=self.workers), kill)

    def resize(self) -> str:
        """One worker for the first half, then three."""

        def resize(coordinator: Coordinator) -> None:
            if coordinator.step == self.steps // 2:
                coordinator.resize(3)

        return self.run(self.coordinator(n_workers=1), resize)

    def resume(self) -> str:
        """The first half and the second half by two coordinators, with a file in between."""
        with tempfile.TemporaryDirectory(prefix="parallel-lenet-") as folder:
            file = Path(folder, "checkpoint.npz")
            with self.coordinator(**self.where) as first:
                _train(first, self.train, self.steps // 2)
                first.save(file)
            second = self.coordinator(engine="serial")
            second.load(file)
            return self.run(second)

    def ways(self) -> dict[str, Callable[[], str]]:
        """The ways that are compared, by their description. The others are compared with the first."""
        cluster = {f"on {self.name}": lambda: self.run(self.coordinator(**self.where))}
        return {
            "1 worker": lambda: self.run(self.coordinator(n_workers=1)),
            count(self.workers, "worker"): lambda: self.run(self.coordinator(n_workers=self.workers)),
            "in this process, no workers": lambda: self.run(self.coordinator(engine="serial")),
            "blocks computed last to first": lambda: self.run(self.coordinator(engine=BackwardEngine())),
            "3 workers that answer in random order": lambda: self.run(
                self.coordinator(SlowModel(self.model), n_workers=3)
            ),
            f"{count(self.workers, 'worker')}, killed twice": self.kill_workers,
            "1 worker, then 3": self.resize,
            **(cluster if self.name not in ("processes", "serial") else {}),
            "stopped after half of the steps, resumed from the file": self.resume,
        }


def _train(
    coordinator: Coordinator, train: Dataset, steps: int, after_step: Callable[[Coordinator], object] | None = None
) -> None:
    last = coordinator.step + steps
    for report in coordinator.iterate(train, epochs=steps):  # More epochs than needed: the steps decide.
        if after_step is not None and isinstance(report, StepReport):
            after_step(coordinator)
        if coordinator.step == last:
            return


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_train_options(parser, names=("kernel", "workers", "engine", "cluster_address"))
    steps = _published.STEPS
    size = TrainOptions().batch_size
    parser.add_argument(
        "--steps", type=int, default=steps, metavar="N", help=f"optimizer steps each way (default: {steps})"
    )
    parser.add_argument("--batch-size", type=int, default=size, metavar="N", help=f"images per step (default: {size})")
    parser.add_argument("--json", action="store_true", help="print one JSON object, the results, on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Print a table. The exit code is 1 if a hash differs from the others, or from the published one."""
    require_count("steps", arguments.steps, 2)
    require_count("batch_size", arguments.batch_size, LEAST["batch_size"])
    console = Console(json=arguments.json)
    flag_options = vars(arguments)
    workers = worker_count(flag_options.get("workers"))
    if workers.count == 1 and "workers" in flag_options:
        console.note("note: --workers 1: two are used, to compare one worker with several")
    workers = replace(workers, count=max(2, workers.count))
    name = flag_options.get("engine", "processes")
    address = flag_options.get("cluster_address")

    where, _ = _engines.arguments(name, address, workers)
    train, _ = load()
    model, optimizer = _published.network_and_optimizer(train, flag_options.get("kernel", "auto"), arguments.batch_size)
    proof = Proof(model, optimizer, train, arguments.steps, arguments.batch_size, workers.count, name, where)
    console.note(f"kernel {model.kernel}: {count(arguments.steps, 'step')} of {arguments.batch_size} digits, each way")
    try:
        proof.coordinator(**where).close()  # Raises errors before anything is computed.
    except ValueError as error:
        raise as_usage(error) from None
    with console.warnings_as_notes():
        proof.coordinator(engine="serial").warm_up(train)
        runs = [_run_way(description, way) for description, way in proof.ways().items()]
    first = runs[0]["sha256"]
    for entry in runs:
        entry["equal"] = entry["sha256"] == first
    equals_published, verdict = _published.compare(model.kernel, arguments.steps, arguments.batch_size, first)
    is_same = all(entry["equal"] for entry in runs) and equals_published is not False
    if arguments.json:
        result = {
            "passed": is_same,
            "kernel": model.kernel,
            "engine": name,
            "cluster_address": address,
            "workers": workers.count,
            "steps": arguments.steps,
            "batch_size": arguments.batch_size,
            "numpy": np.__version__,
            "as_published": equals_published,
            "published_sha256": _published.SHA256,
            "runs": runs,
        }
        console.result(result)
    else:
        rows = [
            (
                entry["what"],
                f"{entry['sha256'][:16]}...",
                f"{entry['seconds']:.1f} s",
                "ok" if entry["equal"] else "DIFFERENT",
            )
            for entry in runs
        ]
        console.table("SHA-256 of the trained parameters", ("how", "begins with", "time", "the same"), rows)
    console.note(f"{sum(entry['equal'] for entry in runs)} of {len(runs)} ways give the same bits")
    console.note(verdict)
    return 0 if is_same else 1


def _run_way(description: str, way: Callable[[], str]) -> dict[str, Any]:
    """The hash that a way of training gives, and the seconds that it takes."""
    start = time.perf_counter()
    digest = way()
    return {"what": description, "sha256": digest, "seconds": time.perf_counter() - start}
