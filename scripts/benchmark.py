"""Every speed that the README claims, measured: ``python scripts/benchmark.py kernels | engines``.

Machines drift: things to compare run alternately in one process or one call, and medians are printed.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np

from parallel_lenet import Layout, ShardMetrics, kernels, lenet5, load_dataset
from parallel_lenet.batching import shards
from parallel_lenet.cli.console import Console
from parallel_lenet.cores import usable_cores
from parallel_lenet.engines import Engine
from parallel_lenet.engines.processes import ProcessesEngine
from parallel_lenet.engines.serial import SerialEngine, blas

FLOP_AN_IMAGE = 2 * 1_132_000  # LeNet-5, forward and backward, a multiplication and an addition each.
TUTORIAL_US = 85_000  # An image through the tutorial's own loops, on the machine of the README's table.
Rows = list[tuple[str, ...]]


def machine() -> dict[str, str]:
    """What it was measured on."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), cpu)
    installed = [name for name in ("numpy", "joblib", "numba", "torch") if find_spec(name)]
    return {
        "cpu": f"{cpu}, {usable_cores()} usable cores",
        "python": platform.python_version(),
        **{name: version(name) for name in installed},
    }


def alternate(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after one round that doesn't count."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for i in range(rounds + 1):
        for name, function in work.items():
            start = time.perf_counter()
            function()
            if i:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def sgemm_flops() -> float:
    """FLOP/s of NumPy's float32 matrix product on one thread: what the core can do."""
    a = np.ones((768, 768), np.float32)
    with blas().limit(limits=1):
        seconds = alternate({"sgemm": lambda: a @ a}, 20)["sgemm"]
    return float(2 * 768**3 / seconds)


def measure_kernels(arguments: argparse.Namespace) -> tuple[dict[str, Any], Rows, str]:
    """Microseconds an image, LeNet-5 forward and backward, float32, one core."""
    train, _ = load_dataset()
    work: dict[str, Callable[[], object]] = {}
    images: dict[str, int] = {}
    for name in kernels.available():
        for n in (1, 2) if name == "naive" else (16, 32, 64):
            model = lenet5(kernel=name)
            parameters = model.initial_parameters(np.random.default_rng(0))
            shard = (parameters, train.inputs[:n], train.targets[:n], np.empty_like(parameters))
            work[f"{name}, shards of {n}"] = partial(model.loss_and_gradient, *shard)
            images[f"{name}, shards of {n}"] = n
    with blas().limit(limits=1):
        slow = {name: function for name, function in work.items() if name.startswith("naive")}
        fast = {name: function for name, function in work.items() if name not in slow}
        seconds = alternate(slow, 5) | alternate(fast, arguments.rounds)
    us = {name: seconds[name] / images[name] * 1e6 for name in work}
    peak = sgemm_flops()
    rows: Rows = [("the tutorial's loops (its published code)", f"{TUTORIAL_US:,}", "", "")]
    for name, value in us.items():
        flops = FLOP_AN_IMAGE / value * 1e6
        rows.append((name, f"{value:,.1f}", f"{flops / 1e9:,.2f}", f"{TUTORIAL_US / value:,.1f}"))
    rows.append(("sgemm of NumPy", f"{FLOP_AN_IMAGE / peak * 1e6:,.1f}", f"{peak / 1e9:,.2f}", ""))
    header = ("kernel", "us an image", "GFLOP/s", "x tutorial")
    title = "LeNet-5, one image forward and backward, one core"
    return {"us_an_image": us, "sgemm_gflops": peak / 1e9}, [header, *rows], title


class NoOp:
    """A model that computes nothing, as large as LeNet-5: what is left is the engine's own time."""

    layout = Layout.of({"weight": (61_706,)})

    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        """Zeros."""
        return np.zeros(self.layout.size, np.float32)

    def loss_and_gradient(self, parameters: Any, inputs: Any, targets: Any, gradient: Any) -> ShardMetrics:
        """Nothing: the gradient stays whatever it was."""
        return ShardMetrics(0.0, 0, len(inputs))

    def predict(self, parameters: Any, inputs: Any) -> Any:
        """Nothing."""
        return inputs


def measure_engines(arguments: argparse.Namespace) -> tuple[dict[str, Any], Rows, str]:
    """Milliseconds a step that an engine costs: a batch of 128 in shards of 32, and their gradients added up."""
    train, _ = load_dataset()
    model = NoOp()
    parameters = model.initial_parameters(np.random.default_rng(0))
    work = shards(np.arange(128), 32)
    engines: dict[str, Engine] = {
        "serial": SerialEngine(),
        **{f"processes, {n} worker{'s' * (n > 1)}": ProcessesEngine(n) for n in (1, 2)},
    }

    def step(engine: Engine) -> None:
        total = np.zeros_like(parameters)
        for result in engine.gradients(parameters, work):
            total += result.gradient

    for engine in engines.values():
        engine.open(model, [train], parameters)
    try:
        steps = {name: partial(step, engine) for name, engine in engines.items()}
        ms = {name: seconds * 1e3 for name, seconds in alternate(steps, 20 * arguments.rounds).items()}
    finally:
        for engine in engines.values():
            engine.close()
    rows: Rows = [("engine", "ms a step"), *((name, f"{value:.3f}") for name, value in ms.items())]
    return (
        {"ms_a_step": ms},
        rows,
        "An engine's own time a step: 61,706 parameters, 4 shards, a model that does nothing",
    )


COMMANDS = {"kernels": measure_kernels, "engines": measure_engines}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--rounds", type=int, default=30, help="measurements of each thing (default: 30)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {arguments.rounds}")
    results, (header, *rows), title = COMMANDS[arguments.what](arguments)
    if arguments.json:
        print(json.dumps({"machine": machine(), **results}))
    else:
        Console().table(title, header, rows)
        print("; ".join(f"{name} {value}" for name, value in machine().items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
