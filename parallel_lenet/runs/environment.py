"""``environment.json``: versions, machine, command and options of each start of a run, without names of users or hosts.

It is a JSON object with ``sessions``, a list of one object per start, the latest last. `gather` makes these objects.
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
MOST = 100  # The latest sessions are kept.
PACKAGES = ("parallel-lenet", "numpy", "joblib", "threadpoolctl", "numba", "llvmlite", "dask", "distributed", "ray")
VARIABLES = ("PARALLEL_LENET_", "OMP_", "OPENBLAS_", "MKL_", "NUMBA_", "PYTHONHASHSEED", "LOKY_MAX_CPU_COUNT")

OBJECTS = ("options", "data", "versions", "machine", "variables")  # Parts of a session.
STRINGS = ("started", "command", "repeat")


def gather(command: str, repeat: str, options: dict[str, Any], data: dict[str, Any]) -> Session:
    """A session: versions and machine, the command of this start, all options, and the hash of the images.

    ``repeat`` is the command that starts a new run with the same result.
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
    """The machine's memory in bytes, or None if it is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Not on Windows.
        return None


def processor() -> str:
    """The processor's name, or its kind if the system does not know the name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file.read(65536).splitlines() if ":" in line)
        names = {key.strip(): value.strip() for key, value in fields.items()}
        found = names.get("model name") or names.get("Model") or names.get("Processor")
    except OSError:
        found = None
    return found or platform.processor() or platform.machine()


def add(folder: Path, session: Session) -> None:
    """Add a session to the file. A damaged file is replaced. Raises OSError if the file can't be written."""
    try:
        before = read(folder)
    except RunError:
        before = []
    text = json.dumps({"sessions": [*before, session][-MOST:]}, indent=1)
    write_atomically(folder / FILE, text.encode("utf-8", "backslashreplace") + b"\n")


def read(folder: Path) -> list[Session]:
    """The sessions of a run. Empty if there is no such file. Raises RunError if it is damaged."""
    path = folder / FILE
    text = content(path, LARGEST)
    if text is None:
        return []
    try:
        found = json.loads(text)
    except RecursionError:
        raise RunError(f"{path}: is damaged: it is nested too deeply") from None
    except ValueError as error:
        raise RunError(f"{path}: is damaged: it is not JSON: {' '.join(str(error).split())[:200]}") from error
    sessions = found.get("sessions") if isinstance(found, dict) else None
    if not isinstance(sessions, list):
        raise RunError(f"{path}: is damaged: it must hold an object with a list of sessions, got {quoted(found)}")
    for number, session in enumerate(sessions, 1):
        _check(path, number, session)
    return sessions


def _check(path: Path, number: int, session: Any) -> None:
    """Raises RunError unless the session has the parts that `gather` gives it."""
    if not isinstance(session, dict):
        raise RunError(f"{path}: is damaged: session {number} must be an object, got {quoted(session)}")
    for kind, words, names in ((dict, "an object", OBJECTS), (str, "a string", STRINGS)):
        for name in names:
            if not isinstance(session.get(name), kind):
                got = quoted(session[name]) if name in session else "nothing"
                raise RunError(f"{path}: is damaged: {name} of session {number} must be {words}, got {got}")
