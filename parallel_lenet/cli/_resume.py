"""Continuing a run: the content of its checkpoint, and the options that may differ from it.

A checkpoint's checksum shows that it is not damaged, but not who wrote it. So a checkpoint never decides which machines
compute and where a run writes (`NEVER`), nor which file of code runs. The file has more than 300 lines because each
check is a function with its own sentence.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from parallel_lenet import kernels
from parallel_lenet.archive import CheckpointError
from parallel_lenet.checkpoint import Checkpoint
from parallel_lenet.checks import quoted
from parallel_lenet.cli import _user_model
from parallel_lenet.cli._options import MOST, OPTIONS, TrainOptions, UsageError, check, is_of_kind, with_dashes
from parallel_lenet.cli._sources import Images
from parallel_lenet.datasets import DatasetError
from parallel_lenet.fingerprint import arrays_sha256
from parallel_lenet.kernels import files
from parallel_lenet.runs import BEST, LAST, PREVIOUS
from parallel_lenet.user_files import DIGITS

# Options that a checkpoint does not decide. Each command gives them again, or they have their default.
NEVER = ("engine", "cluster_address", "workers", "max_time", "out")

# Options that may differ on resuming. They decide how and for how long the run computes and what it reports, but not
# the parameters. The data may have moved: their content is compared.
FREE_OPTIONS = (
    *(*NEVER, "epochs", "max_steps", "early_stopping", "patience"),
    *("data_dir", "evaluate_on", "step_timeout", "max_tries", "checkpoint_every"),
)

CHECKPOINTS = (LAST, PREVIOUS, BEST)

Figures = dict[str, float | int | None]


@dataclass(frozen=True)
class EarlierRun:
    """A run to continue."""

    folder: Path
    file: Path
    """The checkpoint to continue from."""
    options: TrainOptions
    """The options from now on: those of the run, with the free ones as they are given now."""
    earlier_options: TrainOptions
    """The options of the run so far."""
    data: dict[str, Any]
    """The data's fingerprint."""
    figures: list[Figures]
    """The results of evaluation after each epoch."""
    partial: Figures | None
    """The results within an epoch, at the step of ``--max-steps``."""
    notes: list[str]


def describe(options: TrainOptions, images: Images) -> dict[str, Any]:
    """The metadata that the command line stores in a checkpoint."""
    return {
        "dataset": options.dataset,
        "data_dir": options.data_dir,
        "options": asdict(options),
        "data": fingerprint(images),
        "class_names": None if images.train.class_names is None else list(images.train.class_names),
        "pictures": images.pictures,
        "figures": [],
        "partial": None,
    }


def fingerprint(images: Images) -> dict[str, Any]:
    """Sizes, and a hash of all inputs and targets, which takes about 0.1 s for MNIST."""
    parts = [part for part in (images.train, images.test, images.validation) if part is not None]
    digest = arrays_sha256(*(array for part in parts for array in (part.inputs, part.targets)))
    sizes = {"train": len(images.train), "test": len(images.test)}
    if images.validation is not None:
        sizes["validation"] = len(images.validation)
    return {**sizes, "sha256": digest}


class _Metadata(NamedTuple):
    """What the command line stored in a checkpoint."""

    options: TrainOptions
    data: dict[str, Any]
    figures: list[Figures]
    partial: Figures | None


def find(name: str, explicit_options: dict[str, Any], *, fall_back: bool = False) -> EarlierRun:
    """The run in a folder, or that of one of its checkpoints. Raises UsageError if the given options disagree with it.

    With ``fall_back``, the previous checkpoint is used if the last one is damaged or missing.
    """
    file, checkpoint, notes = _load(name, fall_back)
    folder = file.parent
    metadata = _metadata(file, checkpoint.metadata)
    before = metadata.options
    _require_kernel_file(folder, before.kernel, explicit_options.get("kernel"))
    notes += _model_notes(folder, before.model, explicit_options.get("model"))
    free_options = [*FREE_OPTIONS, "model"]
    if before.model is None and kernels.load(before.kernel).LEAF is not None:
        free_options.append("shard_size")  # It decides no bit.
    _require_same_options(folder, before, explicit_options, free_options)
    _require_unfinished(folder, checkpoint, explicit_options)
    if before.engine not in ("processes", "serial") and "engine" not in explicit_options:
        notes.append(
            f"note: the run in {folder} was computed by --engine {before.engine}, but a checkpoint doesn't decide "
            "where code runs. This machine continues: to use a cluster, give --engine and --cluster-address again"
        )
    if before.data_dir is not None and "data_dir" not in explicit_options:
        local_path(file, before.data_dir)
    replacements: dict[str, Any] = {name: OPTIONS[name].default for name in NEVER}
    replacements |= {name: value for name, value in explicit_options.items() if name in free_options}
    now = replace(before, **(replacements | {"out": str(folder)}))
    check(now)
    if now.early_stopping and now.validation is None and "validation" not in metadata.data:
        raise UsageError(
            f"--early-stopping needs images held out, and the run in {folder} has none: begin a new run with it"
        )
    return EarlierRun(folder, file, now, before, metadata.data, metadata.figures, metadata.partial, notes)


