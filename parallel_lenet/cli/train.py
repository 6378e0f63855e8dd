"""Train LeNet-5: workers compute the gradients of a batch's shards, a coordinator averages them and takes the step."""

import argparse
import json
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from parallel_lenet.cli import network
from parallel_lenet.cli.console import Console, count
from parallel_lenet.cli.options import TrainOptions, UsageError, add_train_options, resolve
from parallel_lenet.coordinator import Coordinator, EpochReport, StepReport
from parallel_lenet.datasets import Dataset, load
from parallel_lenet.optimizers import SGD, Adam, AdamW, Momentum, Optimizer, RMSprop
from parallel_lenet.schedules import Constant, Cosine, Schedule, StepDecay, Warmup

HELP = "train LeNet-5 on all cores"

LEARNING_RATES = {"sgd": 0.1, "momentum": 0.02, "nesterov": 0.02, "rmsprop": 0.001, "adam": 0.002, "adamw": 0.004}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    add_train_options(parser)
    parser.add_argument("--config", metavar="FILE", help="a TOML file of these options, such as a run's config.toml")
    parser.add_argument("--json", action="store_true", help="print one JSON object, the results, on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress and no notes, only the results")


def run(arguments: argparse.Namespace) -> int:
    """Train, and leave a run folder."""
    options, workers = resolve(arguments)
    console = Console(json=arguments.json, quiet=arguments.quiet)
    train, test = load(options.dataset, options.data_dir)
    described = network.describe(train)
    model = network.build(described, options.kernel)
    options = replace(options, kernel=model.kernel)
    network.check(model, test)
    steps = -(-len(train) // options.batch_size) * options.epochs
    try:
        with warnings.catch_warnings(record=True) as advice:
            coordinator = Coordinator(
                model,
                _optimizer(options, min(steps, options.max_steps or steps)),
                n_workers=workers.count,
                batch_size=options.batch_size,
                shard_size=options.shard_size,
                engine=options.engine,
                seed=options.seed,
                clip_norm=options.clip_norm,
            )
    except ValueError as error:
        raise UsageError(str(error)) from None
    folder = _new_folder(options.out)
    resolved = replace(options, workers=coordinator.n_workers, shard_size=coordinator.shard_size, out=str(folder))
    (folder / "config.toml").write_text(resolved.toml(), encoding="utf-8")
    how = "in this process" if options.engine == "serial" else workers.how
    console.note(
        f"LeNet-5, {count(model.layout.size, 'parameter')}, on {count(len(train), 'image')} of {train.name}; "
        f"kernel {options.kernel}; {count(coordinator.n_workers, 'worker')} ({how}); "
        f"batches of {coordinator.batch_size} in shards of {coordinator.shard_size}"
    )
    for warning in advice:
        console.note(f"note: {warning.message}")
    with coordinator:
        reports = _train(coordinator, train, test, options, folder, console, described)
    result = _result(coordinator, options, reports, folder)
    if arguments.json:
        print(json.dumps(result))
    else:
        _show(result, console)
    return 0


@dataclass
class _Epoch:
    """The sums of an epoch that is under way."""

    images: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0

    def add(self, report: StepReport) -> None:
        self.images += report.count
        self.loss_sum += report.loss * report.count
        self.correct += report.accuracy * report.count
        self.seconds += report.seconds


def _train(
    coordinator: Coordinator,
    train: Dataset,
    test: Dataset,
    options: TrainOptions,
    folder: Path,
    console: Console,
    described: network.Description,
) -> list[EpochReport]:
    """Epoch by epoch: progress, a line, a line of metrics.jsonl, a checkpoint."""
    reports: list[EpochReport] = []
    training = coordinator.iterate(train, options.epochs, test)
    metadata = {
        "network": described,
        "kernel": options.kernel,
        "dataset": options.dataset,
        "data_dir": options.data_dir,
    }
    while coordinator.epoch < options.epochs and coordinator.step != options.max_steps:
        epoch = _Epoch()
        report: EpochReport | None = None
        with console.progress(f"epoch {coordinator.epoch + 1}/{options.epochs}", len(train)) as progress:
            for step in training:
                if isinstance(step, EpochReport):
                    report = step
                    break
                epoch.add(step)
                rate = epoch.images / epoch.seconds
                progress(epoch.images, f"loss {epoch.loss_sum / epoch.images:.4f}  {rate:,.0f} images/s")
                if step.step == options.max_steps and epoch.images < len(train):
                    report = _partial(coordinator, epoch, test)
                    break
        assert report is not None
        reports.append(report)
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(report)) + "\n")
        coordinator.save(folder / "checkpoint.npz", metadata)
        console.line(_line(report, options.epochs))
    return reports


