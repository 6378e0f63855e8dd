"""``benchmark.py scaling``: what more workers bring, where a step's time goes, and what still more would bring.

A step takes ``T(w) = serial + messages(w) + compute * slowdown(w) * ceil(shards / w)``:

- *compute*, of a shard: measured in the worker (a model that reports its own time as its loss);
- *serial*: adding gradients and the optimizer, measured with a model that does nothing, in this process;
- *messages*: the same with worker processes, less the serial part;
- *slowdown*: cores share caches, memory and heat. So many independent copies of a one-worker run, all at once, show
  what the hardware gives, and no engine can have more.

All but T(w) for w above 1 goes into the model; its error is printed beside each T(w) that was measured.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Report, sixty_thousand, steps
from benchmarks.engines import NoOp
from parallel_lenet import Adam, Coordinator, Dataset, Model, Sequential, ShardMetrics, kernels, lenet5
from parallel_lenet.cores import usable_cores

BATCH_SIZE = 128
STEPS = {"naive": 2}  # Of each measurement; an image takes a thousand times as long.
MORE = (4, 8, 16, 32)  # Workers to predict for, each on a core of its own.


class Timed:
    """A network whose loss is the seconds it took, so that they reach the coordinator, added up, as losses do."""

    def __init__(self, network: Sequential) -> None:
        self.network = network
        self.layout = network.layout
        self.preferred_shard_size = network.preferred_shard_size

    def initial_parameters(self, rng: Any) -> Any:
        """The network's."""
        return self.network.initial_parameters(rng)

    def loss_and_gradient(self, parameters: Any, inputs: Any, targets: Any, gradient: Any) -> ShardMetrics:
        """The network's, with the time in place of the loss."""
        start = time.perf_counter()
        metrics = self.network.loss_and_gradient(parameters, inputs, targets, gradient)
        return ShardMetrics(time.perf_counter() - start, metrics.correct, metrics.count)

    def predict(self, parameters: Any, inputs: Any) -> Any:
        """The network's."""
        return self.network.predict(parameters, inputs)


@dataclass(frozen=True)
class Step:
    """Median seconds of a step, and of the computation of all its shards."""

    seconds: float
    compute: float


def measured_step(
    model: Model, data: Dataset, workers: int, number: int, compiled: bool, engine: str = "processes"
) -> Step:
    """Over ``number`` steps."""
    adam = Adam(1e-3, fused=compiled)
    with Coordinator(model, adam, n_workers=workers, batch_size=BATCH_SIZE, engine=engine) as coordinator:
        return Step(*steps(coordinator, data, number))


def copies(kernel: str, number: int) -> float:
    """Median seconds of a step when so many one-worker runs go on at once, each a program of its own."""
    scripts = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([scripts, *filter(None, sys.path)])}
    command = [sys.executable, "-m", "benchmarks.scaling", kernel]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(number)]
    return statistics.median(float(json.loads(process.communicate()[0])) for process in running)


def one_worker(kernel: str, data: Dataset) -> Step:
    """The yardstick."""
    return measured_step(Timed(lenet5(kernel=kernel)), data, 1, STEPS.get(kernel, 150), kernel == "compiled")


def measure(arguments: argparse.Namespace) -> Report:
    """For the tutorial's kernel and the fastest: efficiency, parts of a step, fit, prediction."""
    data, cores = sixty_thousand(), usable_cores()
    rows, notes, results = [], [], {}
    for kernel in ("naive", kernels.available()[-1]):
        found = _kernel(kernel, data, cores, arguments.rounds if kernel != "naive" else 1)
        results[kernel] = found
        for w, seconds in found["step_ms"].items():
            predicted = found["predicted_ms"][w]
            rows.append(
                (
                    kernel,
                    w,
                    f"{seconds:,.2f}",
                    f"{found['step_ms']['1'] / seconds:.2f}",
                    f"{predicted:,.2f}",
                    f"{predicted / seconds - 1:+.1%}",
                )
            )
        for w in map(str, MORE):
            predicted = found["predicted_ms"][w]
            rows.append((kernel, w, "", f"({found['step_ms']['1'] / predicted:.2f})", f"{predicted:,.2f}", ""))
        notes.append(
            f"{kernel}: efficiency {found['efficiency']:.3f} on {cores} workers, where the hardware gives "
            f"{found['hardware']:.3f}: {found['efficiency'] / found['hardware']:.3f} of it; of a step on one worker "
            f"{found['compute_ms']:,.2f} ms compute, {found['serial_ms']:.2f} ms serial, "
            f"{found['messages_ms']:.2f} ms messages; a step has {found['shards']} shards, "
            "so more workers than that bring nothing"
        )
    return Report(
        title=f"A step of {BATCH_SIZE} images; beyond {cores} workers predicted, each on a core of its own",
        header=("kernel", "workers", "ms a step", "speed-up", "model, ms", "its error"),
        rows=rows,
        results={"batch_size": BATCH_SIZE, **results},
        notes=notes,
    )


def _kernel(kernel: str, data: Dataset, cores: int, rounds: int) -> dict[str, Any]:
    model, compiled, number = Timed(lenet5(kernel=kernel)), kernel == "compiled", STEPS.get(kernel, 150)
    measured: dict[int, list[Step]] = {w: [] for w in range(1, cores + 1)}
    together: list[float] = []
    idle: dict[str, list[float]] = {"serial": [], "processes": []}
    for _ in range(rounds):
        for w, series in measured.items():
            series.append(measured_step(model, data, w, number, compiled))
        together.append(copies(kernel, cores))
        nothing = NoOp(model.preferred_shard_size)
        for engine, series_idle in idle.items():
            series_idle.append(measured_step(nothing, data, 1, 150, compiled, engine).seconds)
    seconds = {w: statistics.median(step.seconds for step in series) for w, series in measured.items()}
    compute = statistics.median(step.compute for step in measured[1])
    serial = statistics.median(idle["serial"])
    messages = statistics.median(idle["processes"]) - serial
    hardware = seconds[1] / statistics.median(together)
    shards = math.ceil(BATCH_SIZE / model.preferred_shard_size)
    rest = seconds[1] - compute  # What the parts don't explain on one worker goes with the messages.

    def predict(w: int) -> float:
        slowdown = 1 + (1 / hardware - 1) * (w - 1) / max(1, cores - 1) if w <= cores else 1 / hardware
        return rest + compute / shards * math.ceil(shards / w) * slowdown

    return {
        "step_ms": {str(w): s * 1e3 for w, s in seconds.items()},
        "predicted_ms": {str(w): predict(w) * 1e3 for w in (*seconds, *MORE)},
        "compute_ms": compute * 1e3,
        "serial_ms": serial * 1e3,
        "messages_ms": messages * 1e3,
        "efficiency": seconds[1] / (cores * seconds[cores]),
        "hardware": hardware,
        "shards": shards,
    }


if __name__ == "__main__":
    print(json.dumps(one_worker(sys.argv[1], sixty_thousand()).seconds))
