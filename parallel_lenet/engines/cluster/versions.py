"""The versions that decide the bits of a result. They must be the same on all machines of a cluster."""

import hashlib
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

PACKAGE = Path(__file__).resolve().parents[2]


@cache
def versions() -> dict[str, str]:
    """By name: the versions of Python, NumPy, Numba and this package, and a hash of this package's source files."""
    try:
        numba = version("numba")
    except PackageNotFoundError:
        numba = "(not installed)"
    source = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py"), key=lambda file: file.relative_to(PACKAGE).as_posix()):
        text = file.read_bytes().replace(b"\r\n", b"\n")  # Git may have written it for Windows.
        source.update(f"{file.relative_to(PACKAGE).as_posix()} {len(text)}\n".encode() + text)
    return {
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "Numba": numba,
        "parallel_lenet": sys.modules["parallel_lenet"].__version__,
        "the source of parallel_lenet": f"with SHA-256 {source.hexdigest()[:16]}",
    }


def difference(worker: str, theirs: object) -> str | None:
    """A sentence about the first difference between a worker's versions and this program's, or None."""
    local = versions()
    if not isinstance(theirs, dict):
        return f"worker {worker} has another version of parallel_lenet, and the coordinator {local['parallel_lenet']}"
    for name, value in local.items():
        if theirs.get(name) != value:
            return (
                f"worker {worker} has {name} {theirs.get(name)}, and the coordinator {value}: results would not be "
                "bit-identical. Install the same version on all machines"
            )
    return None
