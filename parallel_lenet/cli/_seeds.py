"""``train --seeds N``: the same training with N seeds, each a run in a folder of its own, and their statistics."""

import argparse
import copy
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from parallel_lenet.cli import _config, _recipes
from parallel_lenet.cli._console import Console, write
from parallel_lenet.cli._options import TrainOptions, UsageError, check, flags, with_dashes
from parallel_lenet.cli._results import reports, start_command
from parallel_lenet.cli._run_folder import holds_run, new_folder
from parallel_lenet.cli._run_notes import network_name
from parallel_lenet.display import count
from parallel_lenet.engines import WorkerError
from parallel_lenet.finite import NonFiniteError
from parallel_lenet.runs.run import Run
from parallel_lenet.runs.statistics import Statistics, number_text, over_runs

MOST = 1000
SEED = re.compile(r"seed-\d+")
TrainOne = Callable[[argparse.Namespace, Console], tuple[int, dict[str, Any] | None]]


class _RunConsole(Console):
    """The output of the run with one seed: only its notes, without those that an earlier seed has shown."""

    def __init__(self, outer: Console, seed: int, shown_notes: set[str]) -> None:
        super().__init__(quiet=True)
        self._outer = outer
        self._seed = seed
        self._shown_notes = shown_notes

    def note(self, text: str) -> None:
        if text not in self._shown_notes:
            self._shown_notes.add(text)
            self._outer.note(f"seed {self._seed}: {text}")

    def detail(self, text: str) -> None:
        """Notes about the process are not shown."""


def run(arguments: argparse.Namespace, train_one: TrainOne) -> int:
    """Train all seeds, one after another, and print the statistics. Returns the exit code."""
    _check(arguments)
    console = Console(json=arguments.json, quiet=arguments.quiet)
    file_options = {} if arguments.config is None else _config.read(arguments.config)
    options = TrainOptions(**_recipes.expand(_config.merge(file_options, flags(arguments))))
    check(options)
    if options.max_time is not None:
        raise UsageError("--max-time limits a single run: leave it out, or leave out --seeds")
    seeds = range(options.seed, options.seed + arguments.seeds)
    if seeds[-1] >= 2**64:
        raise UsageError(f"--seed must be below 2**64, got {seeds[-1]} as the last of {count(len(seeds), 'seed')}")
    is_new = options.out is None or not os.path.lexists(options.out)
    folder = _folder(options.out, arguments.continues)
    try:
        return _train(arguments, console, folder, seeds, train_one)
    finally:
        if is_new:  # If the first run finds a mistake, no folder is left.
            with suppress(OSError):  # The folder has runs in it.
                folder.rmdir()


def _train(
    arguments: argparse.Namespace, console: Console, folder: Path, seeds: range, train_one: TrainOne
) -> int:  # fmt: skip
    """Train each seed in a folder of its own, and print the statistics. Returns the exit code."""
    results: list[dict[str, Any]] = []
    shown_notes: set[str] = set()
    with console.progress(count(len(seeds), "seed"), len(seeds)) as progress:
        for seed in seeds:
            seed_arguments = copy.copy(arguments)
            seed_arguments.seed = seed
            seed_arguments.out = str(folder / f"seed-{seed}")
            seed_arguments.report = bool(arguments.report)
            try:
                code, result = train_one(seed_arguments, _RunConsole(console, seed, shown_notes))
            except (NonFiniteError, WorkerError):
                finished = f"{len(results)} of {count(len(seeds), 'seed')} are finished"
                write(sys.stderr, f"parallel-lenet: seed {seed} failed; {finished}, in {folder}")
                raise
            if code or result is None:
                again = "" if arguments.continues else " --continue"
                out = "" if "out" in flags(arguments) else f" --out {shlex.quote(str(folder))}"
                write(
                    sys.stderr,
                    f"parallel-lenet: {len(results)} of {count(len(seeds), 'seed')} are finished; continue with: "
                    f"{start_command(arguments)}{out}{again}",
                )
                return code
            results.append(result)
            accuracy = result.get("test_accuracy", result.get("validation_accuracy"))
            text = "not evaluated" if accuracy is None else f"{accuracy:.2%}"
            console.line(f"seed {seed}: accuracy {text}, {sum(result['epoch_seconds']):.2f} s of training")
            progress(len(results), f"accuracy {text}")
    _finish(arguments, console, folder, seeds, results)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if not 1 <= arguments.seeds <= MOST:
        raise UsageError(f"--seeds must be from 1 to {MOST:,}, got {arguments.seeds}")
    for name in ("resume", "trace", "chaos"):
        if getattr(arguments, name, None) is not None:
            raise UsageError(f"--{with_dashes(name)} is for a single run: leave it out, or leave out --seeds")
    if arguments.config == "-":
        raise UsageError("--config - can be read once only, and --seeds needs it for each seed: give a file")


def _folder(out: str | None, continues: bool) -> Path:
    """The folder of all runs. Raises UsageError if there is something in it, other than seeds to continue."""
    if continues and out is None:
        raise UsageError("--continue needs --out FOLDER: the folder to begin the runs in, or to continue")
    if continues and out and Path(out).is_dir():
        if holds_run(out):
            raise UsageError(f"--out {out} holds a single run: name another folder")
        if any(SEED.fullmatch(name) for name in os.listdir(out)):
            return Path(out)
    return new_folder(out)


def _finish(
    arguments: argparse.Namespace, console: Console, folder: Path, seeds: range, results: list[dict[str, Any]]
) -> None:
    """Write the page, and print the statistics."""
    runs = [Run(Path(result["run_dir"])) for result in results]
    statistics = over_runs(runs)
    file = None
    if reports(arguments):
        try:
            from parallel_lenet.report import seeds as seeds_page  # Imported lazily: an extra.

            seeds_page.write(runs, seeds, start_command(arguments), folder / seeds_page.FILE)
            file = folder / seeds_page.FILE
        except Exception as error:  # A page never makes a run fail.
            console.note(f"note: no page: {error}")
    if arguments.json:
        console.result(
            {
                "seeds": list(seeds),
                "statistics": {name: each._asdict() for name, each in statistics.items()},
                "runs": results,
                "out": str(folder),
                "report_file": None if file is None else str(file),
            }
        )
    else:
        _show(console, network_name(results[0]["model"]), folder, file, len(seeds), statistics)


def _show(
    console: Console, network: str, folder: Path, file: Path | None, seeds: int, statistics: Mapping[str, Statistics]
) -> None:  # fmt: skip
    rows = [
        (name.replace("_", " "), *(number_text(name, value) for value in each)) for name, each in statistics.items()
    ]
    console.table(
        f"{network}, trained with {count(seeds, 'seed')}", ("", "mean", "std. dev.", "least", "largest"), rows
    )
    console.line(f"runs: {folder}" if file is None else f"runs: {folder}; page: {file}")
