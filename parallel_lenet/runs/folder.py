"""The files of a run's folder, and the lock of the program that writes there."""

import os
import re
from pathlib import Path

from parallel_lenet.runs import BEST, CONFIG, LAST, METRICS, PREVIOUS, REPORT, environment, events, predictions, steps
from parallel_lenet.trackers import mlflow, tensorboard

NAMES = (
    *(LAST, PREVIOUS, BEST, CONFIG, METRICS, REPORT),
    *(steps.FILE, events.FILE, environment.FILE, predictions.FILE, mlflow.FILE, tensorboard.FOLDER),
)
TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, NAMES))})\.[0-9a-f]{{16}}")
"""The name of a file that is being written: see `parallel_lenet.files`."""


def lock(folder: Path) -> int | None:
    """Lock the folder and return a descriptor. The lock ends when it is closed. None if the system has no such locks.

    Raises BlockingIOError if another program, or another run here, has locked it.
    """
    if os.name != "posix":
        return None
    import fcntl  # Imported lazily: POSIX only.

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # Some network file systems lock no folders.
        pass
    return descriptor
