"""Statistics of a result over runs that differ in their seed only."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from parallel_lenet.runs.run import Run

RESULTS = ("test_accuracy", "test_loss", "validation_accuracy", "validation_loss")
"""Results of a run's last epoch. ``seconds`` of training, without evaluation, is another result."""


class Statistics(NamedTuple):
    """Mean, standard deviation, least and largest of some numbers.

    The deviation is that of a sample, ``sqrt(sum((x - mean)^2) / (n - 1))``. It is NaN for a single number.
    """

    mean: float
    deviation: float
    least: float
    largest: float


def statistics(numbers: Sequence[float]) -> Statistics:
    """The statistics of at least one number.

    >>> statistics([1.0, 2.0, 3.0])
    Statistics(mean=2.0, deviation=1.0, least=1.0, largest=3.0)
    """
    mean = math.fsum(numbers) / len(numbers)
    squares = math.fsum((number - mean) ** 2 for number in numbers)
    deviation = math.sqrt(squares / (len(numbers) - 1)) if len(numbers) > 1 else math.nan
    return Statistics(mean, deviation, min(numbers), max(numbers))


def results(run: Run) -> dict[str, float]:
    """The results of a run, as far as they are known and finite."""
    if not run.epochs:
        return {}
    last = run.epochs[-1]
    found = {name: float(last[name]) for name in RESULTS if math.isfinite(last.get(name, math.nan))}
    return found | {"seconds": math.fsum(line.get("seconds", 0.0) for line in run.epochs)}


def over_runs(runs: Sequence[Run]) -> dict[str, Statistics]:
    """The statistics of each result that all of these runs have."""
    all_results = [results(run) for run in runs]
    names = [name for name in (*RESULTS, "seconds") if all(name in each for each in all_results)]
    return {name: statistics([each[name] for each in all_results]) for name in names}


def number_text(name: str, value: float) -> str:
    """A number of a result as text, without its unit. Empty if it is not finite."""
    if not math.isfinite(value):
        return ""
    if name == "seconds":
        return f"{value:.2f}"
    return f"{value:.3%}" if name.endswith("accuracy") else f"{value:.4f}"