def _partial(coordinator: Coordinator, epoch: _Epoch, test: Dataset) -> EpochReport:
    """The report of an epoch that ``--max-steps`` cut short."""
    metrics = coordinator.evaluate(test)
    return EpochReport(
        epoch=coordinator.epoch + 1,
        step=coordinator.step,
        train_loss=epoch.loss_sum / epoch.images,
        train_accuracy=epoch.correct / epoch.images,
        seconds=epoch.seconds,
        images_per_second=epoch.images / epoch.seconds,
        validation_loss=metrics.loss,
        validation_accuracy=metrics.accuracy,
    )


def _line(report: EpochReport, epochs: int) -> str:
    assert report.validation_accuracy is not None
    return (
        f"epoch {report.epoch:>{len(str(epochs))}}/{epochs}  "
        f"train loss {report.train_loss:.4f}, {report.train_accuracy:.2%}  "
        f"test loss {report.validation_loss:.4f}, {report.validation_accuracy:.2%}  "
        f"{report.seconds:.2f} s, {report.images_per_second:,.0f} images/s"
    )


def _optimizer(options: TrainOptions, total_steps: int) -> Optimizer:
    """What the options name; ValueError where a number is out of its range."""
    rate = LEARNING_RATES[options.optimizer] if options.learning_rate is None else options.learning_rate
    decay = (1.0 if options.optimizer == "adamw" else 0.0) if options.weight_decay is None else options.weight_decay
    left = max(1, total_steps - options.warmup)
    schedules: dict[str, Schedule] = {
        "constant": Constant(rate),
        "step": StepDecay(rate, every=-(-left // 3)),
        "cosine": Cosine(rate, left),
    }
    schedule = schedules[options.schedule]
    if options.warmup:
        schedule = Warmup(schedule, options.warmup)
    optimizers: dict[str, Optimizer] = {
        "sgd": SGD(schedule, weight_decay=decay),
        "momentum": Momentum(schedule, weight_decay=decay),
        "nesterov": Momentum(schedule, nesterov=True, weight_decay=decay),
        "rmsprop": RMSprop(schedule, weight_decay=decay),
        "adam": Adam(schedule, weight_decay=decay, compiled=options.kernel == "compiled"),
        "adamw": AdamW(schedule, weight_decay=decay, compiled=options.kernel == "compiled"),
    }
    return optimizers[options.optimizer]


def _new_folder(out: str | None) -> Path:
    """An empty folder for the run; UsageError where there is something in it."""
    if out is not None:
        folder = Path(out)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"--out {out} exists already: name a new or empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for name in (stamp, *(f"{stamp}-{i}" for i in range(2, 1000))):
        try:
            folder = Path("runs") / name
            folder.mkdir(parents=True)
        except FileExistsError:  # Another run began in the same second.
            continue
        return folder
    raise UsageError(f"runs/{stamp} and 998 more exist already: name a folder with --out")


def _result(
    coordinator: Coordinator, options: TrainOptions, reports: list[EpochReport], folder: Path
) -> dict[str, Any]:
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
        "run_dir": str(folder),
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
