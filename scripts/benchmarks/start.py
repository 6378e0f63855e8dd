"""``benchmark.py start``: the time until the first step, and the memory of a worker."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import Report, sixty_thousand
from parallel_lenet import Adam, Coordinator, Dataset, kernels, lenet5


def _wall(command: list[str], **environment: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)
    return time.perf_counter() - start


def _resident(pids: list[int]) -> float:
    """Megabytes of these processes. Shared memory is divided among them (proportional set size). Linux only."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def _memory(data: Dataset, kernel: str, workers: int) -> float:
    """Megabytes of the coordinator and its workers, after 20 steps."""
    adam = Adam(1e-3, fused=kernel == "compiled")
    with Coordinator(lenet5(kernel=kernel), adam, n_workers=workers) as coordinator:
        for _, _ in zip(range(20), coordinator.iterate(data), strict=False):
            pass
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return _resident([os.getpid(), *map(int, children)])


def measure(arguments: argparse.Namespace) -> Report:
    """Medians of whole commands, timed from outside."""
    python = sys.executable
    script = str(Path(__file__).parents[1] / "train.py")
    kernel = kernels.available()[-1]
    with tempfile.TemporaryDirectory() as folder:
        runs = (str(Path(folder) / f"run{i}") for i in range(1000))

        def command() -> list[str]:
            return [python, script, "--kernel", kernel, "--max-steps", "1", "--quiet", "--out", next(runs)]

        cold = _wall(command(), NUMBA_CACHE_DIR=str(Path(folder) / "cache"))
        imports = []
        bare = []
        first = []
        for _ in range(arguments.rounds):
            bare.append(_wall([python, "-c", "pass"]))
            imports.append(_wall([python, "-c", "from parallel_lenet import *"]))
            first.append(_wall(command()))
    results: dict[str, Any] = {
        "import_seconds": statistics.median(imports) - statistics.median(bare),
        "first_step_seconds": statistics.median(first),
        "first_step_seconds_cold": cold,
    }
    rows = [
        ("from parallel_lenet import *", f"{results['import_seconds']:.2f} s"),
        (f"train.py --max-steps 1, {kernel}, whole command", f"{results['first_step_seconds']:.2f} s"),
        ("the same, nothing compiled yet", f"{cold:.1f} s"),
    ]
    if Path("/proc/self/smaps_rollup").exists():
        data = sixty_thousand()
        memory = {w: _memory(data, kernel, w) for w in (1, 2, 4)}
        results["worker_megabytes"] = (memory[4] - memory[1]) / 3
        results["all_megabytes"] = memory
        rows.append(("a worker's memory, on top of the others'", f"{results['worker_megabytes']:.0f} MB"))
        rows.append(("coordinator and 2 workers, with 60,000 images", f"{memory[2]:.0f} MB"))
        rows.append(
            ("the images and labels themselves", f"{(data.inputs.nbytes + data.targets.nbytes) / 2**20:.0f} MB")
        )
    return Report(title="Start and memory", header=("", "median"), rows=rows, results=results)
