"""Sends the numbers of a training to trackers, programs that show the curves of many runs, while it runs.

A tracker gets the reports of `Coordinator.iterate`. Reports of steps wait for up to a second, so that a step takes
little longer. `flush` and `close` send all that wait. Each method may raise the exceptions of the tracker's library,
such as those for a full disk or a server that does not answer.
"""

import math
import time
from abc import abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from parallel_lenet.closing import Closeable
from parallel_lenet.reports import EpochReport, StepReport

Figures = Mapping[str, float | int | None]
Scalars = tuple[int, float, dict[str, float]]  # A step, the time after it, and its numbers by name.

FLUSH_EVERY = 1.0  # Seconds.
STEP_FIGURES = ("loss", "accuracy", "learning_rate", "gradient_norm", "seconds")
NOT_LOGGED = ("epoch", "step")  # Figures of an epoch that have no curve: the others are logged at this step.


class Tracker(Closeable):
    """The base class of trackers. ``step`` is the number of finished steps. Later ones, logged before, are replaced."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._waiting: list[Scalars] = []
        self._flush_time = time.monotonic()

    def log(self, report: StepReport | EpochReport) -> None:
        """Send the numbers of a step or an epoch. A skipped step is left out, since it has no number."""
        if isinstance(report, EpochReport):
            self.log_epoch(vars(report))
        elif report.skipped is None:
            self._log("step", report.step, {name: getattr(report, name) for name in STEP_FIGURES})
            if time.monotonic() - self._flush_time >= FLUSH_EVERY:
                self.flush()

    def log_epoch(self, figures: Figures) -> None:
        """Send an epoch's numbers, ``figures`` by name, among them the ``step`` after which it ended. Then `flush`."""
        step = figures["step"]
        assert step is not None
        self._log("epoch", int(step), {name: each for name, each in figures.items() if name not in NOT_LOGGED})
        self.flush()

    def _log(self, kind: str, step: int, figures: Figures) -> None:
        numbers = {f"{kind}/{name}": float(each) for name, each in figures.items() if each is not None}
        self._waiting.append((step, time.time(), numbers))

    def flush(self) -> None:
        """Send all reports that wait."""
        waiting = self._waiting
        self._waiting = []
        self._flush_time = time.monotonic()
        if waiting:
            self._store(waiting)

    @abstractmethod
    def _store(self, scalars: list[Scalars]) -> None:
        """Store these numbers."""

    @abstractmethod
    def end(self, state: str) -> None:
        """Send the rest and how the training ended: finished, interrupted or failed. Then close the tracker."""

    def close(self) -> None:
        """End the tracker as finished, unless `end` was called before."""
        self.end("finished")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the tracker: interrupted after Ctrl-C, failed after another exception, else finished."""
        self.end("finished" if error is None else "failed" if isinstance(error, Exception) else "interrupted")


def tracker_settings(settings: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Settings as trackers accept them: without those that are None, and with text for lists."""
    return {
        name: value
        if isinstance(value, bool | str | int) or (isinstance(value, float) and math.isfinite(value))
        else str(value)
        for name, value in settings.items()
        if value is not None
    }
