"""``benchmark.py scaling``: what more workers bring, what the hardware gives at most, and where a step's time goes.

Cores share caches, memory and heat, so w of them do not compute w times as much. How much they do compute is measured
beside each run: w programs of one worker each, all at once, which have nothing to tell each other, against one alone.
The speed-up of w workers is compared with that of these programs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import PARTS, Report, counts, parts, reports, sixty_thousand, step_seconds
from parallel_lenet import Adam, Coordinator, Dataset, kernels, lenet5
from parallel_lenet.cores import usable_cores

BATCH_SIZES = (128, 512)


def steps(batch_size: int) -> int:
    """How many are measured at a time: a quarter of an epoch."""
    return 15_000 // batch_size


def coordinator(batch_size: int, workers: int = 1, engine: str = "processes") -> Coordinator:
    """LeNet-5 with the fastest kernel, at the default settings."""
    kernel = kernels.available()[-1]
    return Coordinator(lenet5(kernel=kernel), Adam(1e-3), n_workers=workers, batch_size=batch_size, engine=engine)


def with_workers(data: Dataset, batch_size: int, workers: int) -> dict[str, float]:
    """The parts of a step."""
    with coordinator(batch_size, workers) as trained:
        return parts(reports(trained, data, steps(batch_size)), trained.n_workers)


def programs(batch_size: int, number: int) -> float:
    """Median seconds of a step of so many programs at once."""
    scripts = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([scripts, *filter(None, sys.path)])}
    command = [sys.executable, "-m", "benchmarks.scaling", str(batch_size)]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) for _ in range(number)]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()  # It is ready.
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return statistics.median(float(json.loads(process.communicate()[0])) for process in running)


def program(batch_size: int) -> None:
    """One of these programs: it says when it is ready, waits for a line, measures, and prints the seconds."""
    data = sixty_thousand()
    with coordinator(batch_size, engine="serial") as alone:
        step_seconds(alone, data, 5)
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(step_seconds(alone, data, steps(batch_size))))


def measure(arguments: argparse.Namespace) -> Report:
    """Round after round, everything in turn; medians, and ratios within a round."""
    data, workers = sixty_thousand(), counts(usable_cores())
    cases = [(batch_size, w) for batch_size in BATCH_SIZES for w in workers]
    found: dict[tuple[int, int], list[dict[str, float]]] = {case: [] for case in cases}
    together: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    for _ in range(arguments.rounds):
        for case in cases:
            found[case].append(with_workers(data, *case))
            together[case].append(programs(*case))
    results: dict[str, list[dict[str, Any]]] = {str(batch_size): [] for batch_size in BATCH_SIZES}
    for batch_size, w in cases:
        measured, alone = found[batch_size, w], found[batch_size, 1]
        speedup = statistics.median(sum(a.values()) / sum(b.values()) for a, b in zip(alone, measured, strict=True))
        hardware = statistics.median(
            w * a / b for a, b in zip(together[batch_size, 1], together[batch_size, w], strict=True)
        )
        results[str(batch_size)].append(
            {
                "workers": w,
                "step_ms": statistics.median(sum(each.values()) for each in measured) * 1e3,
                "speedup": speedup,
                "hardware": hardware,
                "parts_ms": {name: statistics.median(each[name] for each in measured) * 1e3 for name in PARTS},
            }
        )
    return Report(
        title=f"A step of LeNet-5, {kernels.available()[-1]}, with Adam: milliseconds, and where they go",
        header=("batch", "workers", "ms", "speed-up", "hardware's", "of it", *PARTS),
        rows=[
            (
                batch_size,
                str(row["workers"]),
                f"{row['step_ms']:.2f}",
                f"{row['speedup']:.2f}",
                f"{row['hardware']:.2f}",
                f"{row['speedup'] / row['hardware']:.0%}",
                *(f"{ms:.2f}" for ms in row["parts_ms"].values()),
            )
            for batch_size, rows in results.items()
            for row in rows
        ],
        results={"kernel": kernels.available()[-1], "batches": results},
        notes=["hardware's: so many programs of one worker each, at once, against one alone"],
    )


if __name__ == "__main__":
    program(int(sys.argv[1]))
