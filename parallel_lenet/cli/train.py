"""Train LeNet-5: workers compute the gradients of parts of a batch, a coordinator averages them and takes the step.

Ctrl-C, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT and SIGXCPU end a run with a checkpoint and a line that says how to
continue; a second Ctrl-C, SIGTERM or SIGQUIT ends it at once. The test images decide nothing: with --validation,
best.npz is the epoch with the lowest loss on images held out of training; without it, the last one is the result.
"""

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from parallel_lenet.batching import split
from parallel_lenet.cli import _chaos, _config, _engines, _network, _recipes, _results, _resume, _sources, _weights
from parallel_lenet.cli._chaos import Chaos
from parallel_lenet.cli._console import Console, write
from parallel_lenet.cli._interrupts import PATIENCE, Interrupted, Interrupts
from parallel_lenet.cli._options import (
    LENGTH,
    OUTPUT,
    TrainOptions,
    UsageError,
    add_train_options,
    as_usage,
    check,
    flags,
    titled,
    worker_count,
)
from parallel_lenet.cli._recorder import Recorder
from parallel_lenet.cli._results import REPORT_VARIABLE, results, show
from parallel_lenet.cli._resume import Resumed
from parallel_lenet.cli._run_folder import RunFolder, holds_run, new_folder
from parallel_lenet.cli._sources import load
from parallel_lenet.cli._training import TIMED_OUT, Training, progress, why
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.datasets import Dataset, DatasetError
from parallel_lenet.display import count
from parallel_lenet.engines import WorkerError
from parallel_lenet.finite import NonFiniteError
from parallel_lenet.network.fitted import lenet5_for
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.runs import REPORT, environment
from parallel_lenet.schedules import rate_at
from parallel_lenet.trained import load_model

HELP = "train LeNet-5 on all cores"
EXAMPLES = (
    ("all usable cores, the bundled digits", "train"),
    ("two workers, images of your own", "train --data-dir FOLDER --epochs 10 --workers 2"),
    ("the loops of the tutorial, for two steps", "train --kernel naive --max-steps 2 --evaluate-on 20"),
    ("hold out a tenth of the training images, and keep the best epoch", "train --validation 0.1 --out runs/mine"),
    ("continue a run that was stopped", "train --resume runs/mine"),
)

LEAVING = 1.5 + PATIENCE  # Seconds before the end of --max-time at which a run stops: to drop a step, save and leave.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_train_options(parser)
    length, output = titled(parser, LENGTH), titled(parser, OUTPUT)
    length.add_argument(
        "--resume", metavar="FOLDER", help="continue the run in this folder, or from one of its checkpoints"
    )
    length.add_argument(
        "--continue",
        dest="continues",
        action="store_true",
        help="with --out: start a run there, or continue the run that is there (for jobs that restart)",
    )
    length.add_argument("--chaos", metavar="PLAN", help=_chaos.HELP)
    parser.add_argument(
        "--config", metavar="FILE", help="a TOML file of these options, such as a run's config.toml; -: standard input"
    )
    output.add_argument(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=None,
        help=f"write {REPORT}, a page about the run, at its end (default: yes, unless {REPORT_VARIABLE}=0)",
    )
    output.add_argument("--json", action="store_true", help="print one JSON object, the results, on standard output")
    output.add_argument("--quiet", action="store_true", help="no progress and no notes, only the results")


def run(arguments: argparse.Namespace) -> int:
    """Train, and leave a run folder."""
    begun = time.monotonic()
    console = Console(json=arguments.json, quiet=arguments.quiet)
    with Interrupts() as interrupts, console.warnings_as_notes(), ExitStack() as stack:
        training: Training | None = None
        stack.callback(interrupts.stop_raising)
        try:
            training = _prepare(arguments, console, interrupts, begun, stack)
            lines = training.run()
            interrupts.check()
            interrupts.stop_raising()
            training.write_report()
        except Interrupted:
            interrupts.stop_raising()
            if training is not None:
                code = training.leave()
                if not interrupts.timed_out:  # Then no time is left.
                    training.write_report()
                return code
            number = interrupts.number
            write(sys.stderr, f"parallel-lenet: {why(number)} before the run began")
            return TIMED_OUT if number is None else 128 + number
        except (NonFiniteError, WorkerError) as error:
            interrupts.stop_raising()
            if training is not None:
                training.recorder.event("failed", str(error))
                training.write_report()
            raise
        finally:
            interrupts.stop_raising()
            stack.close()
        result = results(training, lines)
        if arguments.json:
            console.result(result)
        else:
            show(result, console)
    return 0


