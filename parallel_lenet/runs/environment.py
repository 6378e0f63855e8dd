"""``environment.json``: what each start of a run was computed with. It holds no name of a user or a machine.

A JSON object with ``sessions``, a list of one object per start, the latest last: `gather` makes them.
"""

import datetime
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from parallel_lenet.checks import quoted
from parallel_lenet.cores import usable_cores
from parallel_lenet.engines.serial import blas
from parallel_lenet.files import write_atomically
from parallel_lenet.runs import RunError, content

Session = dict[str, Any]

FILE = "environment.json"
LARGEST = 2**24  # Bytes that are read.
MOST = 100  # Sessions that are kept, the latest.
PACKAGES = ("parallel-lenet", "numpy", "joblib", "threadpoolctl", "numba", "llvmlite", "dask", "distributed", "ray")
VARIABLES = ("PARALLEL_LENET_", "OMP_", "OPENBLAS_", "MKL_", "NUMBA_", "PYTHONHASHSEED", "LOKY_MAX_CPU_COUNT")


def gather(command: str, repeat: str, options: dict[str, Any], data: dict[str, Any]) -> Session:
    """The program and the machine, the command that started it, all its options, and the images' hash.

    ``repeat`` is the command that begins such a run anew and gives the same bits.
    """
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "command": command,
        "repeat": repeat,
        "options": options,
        "data": data,
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "usable_cores": usable_cores(),
            "memory_bytes": _memory(),
            "blas": [
                " ".join(filter(None, (each.internal_api, each.version, getattr(each, "architecture", None))))
                for each in blas().lib_controllers
            ],
        },
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # An extra, or a clone that is not installed.
            continue
    return found


def _memory() -> int | None:
    """Bytes that the machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Not on Windows.
        return None


def processor() -> str:
    """The processor's name, as well as the system knows it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file.read(65536).splitlines() if ":" in line)
        names = {key.strip(): value.strip() for key, value in fields.items()}
        found = names.get("model name") or names.get("Model") or names.get("Processor")
    except OSError:
        found = None
    return found or platform.processor() or platform.machine()


def add(folder: Path, session: Session) -> None:
    """Add a session to those that are there; a damaged file is replaced. OSError if it can't be written."""
    try:
        before = read(folder)
    except RunError:
        before = []
    text = json.dumps({"sessions": [*before, session][-MOST:]}, indent=1)
    write_atomically(folder / FILE, text.encode("utf-8", "backslashreplace") + b"\n")


def read(folder: Path) -> list[Session]:
    """The sessions of a run, none if there is no such file; RunError if it is damaged."""
    path = folder / FILE
    text = content(path, LARGEST)
    if text is None:
        return []
    try:
        found = json.loads(text)
        sessions = found["sessions"]
        for session in sessions:
            for part in ("options", "data", "versions", "machine", "variables"):
                if not isinstance(session[part], dict):
                    raise TypeError(f"{part} is {quoted(session[part])}")
            for part in ("started", "command", "repeat"):
                if not isinstance(session[part], str):
                    raise TypeError(f"{part} is {quoted(session[part])}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"{path}: is damaged: {' '.join(str(error).split())[:200]}") from error
    return list(sessions)
