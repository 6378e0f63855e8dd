"""The results of a run with all its options, as JSON and as a table."""

import argparse
import os
import shlex
from dataclasses import asdict
from typing import Any

from parallel_lenet.archive import CheckpointError
from parallel_lenet.cli import _recipes, _run_notes, _user_model
from parallel_lenet.cli._console import Console
from parallel_lenet.cli._options import OPTIONS, TrainOptions, with_dashes
from parallel_lenet.cli._training import Training, command_prefix, decimals
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.display import count
from parallel_lenet.kernels import files
from parallel_lenet.runs import BEST

REPORT_VARIABLE = "PARALLEL_LENET_REPORT"
# The options that decide no bit of the result.
LEFT_OUT = ("workers", "engine", "cluster_address", "out", "max_time", "checkpoint_every", "step_timeout", "max_tries")


def start_command(arguments: argparse.Namespace) -> str:
    """The command that started the run."""
    words: list[str] = getattr(arguments, "words", [])
    return shlex.join([*shlex.split(command_prefix()), *words[words[:1] == ["train"] :]])


def repeat_command(options: TrainOptions) -> str:
    """The command that starts a run with the same result. Options that decide no bit are left out."""
    words = ["parallel-lenet", "train"]
    of_recipe = _recipes.options_of(asdict(options))
    left_out = (*LEFT_OUT, "dataset") if options.data_dir else LEFT_OUT
    for name, option in OPTIONS.items():
        value = getattr(options, name)
        if name not in left_out and value != of_recipe.get(name, option.default):
            text = {"kernel": files.path_of, "model": _user_model.without_hash}.get(name, str)(value)
            words += [f"--{with_dashes(name)}"] if value is True else [f"--{with_dashes(name)}", text]
    return shlex.join(words)


def reports(arguments: argparse.Namespace) -> bool:
    """Whether a report is written at the end. The flag decides, else the environment."""
    return os.environ.get(REPORT_VARIABLE) != "0" if arguments.report is None else bool(arguments.report)


def options_in_force(
    arguments: argparse.Namespace, options: TrainOptions, coordinator: Coordinator
) -> dict[str, Any]:  # fmt: skip
    """All options, as they are in force for this start."""
    return {
        **asdict(options),
        "workers": coordinator.n_workers,
        "config": arguments.config,
        "resume": arguments.resume,
        "continue": arguments.continues,
        "chaos": arguments.chaos,
        "log": arguments.log,
        "trace": arguments.trace,
        "report": reports(arguments),
    }


def results(training: Training, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """All options and all results of a finished training. Raises CheckpointError if there is no finished epoch."""
    if not lines:
        raise CheckpointError(f"{training.folder.path}: its checkpoint holds no finished epoch")
    coordinator = training.coordinator
    options = training.options
    last = lines[-1]
    seconds = sum(line["seconds"] for line in lines)
    images = sum(line["images_per_second"] * line["seconds"] for line in lines)
    best = training.best_epoch
    figures = {name: value for name, value in last.items() if name.partition("_")[0] in ("train", "validation", "test")}
    return {
        **training.options_in_force,
        "dataset": options.data_dir or options.dataset,
        "finished_epochs": coordinator.epoch,
        "steps": coordinator.step,
        "train_images": len(training.train),
        "epoch_seconds": [line["seconds"] for line in lines],
        "train_images_per_second": images / seconds if seconds else 0.0,
        **figures,
        "stopped_early": training.stopped_early,
        "best": None if best is None else {"epoch": best, **training.figures[best - 1]},
        "parameters_sha256": coordinator.parameters_sha256(),
        "run_dir": str(training.folder.path),
        "report_file": None if training.report is None else str(training.report),
    }


def show(result: dict[str, Any], console: Console) -> None:
    rows = []
    for name in ("test", "validation"):
        if result.get(f"{name}_accuracy") is not None:
            images = count(result[f"{name}_images"], "image")
            rows.append((f"{name} accuracy", f"{result[f'{name}_accuracy']:.2%} of {images}"))
            rows.append((f"{name} loss", decimals(result[f"{name}_loss"])))
    if result["evaluate_on"] == 0:
        rows.append(("test accuracy", "not evaluated (--evaluate-on 0)"))
    if result["best"] is not None:
        best = result["best"]
        by_loss = result["best_by"] == "loss"
        value = decimals(best["validation_loss"]) if by_loss else f"{best['validation_accuracy']:.2%}"
        rows.append(("best epoch", f"{best['epoch']}, by validation {result['best_by']} {value}"))
        if best["test_accuracy"] is not None:
            rows.append(("its test accuracy", f"{best['test_accuracy']:.2%} ({os.path.join(result['run_dir'], BEST)})"))
    rows += [
        ("train loss", decimals(result["train_loss"])),
        ("training", f"{sum(result['epoch_seconds']):.1f} s, {count(result['steps'], 'step')}"),
        ("images per second", f"{result['train_images_per_second']:,.0f}"),
        ("workers", str(result["workers"])),
        ("parameters SHA-256", result["parameters_sha256"][:16] + "..."),
        ("run folder", result["run_dir"]),
        *([("report", result["report_file"])] if result["report_file"] else []),
    ]
    console.table(f"{_run_notes.network_name(result['model'])}, trained", ("", "result"), rows)
