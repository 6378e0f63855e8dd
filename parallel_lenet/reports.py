"""What training tells about itself: frozen records of numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metrics:
    """How a model does on a dataset: exact counts, and the mean loss."""

    loss: float
    accuracy: float
    correct: int
    count: int


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
    gradient_norm: float | None
    """Before clipping; None without it."""
    seconds: float
    skipped: str | None = None
    """Why the batch was passed over, where ``on_nan="skip"`` did so; then nothing was updated."""


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
