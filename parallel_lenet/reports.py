"""Reports of training: frozen records of numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from parallel_lenet.display import Displayed, Html, Summary, Table, count, number, percent, shorten
from parallel_lenet.display.curves import Curve, curves


@dataclass(frozen=True)
class StepTimes:
    """How the seconds of a step were used in the coordinator's process and in the workers."""

    waiting: float = 0.0
    """Waiting for gradients. With the serial engine this includes their computation."""
    adding: float = 0.0
    """Adding gradients along the tree, as far as that does not need the last one."""
    updating: float = 0.0
    """Everything after the last gradient: the last additions, mean, norm, clipping, optimizer and checks."""
    clipping: float = 0.0
    """The part of ``updating`` until the gradient was clipped, or 0 without clipping."""
    computing: Mapping[str, float] = field(default_factory=dict)
    """Seconds per worker. Work that was lost with a worker does not count."""


@dataclass(frozen=True)
class StepReport:
    """One optimizer step: the batch's mean loss and accuracy before the update."""

    epoch: int
    """Counted from 1."""
    step: int
    """Counted from 1 over the whole training. A skipped step is not counted, and repeats the number before it."""
    loss: float
    accuracy: float
    """Accuracy and loss are NaN if the batch was skipped because its weights are all 0."""
    count: int
    """Samples in the batch."""
    gradient_norm: float
    """The norm of the mean gradient, before clipping. NaN or infinity if the gradient is not finite."""
    seconds: float
    skipped: str | None = None
    """Why the batch was skipped: ``on_nan="skip"``, or weights that are all 0. None if it was not skipped."""
    learning_rate: float | None = None
    """The rate of this step, or None if the optimizer has no ``learning_rate``."""
    times: StepTimes = StepTimes()


@dataclass(frozen=True)
class EpochReport:
    """One pass over the training data. Losses are means. Those of the training data are before each batch's update."""

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    seconds: float
    """The seconds of training, without validation."""
    images_per_second: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


class History(Displayed, tuple[EpochReport, ...]):
    """The reports of all finished epochs, in order: a tuple, ``history[-1].validation_accuracy``."""

    def _summary(self) -> Summary:
        if not self:
            return Summary("History(no epochs)")
        last = self[-1]
        line = f"train loss {number(last.train_loss)}, {percent(last.train_accuracy)}"
        if last.validation_loss is not None:
            line += f"; validation loss {number(last.validation_loss)}, {percent(last.validation_accuracy)}"
        columns = {
            "epoch": [str(report.epoch) for report in self],
            "step": [f"{report.step:,}" for report in self],
            "train loss": [number(report.train_loss) for report in self],
            "train accuracy": [percent(report.train_accuracy) for report in self],
            "validation loss": [number(report.validation_loss) for report in self],
            "validation accuracy": [percent(report.validation_accuracy) for report in self],
            "seconds": [f"{report.seconds:.2f}" for report in self],
        }
        columns = {name: cells for name, cells in columns.items() if any(cells)}
        table = Table([*columns], shorten([*zip(*columns.values(), strict=True)]), texts=0)
        return Summary(f"History({count(len(self), 'epoch')}; {line})", [self._curves(), table])

    def _curves(self) -> Html:
        losses: list[Curve] = [("train", [report.train_loss for report in self])]
        accuracies: list[Curve] = [("train", [report.train_accuracy for report in self])]
        if any(report.validation_loss is not None for report in self):
            losses.append(("validation", [report.validation_loss for report in self]))
            accuracies.append(("validation", [report.validation_accuracy for report in self]))
        return Html(f"<div>{curves('loss', losses)}{curves('accuracy', accuracies, percent=True)}</div>")
