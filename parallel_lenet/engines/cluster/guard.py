"""Ends what is left of a cluster of our own: its processes, even stopped ones, and its folder.

Run as a program, it waits for the end of the one that started it, and does so for a program that was killed. Ray itself
ends a program with exit code 1 and without a word when Ray's process on this machine dies, so this one then says why.
It needs nothing but the standard library, so that it starts at once.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

LEAVE = 5.0  # Seconds for each of the at most six calls that leave or end a cluster, and for its last files to go.
BYE = b"bye"


class Guard:
    """The process that watches over this one. ``folder`` is the cluster's, "" if it is not ours."""

    def __init__(self, name: str, folder: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", os.path.abspath(__file__), name, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it.
        )

    def dismiss(self) -> None:
        """There is nothing left to watch over."""
        with suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(BYE, timeout=LEAVE)
        self._process.kill()
        self._process.wait()


def holders(folder: str) -> set[int]:
    """The processes that have a file in the folder open, on Linux. It is a folder of mode 0700: they are all ours."""
    found = set()
    for process in os.listdir("/proc") if folder and os.path.isdir("/proc") else ():
        if not process.isdigit() or int(process) == os.getpid():
            continue
        with suppress(OSError):  # It has ended, or belongs to another user.
            if any(
                os.readlink(f"/proc/{process}/fd/{link}").startswith(folder + os.sep)
                for link in os.listdir(f"/proc/{process}/fd")
            ):
                found.add(int(process))
    return found


def stopped(pid: int) -> bool:
    """Whether the process is stopped, as by SIGSTOP, on Linux."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


def wake(pids: Iterable[int]) -> None:
    """Have stopped processes continue, so that they can be asked to end."""
    for pid in pids:
        with suppress(OSError, AttributeError):  # Windows has no such signal.
            os.kill(pid, signal.SIGCONT)


def kill(pids: Iterable[int]) -> None:
    """End processes that may be stopped: a stopped process takes no other signal."""
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)


def remove(folder: str) -> None:
    """Remove a folder, trying again for a while: processes that are about to end may still write there."""
    end = time.monotonic() + LEAVE
    while folder and os.path.isdir(folder):
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > end:
            return
        time.sleep(0.05)


def _main(name: str, folder: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() == BYE:
        return
    kill(holders(folder))
    remove(folder)
    reason = " (Ray itself ends a program when Ray's process on its machine dies)" if name == "ray" else ""
    with suppress(OSError):
        sys.stderr.write(
            f"parallel-lenet: the program ended without leaving its {name} cluster{reason}; what it saved "
            "before is whole\n"
        )


if __name__ == "__main__":
    _main(*sys.argv[1:])
