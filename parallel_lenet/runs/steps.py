"""``steps.csv``: one line per step, as text that spreadsheets, pandas and ``tail -f`` understand.

A line is written with one unbuffered system call when its step is done, so it remains if the program is killed. A
resumed run first removes the steps after its checkpoint and computes them again. So the file has each step once, in
order. Losses and rates are written with all digits: reading them gives the same bits.
"""

import errno
import math
import os
import re
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import quoted
from parallel_lenet.files import write_atomically
from parallel_lenet.parameters import Vector, sha256
from parallel_lenet.reports import StepReport
from parallel_lenet.runs import RunError, content

FILE = "steps.csv"
HASH_EVERY = 50  # Steps: hashing takes 0.1 ms for LeNet-5, a step 2 ms.
HASH_DIGITS = 16
LARGEST = 2**31  # Bytes that are read: ten million steps.

COLUMNS = {
    "step": "of the whole training, counted from 1; a skipped step repeats the number before",
    "epoch": "counted from 1",
    "done": "images of the epoch that are done after the step",
    "images": "in the batch",
    "loss": "mean over the batch, before the update; all digits",
    "correct": "images of the batch that were right before the update",
    "learning_rate": "all digits",
    "gradient_norm": "of the mean gradient, before clipping",
    "seconds": "of the step, which are those of the next three and little else",
    "waiting": "seconds in which the coordinator waited for gradients",
    "adding": "seconds in which it added them, as far as that does not need the last one",
    "updating": "seconds of what follows the last gradient: additions, norm, clipping, optimizer and checks",
    "time": "when the step ended: seconds since 1970-01-01 UTC",
    "skipped": "1 if the step was skipped for NaN or infinity, else 0",
    "parameters": "the first digits of the parameters' SHA-256 after each 50th step and each epoch, else empty",
}
"""Further columns are ``worker 0``, ``worker 1``, ...: seconds that each computed for the step."""


class StepLog:
    """Writes ``steps.csv``. If the disk is full for a while, lines are kept until they can be written.

    The file has at least ``workers`` columns for workers. Workers of a cluster, which have names and no numbers, use
    the columns in turn.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self.path = folder / FILE
        self._columns = workers
        self._slots: OrderedDict[str, int] = OrderedDict((f"worker {number}", number) for number in range(workers))
        self._file: int | None = None
        self._pending = b""

    def begin(self, epoch: int, done: int) -> None:
        """Open the file after ``epoch`` finished epochs and ``done`` images of the next one. Remove later steps."""
        header, lines = _split(self.path)
        names = header.split(",")
        self._columns = max(self._columns, len(names) - len(COLUMNS))
        new_header = _header(self._columns)
        new_lines = [new_header]
        if names[: len(COLUMNS)] == list(COLUMNS):
            more = ",nan" * (len(new_header.split(",")) - len(names))
            new_lines += [line + more for line in lines if _is_before(line, len(names), epoch, done)]
        text = "".join(f"{line}\n" for line in new_lines).encode()
        if content(self.path, LARGEST) != text:  # An equal file stays, so that a program can continue to follow it.
            write_atomically(self.path, text)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))

    def append(self, report: StepReport, done: int, parameters: Vector, *, last: bool) -> None:
        """Write the line of a step. ``last`` says whether it is the last of its epoch.

        Raises OSError if the disk is full. The line is then written with the next one.
        """
        if self._file is None:
            return
        times = report.times
        computing = [0.0] * self._columns
        for name, seconds in times.computing.items():
            computing[self._slot(name)] += seconds
        rate = math.nan if report.learning_rate is None else report.learning_rate
        correct = 0 if math.isnan(report.accuracy) else round(report.accuracy * report.count)  # NaN: not computed.
        digest = sha256(parameters)[:HASH_DIGITS] if last or report.step % HASH_EVERY == 0 else ""
        workers = "".join(f",{seconds:.6f}" for seconds in computing)
        self._pending += (
            f"{report.step},{report.epoch},{done},{report.count},{report.loss!r},{correct},"
            f"{rate!r},{report.gradient_norm:.7g},{report.seconds:.6f},{times.waiting:.6f},{times.adding:.6f},"
            f"{times.updating:.6f},{time.time():.3f},{report.skipped is not None:d},{digest}{workers}\n"
        ).encode()
        self._write(self._file)

    def _write(self, file: int) -> None:
        try:
            length = os.write(file, self._pending)
            if length < len(self._pending):  # Remove the part of a line.
                os.ftruncate(file, os.fstat(file).st_size - length)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.path)) from error
        self._pending = b""

    def _slot(self, name: str) -> int:
        name = name.partition(" (pid")[0]
        if name not in self._slots:
            self._slots[name] = self._slots.popitem(last=False)[1]
        self._slots.move_to_end(name)
        return self._slots[name]

    def flush(self) -> None:
        """Flush all lines to the disk, before a checkpoint that belongs to them."""
        if self._file is not None:
            with suppress(OSError):
                os.fsync(self._file)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


@dataclass(frozen=True)
class Steps:
    """The content of ``steps.csv``: each array has one number per step."""

    columns: dict[str, NDArray[np.float64]]
    """The columns by name, without ``parameters``."""
    workers: NDArray[np.float64]
    """``(steps, workers)``: seconds that each worker computed, or NaN for workers that a session did not have."""
    parameters: tuple[str, ...]
    """The first digits of the SHA-256 after the step, or an empty string."""
    damaged_lines: int = 0
    """Lines that could not be read."""

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        return self.columns[name]


def read(folder: Path) -> Steps | None:
    """The steps of a run, or None if it has no such file. Raises RunError if the file is damaged or can't be read."""
    path = folder / FILE
    header, lines = _split(path)
    if not header:
        return None
    names = header.split(",")
    if names != _header(len(names) - len(COLUMNS)).split(","):
        raise RunError(f"{path}: is damaged, or was not written by a training run: it begins with {quoted(header)}")
    step = names.index("step")
    digest_column = names.index("parameters")
    rows = []
    digests = []
    for line in lines:
        cells = line.split(",")
        digest = cells[digest_column] if len(cells) == len(names) else "?"
        try:
            if not re.fullmatch(r"[0-9a-f]*", digest):
                raise ValueError
            row = [float(cell) for i, cell in enumerate(cells) if i != digest_column]
            if not row[step].is_integer() or not 0 <= row[step] < 2**53:
                raise ValueError
            rows.append(row)
        except ValueError:
            continue
        digests.append(digest)
    table = np.array(rows, np.float64).reshape(len(rows), len(names) - 1)
    known = [name for name in COLUMNS if name != "parameters"]
    return Steps(
        {name: table[:, i] for i, name in enumerate(known)},
        table[:, len(known) :],
        tuple(digests),
        len(lines) - len(rows),
    )


def _header(workers: int) -> str:
    return ",".join([*COLUMNS, *(f"worker {number}" for number in range(workers))])


def _split(path: Path) -> tuple[str, list[str]]:
    """The header and the complete lines. Empty if there is no file. A last line without an end is left out."""
    header, *lines = (content(path, LARGEST) or b"").decode("ascii", "replace").split("\n")
    return header, lines[:-1]


def _is_before(line: str, cells: int, epoch: int, done: int) -> bool:
    """Whether a line is complete and belongs to a step up to that position."""
    parts = line.split(",")
    try:
        line_epoch = int(parts[1])
        line_done = int(parts[2])
    except (IndexError, ValueError):
        return False
    return len(parts) == cells and (line_epoch <= epoch or (line_epoch == epoch + 1 and line_done <= done))