def _prepare(
    arguments: argparse.Namespace, console: Console, interrupts: Interrupts, begun: float, stack: ExitStack
) -> Training:
    """Everything up to the first step: data, network, coordinator, and the run's folder with a first checkpoint."""
    configured = {} if arguments.config is None else _config.read(arguments.config)
    given = _config.merged(configured, flags(arguments))
    options = TrainOptions(**given)
    check(options)
    resumed = _resumed(arguments, given)
    if resumed is not None:
        options = resumed.options
    if options.max_time is not None:
        interrupts.limit(begun + options.max_time - min(LEAVING, options.max_time / 2))
    workers = worker_count(flags(arguments).get("workers"), configured.get("workers"))
    faults = Chaos(arguments.chaos)
    if arguments.chaos is not None and options.engine != "processes":
        raise UsageError(f"--chaos disturbs the workers of --engine processes, not of {options.engine}")
    where, how = _engines.arguments(options.engine, options.cluster_address, workers)
    named = resumed is None or "data_dir" in given
    if options.data_dir is not None and not named:
        console.note(_sources.reading(options.data_dir))
    everything, test = load(options.dataset, options.data_dir, named)
    interrupts.check()
    if resumed is not None:
        _resume.check_data(resumed, everything, test)
    if resumed is None:
        model, parameters = _build(everything, options.kernel), None
        if options.initial_weights is not None:
            parameters = _weights.load("--initial-weights", options.initial_weights, model)
    else:
        trained = load_model(resumed.file, options.kernel)
        model, parameters = trained.model, trained.parameters
    options = _recipes.with_defaults(replace(options, kernel=model.kernel))
    _network.check(model, test)
    train, validation = everything, None
    try:
        if options.validation is not None:
            train, validation = split(everything, options.validation, options.seed)
        coordinator = Coordinator(
            model,
            _recipes.optimizer(options, _recipes.total_steps(options, len(train))),
            batch_size=options.batch_size,
            shard_size=options.shard_size,
            seed=options.seed,
            parameters=parameters,
            clip_norm=options.clip_norm,
            on_nan=options.on_nan,
            step_timeout=options.step_timeout,
            max_tries=options.max_tries,
            **where,
        )
    except ValueError as error:
        raise as_usage(error) from None
    stack.callback(coordinator.close)
    stack.callback(faults.end)
    options = replace(options, shard_size=coordinator.shard_size)
    metadata = _resume.describe(options, everything, test)
    interrupts.check()
    with interrupts.delayed():
        place = new_folder(options.out, continues=arguments.continues) if resumed is None else resumed.folder
        folder = RunFolder(place)
        stack.callback(folder.close)
        recorder = Recorder(place, coordinator, console)
        stack.callback(recorder.close)
        if resumed is None and holds_run(str(place)):
            raise UsageError(f"another run began in {place} at the same moment: continue it with --resume {place}")
        shown = _evaluated(test, options.evaluate_on)
        training = Training(
            coordinator,
            train,
            validation,
            shown,
            options,
            folder,
            metadata,
            console,
            interrupts,
            faults,
            recorder,
            _results.said(arguments, options, coordinator),
        )
        if resumed is not None:
            _restore(training, resumed)
        folder.write_config(replace(options, workers=coordinator.n_workers).toml())
        if not training.finished:
            session = environment.gather(
                _results.started(arguments), _results.repeat(options), training.said, metadata["data"]
            )
            recorder.begin("started" if resumed is None else "resumed", session)
        if resumed is None:
            before = time.monotonic()
            folder.save(coordinator, metadata)
            if options.max_time is not None:  # The last checkpoint will take as long as this one, or longer.
                room = min(LEAVING + 3 * (time.monotonic() - before), options.max_time / 2)
                interrupts.limit(begun + options.max_time - room)
        interrupts.at_once = training.drop
    console.note(
        f"LeNet-5, {count(model.layout.size, 'parameter')}, on {count(len(train), 'image')} of {train.name}; "
        f"kernel {options.kernel}; {_workers(coordinator, workers.count, how)}; "
        f"batches of {coordinator.batch_size}"
        + (f" in shards of {coordinator.shard_size}" if coordinator.leaf is None else "")
    )
    if validation is not None:
        console.note(f"{count(len(validation), 'image')} held out for validation: they decide which epoch is best")
    if coordinator.workers_note is not None:
        # The sentence of the library, with the remedy in terms of this command.
        smaller = "a smaller --shard-size or " if coordinator.leaf is None and coordinator.shard_size > 1 else ""
        fact = coordinator.workers_note.partition("; ")[0]
        console.note(f"note: {fact}; {smaller}a larger --batch-size makes more")
    if options.evaluate_on is not None and options.evaluate_on > len(test):
        console.note(f"note: --evaluate-on {options.evaluate_on}: all {count(len(test), 'test image')} are used")
    _engines.say_unused(flags(arguments), options.engine, console)
    _network.say_unit(model, train, console)
    return training


