"""Prepares a training run up to its first step: options, data, network, coordinator, and the run's folder.

The file has more than 300 lines: each part is a function of its own, in the order of `prepare`.
"""

import argparse
import itertools
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from parallel_lenet.batching import split
from parallel_lenet.checks import InvalidValue, quoted
from parallel_lenet.cli import (
    _config,
    _engines,
    _network,
    _optimizer,
    _recipes,
    _results,
    _resume,
    _run_notes,
    _sources,
    _trackers,
    _user_model,
    _weights,
)
from parallel_lenet.cli._chaos import Chaos
from parallel_lenet.cli._console import Console, printable
from parallel_lenet.cli._interrupts import PATIENCE, Interrupts
from parallel_lenet.cli._options import (
    OPTIONS,
    POOLINGS,
    TrainOptions,
    UsageError,
    as_usage,
    check,
    flags,
    parse_augment,
    parse_class_weights,
    sides,
    with_dashes,
    worker_count,
)
from parallel_lenet.cli._recorder import Recorder
from parallel_lenet.cli._resume import EarlierRun
from parallel_lenet.cli._run_folder import RunFolder, holds_run, new_folder
from parallel_lenet.cli._sources import Images, load
from parallel_lenet.cli._trackers import Trackers
from parallel_lenet.cli._training import Training, position
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.cores import WorkerCount
from parallel_lenet.datasets import Dataset, DatasetError, sample_weights
from parallel_lenet.model import Model
from parallel_lenet.network.fitted import lenet5_for
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector
from parallel_lenet.runs import environment
from parallel_lenet.schedules import rate_at
from parallel_lenet.stopping import check_best_by
from parallel_lenet.tracing import Trace
from parallel_lenet.trained import load_model

STOPPING = 1.5 + PATIENCE  # Seconds of --max-time that are kept to drop a step, save and end.
REPORTING = 4.0  # Seconds of --max-time that are kept to write the report.


@dataclass(frozen=True)
class Request:
    """What the command line, the environment, a configuration file and a checkpoint request together."""

    arguments: argparse.Namespace
    explicit_options: dict[str, Any]
    """The options that flags and the file give."""
    options: TrainOptions
    workers: WorkerCount
    earlier_run: EarlierRun | None
    """The run to continue, or None for a new one."""
    start: float
    """When the command began, by `time.monotonic`."""

    @property
    def end(self) -> float | None:
        """The end of ``--max-time``, by `time.monotonic`."""
        return None if self.options.max_time is None else self.start + self.options.max_time

    def limit(self, interrupts: Interrupts, saving: float = 0.0) -> None:
        """Let the run stop before the end of ``--max-time``. A checkpoint takes ``saving`` seconds."""
        if self.options.max_time is not None and self.end is not None:
            reporting = min(REPORTING, self.options.max_time / 10) if _results.reports(self.arguments) else 0.0
            # The last checkpoint takes as long as the first one, or longer.
            room = STOPPING + 3 * saving + reporting
            interrupts.limit(self.end - min(room, self.options.max_time / 2))


