"""A run, read from its folder. Each file is read at its first use. Missing and damaged files are noted."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from parallel_lenet import class_names, descriptions
from parallel_lenet.archive import CheckpointError
from parallel_lenet.checkpoint import Checkpoint
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import sha256
from parallel_lenet.runs import (
    BEST,
    LAST,
    METRICS,
    PREVIOUS,
    RunError,
    content,
    environment,
    events,
    predictions,
    steps,
)
from parallel_lenet.runs.environment import Session
from parallel_lenet.runs.events import Event
from parallel_lenet.runs.predictions import Predictions
from parallel_lenet.runs.steps import Steps

LARGEST = 2**28  # Bytes of metrics that are read.

Content = TypeVar("Content")


class Run:
    """A run in a folder. Raises RunError if there is no such folder, or no file of a run in it."""

    def __init__(self, folder: Path) -> None:
        names = (LAST, PREVIOUS, BEST, METRICS, steps.FILE)
        if not folder.is_dir():
            missing = "is not a folder" if folder.exists() else "does not exist"
            raise RunError(f"{folder} {missing}: name the folder of a run")
        if not any((folder / name).exists() for name in names):
            raise RunError(f"{folder} is not the folder of a run: it has none of the files {', '.join(names)}")
        self.folder = folder
        self.notes: list[str] = []
        """A sentence for each file that was read and is missing or damaged."""

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name or self.folder.resolve().name

    def _read(self, read: Callable[[Path], Content], default: Content) -> Content:
        try:
            return read(self.folder)
        except RunError as error:
            self.notes.append(f"{error}.")
            return default

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The last checkpoint that is not damaged, or None if there is none."""
        for name in (LAST, PREVIOUS, BEST):
            try:
                return Checkpoint.load(self.folder / name)
            except CheckpointError as error:
                if name == LAST:
                    self.notes.append(f"{error}.")
        return None

    @cached_property
    def model(self) -> Sequential | None:
        """The network of the checkpoint, or None if it is not made of this package's layers."""
        if self.checkpoint is None:
            return None
        try:
            model = descriptions.build(self.checkpoint.description)
            model.layout.check(self.checkpoint.state.parameters)
        except ValueError:
            return None
        return model

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, by label, or None if the checkpoint has none."""
        if self.checkpoint is None or self.model is None:
            return None
        return class_names.of_metadata(self.checkpoint.metadata, self.model.classes)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the checkpoint's parameters. Empty without one."""
        return "" if self.checkpoint is None else sha256(self.checkpoint.state.parameters)

    @cached_property
    def steps(self) -> Steps | None:
        """The recorded steps, or None if there are none."""
        nothing: Steps | None = None
        found = self._read(steps.read, nothing)
        file = self.folder / steps.FILE
        if found is None and file.is_file() and file.stat().st_size == 0:
            self.notes.append(f"{file}: is empty, so nothing is known of single steps.")
        if found is None and not file.exists():
            self.notes.append(f"The run has no {steps.FILE}, so nothing is known of single steps.")
        elif found is not None and found.damaged_lines:
            self.notes.append(f"{self.folder / steps.FILE}: {_lines(found.damaged_lines)} could not be read.")
        return found

    @cached_property
    def events(self) -> list[Event]:
        """The recorded events, in order."""
        nothing: tuple[list[Event], int] = ([], 0)
        found, damaged_lines = self._read(events.read, nothing)
        if damaged_lines:
            self.notes.append(f"{self.folder / events.FILE}: {_lines(damaged_lines)} could not be read.")
        return found

    @cached_property
    def sessions(self) -> list[Session]:
        """Versions, machine and options of each start, in order."""
        nothing: list[Session] = []
        found = self._read(environment.read, nothing)
        if not found and not (self.folder / environment.FILE).exists():
            self.notes.append(f"The run has no {environment.FILE}, so versions, machine and command are not known.")
        return found

    @cached_property
    def predictions(self) -> Predictions | None:
        """The predictions for the test images, or None if there are none."""
        nothing: Predictions | None = None
        return self._read(predictions.load, nothing)

    @cached_property
    def epochs(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``, or the history of the checkpoint without that file."""
        nothing: bytes | None = b""
        text = self._read(lambda folder: content(folder / METRICS, LARGEST), nothing)
        if text is None:
            history = self.checkpoint.state.history if self.checkpoint is not None else ()
            return [_numbers(asdict(report)) for report in history]
        lines = text.splitlines()
        found = [_numbers(_json(line)) for line in lines]
        damaged_lines = sum(not line for line in found)
        if damaged_lines:
            self.notes.append(f"{self.folder / METRICS}: {_lines(damaged_lines)} could not be read.")
        return [line for line in found if line]

    @cached_property
    def options(self) -> dict[str, Any]:
        """All options of training at the last start. Empty if they are not known."""
        found = self.sessions[-1]["options"] if self.sessions else None
        if not isinstance(found, dict) and self.checkpoint is not None:
            found = self.checkpoint.metadata.get("options")
        return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}

    @cached_property
    def data(self) -> dict[str, Any]:
        """The numbers of training and test images, and their hash."""
        found = self.checkpoint.metadata.get("data") if self.checkpoint is not None else None
        if not isinstance(found, dict) and self.sessions:
            found = self.sessions[-1]["data"]
        return found if isinstance(found, dict) else {}

    @property
    def state(self) -> str:
        """How the run ended: finished, interrupted or failed, or unfinished if it was killed or still runs."""
        kinds = [event.kind for event in self.events]
        ends = [kind for kind in kinds if kind in ("started", "resumed", "interrupted", "failed", "finished")]
        if ends:
            return "unfinished" if ends[-1] in ("started", "resumed") else ends[-1]
        epochs = self.options.get("epochs")
        if self.checkpoint is None or not isinstance(epochs, int):
            return "unknown"
        return "finished" if self.checkpoint.state.epoch >= epochs else "unfinished"


def _lines(count: int) -> str:
    return f"{count:,} line{'s' * (count > 1)}"


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _numbers(value: Any) -> dict[str, Any]:
    """The numbers of an epoch. Empty if it is not one. What is not a number, such as null, is NaN."""
    if not isinstance(value, dict) or not isinstance(value.get("epoch"), int):
        return {}
    found: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, bool) or not isinstance(item, int | float) or abs(item) > 1e300:
            item = math.nan if item is None or isinstance(item, str) else None
        if item is not None:
            found[str(name)] = item
    return found