def _file(name: str) -> Path:
    """The checkpoint of the run that is named. Raises UsageError if there is none."""
    path = Path(name)
    file = path / LAST if path.is_dir() else path
    if file.name not in CHECKPOINTS or not any(file.with_name(each).exists() for each in CHECKPOINTS):
        remark = " does not exist" if name and not os.path.lexists(path) else ""
        raise UsageError(
            f"--resume {name or repr('')}{remark}: name a run's folder, or one of its files "
            f"{LAST}, {PREVIOUS} and {BEST}"
        )
    return file


def _load(name: str, fall_back: bool) -> tuple[Path, Checkpoint, list[str]]:
    """The checkpoint's file, the checkpoint, and notes. With ``fall_back`` the previous one if it can't be read."""
    file = _file(name)
    try:
        return file, Checkpoint.load(file), []
    except CheckpointError as error:
        others = [file.with_name(each) for each in CHECKPOINTS if each != file.name]
        readable = next(filter(_is_readable, others), None)
        if fall_back and readable is not None and readable.name == PREVIOUS:
            return readable, Checkpoint.load(readable), [f"note: {error}; continuing from {readable}"]
        remedy = "" if readable is None else f". To continue from another one: --resume {readable}"
        # To name a file that does not exist is a mistake in the call.
        kind = CheckpointError if os.path.lexists(name) else UsageError
        raise kind(f"{error}{remedy}") from error


