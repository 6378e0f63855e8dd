"""Starts a worker's process: its program, import path, environment, streams and signals."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from parallel_lenet.engines import WorkerError
from parallel_lenet.engines.imports import import_path

WORKER_VARIABLE = "PARALLEL_LENET_IS_WORKER"
"""An environment variable that is set for a worker's process. The worker removes it."""

_THREADS = ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM", "NUMEXPR_NUM", "NUMBA_NUM")
_INTERPRETERS = re.compile(r"python|pypy|graalpy|mayapy|hython", re.IGNORECASE)

# The import path comes after the standard library until the worker's own imports are done: a file random.py beside the
# program must not hide a module that NumPy needs.
PROGRAM = """\
import os, sys
library = [i for i, entry in enumerate(sys.path)
           if entry == os.path.dirname(os.__file__) or os.path.basename(entry) in ("lib-dynload", "DLLs")]
sys.path[max(library, default=-1) + 1:0] = sys.argv[4:]
from parallel_lenet.engines.processes.worker_main import main
main()
"""
"""The program of a worker's process. Its arguments are a descriptor, the coordinator's process, and more."""


def interpreter() -> str:
    """The Python interpreter of this program, which runs workers too.

    Raises WorkerError if it is not known: another program in its place would start itself again.
    """
    reason = ""
    if os.environ.get(WORKER_VARIABLE):
        reason = f"{sys.executable!r} was started as a worker but runs another program"
    elif getattr(sys, "frozen", False):
        reason = f"{sys.executable!r} is a packed program"
    elif not sys.executable or not _INTERPRETERS.search(os.path.basename(sys.executable)):
        reason = f"sys.executable is {sys.executable!r}"
    if reason:
        raise WorkerError(f'worker processes need a Python interpreter, but {reason}: use engine="serial"')
    return sys.executable


def _environment() -> dict[str, str]:
    """The environment, with one thread per numeric library, since the workers use all cores.

    BLAS reads it when NumPy is imported. All workers hash strings alike, so that the order of a set in a model is the
    same in each.
    """
    seed = os.environ.get("PYTHONHASHSEED", "random")
    return {
        **os.environ,
        **{f"{library}_THREADS": "1" for library in _THREADS},
        "PYTHONHASHSEED": "0" if seed == "random" else seed,
        WORKER_VARIABLE: "1",
    }


def _standard_error() -> int | None:
    """The stream that a worker writes to: the program's standard error, or the null device if there is none.

    If descriptor 2 was closed, another file may have its number. Files that Python opened are not inheritable.
    """
    try:
        is_open = sys.__stderr__ is not None and os.get_inheritable(2)
    except OSError:
        is_open = False
    return 2 if is_open else subprocess.DEVNULL


@contextmanager
def _block_signals() -> Iterator[None]:
    """Block all signals for this thread, and for a process that it starts, which must unblock them itself."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _flags() -> list[str]:
    """The flags of this interpreter that decide what is imported, and whether assertions are checked."""
    flags = sys.flags
    return [
        *(["-E"] if flags.ignore_environment else []),
        *(["-s"] if flags.no_user_site else []),
        *(["-" + "O" * flags.optimize] if flags.optimize else []),
    ]


def worker_path() -> list[str]:
    """``sys.path`` for a worker: the program's, then the folders of this package and of NumPy."""
    return [*import_path(), str(Path(__file__).parents[3]), str(Path(np.__file__).parents[1])]


def start(worker_socket: socket.socket, handles: Sequence[int | str]) -> "subprocess.Popen[bytes]":
    """Start a worker's process, which inherits this end of the socket and these handles of memory."""
    # On Linux the first thread has the process's number: see `worker_main._request_death_signal`.
    numbers = (worker_socket.fileno(), os.getpid(), threading.get_native_id())
    # -P: do not import from the working directory, which may hold any file.
    command = [interpreter(), "-P", *_flags(), "-c", PROGRAM, *map(str, numbers), *worker_path()]
    error = _standard_error()
    if sys.platform == "win32":
        process = subprocess.Popen(command, env=_environment(), stdin=subprocess.PIPE, stdout=error, stderr=error)
        with process.stdin:
            process.stdin.write(worker_socket.share(process.pid))
        return process
    with _block_signals():
        return subprocess.Popen(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=error,  # A model's prints must not mix with the program's output.
            stderr=error,
            pass_fds=[worker_socket.fileno(), *(handle for handle in handles if isinstance(handle, int))],
            process_group=0,  # Ctrl-C in a terminal reaches only the coordinator.
        )
