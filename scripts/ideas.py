"""Measure what changes of the training bring: ``python scripts/ideas.py --data-dir MNIST [CHANGE ...]``.

Each change is trained with the same seeds as the base: LeNet-5, AdamW, a cosine after 100 steps of warm-up. Networks
train on the training images but the last 10,000, and are measured on those. The test images are not used. The bits
of a figure do not depend on the machine or the number of workers. docs/recipes.md has the results.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from parallel_lenet import AdamW, Augment, Coordinator, Cosine, Dataset, StepReport, Warmup, lenet5, load_folder
from parallel_lenet.cli._console import Console
from parallel_lenet.cli._recipes import DISTORTIONS
from parallel_lenet.runs.statistics import statistics

HELD_OUT = 10_000
WARMUP = 100  # Steps.


@dataclass(frozen=True)
class OneCycle:
    """A climb and a descent along half cosine waves: Smith and Topin, "Super-convergence" (2018), as PyTorch has it."""

    peak: float
    steps: int

    def __call__(self, step: int) -> float:
        points = (0, self.peak / 25), (0.3 * self.steps, self.peak), (self.steps, self.peak / 250_000)
        for (begin, first), (end, last) in pairwise(points):
            if begin <= step <= end:
                weight = (1 + math.cos(math.pi * (step - begin) / (end - begin))) / 2
                return last + (first - last) * weight
        return points[-1][1]


@dataclass(frozen=True)
class Idea:
    """How to train. The values are those of the base."""

    rate: float = 0.004
    decay: float = 0.2
    batch_size: int = 128
    beta1: float = 0.9
    beta2: float = 0.999
    one_cycle: bool = False
    smoothing: float = 0.0
    average: float = 0.0
    """The decay per step of an exponential moving average of the parameters, which is measured instead of the last."""
    augment: str | None = None
    activation: str = "tanh"
    pooling: str = "avg"


IDEAS: dict[str, dict[str, Any]] = {
    "base": {},
    "decay-1": {"decay": 1.0},
    "decay-0.1": {"decay": 0.1},
    "rate-0.006": {"rate": 0.006},
    "batch-256": {"batch_size": 256, "rate": 0.006},
    "batch-1024": {"batch_size": 1024, "rate": 0.012},
    "one-cycle": {"one_cycle": True, "rate": 0.006},
    "beta1-0.95": {"beta1": 0.95},
    "beta2-0.99": {"beta2": 0.99},
    "average-0.99": {"average": 0.99},
    "average-0.998": {"average": 0.998},
    "smoothing-0.1": {"smoothing": 0.1},
    "smoothing-0.2": {"smoothing": 0.2},
    "relu-max": {"activation": "relu", "pooling": "max"},
    "smoothing-relu-max": {"smoothing": 0.1, "activation": "relu", "pooling": "max"},
    "augment": {"augment": DISTORTIONS},
    "augment-smoothing": {"augment": DISTORTIONS, "smoothing": 0.1},
}


def accuracy(idea: Idea, train: Dataset, validation: Dataset, epochs: int, seed: int) -> float:
    """The accuracy on the validation images after the last epoch, in percent."""
    steps = -(-len(train) // idea.batch_size) * epochs
    cosine = Warmup(Cosine(idea.rate, max(1, steps - WARMUP)), WARMUP)
    rates = OneCycle(idea.rate, steps) if idea.one_cycle else cosine
    model = lenet5(
        activation=idea.activation,
        pooling=idea.pooling,
        label_smoothing=idea.smoothing,
        augment=None if idea.augment is None else Augment.parse(idea.augment),
    )
    optimizer = AdamW(rates, beta1=idea.beta1, beta2=idea.beta2, weight_decay=idea.decay)
    with Coordinator(model, optimizer, batch_size=idea.batch_size, seed=seed) as coordinator:
        average = coordinator.parameters.copy()
        for report in coordinator.iterate(train, epochs):
            if isinstance(report, StepReport):
                average += (1 - np.float32(idea.average)) * (coordinator.parameters - average)
        with Coordinator(model, optimizer, engine="serial", parameters=average) as measured:
            return 100 * measured.evaluate(validation).accuracy


def rows(found: dict[str, list[float]]) -> Iterator[tuple[str, ...]]:
    """A row per idea: mean and deviation, and how much better than the base, with the error of that mean."""
    for name, values in found.items():
        gains = [value - other for value, other in zip(values, found["base"], strict=True)]
        one = statistics(values)
        gain = statistics(gains)
        error = gain.deviation / math.sqrt(len(gains))
        yield name, f"{one.mean:.3f}", f"{one.deviation:.3f}", f"{gain.mean:+.3f}", f"{error:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what changes of the training bring, on images held out.")
    parser.add_argument("ideas", nargs="*", metavar="CHANGE", help=f"default: all of {', '.join(IDEAS)}")
    parser.add_argument("--data-dir", required=True, metavar="FOLDER", help="MNIST as IDX files")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="default: 3, from 0 on")
    arguments = parser.parse_args()
    unknown = set(arguments.ideas) - set(IDEAS)
    if unknown:
        parser.error(f"unknown change {unknown.pop()!r}: choose of {', '.join(IDEAS)}")
    images = load_folder(arguments.data_dir).train
    kept = len(images) - HELD_OUT
    train = images.subset(np.arange(kept))
    validation = images.subset(np.arange(kept, len(images)))
    console = Console()
    found: dict[str, list[float]] = {}
    for name in dict.fromkeys(["base", *(arguments.ideas or IDEAS)]):
        idea = replace(Idea(), **IDEAS[name])
        found[name] = [accuracy(idea, train, validation, arguments.epochs, seed) for seed in range(arguments.seeds)]
        console.line(f"{name}: {', '.join(f'{value:.2f}' for value in found[name])}")
    header = ("change", "accuracy (%)", "deviation", "gain", "its error")
    console.table(f"{arguments.seeds} seeds, {arguments.epochs} epochs", header, list(rows(found)))


if __name__ == "__main__":
    main()
