"""``benchmark.py cluster``: the time of a step with each engine, and for which work a cluster is faster."""

import argparse
import time
import warnings
from statistics import median
from typing import Any

from benchmarks.common import Report, sixty_thousand, step_seconds, works
from benchmarks.engines import NoOp
from parallel_lenet import Adam, Coordinator, Model, kernels, lenet5
from parallel_lenet.cores import usable_cores
from parallel_lenet.engines import Engine
from parallel_lenet.engines.cluster.engine import Cluster, ClusterWarning
from parallel_lenet.engines.processes.engine import ProcessesEngine
from parallel_lenet.engines.serial import SerialEngine

BATCH_SIZES = {"naive": (64,), "im2col": (128, 2048), "compiled": (128, 2048, 16384)}
STEPS = {"naive": 1}  # Per measurement. With naive an image takes a thousand times as long.


def engines(workers: int) -> dict[str, Engine]:
    """Every engine that can be used here."""
    found: dict[str, Engine] = {"serial": SerialEngine(), "processes": ProcessesEngine(workers)}
    found |= {"loky": Cluster("loky", n_workers=workers), "threading": Cluster("threading", n_workers=workers)}
    if works("dask", "distributed"):
        found["dask"] = Cluster("dask", n_workers=workers)
    if works("ray", "ray"):
        found["ray"] = Cluster("ray", n_workers=workers)
    return found


def measure(arguments: argparse.Namespace) -> Report:
    """Milliseconds per step of each engine, for a model that does nothing and for each kernel and batch size."""
    workers = usable_cores()
    data = sixty_thousand()
    work: list[tuple[str, Model, int]] = [("nothing", NoOp(), 128)]
    for kernel in kernels.available():
        work += [(kernel, lenet5(kernel=kernel), batch_size) for batch_size in BATCH_SIZES[kernel]]
    found = engines(workers)
    started = time.perf_counter()
    ms: dict[str, dict[str, float]] = {f"{name}, {batch_size}": {} for name, _, batch_size in work}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClusterWarning)  # The table shows what it says.
        warnings.simplefilter("ignore", FutureWarning)  # Ray warns of its own future.
        try:
            for name, model, batch_size in work:
                times: dict[str, list[float]] = {engine: [] for engine in found}
                number = STEPS.get(name, max(3, 2048 // batch_size))
                for _ in range(arguments.rounds if name != "naive" else 1):
                    for engine, seconds in times.items():
                        coordinator = Coordinator(model, Adam(1e-3), engine=found[engine], batch_size=batch_size)
                        seconds.append(step_seconds(coordinator, data, number))
                ms[f"{name}, {batch_size}"] = {engine: median(seconds) * 1e3 for engine, seconds in times.items()}
        finally:
            for each in found.values():
                each.close()
    return Report(
        title=f"Milliseconds per step (and images per second) with {workers} workers",
        header=("kernel, batch", *found),
        rows=[(what, *(_cell(what, value) for value in row.values())) for what, row in ms.items()],
        results={"workers": workers, "ms_a_step": ms},
        notes=(_pays(ms), f"measured in {time.perf_counter() - started:.0f} s"),
    )


def _cell(what: str, value: float) -> str:
    rate = "" if what.startswith("nothing") else f" ({int(what.split()[-1]) / value * 1e3:,.0f})"
    return f"{value:,.1f}{rate}"


def _pays(ms: dict[str, dict[str, Any]]) -> str:
    """The work for which a cluster on this machine is faster than one core."""
    faster = [
        f"{engine} with {what}"
        for what, row in ms.items()
        for engine in row
        if engine in ("dask", "ray", "loky") and row[engine] < row["serial"]
    ]
    return "faster than serial: " + ("; ".join(faster) if faster else "no cluster")
