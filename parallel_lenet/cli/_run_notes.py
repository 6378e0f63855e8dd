"""The notes before the first step: what is trained, on what, and which options have an unexpected effect."""

import os
from typing import Any

from parallel_lenet.cli import _engines, _user_model
from parallel_lenet.cli._training import Training
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.display import count
from parallel_lenet.model import Model


def network_name(model: str | None) -> str:
    """The name of what is trained. ``model`` is the option of that name."""
    reference = None if model is None else _user_model.parse(model)
    return "LeNet-5" if reference is None else f"{reference.name} of {os.path.basename(reference.path)}"


def note_network(training: Training, model: Model, workers: int, origin: str) -> None:
    """Note what is trained, on what, and where. ``workers`` were requested, and ``origin`` says by what."""
    coordinator = training.coordinator
    parts = [
        f"{network_name(training.options.model)}, {count(model.layout.size, 'parameter')}, on "
        f"{count(len(training.train), 'image')} of {training.train.name}",
        *([f"kernel {training.options.kernel}"] if hasattr(model, "kernel") else []),
        _workers(coordinator, workers, origin),
        f"batches of {coordinator.batch_size}"
        + (f" in shards of {coordinator.shard_size}" if coordinator.leaf is None else ""),
    ]
    training.console.note("; ".join(parts))
    if training.validation is not None:
        images = count(len(training.validation), "image")
        source = f"of {training.validation.name}" if training.options.validation is None else "held out"
        training.console.note(f"{images} {source} for validation, to decide which epoch is best")


def note_limits(training: Training, flag_options: dict[str, Any], test_images: int) -> None:
    """Note options with an unexpected effect: fewer workers or images than requested, and flags without effect."""
    coordinator = training.coordinator
    console = training.console
    options = training.options
    if coordinator.workers_note is not None:
        # The sentence of the library, with the remedy in terms of this command.
        smaller = "a smaller --shard-size or " if coordinator.leaf is None and coordinator.shard_size > 1 else ""
        fact = coordinator.workers_note.partition("; ")[0]
        console.note(f"note: {fact}; {smaller}a larger --batch-size makes more")
    if options.evaluate_on is not None and options.evaluate_on > test_images:
        console.note(f"note: --evaluate-on {options.evaluate_on}: all {count(test_images, 'test image')} are used")
    if "best_by" in flag_options and training.validation is None:
        console.note(f"note: --best-by {options.best_by} has no effect: no images are held out, as --validation does")
    _engines.note_unused(flag_options, options.engine, console)


def _workers(coordinator: Coordinator, requested: int, origin: str) -> str:
    """The number of workers and its origin. Another note says why there are fewer than requested."""
    if coordinator.workers_note is not None and coordinator.n_workers < requested:
        return f"{coordinator.n_workers} of {count(requested, 'worker')}"
    return f"{count(coordinator.n_workers, 'worker')} ({origin})"
