"""Records a run while it is computed: its steps, its events, and the environment of each start.

A failure to record never ends a run. If something can't be written, for example on a full disk, a note says so once.
The lines of steps are written when there is room again.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parallel_lenet.cli._console import Console
from parallel_lenet.cli._trackers import Trackers
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.display import count
from parallel_lenet.reports import StepReport
from parallel_lenet.runs import RunError, environment, events
from parallel_lenet.runs.environment import Session
from parallel_lenet.runs.steps import StepLog
from parallel_lenet.tracing import Trace


class Recorder:
    """Records one start of a run in the run's folder."""

    def __init__(
        self, folder: Path, coordinator: Coordinator, console: Console, trackers: Trackers, trace: Trace | None
    ) -> None:  # fmt: skip
        self._folder = folder
        self._coordinator = coordinator
        self._console = console
        self._log = StepLog(folder, coordinator.n_workers)
        self._workers = coordinator.n_workers
        self._has_room = True
        self._trackers = trackers
        self._trace = trace
        self._state = "failed"  # Unless an event says something else.

    def begin(self, kind: str, session: Session) -> None:
        """Record that the run is ``started`` or ``resumed`` (``kind``) from the state of the coordinator."""
        self._write(lambda: environment.add(self._folder, session))
        self._write(lambda: self._log.begin(self._coordinator.epoch, self._coordinator.cursor))
        self.event(kind, session["command"])
        self._trackers.begin(session["options"], self._coordinator.step)
        self._console.listener = self._record_warning

    def step(self, report: StepReport, last: bool) -> None:
        """Record a finished step. ``last`` says whether it is the last of its epoch."""
        coordinator = self._coordinator
        self._write(lambda: self._log.append(report, coordinator.cursor, coordinator.parameters, last=last))
        self._trackers.step(report)
        if report.skipped is not None:
            self.event("skipped", report.skipped)
        if coordinator.n_workers != self._workers:
            self.event("resized", f"{count(self._workers, 'worker')} before, {coordinator.n_workers} now")
            self._workers = coordinator.n_workers

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Record a finished epoch by its line of ``metrics.jsonl``."""
        self._trackers.epoch(line)

    def event(self, kind: str, text: str = "", seconds: Mapping[str, float] | None = None) -> None:
        """Record an event that happened now. ``kind`` is one of `events.KINDS`."""
        if kind in ("finished", "interrupted", "failed"):
            self._state = kind
        self._trace_event(kind, text, seconds or {})
        coordinator = self._coordinator
        more = {name: round(value, 6) for name, value in (seconds or {}).items()}
        self._write(lambda: events.append(self._folder, kind, coordinator.epoch, coordinator.step, text, **more))

    def _trace_event(self, kind: str, text: str, seconds: Mapping[str, float]) -> None:
        """Add the spans of an epoch's evaluation and save, which came last, to the trace."""
        if self._trace is not None and kind == "epoch":
            ago = sum(seconds.values())
            for name, took in seconds.items():
                ago -= took
                self._trace.span(name, took, ago)
        elif self._trace is not None:
            self._trace.instant("worker lost" if kind == "worker" else kind, text)

    def _record_warning(self, category: type[Warning], text: str) -> None:
        self.event("worker" if category.__name__ == "WorkerWarning" else "warning", text)

    def flush(self) -> None:
        """Write the steps so far to the disk, before a checkpoint that follows them."""
        self._log.flush()
        self._trackers.flush()

    def close(self) -> None:
        self._console.listener = None
        self._trackers.end(self._state)
        self._log.close()

    def _write(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except (OSError, RunError) as error:
            if self._has_room:
                where = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
                self._console.note(f"note: {where}: the run's record will be incomplete")
            self._has_room = False


@contextmanager
def stopwatch(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Write the seconds that the block takes into ``seconds[name]``."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
