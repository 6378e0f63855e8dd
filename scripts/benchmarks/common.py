"""Helpers of all measurements. The speed of machines varies: what is compared runs alternately, and medians count."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from parallel_lenet import Coordinator, Dataset, StepReport, load_dataset, optional
from parallel_lenet.cores import usable_cores
from parallel_lenet.engines.serial import blas

Row = Sequence[str]


@dataclass(frozen=True)
class Report:
    """The result of a measurement: a table for people, results for programs."""

    title: str
    header: Row
    rows: Sequence[Row]
    results: dict[str, Any]
    notes: Sequence[str] = ()


def machine() -> dict[str, str]:
    """Processor and versions."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), cpu)
    found = {"cpu": f"{cpu}, {usable_cores()} usable cores", "python": platform.python_version()}
    for name in ("numpy", "joblib", "numba", "torch"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def works(extra: str, library: str) -> bool:
    """Whether a library that comes with an extra can be used here."""
    try:
        optional.load(extra, library, "a measurement")
    except optional.ExtraError:
        return False
    return True


def alternate(
    work: Mapping[str, Callable[[], object]],
    rounds: int,
    repeat: int = 1,
    choose: Callable[[list[float]], float] = statistics.median,
) -> dict[str, float]:
    """Seconds of each function: the median of the rounds, or another statistic, ``choose``.

    In a round each function is called ``repeat`` times in a row, after one call that does not count, because the caches
    hold the data of another function.
    """
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, function in work.items():
            function()
            start = time.perf_counter()
            for _ in range(repeat):
                function()
            times[name].append((time.perf_counter() - start) / repeat)
    return {name: choose(values) for name, values in times.items()}


def counts(most: int) -> list[int]:
    """1, 2, 4, ... and the largest number itself."""
    return sorted({1 << power for power in range(most.bit_length())} | {most})


def reports(coordinator: Coordinator, data: Dataset, number: int) -> list[StepReport]:
    """The reports of ``number`` steps of full batches, after two that do not count.

    In those two the data are sent, and a cluster measures the time of a shard.
    """
    found: list[StepReport] = []
    for report in coordinator.iterate(data, 1000):
        if isinstance(report, StepReport) and report.count == coordinator.batch_size:
            found.append(report)
        if len(found) == number + 2:
            break
    return found[2:]


def step_seconds(coordinator: Coordinator, data: Dataset, number: int) -> float:
    """The median seconds of a step of a full batch."""
    return statistics.median(report.seconds for report in reports(coordinator, data, number))


PARTS = ("computing", "waiting", "adding", "optimizer", "messages")


def parts(steps: Sequence[StepReport], workers: int) -> dict[str, float]:
    """The parts of a step's seconds, which add up to it: means over the middle half of the steps.

    - *computing*: the mean of the workers
    - *waiting*: for the worker that computes longest
    - *adding*: gradients in the coordinator, as far as the workers do not compute meanwhile
    - *optimizer*: the last additions, mean, norm, clipping, update and checks
    - *messages*: all else, such as sending, waking up and copying parameters
    """
    ordered = sorted(steps, key=lambda report: report.seconds)
    middle = ordered[len(ordered) // 4 : -(-3 * len(ordered) // 4)]
    total = dict.fromkeys(PARTS, 0.0)
    for report in middle:
        times = report.times
        longest = max(times.computing.values(), default=0.0)
        mean = sum(times.computing.values()) / workers
        rest = report.seconds - longest - times.adding - times.updating
        each = (mean, longest - mean, times.adding + min(0.0, rest), times.updating, max(0.0, rest))
        for name, seconds in zip(PARTS, each, strict=True):
            total[name] += seconds / len(middle)
    return total


def sgemm_flops() -> float:
    """FLOP/s of NumPy's float32 matrix product on one thread."""
    a = np.ones((768, 768), np.float32)
    with blas().limit(limits=1):
        seconds = alternate({"sgemm": lambda: a @ a}, 20, choose=min)["sgemm"]
    return float(2 * 768**3 / seconds)


def sixty_thousand() -> Dataset:
    """As many images as MNIST's training set: the bundled 4,000, fifteen times. Speed does not depend on the pixels."""
    train, _ = load_dataset()
    return Dataset(np.tile(train.inputs, (15, 1, 1)), np.tile(train.targets, 15), "60,000 images")