def _workers(coordinator: Coordinator, asked: int, how: str) -> str:
    """How many workers run, and why. A separate note says why there are fewer than asked for."""
    if coordinator.workers_note is not None and coordinator.n_workers < asked:
        return f"{coordinator.n_workers} of {count(asked, 'worker')}"
    return f"{count(coordinator.n_workers, 'worker')} ({how})"


def _build(data: Dataset, kernel: str) -> Sequential:
    """The network for these images; DatasetError if there is none, such as for pixels that can't be normalised."""
    try:
        return lenet5_for(data, kernel=kernel)
    except ValueError as error:
        raise DatasetError(f"{data.name}: {error}") from error


def _resumed(arguments: argparse.Namespace, given: dict[str, Any]) -> Resumed | None:
    """The run to continue, if there is one."""
    if arguments.continues:
        if arguments.resume is not None:
            raise UsageError("--continue goes with --out, which names the folder; --resume names it too")
        if not given.get("out"):
            raise UsageError("--continue needs --out FOLDER: the folder to begin a run in, or to continue")
        return _resume.find(given["out"], given, fall_back=True) if holds_run(given["out"]) else None
    return None if arguments.resume is None else _resume.find(arguments.resume, given)


def _evaluated(test: Dataset, number: int | None) -> Dataset | None:
    """The test images to evaluate on: all, or ``number`` of them, evenly spread; None for 0."""
    if number == 0:
        return None
    if number is None or number >= len(test):
        return test
    rows = np.arange(number) * len(test) // number
    return Dataset(test.inputs[rows], test.targets[rows], test.name)


def _restore(training: Training, resumed: Resumed) -> None:
    """Continue from the checkpoint, and restore the folder to its state when that was written."""
    coordinator, options, before, console = training.coordinator, training.options, resumed.before, training.console
    coordinator.load(resumed.file, may_differ=("optimizer",))  # Its schedule follows the number of epochs.
    # Figures of an unfinished epoch are dropped if it continues.
    training.metadata |= {"figures": resumed.figures, "partial": resumed.partial if training.finished else None}
    training.folder.make_last(resumed.file)
    training.folder.write_metrics(training.lines())
    for note in resumed.notes:
        console.note(note)
    if training.finished:
        console.note(
            f"the run in {resumed.folder} is finished: nothing is left to train "
            f"(to train longer, give a larger {' and a larger '.join(training.limits)})"
        )
        return
    console.note(f"resuming {resumed.folder} after {progress(coordinator)}")
    samples = len(training.train)
    now, then = (_recipes.schedule(each, _recipes.total_steps(each, samples)) for each in (options, before))
    if any(
        rate_at(now, step) != rate_at(then, step) for step in range(0, coordinator.step, 1 + coordinator.step // 10_000)
    ):
        console.note(
            f"note: --epochs {options.epochs} instead of {before.epochs}: from here on the learning rate follows the "
            f"{options.schedule} schedule of a run of {options.epochs}, so the result is not that of such a run"
        )
