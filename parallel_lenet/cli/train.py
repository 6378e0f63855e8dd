"""Train LeNet-5: workers compute the gradients of a batch's shards, a coordinator averages them and takes the step."""

import argparse
import json
import sys
import warnings
from dataclasses import replace
from typing import Any

from parallel_lenet.cli import chaos, engines, network, recipes, resume
from parallel_lenet.cli.chaos import Chaos
from parallel_lenet.cli.console import Console, count
from parallel_lenet.cli.interrupts import Interrupted, Interrupts
from parallel_lenet.cli.options import UsageError, add_train_options, as_usage, train_workers
from parallel_lenet.cli.options import resolve as resolve_options
from parallel_lenet.cli.resume import Resumed
from parallel_lenet.cli.runs import RunFolder, new_folder
from parallel_lenet.cli.training import Training
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.datasets import load
from parallel_lenet.reports import EpochReport

HELP = "train LeNet-5 on all cores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    add_train_options(parser)
    parser.add_argument("--config", metavar="FILE", help="a TOML file of these options, such as a run's config.toml")
    parser.add_argument(
        "--resume", metavar="FOLDER", help="go on with the run in this folder, or from one of its checkpoints"
    )
    parser.add_argument("--chaos", metavar="PLAN", help=chaos.HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object, the results, on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress and no notes, only the results")


def run(arguments: argparse.Namespace) -> int:
    """Train, and leave a run folder."""
    console = Console(json=arguments.json, quiet=arguments.quiet)
    with Interrupts() as interrupts, console.warnings_as_notes():
        training: Training | None = None
        try:
            training = _prepare(arguments, console, interrupts)
            reports = training.run()
            interrupts.check()
        except Interrupted:
            interrupts.heed()
            assert interrupts.number is not None
            if training is None:
                print("parallel-lenet: interrupted before the run began", file=sys.stderr)
                return 128 + interrupts.number
            return training.leave(interrupts.number)
        finally:
            interrupts.heed()
            if training is not None:
                training.chaos.end()
                training.coordinator.close()
        result = _result(training, reports)
        if arguments.json:
            print(json.dumps(result))
        else:
            _show(result, console)
    return 0


def _prepare(arguments: argparse.Namespace, console: Console, interrupts: Interrupts) -> Training:
    """Everything up to the first step: data, network, coordinator, and the run's folder with a first checkpoint."""
    resumed = None if arguments.resume is None else resume.find(arguments)
    options = resolve_options(arguments) if resumed is None else resumed.options
    workers = train_workers(arguments, None if resumed is None else resumed.before)
    faults = Chaos(arguments.chaos)
    if arguments.chaos is not None and options.engine != "processes":
        raise UsageError(f"--chaos disturbs the workers of --engine processes, not of {options.engine}")
    engine, how = engines.make(
        options.engine, options.cluster_address, workers, options.step_timeout, options.max_tries
    )
    train, test = load(options.dataset, options.data_dir)
    interrupts.check()
    if resumed is not None:
        resume.check_data(resumed, train, test)
    described = network.describe(train) if resumed is None else resumed.described
    model = network.build(described, options.kernel)
    options = recipes.with_defaults(replace(options, kernel=model.kernel))
    network.check(model, test)
    try:
        with warnings.catch_warnings(record=True) as advice:
            coordinator = Coordinator(
                model,
                recipes.optimizer(options, recipes.total_steps(options, len(train))),
                n_workers=workers.count,
                batch_size=options.batch_size,
                shard_size=options.shard_size,
                engine=engine,
                seed=options.seed,
                clip_norm=options.clip_norm,
                on_nan=options.on_nan,
                step_timeout=options.step_timeout,
                max_tries=options.max_tries,
            )
    except ValueError as error:
        raise as_usage(error) from None
    options = replace(options, shard_size=coordinator.shard_size)
    metadata = resume.describe(options, described, train, test)
    interrupts.check()
    with interrupts.held():
        folder = RunFolder(new_folder(options.out) if resumed is None else resumed.folder)
        training = Training(coordinator, train, test, options, folder, metadata, console, interrupts, faults)
        if resumed is not None:
            _go_on(training, resumed)
        folder.write_config(replace(options, workers=coordinator.n_workers).toml())
        if resumed is None:
            folder.save(coordinator, metadata)
        interrupts.at_once = training.drop
    console.note(
        f"LeNet-5, {count(model.layout.size, 'parameter')}, on {count(len(train), 'image')} of {train.name}; "
        f"kernel {options.kernel}; {count(coordinator.n_workers, 'worker')} ({how}); "
        f"batches of {coordinator.batch_size} in shards of {coordinator.shard_size}"
    )
    for warning in advice:
        console.note(f"note: {warning.message}")
    network.say_unit(model, train, console)
    network.say_if_compiling(model, console)
    return training


def _go_on(training: Training, resumed: Resumed) -> None:
    """Take over the checkpoint, and make the folder as it was when that was written."""
    coordinator, options, before = training.coordinator, training.options, resumed.before
    coordinator.load(resumed.file)
    if options.epochs < coordinator.epoch:
        raise UsageError(
            f"--epochs must be at least {coordinator.epoch}, which the run in {resumed.folder} has finished, "
            f"not {options.epochs}"
        )
    training.folder.take(resumed.file)
    if training.finished:
        training.console.note(f"the run in {resumed.folder} is finished: nothing is left to train")
        return
    training.folder.write_metrics(coordinator.history.epochs)
    training.console.note(
        f"resuming {resumed.folder} after {count(coordinator.epoch, 'epoch')} and "
        f"{count(coordinator.cursor, 'image')}, step {coordinator.step:,}"
    )
    if options.epochs != before.epochs:
        training.console.note(
            f"note: --epochs {options.epochs} instead of {before.epochs}: from here on the learning rate follows the "
            f"{options.schedule} schedule of a run of {options.epochs}, so the result is not that of such a run"
        )


def _result(training: Training, reports: list[EpochReport]) -> dict[str, Any]:
    coordinator, options = training.coordinator, training.options
    last = reports[-1]
    seconds = sum(report.seconds for report in reports)
    images = sum(report.images_per_second * report.seconds for report in reports)
    return {
        "dataset": options.dataset if options.data_dir is None else options.data_dir,
        "kernel": options.kernel,
        "engine": options.engine,
        "workers": coordinator.n_workers,
        "epochs": coordinator.epoch,
        "steps": coordinator.step,
        "batch_size": coordinator.batch_size,
        "shard_size": coordinator.shard_size,
        "seed": options.seed,
        "epoch_seconds": [report.seconds for report in reports],
        "train_images_per_second": images / seconds,
        "train_loss": last.train_loss,
        "train_accuracy": last.train_accuracy,
        "test_loss": last.validation_loss,
        "test_accuracy": last.validation_accuracy,
        "parameters_sha256": coordinator.parameters_sha256(),
        "run_dir": str(training.folder.path),
    }


def _show(result: dict[str, Any], console: Console) -> None:
    rows = [
        ("test accuracy", f"{result['test_accuracy']:.2%}"),
        ("test loss", f"{result['test_loss']:.4f}"),
        ("train loss", f"{result['train_loss']:.4f}"),
        ("training", f"{sum(result['epoch_seconds']):.1f} s, {result['steps']:,} steps"),
        ("images a second", f"{result['train_images_per_second']:,.0f}"),
        ("workers", str(result["workers"])),
        ("parameters SHA-256", result["parameters_sha256"][:16] + "..."),
        ("run folder", result["run_dir"]),
    ]
    console.table("LeNet-5, trained", ("", "result"), rows)
