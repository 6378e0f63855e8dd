"""A run's folder: its configuration, its metrics and its checkpoints.

``checkpoint.npz`` is the last checkpoint, and ``checkpoint.previous.npz`` the one before. If there are validation
images, ``best.npz`` is that of the best epoch. Each of these files and ``config.toml`` is replaced in one step.
``metrics.jsonl`` gets a line per epoch, so that other programs can follow it. Resuming repairs it.
`parallel_lenet.runs` describes the other files. Only one program at a time may write here.
"""

import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from parallel_lenet.cli import _config
from parallel_lenet.cli._console import to_json
from parallel_lenet.cli._options import UsageError
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.files import add_name, append_line, write_atomically
from parallel_lenet.runs import BEST, CONFIG, LAST, METRICS, PREVIOUS
from parallel_lenet.runs.folder import NAMES, TEMPORARY, lock

# Files that file systems, desktops and version control put into folders that look empty.
_FOREIGN_FILES = re.compile(
    r"lost\+found|\.snapshots?|\.zfs|\.Trash.*|\.nfs.*|\.DS_Store|\._.*|\.localized|\.Spotlight-V100|\.fseventsd|"
    r"Thumbs\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information|\.git(keep|ignore)|\.keep|\.placeholder"
)

Line = Mapping[str, Any]


class RunFolder:
    """The existing folder at ``path``, locked until ``close``. Raises UsageError if another program has locked it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock(path)
        self.sweep()

    def close(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def sweep(self) -> None:
        """Remove the temporary files of a program that was killed while it wrote."""
        for file in self.path.iterdir():
            if TEMPORARY.fullmatch(file.name):
                file.unlink(missing_ok=True)

    def write_config(self, text: str) -> None:
        write_atomically(self.path / CONFIG, _config.encode(text))

    def write_metrics(self, lines: Sequence[Line]) -> None:
        """Make ``metrics.jsonl`` hold these lines. The file of a resumed run may have more, fewer or half a line.

        A file that holds them already is not replaced, so that a program that follows it can continue.
        """
        file = self.path / METRICS
        content = "".join(to_json(line) + "\n" for line in lines).encode()
        with suppress(OSError):
            found = file.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_size == len(content) and file.read_bytes() == content:
                return
        if content or file.exists():
            write_atomically(file, content)

    def append_metrics(self, line: Line) -> None:
        """Add a line to ``metrics.jsonl``, all of it or, if the disk is full, nothing."""
        append_line(self.path / METRICS, to_json(line))

    def save(self, coordinator: Coordinator, metadata: dict[str, Any]) -> None:
        """Write the last checkpoint, and keep the one before."""
        self._keep(LAST, PREVIOUS)
        coordinator.save(self.path / LAST, metadata)

    def save_best(self, coordinator: Coordinator, metadata: dict[str, Any]) -> None:
        """Write ``best.npz``, before the last checkpoint: a run that is killed in between writes it again."""
        coordinator.save(self.path / BEST, metadata)

    def make_last(self, file: Path) -> None:
        """Make a checkpoint of this folder the last one, so that the next one does not replace it."""
        if file.name != LAST:
            self._keep(file.name, LAST)

    def _keep(self, name: str, as_name: str) -> None:
        """Give a file a second name in one step, so that a file of either name exists at every moment."""
        source = self.path / name
        if source.exists():
            add_name(source, self.path / as_name)


def holds_run(folder: str) -> bool:
    """Whether there is a checkpoint to continue from."""
    return any(os.path.lexists(os.path.join(folder, name)) for name in (LAST, PREVIOUS, BEST))


def new_folder(out: str | None, *, continues: bool = False) -> Path:
    """An empty folder for the run. Raises UsageError if there is something in it.

    With ``continues``, the files of a run that ended before its first checkpoint do not count.
    """
    if out == "":
        raise UsageError("--out must name a folder, got ''")
    if out is not None:
        folder = Path(out)
        if folder.exists() and not (folder.is_dir() and _is_empty(folder, continues)):
            alternative = f"or continue with --resume {out}" if holds_run(out) else "or empty it"
            raise UsageError(f"--out {out} exists already: name a new or empty folder, {alternative}")
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


def _is_empty(folder: Path, continues: bool) -> bool:
    names = {file.name for file in folder.iterdir() if not _FOREIGN_FILES.fullmatch(file.name)}
    if continues:
        names = {
            name for name in names if name not in set(NAMES) - {LAST, PREVIOUS, BEST} and not TEMPORARY.fullmatch(name)
        }
    return not names


def _lock(folder: Path) -> int | None:
    """Lock the folder if the system can. Raises UsageError if another program, or another run here, has locked it."""
    try:
        return lock(folder)
    except BlockingIOError:
        raise UsageError(f"{folder} is being written by another training run that hasn't ended") from None
