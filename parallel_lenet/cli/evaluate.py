"""Evaluate a checkpoint: the loss and accuracy of a trained network on test images."""

import argparse

from parallel_lenet.checkpoint import Checkpoint
from parallel_lenet.cli import _checkpoints, _engines, _network, _weights
from parallel_lenet.cli._console import Console
from parallel_lenet.cli._options import UsageError, add_train_options, as_usage, flags, worker_count
from parallel_lenet.cli._sources import load
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.datasets import DatasetError
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.optimizers import SGD

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
        help="a run's checkpoint.npz or its folder (default: that of the newest run in the folder runs); without "
        "--dataset and --data-dir it is measured on that run's test images",
    )
    add_train_options(
        parser, only=("dataset", "data_dir", "image_size", "kernel", "model", "workers", "engine", "cluster_address")
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
    workers = worker_count(flags(arguments).get("workers"))
    file = _checkpoints.find(arguments.checkpoint, console)
    _checkpoints.require(file)
    checkpoint = Checkpoint.load(file)
    asked = flags(arguments)
    with console.warnings_as_notes():
        model = _checkpoints.model_of(checkpoint, asked)
    parameters = checkpoint.state.parameters
    if arguments.weights is not None:
        if not isinstance(model, Sequential):
            raise UsageError(f"--weights is for networks made of layers: --model names a {type(model).__name__}")
        parameters = _weights.load("--weights", arguments.weights, model)
    dataset, data_dir = _checkpoints.images_of(file, asked, checkpoint.metadata, console)
    size = _checkpoints.image_size(asked, checkpoint.metadata, model)
    test = load(dataset or DEFAULT, data_dir, "data_dir" in asked, size).test
    assumed = f"the checkpoint names no images, so --dataset {DEFAULT} was assumed"
    try:
        _network.check(model, test)
    except DatasetError as error:
        if dataset is not None or data_dir is not None:
            raise
        raise DatasetError(f"{error} ({assumed})") from None
    if dataset is None and data_dir is None:
        console.note(f"note: {assumed}")
    _engines.say_unused(asked, asked.get("engine", "processes"), console)
    where, _ = _engines.arguments(asked.get("engine", "processes"), asked.get("cluster_address"), workers)
    batch_size = max(128, len(test))  # Large enough that every worker gets a shard.
    try:
        coordinator = Coordinator(model, SGD(), batch_size=batch_size, parameters=parameters, **where)
    except ValueError as error:
        raise as_usage(error) from None
    with console.warnings_as_notes(), coordinator:
        coordinator.warm_up(test)
        with console.progress("test images", len(test)) as progress:
            for metrics in coordinator.iterate_evaluation(test):
                progress(metrics.count, f"accuracy {metrics.accuracy:.2%}")
    result = {
        "checkpoint": file,
        "weights": arguments.weights,
        "dataset": data_dir or dataset or DEFAULT,
        "engine": asked.get("engine", "processes"),
        "cluster_address": asked.get("cluster_address"),
        "kernel": getattr(model, "kernel", None),
        "model": asked.get("model"),
        "workers": coordinator.n_workers,
        "test_loss": metrics.loss,
        "test_accuracy": metrics.accuracy,
        "correct": metrics.correct,
        "images": metrics.count,
        "parameters_sha256": coordinator.parameters_sha256(),
    }
    if arguments.json:
        console.result(result)
    else:
        rows = [
            ("test accuracy", f"{metrics.accuracy:.2%} ({metrics.correct:,} of {metrics.count:,})"),
            ("test loss", f"{metrics.loss:.4f}"),
            ("parameters SHA-256", coordinator.parameters_sha256()[:16] + "..."),
        ]
        console.table(f"{arguments.weights or file} on {test.name}", ("", "result"), rows)
    return 0
