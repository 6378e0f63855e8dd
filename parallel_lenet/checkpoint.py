"""Checkpoints: the state of a training, as an object and as a file."""

import math
import os
from dataclasses import asdict, astuple, dataclass, field
from typing import Any, Self

import numpy as np

from parallel_lenet import archive, descriptions
from parallel_lenet.archive import Arrays, CheckpointError, path_string
from parallel_lenet.checks import quoted, whole_number
from parallel_lenet.fingerprint import EpochData
from parallel_lenet.metrics import Metrics
from parallel_lenet.model import Model
from parallel_lenet.optimizers import OptimizerState
from parallel_lenet.parameters import Layout, Vector
from parallel_lenet.reports import EpochReport

FORMAT = 2  # The version of the metadata in a checkpoint.
SLOT = "optimizer."  # A prefix: the names of an optimizer's vectors follow it.
MOST_AXES = 64  # Of an array in NumPy.
LARGEST = 2**63  # Counts in a checkpoint are below it.


@dataclass(frozen=True)
class TrainingState:
    """Everything that training changes. A finished step replaces the object. An interrupted step leaves it."""

    parameters: Vector
    optimizer: OptimizerState
    epoch: int = 0
    """Finished epochs."""
    cursor: int = 0
    """Finished samples of the current epoch."""
    sums: Metrics = field(default_factory=Metrics)
    """The metrics of the current epoch so far."""
    seconds: float = 0.0
    history: tuple[EpochReport, ...] = ()
    data: EpochData | None = None
    """The data of the last step, or None before the first one."""

    def __post_init__(self) -> None:
        """Make the vectors read-only: an optimizer or a program that wrote to them would change a finished step."""
        for vector in (self.parameters, *self.optimizer.slots.values()):
            vector.flags.writeable = False

    @property
    def step(self) -> int:
        """Finished steps, over all epochs."""
        return self.optimizer.step


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint:
    """What `Coordinator.save` writes: the state of a training. It can be read without the model.

    For example, how far a run got, and its parameters by name::

        checkpoint = Checkpoint.load("run/checkpoint.npz")
        print(checkpoint.state.step, checkpoint.state.history[-1].train_loss)
        filters = checkpoint.layout.views(checkpoint.state.parameters)["conv1.weight"]

    `load_model` predicts with a checkpoint. `Coordinator.load` continues its training.
    """

    state: TrainingState
    layout: Layout
    """Names and shapes of the parameters."""
    description: Any
    """The model's ``description`` as JSON, or None if it has none."""
    settings: dict[str, Any]
    """Settings of the training that decide how it continues, such as the optimizer and the batch size."""
    metadata: dict[str, Any]
    """What the user gave to `Coordinator.save`."""
    path: str = ""
    """The file it was loaded from. Empty if it was not."""

    def __repr__(self) -> str:
        return (
            f"Checkpoint({self.path!r}, epoch={self.state.epoch}, step={self.state.step}, "
            f"{self.layout.size:,} parameters)"
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The checkpoint in a file. Raises CheckpointError if it is missing, damaged, incomplete, or not a checkpoint.

        The file is not trusted, and nothing in it is executed.
        """
        path = path_string(path)
        arrays, content = archive.load(path)
        _require_format(path, content)
        parameters = arrays.get("parameters", np.empty(0, np.uint8))
        slots = {name.removeprefix(SLOT): array for name, array in arrays.items() if name.startswith(SLOT)}
        try:
            layout = Layout(tuple((name, tuple(shape)) for name, shape in content["layout"]))
            if parameters.shape != (layout.size,) or parameters.dtype not in (np.float32, np.float64):
                raise CheckpointError(
                    f"{path}: holds {parameters.size:,} parameters of {parameters.dtype}; its network has "
                    f"{layout.size:,}"
                )
            for name, slot in slots.items():
                if slot.shape != parameters.shape or slot.dtype != parameters.dtype:
                    raise CheckpointError(f"{path}: optimizer state is damaged: the shape or dtype of {name} is wrong")
            return cls(
                _state(content, parameters, slots),
                layout,
                content.get("model"),
                _object(content, "settings"),
                _object(content, "user"),
                path,
            )
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{path}: its metadata is incomplete: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; see `Coordinator.save`."""
        state = self.state
        arrays = {"parameters": state.parameters}
        arrays |= {f"{SLOT}{name}": slot for name, slot in state.optimizer.slots.items()}
        content = {
            "format": FORMAT,
            "layout": self.layout.entries,
            "model": self.description,
            "settings": self.settings,
            "step": state.step,
            "epoch": state.epoch,
            "cursor": state.cursor,
            "sums": astuple(state.sums),
            "seconds": state.seconds,
            "history": [asdict(report) for report in state.history],
            "data": None if state.data is None else state.data.fingerprint(),
            "user": self.metadata,
        }
        archive.save(path, arrays, content)

    def require_model(self, model: Model) -> None:
        """Raise CheckpointError if the parameters are not this model's."""
        description = descriptions.of_model(model)
        if description is not None and self.description != description:
            sentences = descriptions.differences(self.description, description, "the model")
            raise CheckpointError(
                f"{self.path}: belongs to another network: {descriptions.first_sentences(sentences)}. If it has this "
                "package's layers, load_model(path).model is the right one"
            )
        found = dict(self.layout.entries)
        wanted = dict(model.layout.entries)
        for name in [*wanted, *found]:
            if wanted.get(name) != found.get(name):
                raise CheckpointError(
                    f"{self.path}: belongs to another network: {quoted(name)} is {quoted(found.get(name, 'missing'))} "
                    f"in the checkpoint, {wanted.get(name, 'missing')} in the model"
                )

    def require_dtype(self, dtype: np.dtype[Any]) -> None:
        """Raise CheckpointError if the parameters have another dtype."""
        found = self.state.parameters.dtype
        if found != dtype:
            raise CheckpointError(f"{self.path}: holds {found} parameters; this model's are {dtype}")

    def require_slots(self, wanted: OptimizerState) -> None:
        """Raise CheckpointError if the optimizer keeps other vectors than these."""
        slots = self.state.optimizer.slots
        for name in sorted(wanted.slots.keys() ^ slots.keys()):
            problem = "is missing" if name in wanted.slots else "belongs to another optimizer"
            raise CheckpointError(f"{self.path}: optimizer state is incomplete: {name} {problem}")


def _require_format(path: str, content: dict[str, Any]) -> None:
    found = content.get("format")
    if found == 1:
        raise CheckpointError(
            f"{path}: was written by an older version, which did not describe the model: its parameters are "
            f"numpy.load(path)['parameters'], for Coordinator(model, optimizer, parameters=...)"
        )
    if found != FORMAT:
        raise CheckpointError(f"{path}: has format {quoted(found)}; this version reads {FORMAT}")


def _state(content: dict[str, Any], parameters: Vector, slots: Arrays) -> TrainingState:
    loss_sum, correct, count, *weight = content["sums"]  # Versions without weights wrote three numbers.
    known = content["data"]
    return TrainingState(
        parameters,
        OptimizerState(_count(content, "step"), slots),
        epoch=_count(content, "epoch"),
        cursor=_count(content, "cursor"),
        sums=Metrics(
            _float(loss_sum), _valid_count("sums", correct), _valid_count("sums", count), *map(_weight, weight)
        ),
        seconds=_float(content["seconds"]),
        history=tuple(_report(report) for report in content["history"]),
        data=EpochData(None, _fingerprint(known)) if content["cursor"] or known else None,
    )


def _object(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {quoted(value)}")
    return value


def _count(content: dict[str, Any], name: str) -> int:
    return _valid_count(name, content[name])


def _valid_count(name: str, value: object) -> int:
    value = whole_number(name, value, 0)
    if value >= LARGEST:
        raise ValueError(f"{name} must be below 2**63")
    return value


def _float(value: object) -> float:
    """A number, or the text that stands for NaN or infinity."""
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in ("nan", "inf", "-inf")):
        raise ValueError(f"{quoted(value)} is not a number")
    return float(value)


def _weight(value: object) -> float:
    weight = _float(value)
    if not 0 <= weight < math.inf:
        raise ValueError(f"the weight of the sums is {quoted(value)}")
    return weight


def _report(values: Any) -> EpochReport:
    if not isinstance(values, dict):
        raise TypeError(f"history holds {quoted(values)}")
    counts = ("epoch", "step")
    other_values = {
        name: value if value is None else _float(value) for name, value in values.items() if name not in counts
    }
    return EpochReport(**{name: _count(values, name) for name in counts}, **other_values)  # type: ignore[arg-type]


def _fingerprint(values: Any) -> dict[str, Any]:
    """The fingerprint of the data that the last step was trained on."""
    if not isinstance(values, dict):
        raise TypeError(f"data is {quoted(values)}")
    for length in [values["samples"], *values["shape"][:MOST_AXES]]:
        _valid_count("data", length)
    if not isinstance(values["sha256"], str) or len(values["shape"]) > MOST_AXES:
        raise ValueError(f"data is {quoted(values)}")
    return dict(values)
