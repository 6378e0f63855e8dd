"""Ends what is left of a cluster that this program started: its processes, even stopped ones, and its folder.

As a program, it waits until the program that started it has ended or was killed. Then it ends the cluster. When Ray's
process on this machine dies, Ray ends the program with exit code 1 and without a message, so the guard says why. It
needs only the standard library, so that it starts fast.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

LEAVE_LIMIT = 5.0  # Seconds for each of the at most six calls that leave or end a cluster, and to remove its folder.
BYE = b"bye"


class Guard:
    """The process that watches this one. ``folder`` is that of the new cluster, "" for a joined one."""

    def __init__(self, name: str, folder: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", os.path.abspath(__file__), name, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C does not reach it.
        )

    def dismiss(self) -> None:
        """End the guard: the cluster has ended."""
        with suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(BYE, timeout=LEAVE_LIMIT)
        self._process.kill()
        self._process.wait()


def processes_using(folder: str) -> set[int]:
    """The processes with an open file in the folder, on Linux. The folder has mode 0700: they belong to this user."""
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


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped, as by SIGSTOP, on Linux."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


def wake(pids: Iterable[int]) -> None:
    """Continue stopped processes, so that they can be asked to end."""
    for pid in pids:
        with suppress(OSError, AttributeError):  # Windows has no such signal.
            os.kill(pid, signal.SIGCONT)


def kill(pids: Iterable[int]) -> None:
    """Kill processes, which may be stopped: a stopped process handles no other signal."""
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)


def remove(folder: str) -> None:
    """Remove a folder. Try for `LEAVE_LIMIT` seconds, since processes that are ending may still write there."""
    end = time.monotonic() + LEAVE_LIMIT
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
    kill(processes_using(folder))
    remove(folder)
    reason = " (Ray itself ends a program when Ray's process on its machine dies)" if name == "ray" else ""
    with suppress(OSError):
        sys.stderr.write(
            f"parallel-lenet: the program ended without leaving its {name} cluster{reason}. Files that it saved "
            "before are complete\n"
        )


if __name__ == "__main__":
    _main(*sys.argv[1:])
