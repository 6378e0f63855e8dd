"""Evaluate a checkpoint: the loss and accuracy of a trained network on test images."""

import argparse
import json
import os

from parallel_lenet import checkpoint
from parallel_lenet.checkpoint import CheckpointError
from parallel_lenet.cli import engines, network
from parallel_lenet.cli.console import Console
from parallel_lenet.cli.options import UsageError, add_train_options, worker_count
from parallel_lenet.cli.runs import LAST
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.datasets import load
from parallel_lenet.optimizers import SGD
from parallel_lenet.state import checked_parameters, user_metadata

HELP = "measure a checkpoint on test images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a run's checkpoint.npz")
    add_train_options(parser, only=("dataset", "data_dir", "kernel", "workers", "engine", "cluster_address"))
    parser.add_argument("--json", action="store_true", help="print one JSON object, the results, on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Rebuild the network as the checkpoint describes it, and evaluate it."""
    console = Console(json=arguments.json)
    workers = worker_count(vars(arguments).get("workers"))
    if os.path.isdir(arguments.checkpoint):
        file = os.path.join(arguments.checkpoint, LAST)
        raise UsageError(f"{arguments.checkpoint} is a folder: name a checkpoint, such as {file}")
    arrays, described = checkpoint.load(arguments.checkpoint)
    metadata = user_metadata(arguments.checkpoint, described)
    given = {name: value for name, value in vars(arguments).items() if name in ("dataset", "data_dir")}
    source = given or {name: metadata.get(name) for name in ("dataset", "data_dir")}
    kernel = str(vars(arguments).get("kernel") or metadata.get("kernel"))
    if "network" not in metadata:
        raise CheckpointError(
            f"{arguments.checkpoint}: holds no description of its network, as the train command writes it; the program "
            "that saved it can load it, with Coordinator.load, and evaluate"
        )
    try:
        with console.warnings_as_notes():
            model = network.build(metadata["network"], kernel)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{arguments.checkpoint}: describes no network of parallel-lenet: {error}") from None
    parameters = checked_parameters(arguments.checkpoint, arrays, described, model)
    _, test = load(source.get("dataset") or "mnist-5k", source.get("data_dir"))
    network.check(model, test)
    asked = vars(arguments)
    engine, _ = engines.make(asked.get("engine", "processes"), asked.get("cluster_address"), workers)
    with (
        console.warnings_as_notes(),
        Coordinator(model, SGD(), n_workers=workers.count, engine=engine, parameters=parameters) as coordinator,
    ):
        metrics = coordinator.evaluate(test)
    result = {
        "checkpoint": arguments.checkpoint,
        "dataset": source.get("data_dir") or source.get("dataset"),
        "kernel": model.kernel,
        "workers": coordinator.n_workers,
        "test_loss": metrics.loss,
        "test_accuracy": metrics.accuracy,
        "correct": metrics.correct,
        "images": metrics.count,
        "parameters_sha256": coordinator.parameters_sha256(),
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        rows = [
            ("test accuracy", f"{metrics.accuracy:.2%} ({metrics.correct:,} of {metrics.count:,})"),
            ("test loss", f"{metrics.loss:.4f}"),
            ("parameters SHA-256", coordinator.parameters_sha256()[:16] + "..."),
        ]
        console.table(f"{arguments.checkpoint} on {test.name}", ("", "result"), rows)
    return 0
