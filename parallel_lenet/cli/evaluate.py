"""Evaluate a checkpoint: the loss and accuracy of a trained network on test images."""

import argparse
from typing import Any

from parallel_lenet.checkpoint import Checkpoint
from parallel_lenet.cli import _checkpoints, _engines, _network, _weights
from parallel_lenet.cli._console import Console
from parallel_lenet.cli._options import UsageError, add_train_options, as_usage, flags, worker_count
from parallel_lenet.cli._sources import load
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.cores import WorkerCount
from parallel_lenet.datasets import Dataset, DatasetError
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.optimizers import SGD
from parallel_lenet.parameters import Vector

DEFAULT = "mnist-5k"
HELP = "measure a checkpoint on test images"
EXAMPLES = (
    ("the newest run, on the test images of its data", "evaluate"),
    ("a certain run, on other images", "evaluate runs/mine --data-dir FOLDER"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="a run's checkpoint.npz or its folder (default: that of the newest run in the folder runs), "
        "measured on that run's test images unless --dataset or --data-dir names others",
    )
    add_train_options(
        parser, names=("dataset", "data_dir", "image_size", "kernel", "model", "workers", "engine", "cluster_address")
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="measure the checkpoint's network with the weights in this file: safetensors, .npz or another checkpoint",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, the results, on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Make the network that the checkpoint describes, and evaluate it."""
    console = Console(json=arguments.json)
    flag_options = flags(arguments)
    workers = worker_count(flag_options.get("workers"))
    file = _checkpoints.find(arguments.checkpoint, console)
    _checkpoints.require(file)
    checkpoint = Checkpoint.load(file)
    with console.warnings_as_notes():
        model = _checkpoints.model_of(checkpoint, flag_options)
    parameters = _parameters(arguments.weights, checkpoint, model)
    name, test = _test_images(file, checkpoint, model, flag_options, console)
    _engines.note_unused(flag_options, flag_options.get("engine", "processes"), console)
    coordinator = _coordinator(model, parameters, len(test), flag_options, workers)
    metrics = _measure(coordinator, test, console)
    digest = coordinator.parameters_sha256()
    if arguments.json:
        result = {
            "checkpoint": file,
            "weights": arguments.weights,
            "dataset": name,
            "engine": flag_options.get("engine", "processes"),
            "cluster_address": flag_options.get("cluster_address"),
            "kernel": getattr(model, "kernel", None),
            "model": flag_options.get("model"),
            "workers": coordinator.n_workers,
            "test_loss": metrics.loss,
            "test_accuracy": metrics.accuracy,
            "correct": metrics.correct,
            "images": metrics.count,
            "parameters_sha256": digest,
        }
        console.result(result)
    else:
        rows = [
            ("test accuracy", f"{metrics.accuracy:.2%} ({metrics.correct:,} of {metrics.count:,})"),
            ("test loss", f"{metrics.loss:.4f}"),
            ("parameters SHA-256", f"{digest[:16]}..."),
        ]
        console.table(f"{arguments.weights or file} on {test.name}", ("", "result"), rows)
    return 0


def _parameters(weights: str | None, checkpoint: Checkpoint, model: Model) -> Vector:
    """The parameters to measure: those of the file ``weights`` if it is given, else the checkpoint's."""
    if weights is None:
        return checkpoint.state.parameters
    if not isinstance(model, Sequential):
        raise UsageError(f"--weights is for networks made of layers: --model names a {type(model).__name__}")
    return _weights.load("--weights", weights, model)


def _test_images(
    file: str, checkpoint: Checkpoint, model: Model, flag_options: dict[str, Any], console: Console
) -> tuple[str, Dataset]:
    """The name or the folder of the images, and the test images. Raises DatasetError if the network can't take them."""
    dataset, data_dir = _checkpoints.images_of(file, flag_options, checkpoint.metadata, console)
    size = _checkpoints.image_size(flag_options, checkpoint.metadata, model)
    test = load(dataset or DEFAULT, data_dir, "data_dir" in flag_options, size).test
    has_source = dataset is not None or data_dir is not None
    assumption = f"the checkpoint names no images, so --dataset {DEFAULT} was assumed"
    try:
        _network.check(model, test)
    except DatasetError as error:
        if has_source:
            raise
        raise DatasetError(f"{error} ({assumption})") from None
    if not has_source:
        console.note(f"note: {assumption}")
    return data_dir or dataset or DEFAULT, test


def _coordinator(
    model: Model, parameters: Vector, images: int, flag_options: dict[str, Any], workers: WorkerCount
) -> Coordinator:
    """A coordinator that evaluates. Raises UsageError if an option is out of its range."""
    where, _ = _engines.arguments(flag_options.get("engine", "processes"), flag_options.get("cluster_address"), workers)
    batch_size = max(128, images)  # Large enough that every worker gets a shard.
    try:
        return Coordinator(model, SGD(), batch_size=batch_size, parameters=parameters, **where)
    except ValueError as error:
        raise as_usage(error) from None


def _measure(coordinator: Coordinator, test: Dataset, console: Console) -> Metrics:
    """The metrics of all test images, with a progress bar. Closes the coordinator."""
    with console.warnings_as_notes(), coordinator:
        coordinator.warm_up(test)
        with console.progress("test images", len(test)) as progress:
            for metrics in coordinator.iterate_evaluation(test):
                progress(metrics.count, f"accuracy {metrics.accuracy:.2%}")
    return metrics
