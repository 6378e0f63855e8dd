"""What training tells about itself: frozen records of numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from parallel_lenet.display import Displayed, Html, Summary, Table, count, number, percent, shortened
from parallel_lenet.display.curves import Curve, curves


@dataclass(frozen=True, repr=False)
class Metrics(Displayed):
    """How a model does on a dataset: exact counts, and the mean loss."""

    loss: float
    accuracy: float
    correct: int
    count: int

    def _summary(self) -> Summary:
        means = f"loss={number(self.loss)}, accuracy={number(self.accuracy)}"
        rows = [
            ("loss", number(self.loss)),
            ("accuracy", percent(self.accuracy)),
            ("correct", f"{self.correct:,} of {self.count:,}"),
        ]
        return Summary(f"Metrics({means}, correct={self.correct}, count={self.count})", [Table((), rows)])

    __str__ = Displayed.__repr__  # One line says it all.


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


@dataclass(frozen=True, repr=False)
class History(Displayed):
    """All finished epochs, in order."""

    epochs: tuple[EpochReport, ...] = ()

    def _summary(self) -> Summary:
        if not self.epochs:
            return Summary("History(no epochs)")
        last = self.epochs[-1]
        line = f"train loss {number(last.train_loss)}, {percent(last.train_accuracy)}"
        if last.validation_loss is not None:
            line += f"; validation loss {number(last.validation_loss)}, {percent(last.validation_accuracy)}"
        columns = {
            "epoch": [str(report.epoch) for report in self.epochs],
            "step": [f"{report.step:,}" for report in self.epochs],
            "train loss": [number(report.train_loss) for report in self.epochs],
            "train accuracy": [percent(report.train_accuracy) for report in self.epochs],
            "validation loss": [number(report.validation_loss) for report in self.epochs],
            "validation accuracy": [percent(report.validation_accuracy) for report in self.epochs],
            "seconds": [f"{report.seconds:.2f}" for report in self.epochs],
        }
        columns = {name: cells for name, cells in columns.items() if any(cells)}
        table = Table([*columns], shortened([*zip(*columns.values(), strict=True)]), texts=0)
        return Summary(f"History({count(len(self.epochs), 'epoch')}; {line})", [self._curves(), table])

    def _curves(self) -> Html:
        losses: list[Curve] = [("train", [report.train_loss for report in self.epochs])]
        accuracies: list[Curve] = [("train", [report.train_accuracy for report in self.epochs])]
        if any(report.validation_loss is not None for report in self.epochs):
            losses.append(("validation", [report.validation_loss for report in self.epochs]))
            accuracies.append(("validation", [report.validation_accuracy for report in self.epochs]))
        return Html(f"<div>{curves('loss', losses)}{curves('accuracy', accuracies, percent=True)}</div>")
