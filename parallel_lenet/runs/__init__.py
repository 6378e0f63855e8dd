"""Writes and reads the records in a run's folder, beside its configuration and its checkpoints.

=====================  ================================================================================================
``steps.csv``          a line per step: see `steps`
``events.jsonl``       a line per event, such as a start or a lost worker, and per epoch: see `events`
``environment.json``   versions, machine, command and options of every start: see `environment`
``predictions.npz``    the predictions for the test images: see `predictions`
=====================  ================================================================================================

None of these files is needed to continue a run. Each may be missing or damaged, which its reader reports.
"""

import os
import stat
from pathlib import Path

LAST = "checkpoint.npz"
PREVIOUS = "checkpoint.previous.npz"
BEST = "best.npz"
CONFIG = "config.toml"
METRICS = "metrics.jsonl"
REPORT = "report.html"


class RunError(ValueError):
    """A file of a run's folder that can't be used. The message names it and says what is wrong with it."""


def content(path: Path, largest: int) -> bytes | None:
    """The bytes of a file, or None if there is none. Raises RunError if it is too large, not regular or unreadable."""
    try:
        status = os.stat(path)  # Checked before opening: opening a pipe waits for its writer.
        if not stat.S_ISREG(status.st_mode):
            raise RunError(f"{path}: can't be read: it is not a regular file")
        if status.st_size > largest:
            raise RunError(f"{path}: is larger than {largest:,} bytes")
        with open(path, "rb") as file:
            return file.read(largest)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror or error}") from error
