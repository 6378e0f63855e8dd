"""The arguments of `Coordinator` that say where workers run, from a command's options."""

from typing import Any

from parallel_lenet.cli._console import Console
from parallel_lenet.cli._options import UsageError, with_dashes
from parallel_lenet.cores import WorkerCount


def arguments(engine: str, address: str | None, workers: WorkerCount) -> tuple[dict[str, Any], str]:
    """The arguments, and a phrase that says where the number of workers comes from.

    Raises UsageError if an address is given to an engine of this machine.
    """
    if address is not None and engine in ("processes", "serial"):
        raise UsageError(f"--cluster-address {address} goes with --engine dask or ray, not with {engine}")
    whole_cluster = address is not None and workers.all
    n_workers = -1 if whole_cluster else workers.count
    origin = workers.origin
    if whole_cluster:
        origin = f"all that the {engine} cluster has"
    elif engine == "serial":
        origin = "in this process"
    return {"engine": engine, "cluster_address": address, "n_workers": n_workers}, origin


def note_unused(flag_options: dict[str, Any], engine: str, console: Console) -> None:
    """Note the flags about workers that have no effect because the engine has no worker processes."""
    unused = [
        f"--{with_dashes(name)} {flag_options[name]}"
        for name in ("workers", "step_timeout", "max_tries")
        if name in flag_options
    ]
    if engine == "serial" and unused and unused != ["--workers 1"]:
        verb = "has" if len(unused) == 1 else "have"
        console.note(f"note: {' and '.join(unused)} {verb} no effect: --engine serial computes in this process")
