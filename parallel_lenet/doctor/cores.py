"""The number of cores to compute on, and the limits that reduce it."""

import math
import os

from parallel_lenet.cores import WORKERS_VARIABLE, count_workers, usable_cores
from parallel_lenet.display import count
from parallel_lenet.doctor.finding import Finding, System
from parallel_lenet.limits import cpu_quota

CHECK = "cores"
LOKY = "LOKY_MAX_CPU_COUNT"


def check(system: System) -> list[Finding]:
    """The number of usable cores with how it was counted, and a finding for each limit below the machine's number."""
    machine = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    quota = cpu_quota(system.root)
    cores = worker_cores(system)
    group = "no limit of a control group" if quota == math.inf else f"{quota:g} by control group"
    text = f"{cores} usable of {machine}: {affinity} by affinity, {group}"
    facts = {"usable": cores, "machine": machine, "affinity": affinity, "quota": None if quota == math.inf else quota}
    found = [Finding(CHECK, "ok", text, facts=facts)]
    if affinity < machine:
        text = f"this process may use {affinity} of the machine's {machine} cores (affinity)"
        remedy = "start it without taskset or numactl, or ask the batch system for more cores"
        found.append(Finding(CHECK, "slow", text, remedy))
    if quota < min(machine, affinity):
        text = f"a control group leaves the time of {quota:g} of {count(min(machine, affinity), 'core')}"
        remedy = "raise the container's limit (docker run --cpus, resources.limits.cpu), or the batch job's"
        found.append(Finding(CHECK, "slow", text, remedy))
    return [*found, *_variables(machine)]


def worker_cores(system: System) -> int:
    """The cores that workers get by default."""
    return max(1, math.ceil(min(usable_cores(), cpu_quota(system.root))))


def _variables(machine: int) -> list[Finding]:
    found = []
    limit = os.environ.get(LOKY)
    if limit is not None and not limit.strip().isdecimal():
        text = f"{LOKY} must be a positive whole number, got {limit!r}: joblib fails with it"
        found.append(Finding(CHECK, "broken", text, f"unset {LOKY}"))
    elif limit is not None and int(limit) < machine:
        found.append(
            Finding(CHECK, "slow", f"{LOKY}={int(limit)} leaves only {int(limit)} of {machine} cores", f"unset {LOKY}")
        )
    value = os.environ.get(WORKERS_VARIABLE)
    if value:
        remedy = f"unset {WORKERS_VARIABLE}, or set it to -1 for all usable cores"
        try:
            workers = count_workers(None).count
        except ValueError as error:
            found.append(Finding(CHECK, "broken", str(error), remedy))
        else:
            if workers != usable_cores():
                usable = count(usable_cores(), "usable core")
                text = f"{WORKERS_VARIABLE}={int(value)}: {count(workers, 'worker')} by default, on {usable}"
                found.append(Finding(CHECK, "slow", text, remedy))
    return found
