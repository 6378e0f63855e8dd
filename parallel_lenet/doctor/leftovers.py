"""Finds what dead runs left: processes, temporary files, folders without a result. `clean` removes it.

It finds only what certainly belongs to this package, to this user, and to a program that has ended.
"""

import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from parallel_lenet.doctor.finding import Finding, System
from parallel_lenet.engines.cluster.guard import processes_using
from parallel_lenet.engines.processes.start import PROGRAM
from parallel_lenet.runs import BEST, LAST, METRICS, PREVIOUS, environment, events, predictions, steps
from parallel_lenet.runs import folder as run_folder

CHECK = "leftovers"
RUNS = "runs"
DAY = 86_400.0  # Seconds after which a temporary folder that no process uses is left over.
MINUTE = 60.0  # Seconds within which a new run locks its folder, and a file is written.
RESULTS = (LAST, PREVIOUS, BEST, METRICS, steps.FILE, predictions.FILE)
"""Files that are a run's results. A folder with one of them is never removed."""
START_FILES = (environment.FILE, events.FILE)
"""Files that a start of a run writes. A folder that holds only a configuration may be the user's."""
_STAMP = re.compile(r"\d{8}-\d{6}(-\d+)?")  # The name of a run's folder without --out.


@dataclass(frozen=True)
class Leftover:
    """A thing that a dead run left."""

    name: str
    remove: Callable[[], None]
    """Raises OSError if it can't be removed."""


def check(system: System) -> list[Finding]:
    """One finding for all leftovers."""
    found = [each.name for each in all_leftovers(system)]
    if not found:
        return [Finding(CHECK, "ok", "nothing of dead runs is left")]
    examples = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
    text = f"dead runs left: {examples}"
    return [Finding(CHECK, "slow", text, "parallel-lenet doctor --clean removes them", {"leftovers": found})]


def all_leftovers(system: System) -> Iterator[Leftover]:
    """All leftovers: workers, those in the folder ``runs``, and those in the folder for temporary files."""
    yield from _workers(system)
    yield from _runs(system.folder / RUNS)
    yield from _temporary_folders()


def clean(system: System) -> Iterator[str]:
    """Remove all leftovers. Yields a sentence for each."""
    for each in all_leftovers(system):
        try:
            each.remove()
        except OSError as error:
            yield f"{each.name}: can't be removed: {error.strerror or error}"
        else:
            yield f"removed {each.name}"


def _workers(system: System) -> Iterator[Leftover]:
    """Worker processes whose coordinator is gone. They end by themselves unless they are stopped or hang."""
    for folder in (system.root / "proc").glob("[0-9]*") if hasattr(os, "pidfd_open") else ():
        pid = int(folder.name)
        if _is_orphan(system.root, pid):
            yield Leftover(f"the worker process {pid}", partial(_kill, system.root, pid))


def _is_orphan(root: Path, pid: int) -> bool:
    """Whether it is a worker of this user and this container whose parent is not its coordinator any more."""
    process = root / "proc" / str(pid)
    try:
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        if words[words.index("-c") + 1] != PROGRAM or os.stat(process).st_uid != os.getuid():
            return False
        coordinator = int(words[words.index(PROGRAM) + 2])
        # In another namespace this process sees the coordinator under another number.
        if os.readlink(process / "ns/pid") != os.readlink(root / "proc/self/ns/pid"):
            return False
        parent = int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):  # The process has ended, or belongs to another user.
        return False
    return parent != coordinator


def _kill(root: Path, pid: int) -> None:
    """Kill it through a descriptor, since its number may belong to another process by now."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _is_orphan(root, pid):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _runs(folder: Path) -> Iterator[Leftover]:
    """Temporary files in folders of runs that no program has locked, and folders in which no run ever began."""
    try:
        runs = sorted(run for run in folder.iterdir() if run.is_dir() and not run.is_symlink())
    except OSError:
        return
    for run in runs:
        with suppress(OSError):  # The folder cannot be read.
            yield from _of_run(run)


def _of_run(run: Path) -> Iterator[Leftover]:
    names = {file.name for file in run.iterdir()}
    temporary = sorted(filter(run_folder.TEMPORARY.fullmatch, names))
    is_ours = names <= {*run_folder.NAMES, *temporary} and not names & {*RESULTS}
    is_empty = is_ours and bool(names & {*START_FILES} or _STAMP.fullmatch(run.name))
    # A recent file may be one that another machine writes: its lock is not visible on this one.
    is_old = time.time() - run.stat().st_mtime > MINUTE
    if not is_old or not (temporary or is_empty) or not _is_free(run):
        return
    if is_empty:
        yield Leftover(f"{run}, in which no run began", lambda: _remove_run(run))
        return
    for name in temporary:
        yield Leftover(f"the half-written file {run / name}", partial(_remove, run, [name]))


def _is_free(run: Path) -> bool:
    try:
        descriptor = run_folder.lock(run)
    except OSError:  # BlockingIOError: a run writes there.
        return False
    if descriptor is not None:
        os.close(descriptor)
    return True


def _remove(run: Path, names: list[str]) -> None:
    """Remove files of a run's folder while no run writes there."""
    descriptor = run_folder.lock(run)
    try:
        for name in names:
            (run / name).unlink(missing_ok=True)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _remove_run(run: Path) -> None:
    names = [file.name for file in run.iterdir()]
    if not set(names) & set(RESULTS):
        _remove(run, [name for name in names if not (run / name).is_dir()])
        run.rmdir()  # Fails if another file has been added.


def _temporary_folders() -> Iterator[Leftover]:
    """Folders of this user, with the names of this package, that no process has used for a day."""
    if not hasattr(os, "getuid"):
        return
    with suppress(OSError):
        for folder in sorted(Path(tempfile.gettempdir()).iterdir()):
            if not folder.name.startswith(("parallel-lenet-", "lenet-ray-")) or folder.is_symlink():
                continue
            status = folder.stat()
            is_old = time.time() - status.st_mtime > DAY
            if folder.is_dir() and status.st_uid == os.getuid() and is_old and not processes_using(str(folder)):
                yield Leftover(f"the temporary folder {folder}", partial(shutil.rmtree, folder))
