"""Continuing a run: the content of its checkpoint, and the options that may differ from it.

A checkpoint's checksum shows that it is not damaged, not who wrote it. So the place where code runs, the machines it
talks to and the place it writes to (`NEVER`) are never taken from a checkpoint. The file has more than 300 lines
because each check is a function with its own sentence.
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

# Options that a checkpoint does not decide: each command gives them again, or they have their default.
NEVER = ("engine", "cluster_address", "workers", "max_time", "out")

# Options that may differ on resuming: they decide how and for how long numbers are computed and which are reported, not
# which parameters result. The data may have moved: their content is compared.
FREE = (
    *(*NEVER, "epochs", "max_steps", "early_stopping", "patience"),
    *("data_dir", "evaluate_on", "step_timeout", "max_tries", "checkpoint_every"),
)

CHECKPOINTS = (LAST, PREVIOUS, BEST)

Figures = dict[str, float | int | None]


@dataclass(frozen=True)
class Resumed:
    """A run to continue."""

    folder: Path
    file: Path
    """The checkpoint to continue from."""
    options: TrainOptions
    """The options from now on: those of the run, with the free ones as they are given now."""
    before: TrainOptions
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


class _Recorded(NamedTuple):
    """What the command line stored in a checkpoint."""

    options: TrainOptions
    data: dict[str, Any]
    figures: list[Figures]
    partial: Figures | None


def find(named: str, given: dict[str, Any], *, fall_back: bool = False) -> Resumed:
    """The run in a folder, or that of one of its checkpoints. Raises UsageError if the given options disagree with it.

    With ``fall_back``, the checkpoint before is taken if the last one is damaged or missing.
    """
    file, checkpoint, notes = _load(named, fall_back)
    folder = file.parent
    recorded = _recorded(file, checkpoint.metadata)
    before = recorded.options
    _require_kernel_file(folder, before.kernel, given.get("kernel"))
    notes += _model_notes(folder, before.model, given.get("model"))
    free = [*FREE, "model"]
    if before.model is None and kernels.load(before.kernel).LEAF is not None:
        free.append("shard_size")  # It decides no bit.
    _require_same_options(folder, before, given, free)
    _require_unfinished(folder, checkpoint, given)
    if before.engine not in ("processes", "serial") and "engine" not in given:
        notes.append(
            f"note: the run in {folder} was computed by --engine {before.engine}; a checkpoint doesn't decide where "
            "code runs, so this machine continues: give --engine and --cluster-address again to use a cluster"
        )
    if before.data_dir is not None and "data_dir" not in given:
        local_path(file, before.data_dir)
    changed: dict[str, Any] = {name: OPTIONS[name].default for name in NEVER}
    changed |= {name: value for name, value in given.items() if name in free}
    now = replace(before, **(changed | {"out": str(folder)}))
    check(now)
    if now.early_stopping and now.validation is None and "validation" not in recorded.data:
        raise UsageError(
            f"--early-stopping needs images held out, and the run in {folder} has none: begin a new run with it"
        )
    return Resumed(folder, file, now, before, recorded.data, recorded.figures, recorded.partial, notes)


def _file(named: str) -> Path:
    """The checkpoint of the run that is named. Raises UsageError if there is none."""
    path = Path(named)
    file = path / LAST if path.is_dir() else path
    if file.name not in CHECKPOINTS or not any(file.with_name(name).exists() for name in CHECKPOINTS):
        missing = " does not exist" if named and not os.path.lexists(path) else ""
        raise UsageError(
            f"--resume {named or repr('')}{missing}: name a run's folder, or one of its files "
            f"{LAST}, {PREVIOUS} and {BEST}"
        )
    return file


def _load(named: str, fall_back: bool) -> tuple[Path, Checkpoint, list[str]]:
    """The file of the checkpoint, the checkpoint, and notes; with ``fall_back`` the one before if it can't be read."""
    file = _file(named)
    try:
        return file, Checkpoint.load(file), []
    except CheckpointError as error:
        others = [file.with_name(name) for name in CHECKPOINTS if name != file.name]
        readable = next(filter(_is_readable, others), None)
        if fall_back and readable is not None and readable.name == PREVIOUS:
            return readable, Checkpoint.load(readable), [f"note: {error}; continuing from {readable}"]
        remedy = "" if readable is None else f"; to continue from another one: --resume {readable}"
        # To name a file that does not exist is a mistake in the call.
        kind = CheckpointError if os.path.lexists(named) else UsageError
        raise kind(f"{error}{remedy}") from error


