"""Checks whether there is enough memory for workers, and whether it can be shared with them."""

import math
import os
import shutil
import sys
from collections.abc import Iterator

from parallel_lenet.display import count
from parallel_lenet.doctor import cores
from parallel_lenet.doctor.finding import Finding, System
from parallel_lenet.engines.memory import shared_bytes
from parallel_lenet.limits import available_memory

CHECK = "memory"
COORDINATOR = 200  # MB that training LeNet-5 takes in the coordinator's process.
WORKER = 80  # MB that it takes in each worker.
ADDRESSES = 1500  # MB of address space of one process: twice what it takes without compiling.
DESCRIPTORS = 64  # Open files of the coordinator without workers.
WORKERS_DESCRIPTORS = 8  # Open files of the coordinator for each worker.
TEST_BYTES = 2**22  # Bytes that are shared as a test.
SHM = 100  # MB. A smaller /dev/shm is the default of containers.
MB = 2**20


def check(system: System) -> list[Finding]:
    """How much memory is left, for how many workers it suffices, and whether memory can be shared."""
    workers = cores.worker_cores(system)
    room = available_memory(system.root)
    needed = COORDINATOR + workers * WORKER
    known = f"{room / MB:,.0f} MB" if room < math.inf else "an unknown amount"
    facts = {"available_mb": None if room == math.inf else int(room / MB), "needed_mb": needed}
    text = f"{known} left; LeNet-5 on {count(workers, 'worker')} takes about {needed} MB"
    found = [Finding(CHECK, "ok", text, facts=facts)]
    if room < needed * MB:
        fitting = int((room / MB - COORDINATOR) // WORKER)
        remedy = f"train with --workers {fitting}" if fitting > 0 else "raise the memory limit, or end other programs"
        text = f"{room / MB:,.0f} MB are left, but training with {count(workers, 'worker')} takes about {needed} MB"
        found.append(Finding(CHECK, "broken", text, remedy))
    return [*found, *_sharing(), *_limits(workers), *_shm()]


def _sharing() -> Iterator[Finding]:
    """Share memory as the engine does, so that a failure is named here."""
    try:
        block = shared_bytes(TEST_BYTES)
        block.arrays[0][:] = 1
        block.close()
    except OSError as error:
        remedy = "allow memfd_create in the sandbox, or set TMPDIR to a folder with room"
        yield Finding(CHECK, "broken", f"memory can't be shared with workers: {error.strerror or error}", remedy)


def _limits(count: int) -> Iterator[Finding]:
    if sys.platform == "win32":
        return
    import resource  # POSIX only.

    for name, least, unit, option in (
        (resource.RLIMIT_AS, ADDRESSES * MB, MB, "-v"),
        (resource.RLIMIT_NOFILE, DESCRIPTORS + count * WORKERS_DESCRIPTORS, 1, "-n"),
    ):
        limit = resource.getrlimit(name)[0]
        if limit not in (resource.RLIM_INFINITY, -1) and limit < least:
            resource_name = "MB of address space" if unit == MB else "open files"
            text = f"ulimit {option} allows {limit // unit:,} {resource_name}; training may need {least // unit:,}"
            remedy = f"ulimit {option} unlimited" if unit == MB else f"ulimit -n {2 * least}"
            yield Finding(CHECK, "broken", text, remedy)


def _shm() -> Iterator[Finding]:
    """A note if /dev/shm is small. Ray's object store needs it. Training shares memory without a name there."""
    if not os.path.isdir("/dev/shm"):
        return
    try:
        size = shutil.disk_usage("/dev/shm").total
    except OSError:
        return
    if size < SHM * MB:
        text = f"/dev/shm has {size / MB:,.0f} MB: enough for training here, too little for --engine ray"
        yield Finding(CHECK, "note", text, "docker run --shm-size=1g, if you use Ray")
