"""The engine that a command's options ask for, with its workers."""

from typing import Any

from parallel_lenet.cli._console import Console
from parallel_lenet.cli._options import UsageError, as_usage, dashed
from parallel_lenet.cores import WorkerCount
from parallel_lenet.engines import Engine
from parallel_lenet.engines.cluster.engine import TIMEOUT, Cluster


def make(
    engine: str, address: str | None, workers: WorkerCount, step_timeout: float | None = None, max_tries: int = 3
) -> tuple[str | Engine, str]:
    """What `Coordinator` takes as its engine, and how its number of workers came about.

    UsageError for options that don't go together; what `Cluster` raises where there is no such cluster.
    """
    if engine in ("processes", "serial"):
        if address is not None:
            raise UsageError(f"--cluster-address {address} goes with --engine dask or ray, not with {engine}")
        return engine, "in this process" if engine == "serial" else workers.how
    every = address is not None and workers.all
    try:
        cluster = Cluster(
            engine,
            address=address,
            n_workers=None if every else workers.count,
            timeout=TIMEOUT if step_timeout is None else step_timeout,
            max_tries=max_tries,
        )
    except ValueError as error:
        raise as_usage(error) from None
    return cluster, f"all that the {engine} cluster has" if every else workers.how


def say_unused(given: dict[str, Any], engine: str, console: Console) -> None:
    """A note if flags were given that are about workers, and there are none."""
    unused = [f"--{dashed(name)} {given[name]}" for name in ("workers", "step_timeout", "max_tries") if name in given]
    if engine == "serial" and unused and unused != ["--workers 1"]:
        verb = "has" if len(unused) == 1 else "have"
        console.note(f"note: {' and '.join(unused)} {verb} no effect: --engine serial computes in this process")