def _metadata(file: Path, metadata: dict[str, Any]) -> _Metadata:
    """The metadata. Raises CheckpointError unless the command line wrote them."""
    try:
        data = metadata["data"]
        figures = metadata["figures"]
        partial = metadata["partial"]
        if not isinstance(data, dict):
            raise ValueError(f"data is {quoted(data)}")
        if not isinstance(figures, list):
            raise ValueError(f"figures are {quoted(figures)}")
        return _Metadata(
            _options(metadata["options"]),
            dict(data),
            [_figures(each) for each in figures],
            None if partial is None else _figures(partial),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{file}: was not left by a training run of this program: {reason}") from error


def _require_same_options(
    folder: Path, before: TrainOptions, explicit_options: dict[str, Any], free_options: Sequence[str]
) -> None:
    """Raises UsageError if a given option that is not free differs from the run's."""
    if "dataset" in explicit_options and before.data_dir is not None:
        raise UsageError(
            f"--dataset {explicit_options['dataset']} disagrees with the run in {folder}, which has --data-dir "
            f"{before.data_dir}: leave it out, or begin a new run"
        )
    for name, value in explicit_options.items():
        old = getattr(before, name)
        if name not in free_options and value != old and (name, value) != ("kernel", "auto"):
            raise UsageError(
                f"--{with_dashes(name)} {value} disagrees with the run in {folder}, "
                f"which has {'none' if old is None else old}: leave it out, or begin a new run"
            )
    if explicit_options.get("out") is not None and Path(explicit_options["out"]).resolve() != folder.resolve():
        raise UsageError(
            f"--out {explicit_options['out']} disagrees with --resume, which continues in {folder}: leave it out"
        )


def _require_unfinished(folder: Path, checkpoint: Checkpoint, explicit_options: dict[str, Any]) -> None:
    """Raises UsageError if fewer epochs or steps are requested than are done."""
    state = checkpoint.state
    for name, done in (("epochs", state.epoch + (state.cursor > 0)), ("max_steps", state.step)):
        if name in explicit_options and explicit_options[name] < done:
            raise UsageError(
                f"--{with_dashes(name)} must be at least {done}, which the run in {folder} has reached, "
                f"got {explicit_options[name]}"
            )


def _model_notes(folder: Path, before: str | None, model: str | None) -> list[str]:
    """Notes about the file of a model. Raises UsageError unless the command line names the run's model, or none."""
    old, new = (None if each is None else _user_model.parse(each) for each in (before, model))
    if old is None and new is None:
        return []
    if old is None or (new is not None and (new.path, new.name) != (old.path, old.name)):
        has = "LeNet-5" if old is None else old.words
        assert new is not None
        raise UsageError(f"--model {new.words} disagrees with the run in {folder}, which trains {has}: begin a new run")
    if new is None:
        raise UsageError(
            f"the run in {folder} trains {old.words}, and a checkpoint does not decide which code runs: "
            f"give --model {old.words} again"
        )
    if new.digest == old.digest:
        return []
    return [f"note: {new.path} has changed since the run in {folder} began: the result is that of the new file"]


def _require_kernel_file(folder: Path, before: str, kernel: str | None) -> None:
    """Raises UsageError if the run computes with a file, unless the command line names it, unchanged."""
    if not files.is_file(before):
        return
    path = files.path_of(before)
    if kernel is None:
        raise UsageError(
            f"the run in {folder} computes with {path}, and a checkpoint does not decide which code runs: "
            f"give --kernel {path} again"
        )
    if kernel != before and files.path_of(kernel) != path:
        raise UsageError(
            f"--kernel {files.path_of(kernel)} disagrees with the run in {folder}, which has {path}: begin a new run"
        )
    if kernel != before:
        raise UsageError(
            f"{path} has changed since the run in {folder} began, so it could give other bits: its SHA-256 begins with "
            f"{kernel[-DIGITS:]}, not {before[-DIGITS:]}. Restore it, or begin a new run"
        )


def local_path(file: Path | str, data_dir: str) -> str:
    """The data's folder as a checkpoint names it. Raises CheckpointError if it may be on another machine.

    On Windows, opening ``//HOST/share`` sends the user's credentials to HOST.
    """
    if data_dir.replace("\\", "/").startswith("//") or not os.path.isabs(data_dir) or "\0" in data_dir:
        raise CheckpointError(f"{file}: names the data {quoted(data_dir)}, not a local path: give --data-dir")
    return data_dir


def _options(values: Any) -> TrainOptions:
    if not isinstance(values, dict):
        raise ValueError(f"options are {quoted(values)}")
    for name in values:
        if name not in OPTIONS:
            raise ValueError(f"unknown option {quoted(name)}")
    options = TrainOptions(**values)
    for name, option in OPTIONS.items():
        value = getattr(options, name)
        if not is_of_kind(value, option):
            raise ValueError(f"{name} is {quoted(value)}")
    if options.model is not None and _user_model.parse(options.model) is None:
        raise ValueError(f"model is {quoted(options.model)}")
    try:
        check(options)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return options


def _figures(values: Any) -> Figures:
    test, validation = (
        {f"{of}_{figure}" for figure in ("loss", "accuracy", "images")} for of in ("test", "validation")
    )
    if not isinstance(values, dict) or values.keys() not in (test, test | validation):
        raise ValueError(f"figures are {quoted(values)}")
    figures: Figures = {}
    for name, value in values.items():
        number = value is None or value in ("nan", "inf", "-inf") or type(value) in (int, float)
        count = name.endswith("_images")
        if not number or (count and not (type(value) is int and 0 <= value < 2**63)):
            raise ValueError(f"{name} is {quoted(value)}")
        figures[name] = value if count or value is None else float(value)
    return figures


def _is_readable(file: Path) -> bool:
    try:
        Checkpoint.load(file)
    except CheckpointError:
        return False
    return True


def check_data(earlier_run: EarlierRun, images: Images) -> None:
    """Raises DatasetError unless these are the data that the run was trained on."""
    now = fingerprint(images)
    if now != earlier_run.data:
        raise DatasetError(
            f"{images.train.name}: these are not the data of the run in {earlier_run.folder}: {_summary(now)}, "
            f"not {_summary(earlier_run.data)}"
        )


def _summary(data: dict[str, Any]) -> str:
    train, test = (
        f"{n:,}" if type(n) is int and n < MOST else quoted(n) for n in (data.get("train"), data.get("test"))
    )
    digest = data.get("sha256")
    start = f"{digest[:16]}..." if isinstance(digest, str) and digest.isalnum() else quoted(digest)
    return f"{train} training and {test} test image{'' if data.get('test') == 1 else 's'} with the SHA-256 {start}"
