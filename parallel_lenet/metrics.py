"""The loss and accuracy of a model on some samples, as sums, so that parts of any size add up exactly."""

import math
from dataclasses import dataclass

from parallel_lenet.display import Displayed, Summary, Table, number, percent


@dataclass(frozen=True, repr=False)
class Metrics(Displayed):
    """The loss and the correct predictions of ``count`` samples, summed.

    ``correct`` is the number of correct predictions, 0 for a regression. ``weight`` is the sum of the samples' weights,
    by default their number. Weights count in the loss: ``loss_sum`` is the sum of weight times loss. They do not count
    in the accuracy. The sum of two has the metrics of all their samples.
    """

    loss_sum: float = 0.0
    correct: int = 0
    count: int = 0
    weight: float = None  # type: ignore[assignment]  # None stands for the count in the constructor.

    def __post_init__(self) -> None:
        if self.weight is None:
            object.__setattr__(self, "weight", float(self.count))

    @property
    def loss(self) -> float:
        """The weighted mean over the samples, or NaN if there are none, or if all weights are 0."""
        return self.loss_sum / self.weight if self.weight else math.nan

    @property
    def accuracy(self) -> float:
        """The share of correct predictions, from 0 to 1, or NaN if there are no samples."""
        return self.correct / self.count if self.count else math.nan

    def __add__(self, other: "Metrics") -> "Metrics":
        return Metrics(
            self.loss_sum + other.loss_sum,
            self.correct + other.correct,
            self.count + other.count,
            self.weight + other.weight,
        )

    def _summary(self) -> Summary:
        means = f"loss={number(self.loss)}, accuracy={number(self.accuracy)}"
        rows = [
            ("loss", number(self.loss)),
            ("accuracy", percent(self.accuracy)),
            ("correct", f"{self.correct:,} of {self.count:,}"),
        ]
        weight = ""
        if self.weight != self.count:
            weight = f", weight={number(self.weight)}"
            rows.append(("weight", number(self.weight)))
        return Summary(f"Metrics({means}, correct={self.correct}, count={self.count}{weight})", [Table((), rows)])

    __str__ = Displayed.__repr__
