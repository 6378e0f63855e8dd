"""``events.jsonl``: the events of a run, one line of JSON per event. No line is ever removed.

Each has a ``time`` (seconds since 1970-01-01 UTC), a ``kind`` (see `KINDS`), the ``epoch`` and ``step`` that were
finished, and a ``text``. An epoch's event also has the seconds of ``evaluating`` and of ``saving``.
"""

import json
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parallel_lenet.files import append_line
from parallel_lenet.runs import content

FILE = "events.jsonl"
LARGEST = 2**26  # Bytes that are read.
KINDS = {
    "started": "the run began",
    "resumed": "the run was continued from a checkpoint",
    "epoch": "an epoch was finished, evaluated and saved",
    "worker": "a worker was lost and replaced",
    "warning": "the library warned of something else",
    "skipped": "a step was skipped for NaN or infinity",
    "resized": "the number of workers changed",
    "interrupted": "a signal or the time limit ended the program",
    "failed": "an error ended the program",
    "finished": "the training was done",
}


@dataclass(frozen=True)
class Event:
    """A line of the file."""

    kind: str
    time: float
    epoch: int = 0
    step: int = 0
    text: str = ""
    evaluating: float = 0.0
    """Seconds of evaluating, for an epoch."""
    saving: float = 0.0
    """Seconds of saving, for an epoch."""


def append(folder: Path, kind: str, epoch: int, step: int, text: str = "", **more: Any) -> None:
    """Add an event that happened now. Raises OSError if it can't be written."""
    event = {"time": round(time.time(), 3), "kind": kind, "epoch": epoch, "step": step, "text": text, **more}
    append_line(folder / FILE, json.dumps(event))


def read(folder: Path) -> tuple[list[Event], int]:
    """The events, none without a file, and the number of damaged lines. Raises RunError if it can't be read."""
    lines = (content(folder / FILE, LARGEST) or b"").decode("utf-8", "replace").splitlines()
    events = [event for line in lines if (event := _event(line)) is not None]
    return events, len(lines) - len(events)


def _event(line: str) -> Event | None:
    with suppress(ValueError, TypeError, KeyError, RecursionError, OverflowError):
        found = json.loads(line)
        event = Event(
            str(found["kind"]),
            *(float(found["time"]), int(found["epoch"]), int(found["step"]), str(found["text"])),
            *(float(found.get(name, 0.0)) for name in ("evaluating", "saving")),
        )
        if event.kind in KINDS and math.isfinite(event.time + event.evaluating + event.saving):
            return event
    return None
