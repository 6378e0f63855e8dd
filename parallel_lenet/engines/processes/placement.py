"""On which cores workers run: each on one of its own if there are as many workers as cores, and else on any.

The coordinator wakes the workers from one of the cores. Left alone, Linux has two of them share another core for
milliseconds, until it notices that the coordinator sleeps: a step takes up to a tenth longer. But a process that is
bound to a core cannot leave it for another training's sake. So a core is claimed first, machine-wide, and workers whose
core another training has claimed run on any.
"""

import os
import socket
import sys
from contextlib import suppress

from parallel_lenet.descriptors import above_standard

NAME = "\0parallel-lenet/core/"
"""Of a claim, before the core's number: a name in Linux's abstract namespace, which no file has."""


class Placement:
    """The cores that one engine has claimed. A claim ends with `release`, or with this process, however it ends."""

    def __init__(self) -> None:
        self._claims: dict[int, socket.socket] = {}

    def place(self, pid: int, number: int, n_workers: int) -> None:
        """Have the process of worker ``number`` run where it should. Does nothing if the system knows no affinity."""
        if sys.platform == "linux":
            usable = sorted(os.sched_getaffinity(0))
            alone = n_workers == len(usable) > 1 and self._claim(usable[number])
            with suppress(OSError):  # It has ended, or a sandbox does not allow it.
                os.sched_setaffinity(pid, [usable[number]] if alone else usable)

    def _claim(self, core: int) -> bool:
        """Whether the core is ours now: a socket's name belongs to one process at a time.

        Nobody can connect to it, since it does not listen. Trainings in different network namespaces do not see each
        other's claims.
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