def _recorded(file: Path, metadata: dict[str, Any]) -> _Recorded:
    """Raises CheckpointError unless the command line wrote the checkpoint."""
    try:
        data = metadata["data"]
        figures = metadata["figures"]
        partial = metadata["partial"]
        if not isinstance(data, dict):
            raise ValueError(f"data is {quoted(data)}")
        if not isinstance(figures, list):
            raise ValueError(f"figures are {quoted(figures)}")
        return _Recorded(
            _options(metadata["options"]),
            dict(data),
            [_figures(each) for each in figures],
            None if partial is None else _figures(partial),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{file}: was not left by a training run of this program: {reason}") from error


def _require_same_options(folder: Path, before: TrainOptions, given: dict[str, Any], free: Sequence[str]) -> None:
    """Raises UsageError if a given option that is not free differs from the run's."""
    if "dataset" in given and before.data_dir is not None:
        raise UsageError(
            f"--dataset {given['dataset']} disagrees with the run in {folder}, which has --data-dir {before.data_dir}: "
            "leave it out, or begin a new run"
        )
    for name, value in given.items():
        old = getattr(before, name)
        if name not in free and value != old and (name, value) != ("kernel", "auto"):
            raise UsageError(
                f"--{with_dashes(name)} {value} disagrees with the run in {folder}, "
                f"which has {'none' if old is None else old}: leave it out, or begin a new run"
            )
    if given.get("out") is not None and Path(given["out"]).resolve() != folder.resolve():
        raise UsageError(f"--out {given['out']} disagrees with --resume, which continues in {folder}: leave it out")


def _require_unfinished(folder: Path, checkpoint: Checkpoint, given: dict[str, Any]) -> None:
    """Raises UsageError if fewer epochs or steps are asked for than are done."""
    state = checkpoint.state
    for name, done in (("epochs", state.epoch + (state.cursor > 0)), ("max_steps", state.step)):
        if name in given and given[name] < done:
            raise UsageError(
                f"--{with_dashes(name)} must be at least {done}, which the run in {folder} has reached, "
                f"got {given[name]}"
            )


def _model_notes(folder: Path, before: str | None, given: str | None) -> list[str]:
    """Notes about the file of a model. Raises UsageError unless the command line names the run's model, or none."""
    old, new = (None if each is None else _user_model.parse(each) for each in (before, given))
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


def _require_kernel_file(folder: Path, before: str, given: str | None) -> None:
    """Raises UsageError if the run computes with a file, unless the command line names it, unchanged."""
    if not files.is_file(before):
        return
    path = files.path_of(before)
    if given is None:
        raise UsageError(
            f"the run in {folder} computes with {path}, and a checkpoint does not decide which code runs: "
            f"give --kernel {path} again"
        )
    if given != before and files.path_of(given) != path:
        raise UsageError(
            f"--kernel {files.path_of(given)} disagrees with the run in {folder}, which has {path}: begin a new run"
        )
    if given != before:
        raise UsageError(
            f"{path} has changed since the run in {folder} began, so it could give other bits: its SHA-256 begins with "
            f"{given[-DIGITS:]}, not {before[-DIGITS:]}; restore it, or begin a new run"
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
    test, validation = ({f"{of}_{what}" for what in ("loss", "accuracy", "images")} for of in ("test", "validation"))
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


def check_data(resumed: Resumed, images: Images) -> None:
    """Raises DatasetError unless these are the data that the run was trained on."""
    now = fingerprint(images)
    if now != resumed.data:
        raise DatasetError(
            f"{images.train.name}: these are not the data of the run in {resumed.folder}: {_summary(now)}, "
            f"not {_summary(resumed.data)}"
        )


def _summary(data: dict[str, Any]) -> str:
    train, test = (
        f"{n:,}" if type(n) is int and n < MOST else quoted(n) for n in (data.get("train"), data.get("test"))
    )
    digest = data.get("sha256")
    start = f"{digest[:16]}..." if isinstance(digest, str) and digest.isalnum() else quoted(digest)
    return f"{train} training and {test} test image{'' if data.get('test') == 1 else 's'} with the SHA-256 {start}"
