"""The trackers that ``--log`` names. If one fails, a note says so once, and training continues without it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parallel_lenet.cli._console import Console
from parallel_lenet.optional import reason
from parallel_lenet.reports import StepReport
from parallel_lenet.trackers import Tracker, mlflow, tensorboard

NAMES = ("tensorboard", "mlflow")
DECIDING = frozenset({"epochs"})  # It may change when a run continues, and the learning rates depend on it.
_REQUIRE = {"tensorboard": tensorboard.require, "mlflow": mlflow.require}


def require(names: list[str]) -> list[str]:
    """The names, each once. Raises ExtraError if the library of one is missing or does not work."""
    once = list(dict.fromkeys(names))
    for name in once:
        _REQUIRE[name]()
    return once


class Trackers:
    """The trackers of one start of a run."""

    def __init__(self, names: list[str], folder: Path, console: Console) -> None:
        self._names = names
        self._folder = folder
        self._console = console
        self._trackers: dict[str, Tracker] = {}

    def begin(self, settings: Mapping[str, Any], step: int) -> None:
        """Open the trackers, after ``step`` finished steps."""
        for name in self._names:
            with self._drop_on_error(name):
                self._trackers[name] = self._make(name, settings, step)

    def _make(self, name: str, settings: Mapping[str, Any], step: int) -> Tracker:
        if name == "tensorboard":
            folder = self._folder / tensorboard.FOLDER
            self._console.note(f"TensorBoard: tensorboard --logdir {folder}")
            return tensorboard.TensorBoard(folder, settings, step)
        tracker = mlflow.MLflow(self._folder, settings, step, deciding=DECIDING)
        self._console.note(f"MLflow: run {tracker.run_id} of {tracker.uri}")
        return tracker

    def step(self, report: StepReport) -> None:
        """Log a finished step."""
        if self._trackers:
            self._call_each(lambda tracker: tracker.log(report))

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Log a finished epoch: ``line`` is that of ``metrics.jsonl``."""
        self._call_each(lambda tracker: tracker.log_epoch(line))

    def flush(self) -> None:
        """Send the steps so far, before a checkpoint that follows them is written."""
        self._call_each(lambda tracker: tracker.flush())

    def end(self, state: str) -> None:
        """Say that the training is finished, interrupted or failed, and close the trackers."""
        self._call_each(lambda tracker: tracker.end(state))
        self._trackers.clear()

    def _call_each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in [*self._trackers.items()]:
            with self._drop_on_error(name):
                call(tracker)

    @contextmanager
    def _drop_on_error(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Libraries have their own errors for a full disk, a server that is away, and so on.
            self._trackers.pop(name, None)
            self._console.note(f"note: --log {name} failed: {reason(error)}. Training continues without it")
