"""``benchmark.py many-cores``: everything about a machine with many cores, in less than eight minutes.

The first part shows that the result is right: the same hash for 1, 3, 7 and 16 workers, at both batch sizes. The other
parts are measured with 1, 2, 4, ... workers, up to the number of cores:

- an epoch of 60,000 images, beside PyTorch with as many threads if it is installed,
- where a step's time goes, and what the hardware gives,
- a step whose model does nothing,
- ten million parameters.

The table of each part is printed, and the file ``--out`` written, as soon as it is known.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import large, scaling
from benchmarks.common import Report, counts, machine, reports, sixty_thousand, step_seconds
from benchmarks.engines import NoOp
from benchmarks.epoch import epoch_seconds
from benchmarks.peers import torch_seconds
from parallel_lenet import Adam, Coordinator, kernels
from parallel_lenet.cli._console import Console
from parallel_lenet.cores import usable_cores
from parallel_lenet.files import write_atomically

HASHED = (1, 3, 7, 16)
HASHED_STEPS = 30


def hashes(arguments: argparse.Namespace) -> Report:
    """The hash of the parameters after some steps, for each number of workers."""
    data = sixty_thousand()
    found = dict[str, dict[str, str]]()
    for batch_size in scaling.BATCH_SIZES:
        found[str(batch_size)] = {}
        for w in HASHED:
            with scaling.coordinator(batch_size, w) as trained:
                reports(trained, data, HASHED_STEPS)
                found[str(batch_size)][f"{w} ({trained.n_workers} run)"] = trained.parameters_sha256()
    for size, each in found.items():
        if len(set(each.values())) > 1:
            raise SystemExit(f"batches of {size}: the workers' results differ: {each}")
    return Report(
        title=f"SHA-256 of the parameters after {HASHED_STEPS + 2} steps",
        header=("batch", "workers", "hash"),
        rows=[(size, name, digest[:16]) for size, each in found.items() for name, digest in each.items()],
        results=found,
    )


def epochs(arguments: argparse.Namespace) -> Report:
    """Epochs of this package and of PyTorch in turn. The best round counts, since others may use the machine."""
    data = sixty_thousand()
    kernel = kernels.available()[-1]
    cores = counts(usable_cores())
    seconds: dict[tuple[int, str, int], list[float]] = {}
    note: list[str] = []
    for _ in range(arguments.rounds):
        for batch_size in scaling.BATCH_SIZES:
            for n in cores:
                key = (batch_size, kernel, n)
                seconds.setdefault(key, []).append(epoch_seconds(data, kernel, n, batch_size))
                try:
                    theirs = torch_seconds("eager", n, batch_size)
                except RuntimeError as error:
                    note = [f"without PyTorch: {error}"]
                else:
                    seconds.setdefault((batch_size, "PyTorch eager", n), []).append(theirs)
    best = {key: min(values) for key, values in seconds.items()}
    rows = []
    results = []
    for (batch_size, name, n), value in best.items():
        rivals = [other for (size, who, _), other in best.items() if size == batch_size and who != kernel]
        row: dict[str, Any] = {
            "batch_size": batch_size,
            "what": name,
            "cores": n,
            "seconds": value,
            "speedup": best[batch_size, name, 1] / value,
            "times_as_fast_as_pytorchs_best": min(rivals) / value if rivals else None,
        }
        results.append(row)
        peer = row["times_as_fast_as_pytorchs_best"]
        rows.append(
            (
                str(batch_size),
                name,
                str(n),
                f"{value:.3f}",
                f"{row['speedup']:.2f}",
                f"{peer:.2f}" if peer else "",
            )
        )
    return Report(
        title="Seconds of an epoch of 60,000 images, everything included",
        header=("batch", "", "workers or threads", "seconds", "speed-up", "x best PyTorch"),
        rows=sorted(rows, key=lambda row: (int(row[0]), row[1], int(row[2]))),
        results={"epochs": results},
        notes=note,
    )


class Nothing(NoOp):
    """Like LeNet-5 with the kernel compiled, it has a leaf of 1: a batch may be cut anywhere."""

    leaf = 1


def overhead(arguments: argparse.Namespace) -> Report:
    """The time of a step whose model does nothing, with LeNet-5's 61,706 parameters, at the default settings."""
    data = sixty_thousand()
    found = dict[str, float]()
    for w in counts(usable_cores()):
        with Coordinator(Nothing(), Adam(1e-3), n_workers=w) as coordinator:
            found[str(w)] = step_seconds(coordinator, data, 300) * 1e3
    return Report(
        title="A step of 128 images whose model does nothing",
        header=("workers", "ms"),
        rows=[(w, f"{ms:.3f}") for w, ms in found.items()],
        results={"ms_a_step": found},
    )


MEASURED: dict[str, Callable[[argparse.Namespace], Report]] = {
    "hashes": hashes,
    "epochs": epochs,
    "scaling": scaling.measure,
    "overhead": overhead,
    "large": large.measure,
}


def measure(arguments: argparse.Namespace) -> Report:
    """Measure all parts. The last table has the seconds of each."""
    console = Console(json=arguments.json)
    first_start = time.perf_counter()
    results: dict[str, Any] = {"machine": machine()}
    rows = []
    for name, part in MEASURED.items():
        start = time.perf_counter()
        report = part(arguments)
        seconds = time.perf_counter() - start
        results[name] = {**report.results, "seconds": seconds}
        rows.append((name, f"{seconds:.0f}"))
        console.table(report.title, report.header, report.rows)
        for note in report.notes:
            console.line(note)
        if arguments.out:
            write_atomically(Path(arguments.out), json.dumps(results, indent=1).encode())
        sys.stdout.flush()
    rows.append(("all", f"{time.perf_counter() - first_start:.0f}"))
    return Report("Seconds that each part took", ("part", "seconds"), rows, results)
