"""All that training changes, and how it stands in a checkpoint."""

import os
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checkpoint import CheckpointError
from parallel_lenet.checks import whole
from parallel_lenet.fingerprint import EpochData
from parallel_lenet.model import Model, ShardMetrics
from parallel_lenet.optimizers import OptimizerState
from parallel_lenet.parameters import Vector
from parallel_lenet.reports import EpochReport

FORMAT = 1  # Of the metadata in a checkpoint.

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
    """What the current epoch is trained on; None before its first step."""


def pack(state: TrainingState, model: Model) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the description that `unpack` turns into the state again."""
    arrays = {"parameters": state.parameters}
    arrays |= {f"optimizer.{name}": slot for name, slot in state.optimizer.slots.items()}
    return arrays, {
        "format": FORMAT,
        "layout": model.layout.entries,
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
    """The state in a loaded checkpoint; CheckpointError unless it is one of this model with arrays like ``like``'s."""
    parameters = checked_parameters(path, arrays, described, model)
    if parameters.dtype != like.parameters.dtype:
        raise CheckpointError(f"{path}: holds {parameters.dtype} parameters; this model's are {like.parameters.dtype}")
    slots = {}
    for name in like.optimizer.slots:
        slot = arrays.get(f"optimizer.{name}")
        if slot is None or slot.shape != parameters.shape or slot.dtype != parameters.dtype:
            raise CheckpointError(f"{path}: holds no complete state of the optimizer: {name} is missing or of no use")
        slots[name] = slot
    try:
        return TrainingState(
            parameters,
            OptimizerState(described["step"], slots),
            whole("epoch", described["epoch"], 0),
            whole("cursor", described["cursor"], 0),
            ShardMetrics(*described["sums"]),
            float(described["seconds"]),
            tuple(EpochReport(**report) for report in described["history"]),
            EpochData(None, described.get("data")) if described["cursor"] else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its metadata is incomplete: {error}") from error


def checked_parameters(path: str | os.PathLike[str], arrays: Arrays, described: dict[str, Any], model: Model) -> Vector:
    """The parameters in a loaded checkpoint; CheckpointError where they are not this model's."""
    if described.get("format") != FORMAT:
        raise CheckpointError(f"{path}: has format {described.get('format')!r}; this version reads {FORMAT}")
    wanted = {name: tuple(shape) for name, shape in model.layout.entries}
    try:
        found = {name: tuple(shape) for name, shape in described["layout"]}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its metadata is incomplete: {error}") from error
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{path}: belongs to another network: {name} is {found.get(name, 'missing')} there and "
                f"{wanted.get(name, 'missing')} here"
            )
    parameters = arrays.get("parameters", np.empty(0))
    if parameters.shape != (model.layout.size,):
        raise CheckpointError(f"{path}: holds {parameters.size} parameters; its network has {model.layout.size}")
    return parameters


def user_metadata(path: str | os.PathLike[str], described: dict[str, Any]) -> dict[str, Any]:
    """What whoever saved a loaded checkpoint put beside the training's state; CheckpointError where it is damaged."""
    user = described.get("user")
    if not isinstance(user, dict):
        raise CheckpointError(f"{path}: its metadata is incomplete: user is {user!r}")
    return user
