"""The command line's training loop: progress, metrics and checkpoints, until the run ends or is interrupted."""

import math
import os
import shlex
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parallel_lenet import descriptions
from parallel_lenet.cli import _network
from parallel_lenet.cli._chaos import Chaos
from parallel_lenet.cli._console import Console, write
from parallel_lenet.cli._interrupts import Interrupts
from parallel_lenet.cli._options import OPTIONS, TrainOptions, dashed
from parallel_lenet.cli._recorder import Recorder, timed
from parallel_lenet.cli._resume import Figures
from parallel_lenet.cli._run_folder import RunFolder
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.datasets import Dataset
from parallel_lenet.display import count
from parallel_lenet.display.progress import Update, epoch_figures
from parallel_lenet.reports import EpochReport, StepReport
from parallel_lenet.runs import LAST, REPORT, predictions
from parallel_lenet.runs.run import Run

LOOKING = 1.0  # Seconds to look at test images for a report.
TIMED_OUT = 124  # As the command timeout has it.


@dataclass
class Training:
    """One run of the command: what it trains, and where it writes."""

    coordinator: Coordinator
    train: Dataset
    """The images to train on."""
    validation: Dataset | None
    """The images held out of training, which decide which epoch is best."""
    test: Dataset | None
    """The images to report on, which decide nothing."""
    options: TrainOptions
    folder: RunFolder
    metadata: dict[str, Any]
    """The metadata of the checkpoints."""
    console: Console
    interrupts: Interrupts
    chaos: Chaos
    recorder: Recorder
    said: dict[str, Any]
    """All options, as they are in force."""
    report: Path | None = None
    """The page about the run, once it is written."""

    @property
    def figures(self) -> list[Figures]:
        """What evaluation measured after each finished epoch."""
        figures: list[Figures] = self.metadata["figures"]
        return figures

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or ``--max-steps`` ends the run within one or at its end."""
        return "--epochs" in self.limits or ("--max-steps" in self.limits and self.coordinator.cursor < len(self.train))

    @property
    def limits(self) -> list[str]:
        """The options whose numbers are reached."""
        most = self.options.max_steps
        by_epochs = ["--epochs"] if self.coordinator.epoch >= self.options.epochs else []
        return by_epochs + (["--max-steps"] if most is not None and self.coordinator.step >= most else [])

    def run(self) -> list[dict[str, Any]]:
        """Train to the end; what there is to know of each epoch, and of the one that ``--max-steps`` cut short."""
        coordinator = self.coordinator
        if not self.finished:
            _network.compile_first(coordinator, self.train, self.console)
        reports = coordinator.iterate(self.train, self.options.epochs - coordinator.epoch)
        if coordinator.epoch > len(self.figures):  # Interrupted while it evaluated.
            self._finish_epoch()
        told = False
        while not self.finished:
            title = f"epoch {coordinator.epoch + 1}/{self.options.epochs}"
            with self.console.progress(title, len(self.train)) as progress:
                for report in reports:
                    if isinstance(report, EpochReport):
                        break
                    if not told:
                        told = self._tell_processes()
                    self._after_step(report, progress)
                    if self.finished:
                        break
            if isinstance(report, EpochReport):
                self._finish_epoch()
            self.interrupts.check()
        if coordinator.cursor and self.metadata["partial"] is None:
            measured = self._measure()
            with self.interrupts.delayed():
                self.metadata["partial"] = measured
                self._record()
        self.recorder.event("finished")
        return self.lines()

    def lines(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``: each finished epoch, then the unfinished one if it was evaluated."""
        reports, figures = list(self.coordinator.history), list(self.figures)
        if self.metadata["partial"] is not None:
            reports.append(self.coordinator.epoch_report())
            figures.append(self.metadata["partial"])
        return [_line(report, measured) for report, measured in zip(reports, figures, strict=False)]

    def _tell_processes(self) -> bool:
        pids = self.coordinator.worker_pids()
        if pids:
            self.console.note(f"worker processes: {', '.join(map(str, pids))}")
        return True

    def _after_step(self, report: StepReport, progress: Update) -> None:
        if report.skipped is not None:
            cursor = self.coordinator.cursor
            self.console.note(
                f"note: skipped images {cursor - report.count + 1:,} to {cursor:,} of epoch {report.epoch}: "
                f"{report.skipped}"
            )
        self.recorder.step(report, last=self.coordinator.cursor == len(self.train))
        self.chaos.after(self.coordinator)
        every = self.options.checkpoint_every
        if every is not None and report.step % every == 0:
            self.save()
        progress(self.coordinator.cursor, lambda: epoch_figures(self.coordinator.epoch_report()))
        self.interrupts.check()

    def _finish_epoch(self) -> None:
        self.interrupts.check()
        seconds: dict[str, float] = {}
        with timed(seconds, "evaluating"):
            measured = self._measure()
        with self.interrupts.delayed():
            with timed(seconds, "saving"):
                self.figures.append(measured)
                if best_epoch(self.figures) == len(self.figures):
                    self.folder.save_best(self.coordinator, self.metadata)
                self._record()
            self.recorder.event("epoch", seconds=seconds)

    def _measure(self) -> Figures:
        figures = {} if self.validation is None else self._measured("validation", self.validation)
        if self.test is None:
            return figures | {"test_loss": None, "test_accuracy": None, "test_images": 0}
        return figures | self._measured("test", self.test)

    def _measured(self, name: str, data: Dataset) -> Figures:
        with self.console.progress(f"{name} images", len(data)) as progress:
            for metrics in self.coordinator.iterate_evaluation(data):
                progress(metrics.count, f"accuracy {metrics.accuracy:.2%}")
                self.interrupts.check()
        loss = metrics.loss if math.isfinite(metrics.loss) else None
        return {f"{name}_loss": loss, f"{name}_accuracy": metrics.accuracy, f"{name}_images": metrics.count}

    def _record(self) -> None:
        """Write the last line and the checkpoint that belongs to it. The line last: a resumed run repairs the file."""
        line = self.lines()[-1]
        self.recorder.flush()
        self.folder.save(self.coordinator, self.metadata)
        self.folder.append_metrics(line)
        self.console.line(_sentence(line, self.options.epochs))

    def save(self) -> None:
        """Write a checkpoint now."""
        with self.interrupts.delayed():
            self.recorder.flush()
            self.folder.save(self.coordinator, self.metadata)

    def leave(self) -> int:
        """After a signal or the time limit: write a checkpoint, say how to continue; the program's exit code."""
        self.save()
        number = self.interrupts.number
        self.recorder.event("interrupted", why(number))
        folder = self.folder.path
        write(
            sys.stderr,
            f"parallel-lenet: {why(number)} after {progress(self.coordinator)}; the checkpoint is {folder / LAST}; "
            f"continue with: {command()} {shlex.join(self._again())}",
        )
        return TIMED_OUT if number is None else 128 + number

    def write_report(self) -> None:
        """Write the page about the run, unless it is switched off. An error becomes a note."""
        if not self.said["report"]:
            return
        try:
            if self.test is not None:
                coordinator = self.coordinator
                # With any kernel: the loops of naive would take minutes.
                model = descriptions.build(descriptions.of_model(coordinator.model))
                found = predictions.predict(model, coordinator.parameters, coordinator.step, self.test, LOOKING)
                predictions.save(self.folder.path, found)
            from parallel_lenet import report  # Lazily: it takes a while.

            report.write([Run(self.folder.path)], self.folder.path / REPORT)
            self.report = self.folder.path / REPORT
        except Exception as error:  # A page never makes a run fail.
            self.console.note(f"note: no report: {error}")

    def _again(self) -> list[str]:
        """The options that continue the run as it was, which includes what a checkpoint doesn't decide."""
        options, words = self.options, ["--resume", str(self.folder.path)]
        for name in ("engine", "cluster_address", "workers"):
            value = getattr(options, name)
            if value != OPTIONS[name].default:
                words += [f"--{dashed(name)}", str(value)]
        return words

    def drop(self) -> None:
        """End the workers and remove half-written files now, for a program that doesn't close anything any more."""
        for pid in self.coordinator.worker_pids():
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
                os.waitpid(pid, 0)
        self.folder.sweep()
        self.console.restore()


