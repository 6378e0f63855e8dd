"""Records a run while it is computed: its steps, its events, and the environment of each start.

A failure to record never ends a run. What can't be written, on a full disk for example, is noted once; lines of steps
wait until there is room.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parallel_lenet.cli._console import Console
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.reports import StepReport
from parallel_lenet.runs import RunError, environment, events
from parallel_lenet.runs.environment import Session
from parallel_lenet.runs.steps import StepLog


class Recorder:
    """Of one start of a run, in its folder."""

    def __init__(self, folder: Path, coordinator: Coordinator, console: Console) -> None:
        self._folder = folder
        self._coordinator = coordinator
        self._console = console
        self._log = StepLog(folder, coordinator.n_workers)
        self._workers = coordinator.n_workers
        self._works = True

    def begin(self, kind: str, session: Session) -> None:
        """The run has ``started`` or is ``resumed``, from the state of the coordinator."""
        self._try(lambda: environment.add(self._folder, session))
        self._try(lambda: self._log.begin(self._coordinator.epoch, self._coordinator.cursor))
        self.event(kind, session["command"])
        self._console.listener = self._warned

    def step(self, report: StepReport, last: bool) -> None:
        """A step is done; ``last`` of its epoch."""
        coordinator = self._coordinator
        self._try(lambda: self._log.append(report, coordinator.cursor, coordinator.parameters, last=last))
        if report.skipped is not None:
            self.event("skipped", report.skipped)
        if coordinator.n_workers != self._workers:
            self.event("resized", f"{self._workers} workers became {coordinator.n_workers}")
            self._workers = coordinator.n_workers

    def event(self, kind: str, text: str = "", seconds: Mapping[str, float] | None = None) -> None:
        """Something happened now: see `events.KINDS`."""
        epoch, step = self._coordinator.epoch, self._coordinator.step
        more = {name: round(value, 6) for name, value in (seconds or {}).items()}
        self._try(lambda: events.append(self._folder, kind, epoch, step, text, **more))

    def _warned(self, category: type[Warning], text: str) -> None:
        self.event("worker" if category.__name__ == "WorkerWarning" else "warning", text)

    def flush(self) -> None:
        """A checkpoint is about to be written: the steps before it are to be on the disk, too."""
        self._log.flush()

    def close(self) -> None:
        """Nothing more will happen."""
        self._console.listener = None
        self._log.close()

    def _try(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except (OSError, RunError) as error:
            if self._works:
                where = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
                self._console.note(f"note: {where}: the run's record will be incomplete")
            self._works = False


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long the block takes."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