def prepare(
    arguments: argparse.Namespace, console: Console, interrupts: Interrupts, start: float, stack: ExitStack
) -> Training:
    """Prepare the run up to its first step: data, network, coordinator, and a folder with a first checkpoint."""
    request = _request(arguments, start)
    arguments.log = _trackers.require(arguments.log)
    request.limit(interrupts)
    chaos = _chaos(arguments.chaos, request.options.engine)
    where, origin = _engines.arguments(request.options.engine, request.options.cluster_address, request.workers)
    images = _load(request, console)
    interrupts.check()
    model, parameters = _model(request, images.train)
    for part in (images.test, images.validation):
        if part is not None:
            _network.check(model, part)
    options = replace(request.options, kernel=getattr(model, "kernel", request.options.kernel))
    if isinstance(model, Sequential):  # A network of the user's may smooth labels without the option.
        options = replace(options, label_smoothing=model.label_smoothing)
    options = _optimizer.with_defaults(options)
    if images.validation is not None:  # Then early stopping holds out no others.
        options = replace(options, validation=None)
    trace = None if arguments.trace is None else _trace(arguments.trace)
    try:
        check_best_by(options.best_by, model)
        train, validation = _split(images, options)
        coordinator = _coordinator(model, parameters, options, len(train), where, trace)
    except ValueError as error:
        raise as_usage(error) from None
    stack.callback(coordinator.close)
    stack.callback(chaos.end)
    options = replace(options, shard_size=coordinator.shard_size)
    metadata = _resume.describe(options, images)
    interrupts.check()
    with interrupts.delay():
        folder = _run_folder(request, stack)
        recorder = Recorder(folder.path, coordinator, console, Trackers(arguments.log, folder.path, console), trace)
        stack.callback(recorder.close)
        training = Training(
            coordinator=coordinator,
            train=train,
            validation=validation,
            test=_evaluation_data(images.test, options.evaluate_on),
            options=options,
            folder=folder,
            metadata=metadata,
            console=console,
            interrupts=interrupts,
            chaos=chaos,
            recorder=recorder,
            options_in_force=_results.options_in_force(arguments, options, coordinator),
            end=request.end,
        )
        if request.earlier_run is not None:
            _restore(training, request.earlier_run)
        if trace is not None and not training.is_finished:
            if request.earlier_run is not None:
                _keep_trace(trace.path, console)
            trace.open()
            stack.callback(trace.close)
        _begin(training, request)
        interrupts.at_once = training.abandon
    _run_notes.note_network(training, model, request.workers.count, origin)
    _run_notes.note_limits(training, flags(arguments), len(images.test))
    _network.note_unit(model, train, console)
    return training


def _request(arguments: argparse.Namespace, start: float) -> Request:
    """The options and the run to continue. Raises UsageError if they are not allowed or disagree."""
    file_options = {} if arguments.config is None else _config.read(arguments.config)
    explicit_options = _config.merge(file_options, flags(arguments))
    options = TrainOptions(**_recipes.expand(explicit_options))
    check(options)
    earlier_run = _find_earlier_run(arguments, explicit_options)
    if earlier_run is not None:
        options = earlier_run.options
    if "patience" in flags(arguments) and not options.early_stopping:
        raise UsageError(f"--patience {options.patience} goes with --early-stopping: give that too")
    workers = worker_count(flags(arguments).get("workers"), file_options.get("workers"))
    return Request(arguments, explicit_options, options, workers, earlier_run, start)


def _chaos(plan: str | None, engine: str) -> Chaos:
    chaos = Chaos(plan)
    if plan is not None and engine != "processes":
        raise UsageError(f"--chaos disturbs the workers of --engine processes, not of {engine}")
    return chaos


def _load(request: Request, console: Console) -> Images:
    """The images, before any are held out. Raises DatasetError if they are not those of the run to continue."""
    options = request.options
    by_user = request.earlier_run is None or "data_dir" in request.explicit_options
    if options.data_dir is not None and not by_user:
        console.note(_sources.reading_note(options.data_dir))
    images = load(options.dataset, options.data_dir, by_user, sides(options.image_size))
    if options.validation is not None and images.validation is not None:
        raise UsageError(
            f"--validation {options.validation}: {options.data_dir} has images for validation itself, "
            f"{len(images.validation):,}: leave it out"
        )
    if request.earlier_run is not None:
        _resume.check_data(request.earlier_run, images)
    if options.data_dir is not None:
        console.note(printable(f"{images.train.name}: {images.train.description}"))
    if images.held_out:
        console.note(
            f"note: {options.data_dir} has no test images, so {len(images.test):,} of its images to train on are held "
            "out for the test"
        )
    return images


def _model(request: Request, data: Dataset) -> tuple[Model, Vector | None]:
    """The network of the run to continue with its parameters, or a new one, whose parameters may be None."""
    if request.options.model is not None:
        return _users_model(request)
    augment = parse_augment(request.options.augment)
    smoothing = request.options.label_smoothing
    if request.earlier_run is not None:
        trained = load_model(request.earlier_run.file, request.options.kernel)
        return _replace_settings(request, trained.model, augment=augment, label_smoothing=smoothing), trained.parameters
    model = _replace_settings(request, _build(data, request.options), augment=augment, label_smoothing=smoothing)
    if request.options.initial_weights is None:
        return model, None
    return model, _weights.load("--initial-weights", request.options.initial_weights, model)


