"""All that training changes, and how it stands in a checkpoint."""

import os
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import descriptions
from parallel_lenet.checkpoint import CheckpointError
from parallel_lenet.checks import shown, whole
from parallel_lenet.fingerprint import EpochData
from parallel_lenet.model import Model, ShardMetrics
from parallel_lenet.optimizers import OptimizerState
from parallel_lenet.parameters import Vector
from parallel_lenet.reports import EpochReport

FORMAT = 2  # Of the metadata in a checkpoint.
SLOT = "optimizer."  # Before the name of an optimizer's vector.
MOST_AXES = 64  # Of an array in NumPy.
LARGEST = 2**63  # Count in a checkpoint.

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class TrainingState:
    """Replaced whole after each step, so that an interrupted step leaves the one before it."""

    parameters: Vector
    optimizer: OptimizerState
    epoch: int = 0
    """Finished epochs."""
    cursor: int = 0
    """Samples of the current epoch that are done."""
    sums: ShardMetrics = field(default_factory=ShardMetrics)
    """Of the current epoch so far."""
    seconds: float = 0.0
    history: tuple[EpochReport, ...] = ()
    data: EpochData | None = None
    """What the last step was trained on; None before the first one."""


def pack(state: TrainingState, model: Model) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the description that `unpack` turns into the state again."""
    arrays = {"parameters": state.parameters}
    arrays |= {f"{SLOT}{name}": slot for name, slot in state.optimizer.slots.items()}
    return arrays, {
        "format": FORMAT,
        "layout": model.layout.entries,
        "model": descriptions.of_model(model),
        "step": state.optimizer.step,
        "epoch": state.epoch,
        "cursor": state.cursor,
        "sums": astuple(state.sums),
        "seconds": state.seconds,
        "history": [asdict(report) for report in state.history],
        "data": None if state.data is None else state.data.fingerprint(),
    }


def unpack(
    path: str | os.PathLike[str], arrays: Arrays, described: dict[str, Any], model: Model, like: TrainingState
) -> TrainingState:
    """The state in a loaded checkpoint; CheckpointError unless it is one of this model with parameters like ``like``'s.

    Which vectors the optimizer needs, `check_slots` says.
    """
    parameters = checked_parameters(path, arrays, described, model)
    if parameters.dtype != like.parameters.dtype:
        raise CheckpointError(f"{path}: holds {parameters.dtype} parameters; this model's are {like.parameters.dtype}")
    slots = {name.removeprefix(SLOT): array for name, array in arrays.items() if name.startswith(SLOT)}
    for name, slot in slots.items():
        if slot.shape != parameters.shape or slot.dtype != parameters.dtype:
            raise CheckpointError(f"{path}: optimizer state is damaged: the shape or dtype of {name} is wrong")
    try:
        loss_sum, correct, count = described["sums"]
        return TrainingState(
            parameters,
            OptimizerState(_count(described, "step"), slots),
            _count(described, "epoch"),
            _count(described, "cursor"),
            ShardMetrics(_float(loss_sum), _counted("sums", correct), _counted("sums", count)),
            _float(described["seconds"]),
            tuple(_report(report) for report in described["history"]),
            EpochData(None, _fingerprint(described["data"])) if described["cursor"] or described["data"] else None,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: its metadata is incomplete: {error}") from error


def check_slots(path: str | os.PathLike[str], found: OptimizerState, wanted: OptimizerState) -> None:
    """CheckpointError unless the state of the optimizer has the vectors that the optimizer keeps."""
    for name in sorted(wanted.slots.keys() ^ found.slots.keys()):
        what = "is missing" if name in wanted.slots else "belongs to another optimizer"
        raise CheckpointError(f"{path}: optimizer state is incomplete: {name} {what}")


def _count(described: dict[str, Any], name: str) -> int:
    return _counted(name, described[name])


def _counted(name: str, value: object) -> int:
    value = whole(name, value, 0)
    if value >= LARGEST:
        raise ValueError(f"{name} must be below 2**63")
    return value


def _float(value: object) -> float:
    """A number, or the text that stands for NaN or infinity."""
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in ("nan", "inf", "-inf")):
        raise ValueError(f"{shown(value)} is not a number")
    return float(value)


def _report(values: Any) -> EpochReport:
    if not isinstance(values, dict):
        raise TypeError(f"history holds {shown(values)}")
    counts = ("epoch", "step")
    rest = {name: value if value is None else _float(value) for name, value in values.items() if name not in counts}
    return EpochReport(**{name: _count(values, name) for name in counts}, **rest)  # type: ignore[arg-type]


def _fingerprint(values: Any) -> dict[str, Any]:
    """Of the data that the last step was trained on."""
    if not isinstance(values, dict):
        raise TypeError(f"data is {shown(values)}")
    for length in [values["samples"], *values["shape"][:MOST_AXES]]:
        _counted("data", length)
    if not isinstance(values["sha256"], str) or len(values["shape"]) > MOST_AXES:
        raise ValueError(f"data is {shown(values)}")
    return dict(values)


def check_format(path: str | os.PathLike[str], described: dict[str, Any]) -> None:
    """CheckpointError unless the metadata are as this version writes them."""
    found = described.get("format")
    if found == 1:
        raise CheckpointError(
            f"{path}: was written by an older version, which did not describe the model: its parameters are "
            f"numpy.load(path)['parameters'], for Coordinator(model, optimizer, parameters=...)"
        )
    if found != FORMAT:
        raise CheckpointError(f"{path}: has format {shown(found)}; this version reads {FORMAT}")


def checked_parameters(path: str | os.PathLike[str], arrays: Arrays, described: dict[str, Any], model: Model) -> Vector:
    """The parameters in a loaded checkpoint; CheckpointError if they are not this model's."""
    check_format(path, described)
    ours = descriptions.of_model(model)
    if ours is not None and described.get("model") != ours:
        wrong = descriptions.differences(described.get("model"), ours, "the model")
        raise CheckpointError(
            f"{path}: belongs to another network: {descriptions.joined(wrong)}. If it has this package's layers, "
            "load_model(path).model is the right one"
        )
    wanted = {name: tuple(shape) for name, shape in model.layout.entries}
    try:
        found = {name: tuple(shape) for name, shape in described["layout"]}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its metadata is incomplete: {error}") from error
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{path}: belongs to another network: {shown(name)} is {shown(found.get(name, 'missing'))} in the "
                f"checkpoint, {wanted.get(name, 'missing')} in the model"
            )
    parameters = arrays.get("parameters", np.empty(0))
    if parameters.shape != (model.layout.size,) or parameters.dtype not in (np.float32, np.float64):
        raise CheckpointError(
            f"{path}: holds {parameters.size:,} parameters of {parameters.dtype}; its network has {model.layout.size:,}"
        )
    return parameters


def user_metadata(path: str | os.PathLike[str], described: dict[str, Any]) -> dict[str, Any]:
    """What whoever saved a loaded checkpoint put beside the training's state; CheckpointError where it is damaged."""
    user = described.get("user")
    if not isinstance(user, dict):
        raise CheckpointError(f"{path}: its metadata is incomplete: user is {shown(user)}")
    return user
