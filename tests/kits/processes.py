"""Looks at processes from outside, most of them through Linux's /proc."""

import ipaddress
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path


def other_user() -> list[str]:
    """The words before a command that make another user run it, or no words if that is not possible."""
    prefix = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    program = [*prefix, sys.executable, "-c", "import numpy"]
    return [] if subprocess.run(program, cwd="/", env={}, capture_output=True).returncode else prefix


def children(pid: int | None = None) -> set[int]:
    """The processes that ``pid`` (by default this one) has started and that run, or have not been waited for.

    Linux lists them if it is built to. Otherwise all processes are looked at, which takes much longer.
    """
    parent = pid or os.getpid()
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        return {int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if _parent_of(stat) == parent}
    found = set()
    for file in glob(f"/proc/{parent}/task/*/children"):
        with suppress(OSError):  # It has ended meanwhile.
            found |= {int(number) for number in Path(file).read_text().split()}
    return found


def _parent_of(stat: Path) -> int | None:
    """The parent of the process with this file in ``/proc``, or None if it has ended."""
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def listening(pids: Iterable[int]) -> set[tuple[str, int]]:
    """The addresses and ports of TCP at which these processes take connections."""
    sockets = {}
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # LISTEN.
                number, _, port = fields[1].partition(":")
                words = [bytes.fromhex(number[i : i + 8])[::-1] for i in range(0, len(number), 8)]
                address = ipaddress.ip_address(b"".join(words))
                mapped = getattr(address, "ipv4_mapped", None)
                sockets[f"socket:[{fields[9]}]"] = str(mapped or address), int(port, 16)
    links = {_target(link) for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()}
    return {place for socket, place in sockets.items() if socket in links}


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition comes true within this number of seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def alive(pids: Sequence[int]) -> list[int]:
    """Those of the processes that have not ended. A process that nobody has waited for counts as ended."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in _state(pid)]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def descendants_end(pids: set[int], seconds: float = 3) -> bool:
    """Whether these processes are gone within the time."""
    return wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), seconds)


def wait_for_workers(process: "subprocess.Popen[str]", count: int) -> set[int]:
    """The processes that a program has started, once there are this many."""
    assert wait_until(lambda: len(children(process.pid)) >= count or process.poll() is not None, 30)
    return children(process.pid)


def temporary_files() -> set[str]:
    """The files of this package and of Dask in shared memory and in the folder for temporary files."""
    folders = ("/dev/shm", tempfile.gettempdir())
    return {
        f"{folder}/{name}"
        for folder in folders
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if "lenet" in name or "dask" in name
    }


def shared_memory() -> set[str]:
    """The anonymous shared files that this process holds."""
    links = Path("/proc/self/fd").iterdir()
    return {f"{link.name}: {target}" for link in links if "memfd:parallel-lenet" in (target := _target(link))}


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # The descriptor of the listing itself.
        return ""