def _split(images: Images, options: TrainOptions) -> tuple[Dataset, Dataset | None]:
    """The images to train on, weighted by ``--class-weights``, and those to validate on, if there are any."""
    train = images.train
    validation = images.validation
    if options.validation is not None:
        train, validation = split(train, options.validation, options.seed)
    if options.class_weights is not None:
        try:
            weights = sample_weights(train.targets, parse_class_weights(options.class_weights))
        except ValueError as error:
            raise UsageError(str(error).replace("class_weights", "--class-weights", 1)) from None
        train = replace(train, weights=weights)
    return train, validation


def _coordinator(
    model: Model,
    parameters: Vector | None,
    options: TrainOptions,
    samples: int,
    where: dict[str, Any],
    trace: Trace | None,
) -> Coordinator:
    """The coordinator for ``samples`` training images. Raises ValueError if an option is out of its range."""
    return Coordinator(
        model,
        _optimizer.optimizer(options, _optimizer.total_steps(options, samples)),
        batch_size=options.batch_size,
        shard_size=options.shard_size,
        seed=options.seed,
        parameters=parameters,
        clip_norm=options.clip_norm,
        on_nan=options.on_nan,
        step_timeout=options.step_timeout,
        max_tries=options.max_tries,
        trace=trace,
        **where,
    )


def _trace(file: str) -> Trace:
    """The trace in a file, which is created once the run's folder is there. Raises UsageError for a folder."""
    if not file or "\0" in file or Path(file).is_dir():
        raise UsageError(f"--trace must name a file, got {quoted(file)}")
    return Trace(file, opens=False)


def _keep_trace(file: Path, console: Console) -> None:
    """Rename the trace that an earlier start of the run left: ``trace.json`` becomes ``trace-1.json``."""
    if not file.is_file():
        return
    stem, dot, ending = file.name.partition(".")
    names = (file.with_name(f"{stem}-{n}{dot}{ending}") for n in itertools.count(1))
    free_name = next(name for name in names if not os.path.lexists(name))
    file.rename(free_name)
    console.note(f"note: --trace {file}: the trace of the run so far is kept as {free_name}")


def _run_folder(request: Request, stack: ExitStack) -> RunFolder:
    """The folder of the run, locked. Raises UsageError if another run began there at the same moment."""
    earlier_run = request.earlier_run
    if earlier_run is None:
        path = new_folder(request.options.out, continues=request.arguments.continues)
    else:
        path = earlier_run.folder
    folder = RunFolder(path)
    stack.callback(folder.close)
    if earlier_run is None and holds_run(str(path)):
        raise UsageError(f"another run began in {path} at the same moment: continue it with --resume {path}")
    return folder


def _begin(training: Training, request: Request) -> None:
    """Write the folder's first files: configuration, environment and, for a new run, a checkpoint."""
    options = training.options
    coordinator = training.coordinator
    training.folder.write_config(replace(options, workers=coordinator.n_workers).toml())
    if not training.is_finished:
        session = environment.gather(
            _results.start_command(request.arguments),
            _results.repeat_command(options),
            training.options_in_force,
            training.metadata["data"],
        )
        training.recorder.begin("started" if request.earlier_run is None else "resumed", session)
    if request.earlier_run is None:
        start = time.monotonic()
        training.folder.save(coordinator, training.metadata)
        request.limit(training.interrupts, saving=time.monotonic() - start)


def _users_model(request: Request) -> tuple[Model, Vector | None]:
    """The model of ``--model``, with the options for networks made of layers if it is one."""
    options = request.options
    assert options.model is not None
    reference = _user_model.parse(options.model)
    assert reference is not None
    for name in ("recipe", "activation", "pooling"):
        if (
            name in flags(request.arguments)
            or request.explicit_options.get(name, OPTIONS[name].default) != OPTIONS[name].default
        ):
            raise UsageError(f"--{name} is for LeNet-5: leave it out, or leave out --model")
    model = _user_model.load(reference)
    if isinstance(model, Sequential):
        changes: dict[str, Any] = {}
        if options.kernel != "auto":
            changes["kernel"] = options.kernel
        if options.augment is not None:
            changes["augment"] = parse_augment(options.augment)
        if "label_smoothing" in request.explicit_options or request.earlier_run is not None:
            changes["label_smoothing"] = options.label_smoothing
        model = _replace_settings(request, model, **changes)
        if options.initial_weights is not None and request.earlier_run is None:
            return model, _weights.load("--initial-weights", options.initial_weights, model)
        return model, None
    for name in ("kernel", "augment", "label_smoothing", "initial_weights"):
        if name in request.explicit_options and request.explicit_options[name] != OPTIONS[name].default:
            raise UsageError(
                f"--{with_dashes(name)} is for networks made of layers: {reference.words} is a {type(model).__name__}"
            )
    return model, None


