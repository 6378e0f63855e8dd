"""The number of workers by joblib's convention, for the cores that this process may use."""

import math
import os
from dataclasses import dataclass

from parallel_lenet.checks import whole_number
from parallel_lenet.limits import cpu_quota

WORKERS_VARIABLE = "PARALLEL_LENET_WORKERS"
MOST = 1024  # Workers: a typing error must not exhaust the machine.


@dataclass(frozen=True)
class WorkerCount:
    """A number of workers, and the reason for it."""

    count: int
    origin: str
    """The reason in a few words, such as ``all 4 usable cores``."""
    all: bool = False
    """Whether all cores are requested. In a cluster that is another number."""


def usable_cores() -> int:
    """The number of cores that this process may use, at least 1.

    joblib counts affinity, LOKY_MAX_CPU_COUNT and the quota of a container. The quotas of control groups inside a
    container are counted here too. In a process that is one of several parallel jobs, this is the job's share.
    """
    import joblib  # Imported lazily: it takes 0.1 s, which `import parallel_lenet` does not need.

    try:
        cores = int(joblib.cpu_count())
    except (OSError, ValueError):  # Some containers have /sys files that joblib cannot parse: loky#478, loky#634.
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota(), _share())))


def _share() -> float:
    """The number of cores for this process if it is a parallel job itself, or infinity if it is not.

    joblib sets variables in its workers that limit the threads of libraries to cores / jobs. Workers of multiprocessing
    are daemons, which may not start processes, so they get one core.
    """
    from multiprocessing import current_process  # Imported lazily, as joblib, which imports it.

    process = current_process()
    if process.name.startswith("LokyProcess"):
        limits = [value for name, value in os.environ.items() if name.endswith("_NUM_THREADS") and value.isdecimal()]
        return max(map(int, limits), default=math.inf)
    return 1 if process.daemon else math.inf


def default_workers() -> int:
    """The number in ``PARALLEL_LENET_WORKERS``, or -1 if that is not set."""
    text = os.environ.get(WORKERS_VARIABLE) or "-1"
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{WORKERS_VARIABLE} must be a whole number such as 4 or -1, got {text!r}") from None


def count_workers(n_workers: int | None) -> WorkerCount:
    """-1 means all usable cores, -2 all but one (at least one), a positive number itself, and None `default_workers`.

    Raises ValueError for 0, for more than `MOST`, and for anything but a whole number.
    """
    if n_workers is None:
        number = default_workers()
        try:
            return count_workers(number)
        except ValueError as error:
            raise ValueError(f"{WORKERS_VARIABLE}: {error}") from None
    n_workers = whole_number("the number of workers", n_workers)
    if n_workers == 0:
        raise ValueError(
            "the number of workers must not be 0: use 1 or more, -1 for all usable cores, -2 for all but one"
        )
    if n_workers > MOST:
        raise ValueError(f"the number of workers must be at most {MOST:,}, got {n_workers:,}")
    if n_workers > 0:
        return WorkerCount(n_workers, "as asked")
    cores = usable_cores()
    count = max(1, cores + 1 + n_workers)
    if cores == 1:
        origin = "the only usable core"
    elif n_workers == -1:
        origin = f"all {cores} usable cores"
    else:
        origin = f"{count} of {cores} usable cores"
    return WorkerCount(count, origin, all=n_workers == -1)
