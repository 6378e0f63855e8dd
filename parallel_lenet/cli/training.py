"""The command line's training loop: progress, metrics and checkpoints, until the run ends or is interrupted."""

import os
import shlex
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parallel_lenet.cli.chaos import Chaos
from parallel_lenet.cli.console import Console, Progress
from parallel_lenet.cli.interrupts import Interrupts
from parallel_lenet.cli.options import TrainOptions
from parallel_lenet.cli.runs import LAST, RunFolder
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.datasets import Dataset
from parallel_lenet.reports import EpochReport, StepReport


@dataclass
class Training:
    """One run of the command: what it trains, and where it writes."""

    coordinator: Coordinator
    train: Dataset
    test: Dataset
    options: TrainOptions
    folder: RunFolder
    metadata: dict[str, Any]
    """What checkpoints hold beside the coordinator's own."""
    console: Console
    interrupts: Interrupts
    chaos: Chaos

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or ``--max-steps`` ends the run within one or at its end."""
        at_last_step = self.coordinator.step == self.options.max_steps and self.coordinator.cursor < len(self.train)
        return self.coordinator.epoch >= self.options.epochs or at_last_step

    def run(self) -> list[EpochReport]:
        """Train to the end; the reports of all epochs, and of the one that ``--max-steps`` cut short."""
        coordinator = self.coordinator
        reports = coordinator.iterate(self.train, self.options.epochs - coordinator.epoch, self.test)
        while not self.finished:
            title = f"epoch {coordinator.epoch + 1}/{self.options.epochs}"
            with self.console.progress(title, len(self.train)) as progress:
                for report in reports:
                    if isinstance(report, EpochReport):
                        break
                    self._after_step(report, progress)
                    if self.finished:
                        break
            if isinstance(report, EpochReport):
                self._record(list(coordinator.history.epochs))
            self.interrupts.check()
        result = list(coordinator.history.epochs)
        if coordinator.cursor:
            result.append(self._cut_short())
            self._record(result)
        return result

    def _after_step(self, report: StepReport, progress: Progress) -> None:
        if report.skipped is not None:
            cursor = self.coordinator.cursor
            self.console.note(
                f"note: skipped images {cursor - report.count + 1:,} to {cursor:,} of epoch {report.epoch}: "
                f"{report.skipped}"
            )
        self.chaos.after(self.coordinator)
        every = self.options.checkpoint_every
        if every is not None and report.step % every == 0:
            self.save()
        so_far = self.coordinator.epoch_report()
        progress(self.coordinator.cursor, f"loss {so_far.train_loss:.4f}  {so_far.images_per_second:,.0f} images/s")
        self.interrupts.check()

    def _cut_short(self) -> EpochReport:
        metrics = self.coordinator.evaluate(self.test)
        return replace(
            self.coordinator.epoch_report(), validation_loss=metrics.loss, validation_accuracy=metrics.accuracy
        )

    def _record(self, reports: list[EpochReport]) -> None:
        """Write the last report and the checkpoints that belong to it. Metrics last: a resumed run writes them anew."""
        accuracies = [report.validation_accuracy or 0.0 for report in reports]
        with self.interrupts.held():
            if accuracies[-1] > max(accuracies[:-1], default=-1.0):
                self.folder.save_best(self.coordinator, self.metadata)
            self.folder.save(self.coordinator, self.metadata)
            self.folder.write_metrics(reports)
        self.console.line(_line(reports[-1], self.options.epochs))

    def save(self) -> None:
        """Write a checkpoint now."""
        with self.interrupts.held():
            self.folder.save(self.coordinator, self.metadata)

    def leave(self, number: int) -> int:
        """After a signal: write a checkpoint, say where it is and how to go on; the program's exit code."""
        self.save()
        coordinator = self.coordinator
        done = f"{coordinator.epoch} epochs and {coordinator.cursor:,} images, step {coordinator.step:,}"
        print(
            f"parallel-lenet: {'interrupted' if number == signal.SIGINT else 'terminated'} after {done}; the "
            f"checkpoint is {self.folder.path / LAST}; go on with: {_command()} --resume "
            f"{shlex.quote(str(self.folder.path))}",
            file=sys.stderr,
            flush=True,
        )
        return 128 + number

    def drop(self) -> None:
        """End the workers and remove half-written files now, for a program that doesn't close anything any more."""
        for pid in self.coordinator.worker_pids():
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
                os.waitpid(pid, 0)
        self.folder.sweep()
        self.console.restore()


def _command() -> str:
    """How this program was called, up to its options."""
    words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    if len(words) == 2 and Path(words[1]).stem == "parallel-lenet":
        words = words[1:]  # The installed command, which names its interpreter itself.
    return shlex.join([*words, *(word for word in sys.argv[1:2] if word == "train")])


def _line(report: EpochReport, epochs: int) -> str:
    assert report.validation_accuracy is not None
    return (
        f"epoch {report.epoch:>{len(str(epochs))}}/{epochs}  "
        f"train loss {report.train_loss:.4f}, {report.train_accuracy:.2%}  "
        f"test loss {report.validation_loss:.4f}, {report.validation_accuracy:.2%}  "
        f"{report.seconds:.2f} s, {report.images_per_second:,.0f} images/s"
    )