def _replace_settings(request: Request, model: Sequential, **changes: Any) -> Sequential:
    """The network with these settings changed. Raises UsageError if its loss or kernel can't smooth labels."""
    try:
        return replace(model, **changes)
    except InvalidValue as error:
        usage = as_usage(error)
        if request.options.recipe is not None and error.name not in request.explicit_options:
            usage = UsageError(
                f"{usage} by --recipe {request.options.recipe}: give --{with_dashes(error.name)} 0 beside it"
            )
        raise usage from None


def _build(data: Dataset, options: TrainOptions) -> Sequential:
    """A new network for these images.

    Raises DatasetError if no network fits, as for pixels that can't be normalised.
    """
    try:
        return lenet5_for(data, kernel=options.kernel, activation=options.activation, pooling=POOLINGS[options.pooling])
    except ValueError as error:
        raise DatasetError(f"{data.name}: {error}") from error


def _find_earlier_run(arguments: argparse.Namespace, explicit_options: dict[str, Any]) -> EarlierRun | None:
    """The run to continue, or None for a new one. Raises UsageError if the options about it disagree."""
    if arguments.continues:
        if arguments.resume is not None:
            raise UsageError("--continue goes with --out, which names the folder: leave out --resume")
        if not explicit_options.get("out"):
            raise UsageError("--continue needs --out FOLDER: the folder to begin a run in, or to continue")
        if not holds_run(explicit_options["out"]):
            return None
        return _resume.find(explicit_options["out"], explicit_options, fall_back=True)
    return None if arguments.resume is None else _resume.find(arguments.resume, explicit_options)


def _evaluation_data(test: Dataset, number: int | None) -> Dataset | None:
    """The test images to evaluate on: ``number`` of them, spread evenly. All if it is None, and None if it is 0."""
    if number == 0:
        return None
    if number is None or number >= len(test):
        return test
    rows = np.arange(number) * len(test) // number
    return test.subset(rows)


def _restore(training: Training, earlier_run: EarlierRun) -> None:
    """Continue from the checkpoint, and restore the folder to its state at that checkpoint."""
    coordinator = training.coordinator
    console = training.console
    options = training.options
    earlier_options = earlier_run.earlier_options
    coordinator.load(earlier_run.file, may_differ=("optimizer",))  # Its schedule follows the number of epochs.
    # Figures of an unfinished epoch are dropped if it continues.
    training.metadata |= {
        "figures": earlier_run.figures,
        "partial": earlier_run.partial if training.is_finished else None,
    }
    training.folder.make_last(earlier_run.file)
    training.folder.write_metrics(training.lines())
    for note in earlier_run.notes:
        console.note(note)
    if training.is_finished:
        console.note(
            f"the run in {earlier_run.folder} is finished: nothing is left to train "
            f"(to train longer, give a larger {' and a larger '.join(training.limits)})"
        )
        return
    console.note(f"resuming {earlier_run.folder} after {position(coordinator)}")
    samples = len(training.train)
    new_rates = _optimizer.schedule(options, _optimizer.total_steps(options, samples))
    old_rates = _optimizer.schedule(earlier_options, _optimizer.total_steps(earlier_options, samples))
    steps = range(0, coordinator.step, 1 + coordinator.step // 10_000)
    if any(rate_at(new_rates, step) != rate_at(old_rates, step) for step in steps):
        console.note(
            f"note: --epochs {options.epochs} instead of {earlier_options.epochs}: from here on the learning rate "
            f"follows the {options.schedule} schedule of a run of {options.epochs}. The result is not that of such a "
            "run"
        )
