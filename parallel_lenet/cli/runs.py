"""A run's folder: its configuration, its metrics and its checkpoints, each file whole at every moment.

``checkpoint.npz`` is the last checkpoint, ``checkpoint.previous.npz`` the one before, ``best.npz`` that of the epoch
with the highest test accuracy. One program at a time may write here.
"""

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parallel_lenet.checkpoint import write_atomically
from parallel_lenet.cli.options import UsageError
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.reports import EpochReport

LAST, PREVIOUS, BEST = "checkpoint.npz", "checkpoint.previous.npz", "best.npz"
CONFIG, METRICS = "config.toml", "metrics.jsonl"

_TEMPORARY = re.compile(r"\.(checkpoint|checkpoint\.previous|best|config|metrics)\.(npz|toml|jsonl)\.[0-9a-f]{16}")


class RunFolder:
    """The folder at ``path``, which exists, held until this program ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock(path)
        self.sweep()

    def sweep(self) -> None:
        """Remove what a program that was killed while writing has left."""
        for file in self.path.iterdir():
            if _TEMPORARY.fullmatch(file.name):
                file.unlink(missing_ok=True)

    def write_config(self, text: str) -> None:
        """Write ``config.toml``."""
        write_atomically(self.path / CONFIG, text.encode())

    def write_metrics(self, reports: Sequence[EpochReport]) -> None:
        """Write ``metrics.jsonl`` whole, so that no moment leaves it with a line too many or too few."""
        lines = "".join(json.dumps(asdict(report)) + "\n" for report in reports)
        write_atomically(self.path / METRICS, lines.encode())

    def save(self, coordinator: Coordinator, metadata: dict[str, Any]) -> None:
        """Write the last checkpoint, and keep the one before."""
        self._keep(LAST, PREVIOUS)
        coordinator.save(self.path / LAST, metadata)

    def save_best(self, coordinator: Coordinator, metadata: dict[str, Any]) -> None:
        """Write ``best.npz``; before the last checkpoint, so that a run killed in between writes it again."""
        coordinator.save(self.path / BEST, metadata)

    def take(self, file: Path) -> None:
        """Make a checkpoint of this folder the last one, so that its next one doesn't push it out."""
        if file.name != LAST:
            self._keep(file.name, LAST)

    def _keep(self, name: str, as_name: str) -> None:
        """Give a file one more name, in one move: there is no moment without a file of either name."""
        source = self.path / name
        if not source.exists():
            return
        temporary = self.path / f".{as_name}.{secrets.token_hex(8)}"
        try:
            try:
                os.link(source, temporary)
            except OSError:  # A file system without links.
                shutil.copy2(source, temporary)
            os.replace(temporary, self.path / as_name)
        finally:
            temporary.unlink(missing_ok=True)  # Still there after an error, and where both were one file already.


def new_folder(out: str | None) -> Path:
    """An empty folder for the run; UsageError where there is something in it."""
    if out == "":
        raise UsageError("--out must name a folder, not ''")
    if out is not None:
        folder = Path(out)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"--out {out} exists already: name a new or empty folder, or go on with --resume {out}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, f"--out {out} can't be made: {error.strerror}") from error
        return folder
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for name in (stamp, *(f"{stamp}-{i}" for i in range(2, 1000))):
        try:
            folder = Path("runs") / name
            folder.mkdir(parents=True)
        except FileExistsError:  # Another run began in the same second.
            continue
        return folder
    raise UsageError(f"runs/{stamp} and 998 more exist already: name a folder with --out")


def _lock(folder: Path) -> int | None:
    """Hold the folder until the program ends, where that can be done; UsageError where another program holds it."""
    if os.name != "posix":
        return None
    import fcntl  # Late: not everywhere.

    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # Some network file systems lock no folders.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UsageError(f"{folder} is being written by another training run that hasn't ended") from None
    return descriptor
