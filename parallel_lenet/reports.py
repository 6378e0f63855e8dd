"""What training tells about itself: frozen records of numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metrics:
    """How a model does on a dataset: exact counts, and the mean loss."""

    loss: float
    accuracy: float
    correct: int
    count: int


@dataclass(frozen=True)
class StepTimes:
    """Where the seconds of a step went in the coordinator's process, and meanwhile in the workers."""

    waiting: float = 0.0
    """For gradients; with the serial engine this includes computing them."""
    adding: float = 0.0
    """The gradients, along the tree."""
    updating: float = 0.0
    """Norm, clipping, optimizer and checks."""
    computing: Mapping[str, float] = field(default_factory=dict)
    """By worker; what was lost with a worker does not count."""


@dataclass(frozen=True)
class StepReport:
    """One optimizer step: the batch's mean loss and accuracy before the update."""

    epoch: int
    """Counted from 1."""
    step: int
    """Of the whole training, counted from 1; a skipped step isn't counted, and repeats the number before."""
    loss: float
    accuracy: float
    count: int
    """Samples in the batch."""
    gradient_norm: float
    """Of the mean gradient, before clipping; NaN or infinity if the gradient is not finite."""
    seconds: float
    skipped: str | None = None
    """Why the batch was passed over, where ``on_nan="skip"`` did so; then nothing was updated."""
    learning_rate: float | None = None
    """Of this step; None if the optimizer has no ``learning_rate``."""
    times: StepTimes = StepTimes()


@dataclass(frozen=True)
class EpochReport:
    """One pass over the training data; losses are means, before each batch's update for the training data."""

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    seconds: float
    """Of training, without validation."""
    images_per_second: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class History:
    """All finished epochs, in order."""

    epochs: tuple[EpochReport, ...] = ()
