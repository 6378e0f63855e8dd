"""``benchmark.py peers``: an epoch beside PyTorch's on the same CPU, in the same run."""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks.common import Report, sixty_thousand
from benchmarks.epoch import epoch_seconds
from parallel_lenet import Dataset, kernels
from parallel_lenet.cores import usable_cores


def torch_seconds(mode: str, threads: int, batch_size: int) -> float:
    """Seconds of an epoch in a process of its own, whose threads do not disturb this one."""
    scripts = str(Path(__file__).parents[1])
    path = os.pathsep.join([scripts, *filter(None, sys.path)])
    command = [sys.executable, "-m", "benchmarks.peer_torch", mode, str(threads), str(batch_size)]
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if not result.stdout:  # Gloo sometimes aborts when its processes part, with the time already printed.
        raise RuntimeError(f"PyTorch, {mode}: {result.stderr.strip().splitlines()[-1]}")
    return float(json.loads(result.stdout.splitlines()[-1]))


def ours(data: Dataset, cores: int, batch_size: int) -> dict[str, Callable[[], float]]:
    """The two fast kernels, on one worker and on all cores."""
    return {
        f"{kernel}, {n} worker{'s' * (n > 1)}": partial(epoch_seconds, data, kernel, n, batch_size)
        for kernel in kernels.available()
        if kernel != "naive"
        for n in (1, cores)
    }


def theirs(cores: int, batch_size: int) -> dict[str, Callable[[], float]]:
    """PyTorch's ways to train on a CPU, or none if it isn't installed."""
    if not find_spec("torch"):
        return {}
    modes = [("eager", 1), ("eager", cores), ("ddp", cores), ("compile", cores)]
    unit = {"eager": "thread", "compile": "thread", "ddp": "process"}
    plural = {"thread": "threads", "process": "processes"}
    return {
        f"PyTorch {mode}, {n} {unit[mode] if n == 1 else plural[unit[mode]]}": partial(
            torch_seconds, mode, n, batch_size
        )
        for mode, n in dict.fromkeys(modes)
    }


def measure(arguments: argparse.Namespace) -> Report:
    """Medians of the rounds, and per round the ratio of this package to the fastest of PyTorch's ways."""
    data = sixty_thousand()
    cores = usable_cores()
    work = ours(data, cores, arguments.batch_size) | theirs(cores, arguments.batch_size)
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(arguments.rounds):
        for name, function in work.items():
            times[name].append(function())
    seconds = {name: statistics.median(values) for name, values in times.items()}
    rivals = {name: value for name, value in seconds.items() if name.startswith("PyTorch")}
    notes = []
    results: dict[str, object] = {"batch_size": arguments.batch_size, "epoch_seconds": seconds}
    if rivals:
        ratios = {
            name: statistics.median(
                min(times[rival][i] for rival in rivals) / times[name][i] for i in range(arguments.rounds)
            )
            for name in seconds
        }
        results["times_as_fast_as_pytorchs_fastest"] = ratios
        one = next(name for name in rivals if name.startswith("PyTorch eager, 1 "))
        best = min((name for name in seconds if name not in rivals), key=lambda name: seconds[name])
        single = f"{kernels.available()[-1]}, 1 worker"
        alone = statistics.median(a / b for a, b in zip(times[one], times[single], strict=True))
        notes = [
            f"{best}: {ratios[best]:.2f} x as fast as the fastest PyTorch, {min(rivals, key=lambda n: rivals[n])}",
            f"{single}: {alone:.2f} x as fast as {one}",
        ]
        results["one_core_ratio"] = alone
    else:
        ratios = {}
        notes = ["PyTorch isn't installed: pip install torch (the CPU build is enough), then run this again"]
    return Report(
        title=f"An epoch of 60,000 images, batches of {arguments.batch_size}, Adam, everything included",
        header=("", "seconds", "images/s", "x fastest PyTorch"),
        rows=[
            (name, f"{s:.2f}", f"{60_000 / s:,.0f}", f"{ratios[name]:.2f}" if ratios else "")
            for name, s in seconds.items()
        ],
        results=results,
        notes=notes,
    )
