"""How a worker's process is started: which program, with what import path, environment, streams and signals."""

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

GUARD = "PARALLEL_LENET_IS_WORKER"
"""Set in the environment of what is started as a worker, until the worker removes it."""

_THREADS = ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM", "NUMEXPR_NUM", "NUMBA_NUM")
_INTERPRETERS = re.compile(r"python|pypy|graalpy|mayapy|hython", re.IGNORECASE)

# The import path comes after the standard library until the worker's own imports are done: a file random.py beside
# the program must not take the place of what NumPy needs.
_PROGRAM = """\
import os, sys
library = [i for i, entry in enumerate(sys.path)
           if entry == os.path.dirname(os.__file__) or os.path.basename(entry) in ("lib-dynload", "DLLs")]
sys.path[max(library, default=-1) + 1:0] = sys.argv[4:]
from parallel_lenet.engines.processes.worker_main import main
main()
"""


def interpreter() -> str:
    """The Python that runs this program, to run workers with.

    Raises WorkerError if it is not known: another program, started as a worker, would only start itself again.
    """
    reason = ""
    if os.environ.get(GUARD):
        reason = f"{sys.executable!r} was started as a worker but runs another program"
    elif getattr(sys, "frozen", False):
        reason = f"{sys.executable!r} is a packed program"
    elif not sys.executable or not _INTERPRETERS.search(os.path.basename(sys.executable)):
        reason = f"sys.executable is {sys.executable!r}"
    if reason:
        raise WorkerError(f'worker processes need a Python interpreter, but {reason}: use engine="serial"')
    return sys.executable


def _environment() -> dict[str, str]:
    """The environment, with one thread for every library: the workers are the parallelism.

    BLAS reads it when NumPy is imported. All workers hash strings alike, so that the order of a set in a model cannot
    differ between them.
    """
    seed = os.environ.get("PYTHONHASHSEED", "random")
    return {
        **os.environ,
        **{f"{library}_THREADS": "1" for library in _THREADS},
        "PYTHONHASHSEED": "0" if seed == "random" else seed,
        GUARD: "1",
    }


def _standard_error() -> int | None:
    """Where a worker writes: our standard error, or the null device if there is none.

    If descriptor 2 was closed, another file may have its number by now. Python's own are not inheritable.
    """
    try:
        present = sys.__stderr__ is not None and os.get_inheritable(2)
    except OSError:
        present = False
    return 2 if present else subprocess.DEVNULL


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Inside the block no signal reaches this thread, nor a process that it starts, which has to unblock them."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _flags() -> list[str]:
    """The flags of our own interpreter that decide what is imported, and whether assertions count."""
    flags = sys.flags
    return [
        *(["-E"] if flags.ignore_environment else []),
        *(["-s"] if flags.no_user_site else []),
        *(["-" + "O" * flags.optimize] if flags.optimize else []),
    ]


def worker_path() -> list[str]:
    """``sys.path`` for a worker: the program's, and the folders of this package and of NumPy in case it lacks them."""
    return [*import_path(), str(Path(__file__).parents[3]), str(Path(np.__file__).parents[1])]


def start(theirs: socket.socket, handles: Sequence[int | str]) -> "subprocess.Popen[bytes]":
    """A worker's process, which gets this end of the socket and these blocks of memory."""
    # On Linux the first thread has the process's number: see `child` for what it is to the worker.
    numbers = (theirs.fileno(), os.getpid(), threading.get_native_id())
    # -P: not the working directory, which may hold anything.
    command = [interpreter(), "-P", *_flags(), "-c", _PROGRAM, *map(str, numbers), *worker_path()]
    error = _standard_error()
    if sys.platform == "win32":
        process = subprocess.Popen(command, env=_environment(), stdin=subprocess.PIPE, stdout=error, stderr=error)
        with process.stdin:
            process.stdin.write(theirs.share(process.pid))
        return process
    with _signals_blocked():
        return subprocess.Popen(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=error,  # What a model prints must not mix with the output of the program.
            stderr=error,
            pass_fds=[theirs.fileno(), *(handle for handle in handles if isinstance(handle, int))],
            process_group=0,  # So that Ctrl-C in a terminal reaches the coordinator only.
        )
