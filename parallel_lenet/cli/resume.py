"""Going on with a run: what its checkpoint says, and which of today's options may differ from it."""

import argparse
import hashlib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from parallel_lenet import checkpoint
from parallel_lenet.checkpoint import CheckpointError
from parallel_lenet.cli import network
from parallel_lenet.cli.options import TrainOptions, UsageError, check_ranges, dashed, given, is_of_kind
from parallel_lenet.cli.runs import BEST, LAST, PREVIOUS
from parallel_lenet.datasets import Dataset, DatasetError

# What may differ on resuming: it decides how the numbers are computed, or how long, and not which. The data may have
# moved: their content is compared.
FREE = (
    *("workers", "engine", "cluster_address", "epochs", "data_dir"),
    *("step_timeout", "max_tries", "checkpoint_every", "out"),
)


@dataclass(frozen=True)
class Resumed:
    """A run to go on with."""

    folder: Path
    file: Path
    """The checkpoint to go on from."""
    options: TrainOptions
    """Of the run, with what is free to differ as it is given now."""
    before: TrainOptions
    """Of the run until now."""
    described: network.Recipe
    data: dict[str, Any]
    """The data's fingerprint."""


def describe(options: TrainOptions, described: network.Recipe, train: Dataset, test: Dataset) -> dict[str, Any]:
    """What a checkpoint of the command line holds beside the coordinator's own."""
    return {
        "network": described,
        "kernel": options.kernel,
        "dataset": options.dataset,
        "data_dir": options.data_dir,
        "options": asdict(options),
        "data": fingerprint(train, test),
    }


def fingerprint(train: Dataset, test: Dataset) -> dict[str, Any]:
    """Sizes, and a hash of all inputs and targets: about 0.1 s for MNIST."""
    digest = hashlib.sha256()
    for array in (train.inputs, train.targets, test.inputs, test.targets):
        digest.update(f"{array.dtype.str} {array.shape};".encode())
        digest.update(array.tobytes())
    return {"train": len(train), "test": len(test), "sha256": digest.hexdigest()}


def find(arguments: argparse.Namespace) -> Resumed:
    """The run that ``--resume`` names; UsageError where other options disagree with it."""
    path = Path(arguments.resume)
    folder, file = (path, path / LAST) if path.is_dir() else (path.parent, path)
    names = (LAST, PREVIOUS, BEST)
    if file.name not in names or not any((folder / name).exists() for name in names):
        raise UsageError(
            f"--resume {arguments.resume or repr('')}: name a run's folder, or one of its files "
            f"{LAST}, {PREVIOUS} and {BEST}"
        )
    user = _load(file)
    try:
        before = TrainOptions(**user["options"])
        wrong = [option.name for option in fields(before) if not is_of_kind(getattr(before, option.name), option)]
        if wrong:
            raise ValueError(f"{wrong[0]} is {getattr(before, wrong[0])!r}")
        described, data = dict(user["network"]), dict(user["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: was not left by a training run of this program: {error}") from error
    options = given(arguments)
    for name, value in options.items():
        old = getattr(before, name)
        if name not in FREE and value != old and (name, value) != ("kernel", "auto"):
            raise UsageError(
                f"--{dashed(name)} {value} disagrees with the run in {folder}, "
                f"which has {'none' if old is None else old}: leave it out, or begin a new run"
            )
    if "out" in vars(arguments) and Path(arguments.out).resolve() != folder.resolve():
        raise UsageError(f"--out {arguments.out} disagrees with --resume, which goes on in {folder}: leave it out")
    free = {name: value for name, value in options.items() if name in FREE} | {"out": str(folder)}
    if "engine" in free:
        free.setdefault("cluster_address", None)  # That of the run so far goes with its engine.
    now = replace(before, **free)
    check_ranges(now)
    return Resumed(folder, file, now, before, described, data)


def _load(file: Path) -> dict[str, Any]:
    """The command line's part of a checkpoint; CheckpointError that names a whole one where this is damaged."""
    try:
        user = checkpoint.load(file)[1].get("user")
    except CheckpointError as error:
        for name in (PREVIOUS, BEST):
            if name != file.name and _is_whole(file.with_name(name)):
                raise CheckpointError(
                    f"{error}; an earlier one is whole, to go on from it: --resume {file.with_name(name)}"
                ) from error
        raise
    return user if isinstance(user, dict) else {}


def _is_whole(file: Path) -> bool:
    try:
        checkpoint.load(file)
    except CheckpointError:
        return False
    return True


def check_data(resumed: Resumed, train: Dataset, test: Dataset) -> None:
    """DatasetError unless these are the data that the run was trained on."""
    now = fingerprint(train, test)
    if now != resumed.data:
        counts = " and ".join(f"{now[part]:,} {part}ing" for part in ("train", "test"))
        raise DatasetError(
            f"{train.name}: {counts} samples with the SHA-256 {now['sha256'][:16]}... are not the data of the run in "
            f"{resumed.folder}, which has {resumed.data.get('train')} and {resumed.data.get('test')} samples with "
            f"{str(resumed.data.get('sha256'))[:16]}..."
        )
