"""Binds workers to cores. Each worker has its own core if there are as many workers as cores, else any core.

The coordinator wakes the workers from one of the cores. By default, Linux then lets two workers share another core for
milliseconds, until it notices that the coordinator sleeps. A step then takes up to a tenth longer. But a process that
is bound to a core cannot leave it when another training needs it. So each core is claimed first, machine-wide. A worker
whose core another training has claimed runs on any core.
"""

import os
import socket
import sys
from contextlib import suppress

from parallel_lenet.descriptors import above_standard

NAME = "\0parallel-lenet/core/"
"""The name of a claim, before the core's number: in Linux's abstract namespace, without a file."""


class Placement:
    """The cores that one engine has claimed. A claim ends with `release`, or when this process ends in any way."""

    def __init__(self) -> None:
        self._claims: dict[int, socket.socket] = {}

    def set_affinity(self, pid: int, number: int, n_workers: int) -> None:
        """Bind the process of worker ``number`` to its core, or to all usable cores. Does nothing except on Linux."""
        if sys.platform == "linux":
            usable = sorted(os.sched_getaffinity(0))
            has_own_core = n_workers == len(usable) > 1 and self._claim(usable[number])
            with suppress(OSError):  # It has ended, or a sandbox does not allow it.
                os.sched_setaffinity(pid, [usable[number]] if has_own_core else usable)

    def _claim(self, core: int) -> bool:
        """Claim the core. Returns False if another process has it. A socket's name belongs to one process at a time.

        No process can connect to the socket, since it does not listen. Trainings in different network namespaces do not
        see each other's claims.
        """
        if core not in self._claims:
            with above_standard():
                claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                claim.bind(f"{NAME}{core}")
            except OSError:
                claim.close()
                return False
            self._claims[core] = claim
        return True

    def release(self) -> None:
        """Give up all claims."""
        while self._claims:
            self._claims.popitem()[1].close()
