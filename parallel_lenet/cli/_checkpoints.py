"""Finds the checkpoint of a command: its file, its kernel, and the images that its run used."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from parallel_lenet import kernels
from parallel_lenet.archive import CheckpointError
from parallel_lenet.checkpoint import Checkpoint
from parallel_lenet.checks import quoted
from parallel_lenet.cli import _user_model
from parallel_lenet.cli._console import Console, printable
from parallel_lenet.cli._options import UsageError, sides
from parallel_lenet.cli._resume import local_path
from parallel_lenet.cli._sources import reading_note
from parallel_lenet.model import Model
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.runs import BEST, LAST, PREVIOUS
from parallel_lenet.trained import from_checkpoint

RUNS = "runs"


def find(name: str | None, console: Console) -> str:
    """The checkpoint's file: ``name`` itself, or the last checkpoint of the folder of this name.

    If the name is None it is the last checkpoint of the newest run, and a note says which run that is. Raises
    UsageError if there is no run.
    """
    if name is None:
        found = [file for file in Path(RUNS).glob(f"*/{LAST}") if file.is_file()]
        if not found:
            raise UsageError(
                f"there is no run in the folder {RUNS}: train a network with parallel-lenet train, or name a checkpoint"
            )
        newest = max(found, key=lambda file: (file.stat().st_mtime, str(file)))
        console.note(f"note: using the newest run, {newest.parent}")
        return str(newest)
    if os.path.isdir(name):
        files = [os.path.join(name, file) for file in (LAST, PREVIOUS, BEST)]
        return next(filter(os.path.isfile, files), name)
    return name


def require(file: str) -> None:
    """Raises UsageError unless the file exists and is not a folder."""
    if os.path.isdir(file):
        example = min(Path(file).glob(f"*/{LAST}"), default=Path(file) / LAST)  # A folder of runs, or of one run.
        raise UsageError(f"{file} is a folder: name a checkpoint, such as {example}")
    if not os.path.exists(file):
        raise UsageError(f"{file or repr('')} does not exist: name a checkpoint, such as FOLDER/{LAST}")


def model_of(checkpoint: Checkpoint, flag_options: dict[str, Any]) -> Model:
    """The model of ``--model``, or the network that the checkpoint describes, with the kernel that is asked for.

    Raises UsageError if the run trained a model of ``--model``, and that option is missing.
    """
    if "model" not in flag_options:
        kernel = kernels.resolve(flag_options.get("kernel") or kernel_of(checkpoint))
        try:
            return from_checkpoint(checkpoint, kernel).model
        except CheckpointError:
            words = model_reference(checkpoint)
            if words is None:
                raise
            raise UsageError(
                f"{checkpoint.path}: its run trained {words}, and a checkpoint does not decide which code runs: "
                f"give --model {words}"
            ) from None
    reference = _user_model.parse(flag_options["model"])
    assert reference is not None
    model = _user_model.load(reference)
    if isinstance(model, Sequential) and "kernel" in flag_options:
        model = replace(model, kernel=flag_options["kernel"])
    checkpoint.require_model(model)
    return model


def model_reference(checkpoint: Checkpoint) -> str | None:
    """The run's ``--model`` as FILE.py:NAME, or None if it had none."""
    options = checkpoint.metadata.get("options")
    model = options.get("model") if isinstance(options, dict) else None
    return printable(_user_model.without_hash(model)) if isinstance(model, str) else None


def images_of(
    file: str, flag_options: dict[str, Any], metadata: dict[str, Any], console: Console
) -> tuple[str | None, str | None]:  # fmt: skip
    """The name of the dataset and the folder of the images: those of the command line, else the checkpoint's.

    A note names the checkpoint's folder. Raises CheckpointError if the checkpoint holds anything but names.
    """
    if "dataset" in flag_options or "data_dir" in flag_options:
        return flag_options.get("dataset"), flag_options.get("data_dir")
    dataset = metadata.get("dataset") or None
    data_dir = metadata.get("data_dir")
    if data_dir is not None:
        if not isinstance(data_dir, str):
            raise CheckpointError(f"{file}: names the data {quoted(data_dir)}, which is not a path: give --data-dir")
        console.note(reading_note(local_path(file, data_dir)))
    if not isinstance(dataset, str | None):
        raise CheckpointError(f"{file}: names the dataset {quoted(dataset)}, which is not a name: give --dataset")
    return dataset, data_dir


def image_size(flag_options: dict[str, Any], metadata: dict[str, Any], model: Model) -> tuple[int, int] | None:
    """The size to resize images to: that of the flag, else the network's if its run resized them, else None."""
    if "image_size" in flag_options:
        return sides(flag_options["image_size"])
    options = metadata.get("options")
    resizes = isinstance(options, dict) and options.get("image_size") is not None
    return model.images.height_and_width if resizes and isinstance(model, Sequential) else None


def kernel_of(checkpoint: Checkpoint) -> str:
    """The kernel that a checkpoint was trained with."""
    name = checkpoint.settings.get("kernel")
    return name if name in kernels.NAMES else "auto"
