"""The command line's training loop: progress, metrics and checkpoints, until the run ends or is interrupted.

The file has a little more than 300 lines: one class has the state of a run, and what it writes after steps and epochs.
"""

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
from parallel_lenet.cli import _user_model
from parallel_lenet.cli._chaos import Chaos
from parallel_lenet.cli._console import Console, write
from parallel_lenet.cli._interrupts import Interrupts, OutOfTime
from parallel_lenet.cli._options import OPTIONS, TrainOptions, with_dashes
from parallel_lenet.cli._recorder import Recorder, stopwatch
from parallel_lenet.cli._resume import Figures
from parallel_lenet.cli._run_folder import RunFolder
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.datasets import Dataset
from parallel_lenet.display import count
from parallel_lenet.display.progress import Update, epoch_figures
from parallel_lenet.kernels import files
from parallel_lenet.reports import EpochReport, StepReport
from parallel_lenet.runs import LAST, REPORT, predictions
from parallel_lenet.runs.run import Run
from parallel_lenet.stopping import best_epoch, is_enough

PREDICTING = 1.0  # Seconds for the predictions of test images in a report.
CLOSING = 1.0  # Seconds before the end of --max-time at which a report has to be written.
TIMED_OUT = 124  # The exit code of the command timeout.


@dataclass
class Training:
    """One run of the command: its coordinator, its data, its options, and its folder."""

    coordinator: Coordinator
    train: Dataset
    """The images to train on."""
    validation: Dataset | None
    """The images held out of training, which decide which epoch is best."""
    test: Dataset | None
    """The images to report on, or None if they are not evaluated. They decide nothing."""
    options: TrainOptions
    folder: RunFolder
    metadata: dict[str, Any]
    """The metadata of the checkpoints."""
    console: Console
    interrupts: Interrupts
    chaos: Chaos
    recorder: Recorder
    options_in_force: dict[str, Any]
    """All options, as they are in force for this start."""
    end: float | None = None
    """The end of ``--max-time``, by `time.monotonic`."""
    report: Path | None = None
    """The page about the run, once it is written."""

    @property
    def figures(self) -> list[Figures]:
        """What evaluation measured after each finished epoch."""
        figures: list[Figures] = self.metadata["figures"]
        return figures

    @property
    def is_finished(self) -> bool:
        """Whether ``--epochs``, ``--max-steps`` or early stopping ends the run here."""
        if "--max-steps" in self.limits and self.coordinator.cursor < len(self.train):
            return True
        return "--epochs" in self.limits or self.stopped_early

    @property
    def limits(self) -> list[str]:
        """The options among ``--epochs``, ``--max-steps`` and ``--patience`` whose limits are reached."""
        reached = []
        if self.coordinator.epoch >= self.options.epochs:
            reached.append("--epochs")
        if self.options.max_steps is not None and self.coordinator.step >= self.options.max_steps:
            reached.append("--max-steps")
        if self.stopped_early:
            reached.append("--patience")
        return reached

    @property
    def best_epoch(self) -> int | None:
        """The best epoch by the images held out, counted from 1. None without such images. Of equals, the first."""
        return best_epoch(self._deciding_figures, self.options.best_by)

    @property
    def stopped_early(self) -> bool:
        """Whether ``--early-stopping`` ends the run."""
        return self.options.early_stopping and is_enough(
            self._deciding_figures, self.options.best_by, self.options.patience
        )

    @property
    def _deciding_figures(self) -> list[float | None]:
        """The number that decides which epoch is best, of each finished epoch."""
        name = f"validation_{self.options.best_by}"
        # A loss that is not finite is recorded as None. NaN counts as an epoch that is not better.
        return [math.nan if name in each and each[name] is None else each.get(name) for each in self.figures]

    def run(self) -> list[dict[str, Any]]:
        """Train to the end. Returns the lines of ``metrics.jsonl``. Raises Interrupted after a signal."""
        coordinator = self.coordinator
        if not self.is_finished:
            coordinator.warm_up(self.train)
        reports = coordinator.iterate(self.train, self.options.epochs - coordinator.epoch)
        if coordinator.epoch > len(self.figures):  # Interrupted while it evaluated.
            self._finish_epoch()
        processes_noted = False
        while not self.is_finished:
            title = f"epoch {coordinator.epoch + 1}/{self.options.epochs}"
            with self.console.progress(title, len(self.train)) as progress:
                for report in reports:
                    if isinstance(report, EpochReport):
                        break
                    if not processes_noted:
                        self._note_processes()
                        processes_noted = True
                    self._after_step(report, progress)
                    if self.is_finished:
                        break
            if isinstance(report, EpochReport):
                self._finish_epoch()
            self.interrupts.check()
        if coordinator.cursor and self.metadata["partial"] is None:
            evaluation = self._measure()
            with self.interrupts.delay():
                self.metadata["partial"] = evaluation
                self._record()
        self.recorder.event("finished", self._note_early_stop())
        return self.lines()

    def _note_early_stop(self) -> str:
        """Note why the run ends before ``--epochs``, and return the text. Empty if it does not."""
        if not self.stopped_early or self.coordinator.epoch >= self.options.epochs:
            return ""
        best = self.best_epoch
        done = len(self.figures)
        better = "lower validation loss" if self.options.best_by == "loss" else "higher validation accuracy"
        if best is None:
            explanation = f"no epoch of {done} has a finite validation loss"
        elif done - best == 1:
            explanation = f"epoch {done} has no {better} than epoch {best}"
        else:  # More than --patience if that is smaller than it was before a resume.
            explanation = f"none of the {done - best} epochs since epoch {best} has a {better}"
        text = f"stopped early: {explanation} (--patience {self.options.patience})"
        self.console.note(text)
        return text

    def lines(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``: each finished epoch, then the unfinished one if it was evaluated."""
        reports = list(self.coordinator.history)
        figures = list(self.figures)
        if self.metadata["partial"] is not None:
            reports.append(self.coordinator.epoch_report())
            figures.append(self.metadata["partial"])
        return [_line(report, evaluation) for report, evaluation in zip(reports, figures, strict=False)]

    def _note_processes(self) -> None:
        pids = self.coordinator.worker_pids()
        if pids:
            self.console.detail(f"worker processes: {', '.join(map(str, pids))}")

    def _after_step(self, report: StepReport, progress: Update) -> None:
        if report.skipped is not None:
            cursor = self.coordinator.cursor
            self.console.note(
                f"note: skipped images {cursor - report.count + 1:,} to {cursor:,} of epoch {report.epoch}: "
                f"{report.skipped}"
            )
        self.recorder.step(report, last=self.coordinator.cursor == len(self.train))
        self.chaos.plan_faults(self.coordinator)
        every = self.options.checkpoint_every
        if every is not None and report.step % every == 0:
            self.save()
        progress(self.coordinator.cursor, lambda: epoch_figures(self.coordinator.epoch_report()))
        self.interrupts.check()

    def _finish_epoch(self) -> None:
        self.interrupts.check()
        seconds: dict[str, float] = {}
        with stopwatch(seconds, "evaluating"):
            evaluation = self._measure()
        with self.interrupts.delay():
            with stopwatch(seconds, "saving"):
                self.figures.append(evaluation)
                if self.best_epoch == len(self.figures):
                    self.folder.save_best(self.coordinator, self.metadata)
                self._record()
            self.recorder.event("epoch", seconds=seconds)

    def _measure(self) -> Figures:
        figures = {} if self.validation is None else self._evaluate("validation", self.validation)
        if self.test is None:
            return figures | {"test_loss": None, "test_accuracy": None, "test_images": 0}
        return figures | self._evaluate("test", self.test)

    def _evaluate(self, name: str, data: Dataset) -> Figures:
        with self.console.progress(f"{name} images", len(data)) as progress:
            for metrics in self.coordinator.iterate_evaluation(data):
                progress(metrics.count, f"accuracy {metrics.accuracy:.2%}")
                self.interrupts.check()
        loss = metrics.loss if math.isfinite(metrics.loss) else None
        return {f"{name}_loss": loss, f"{name}_accuracy": metrics.accuracy, f"{name}_images": metrics.count}

    def _record(self) -> None:
        """Write the checkpoint, then its line. If the run is killed in between, resuming adds the line."""
        line = self.lines()[-1]
        self.recorder.epoch(line)
        self.recorder.flush()
        self.folder.save(self.coordinator, self.metadata)
        self.folder.append_metrics(line)
        self.console.line(_sentence(line, self.options.epochs))

    def save(self) -> None:
        with self.interrupts.delay():
            self.recorder.flush()
            self.folder.save(self.coordinator, self.metadata)

    def stop(self) -> int:
        """After a signal or the time limit, write a checkpoint and say how to continue. Returns the exit code."""
        self.save()
        number = self.interrupts.number
        self.recorder.event("interrupted", reason(number))
        folder = self.folder.path
        write(
            sys.stderr,
            f"parallel-lenet: {reason(number)} after {position(self.coordinator)}; the checkpoint is {folder / LAST}; "
            f"continue with: {command_prefix()} {shlex.join(self._resume_options())}",
        )
        return TIMED_OUT if number is None else 128 + number

    def write_report(self) -> None:
        """Write the page about the run, unless it is switched off. An error becomes a note.

        No page is written if the end of ``--max-time`` comes first.
        """
        if not self.options_in_force["report"]:
            return
        try:
            with self.interrupts.time_limit(None if self.end is None else self.end - CLOSING):
                self._write_report()
        except OutOfTime:
            command = shlex.join(["parallel-lenet", "report", str(self.folder.path)])
            self.console.note(f"note: no report: --max-time leaves no time for it. To write it: {command}")
        except Exception as error:  # A page never makes a run fail.
            self.console.note(f"note: no report: {error}")

    def _write_report(self) -> None:
        coordinator = self.coordinator
        if self.test is not None:
            # With the fastest kernel: the loops of naive would take minutes.
            with suppress(ValueError):  # If the model is not made of this package's layers.
                model = descriptions.build(descriptions.of_model(coordinator.model))
                found = predictions.predict(model, coordinator.parameters, coordinator.step, self.test, PREDICTING)
                predictions.save(self.folder.path, found)
        from parallel_lenet import report  # Imported lazily, since matplotlib takes long.

        report.write([Run(self.folder.path)], self.folder.path / REPORT)
        self.report = self.folder.path / REPORT

    def _resume_options(self) -> list[str]:
        """The options that continue the run as it was, with those that a checkpoint does not decide."""
        options = self.options
        words = ["--resume", str(self.folder.path)]
        for name in ("engine", "cluster_address", "workers"):
            value = getattr(options, name)
            if value != OPTIONS[name].default:
                words += [f"--{with_dashes(name)}", str(value)]
        if options.model is not None:
            words += ["--model", _user_model.without_hash(options.model)]
        if files.is_file(options.kernel):
            words += ["--kernel", files.path_of(options.kernel)]
        return words + [word for name in self.options_in_force["log"] for word in ("--log", name)]

    def abandon(self) -> None:
        """Kill the workers and remove half-written files, for a program that ends without closing anything."""
        for pid in self.coordinator.worker_pids():
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
                os.waitpid(pid, 0)
        self.folder.sweep()
        self.console.restore()


def reason(number: int | None) -> str:
    """What ended a run early: a signal, by its number, or the time limit."""
    if number is None:
        return "--max-time has passed"
    return "interrupted" if number == signal.SIGINT else f"terminated by {signal.Signals(number).name}"


def position(coordinator: Coordinator) -> str:
    """The epochs, images and steps that are done."""
    images = f" and {count(coordinator.cursor, 'image')}" if coordinator.cursor else ""
    return f"{count(coordinator.epoch, 'epoch')}{images}, step {coordinator.step:,}"


def command_prefix() -> str:
    """The command line of this program up to its options."""
    program = Path(sys.argv[0])
    ours = program.stem in ("train", "parallel-lenet") or program.parts[-2:] == ("parallel_lenet", "__main__.py")
    if not ours:  # A program that calls `main`.
        return shlex.join([sys.executable, "-m", "parallel_lenet", "train"])
    words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    if len(words) == 2 and Path(words[1]).stem == "parallel-lenet":
        words = words[1:]  # The installed command, which names its interpreter itself.
    return shlex.join([*words, *(word for word in sys.argv[1:2] if word == "train")])


def _line(report: EpochReport, figures: Figures) -> dict[str, Any]:
    own_figures = ("validation_loss", "validation_accuracy")  # With --validation the command line measures them itself.
    return {name: value for name, value in asdict(report).items() if name not in own_figures} | figures


def _sentence(line: dict[str, Any], epochs: int) -> str:
    parts = [f"epoch {line['epoch']:>{len(str(epochs))}}/{epochs}"]
    for name in ("train", "validation", "test"):
        if line.get(f"{name}_accuracy") is not None:
            parts.append(f"{name} loss {decimals(line[f'{name}_loss'])}, {line[f'{name}_accuracy']:.2%}")
    return "  ".join([*parts, f"{line['seconds']:.2f} s, {line['images_per_second']:,.0f} images/s"])


def decimals(loss: float | None) -> str:
    """A loss with four decimals. None stands for NaN or infinity."""
    return "not finite" if loss is None else f"{loss:.4f}"
