"""Finds the cores and the memory that the machine and its control groups leave to this process.

A process is in one group of each hierarchy. The limits of that group and of all groups above it apply, such as those of
a container, a batch job or a service. Linux has two versions of these groups, and both may be in use at the same time.
"""

import math
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(file: Path) -> float:
    """The number in a file, or infinity: there may be no such file, or the word "max" in it."""
    text = _text(file).strip()
    return int(text) if text.isdecimal() else math.inf


def _table(file: Path) -> dict[str, int]:
    """The numbers of a file that has a name and a number per line, by name."""
    lines = [line.split() for line in _text(file).splitlines()]
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _room(group: Path, limit: str, usage: str) -> float:
    """The difference between two numbers of a group, or infinity if there is no limit."""
    most = _number(group / limit)
    return most if most == math.inf else most - _number(group / usage)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's groups that the controller may limit, each before those above it."""
    top = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        if controllers:
            mounts = [top / controllers, top / controller]
        else:  # Version 2, mounted in the place of version 1 or beside it.
            mounts = [mount for mount in (top, top / "unified") if (mount / "cgroup.controllers").exists()]
        for mount in [mount for mount in mounts if mount.is_dir()][:1]:
            # In a container the folder may not exist: then the container's group is mounted.
            folder = mount.joinpath(*(part for part in Path(path).parts if part not in ("/", "..")))
            yield from (group for group in (folder, *folder.parents) if group.is_relative_to(mount))


def cpu_quota(root: Path = ROOT) -> float:
    """The number of cores whose time the groups leave to this process, or infinity if there is no limit."""
    quotas = [math.inf]
    for group in _groups("cpu", root):
        words = _text(group / "cpu.max").split()  # "150000 100000", or "max 100000": microseconds per period.
        limits = [(_number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us"))]
        if len(words) == 2 and all(map(str.isdecimal, words)):
            limits.append((int(words[0]), int(words[1])))
        quotas += [quota / period for quota, period in limits if 0 < period < math.inf]
    return min(quotas)


def available_memory(root: Path = ROOT) -> float:
    """Bytes that this process and its children can use before the system ends one of them, or infinity if unknown."""
    machine = _table(root / "proc/meminfo")
    if "MemAvailable" not in machine:
        return math.inf
    swap = machine.get("SwapFree", 0) * 1024
    rooms: list[float] = [machine["MemAvailable"] * 1024 + swap]
    for group in _groups("memory", root):
        stat = _table(group / "memory.stat")
        files = sum(stat.get(f"total_{kind}", stat.get(kind, 0)) for kind in ("inactive_file", "active_file"))
        group_swap = min(swap, _room(group, "memory.swap.max", "memory.swap.current"))
        limits = (
            _room(group, "memory.max", "memory.current") + group_swap,
            _room(group, "memory.limit_in_bytes", "memory.usage_in_bytes") + swap,
            _room(group, "memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"),
        )
        rooms.append(min(limits) + files)  # Pages of files count as used, but the system frees them.
    return max(0, min(rooms))
