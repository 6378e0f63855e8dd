"""``benchmark.py scaling``: the speed-up of more workers, the hardware's limit, and the parts of a step's time.

Cores share caches, memory and heat, so w of them do not compute w times as much. The limit is measured beside each run:
w programs of one worker each, all at once and without communication, compared with one alone. The speed-up of w workers
is compared with that of these programs.

The speed of a machine varies, and other programs use it. So workers and programs are kept, and take turns of about a
tenth of a second. Each speed-up is divided by the hardware's of the same turns, and the median of these ratios counts.
"""

import argparse
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.common import PARTS, Report, counts, parts, reports, sixty_thousand, step_seconds
from parallel_lenet import Adam, Coordinator, kernels, lenet5
from parallel_lenet.closing import Closeable
from parallel_lenet.cores import usable_cores

BATCH_SIZES = (128, 512)


TURNS = 8  # Per round.


def steps(batch_size: int) -> int:
    """The number of steps that are measured in a turn."""
    return 5_000 // batch_size


def coordinator(batch_size: int, workers: int = 1, engine: str = "processes") -> Coordinator:
    """LeNet-5 with the fastest kernel, at the default settings."""
    kernel = kernels.available()[-1]
    return Coordinator(lenet5(kernel=kernel), Adam(1e-3), n_workers=workers, batch_size=batch_size, engine=engine)


class Programs(Closeable):
    """Programs that train alone, each with the serial engine, on command."""

    def __init__(self, batch_size: int, number: int) -> None:
        scripts = str(Path(__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([scripts, *filter(None, sys.path)])}
        command = [sys.executable, "-m", "benchmarks.scaling", str(batch_size)]
        pipe = subprocess.PIPE
        self._running = [
            subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) for _ in range(number)
        ]
        try:
            for process in self._running:
                self._line(process)  # The program says that it is ready.
        except BaseException:
            self.close()
            raise

    def step_seconds(self, number: int) -> float:
        """Median seconds of a step of all programs at once."""
        for process in self._running[:number]:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return statistics.median(float(self._line(process)) for process in self._running[:number])

    def _line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    def close(self) -> None:
        """End the programs."""
        for process in self._running:
            process.communicate()


def program(batch_size: int) -> None:
    """One of these programs: it says when it is ready, and for each line that it reads it prints a step's seconds."""
    data = sixty_thousand()
    with coordinator(batch_size, engine="serial") as alone:
        step_seconds(alone, data, 5)
        print("ready", flush=True)
        for _ in sys.stdin:
            print(step_seconds(alone, data, steps(batch_size)), flush=True)


def measure(arguments: argparse.Namespace) -> Report:
    """Medians over the turns, and medians of the ratios within a turn."""
    data = sixty_thousand()
    workers = counts(usable_cores())
    results: dict[str, list[dict[str, Any]]] = {}
    for batch_size in BATCH_SIZES:
        found: dict[int, list[dict[str, float]]] = {w: [] for w in workers}
        together: dict[int, list[float]] = {w: [] for w in workers}
        with ExitStack() as stack:
            programs = stack.enter_context(Programs(batch_size, workers[-1]))
            trained = {w: stack.enter_context(coordinator(batch_size, w)) for w in workers}
            for each in trained.values():
                reports(each, data, 5)
            for _ in range(TURNS * arguments.rounds):
                for w, each in trained.items():
                    found[w].append(parts(reports(each, data, steps(batch_size)), each.n_workers))
                    together[w].append(programs.step_seconds(w))
        results[str(batch_size)] = [_row(w, found, together) for w in workers]
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
                f"{row['efficiency']:.0%}",
                *(f"{ms:.2f}" for ms in row["parts_ms"].values()),
            )
            for batch_size, rows in results.items()
            for row in rows
        ],
        results={"kernel": kernels.available()[-1], "batches": results},
        notes=["hardware's: as many programs of one worker each, at once, compared with one alone"],
    )


def _row(w: int, found: dict[int, list[dict[str, float]]], together: dict[int, list[float]]) -> dict[str, Any]:
    """The medians of w workers' turns."""
    speedups = [sum(one.values()) / sum(all_.values()) for one, all_ in zip(found[1], found[w], strict=True)]
    hardware = [w * one / all_ for one, all_ in zip(together[1], together[w], strict=True)]
    return {
        "workers": w,
        "step_ms": statistics.median(sum(each.values()) for each in found[w]) * 1e3,
        "speedup": statistics.median(speedups),
        "hardware": statistics.median(hardware),
        "efficiency": statistics.median(ours / theirs for ours, theirs in zip(speedups, hardware, strict=True)),
        "parts_ms": {name: statistics.median(each[name] for each in found[w]) * 1e3 for name in PARTS},
    }


if __name__ == "__main__":
    program(int(sys.argv[1]))