def why(number: int | None) -> str:
    """What ended a run before its end: a signal, or the time limit."""
    if number is None:
        return "--max-time has passed"
    return "interrupted" if number == signal.SIGINT else f"terminated by {signal.Signals(number).name}"


def progress(coordinator: Coordinator) -> str:
    """How far training has come."""
    images = f" and {count(coordinator.cursor, 'image')}" if coordinator.cursor else ""
    return f"{count(coordinator.epoch, 'epoch')}{images}, step {coordinator.step:,}"


def best_epoch(figures: list[Figures]) -> int | None:
    """The epoch, counted from 1, with the lowest validation loss, the first of equals; None without such losses."""
    losses = [
        (loss, epoch) for epoch, each in enumerate(figures, 1) if (loss := each.get("validation_loss")) is not None
    ]
    return min(losses)[1] if losses else None


def command() -> str:
    """How this program was called, up to its options."""
    program = Path(sys.argv[0])
    ours = program.stem in ("train", "parallel-lenet") or program.parts[-2:] == ("parallel_lenet", "__main__.py")
    if not ours:  # A program that calls `main`.
        return shlex.join([sys.executable, "-m", "parallel_lenet", "train"])
    words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    if len(words) == 2 and Path(words[1]).stem == "parallel-lenet":
        words = words[1:]  # The installed command, which names its interpreter itself.
    return shlex.join([*words, *(word for word in sys.argv[1:2] if word == "train")])


def _line(report: EpochReport, figures: Figures) -> dict[str, Any]:
    measured = ("validation_loss", "validation_accuracy")  # By the command line itself, and only with --validation.
    return {name: value for name, value in asdict(report).items() if name not in measured} | figures


def _sentence(line: dict[str, Any], epochs: int) -> str:
    parts = [f"epoch {line['epoch']:>{len(str(epochs))}}/{epochs}"]
    for name in ("train", "validation", "test"):
        if line.get(f"{name}_accuracy") is not None:
            parts.append(f"{name} loss {decimals(line[f'{name}_loss'])}, {line[f'{name}_accuracy']:.2%}")
    return "  ".join([*parts, f"{line['seconds']:.2f} s, {line['images_per_second']:,.0f} images/s"])


def decimals(loss: float | None) -> str:
    """A loss for people; one that is None was NaN or infinite."""
    return "not finite" if loss is None else f"{loss:.4f}"
