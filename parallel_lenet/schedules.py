"""Learning-rate schedules: the learning rate as a function of the number of finished optimizer steps.

A schedule is any callable `schedule(step) -> learning rate`. The first update of a run uses `schedule(0)`. Schedules
count steps, not epochs: with 60,000 images and batches of 128, an epoch is 469 steps. A schedule holds no state, so a
resumed run continues exactly where it stopped.
"""

from dataclasses import dataclass
from typing import Protocol

from parallel_lenet.arithmetic import half_cosine, power
from parallel_lenet.checks import (
    NOT_NEGATIVE,
    POSITIVE,
    UP_TO_ONE,
    InvalidValue,
    Range,
    quoted,
    real_number,
    whole_number,
)
from parallel_lenet.display import Settings


class Schedule(Protocol):
    """A learning rate for every step. A plain function is enough. To pickle the optimizer, it must be picklable."""

    def __call__(self, step: int, /) -> float:
        """Return the learning rate of the update that follows `step` finished ones."""
        ...


def rate_at(learning_rate: float | Schedule, step: int) -> float:
    """The learning rate after `step` finished steps. Raises ValueError if a schedule returns no valid rate."""
    if not callable(learning_rate):
        return learning_rate
    rate = learning_rate(step)
    try:
        # A float, because a schedule of NumPy scalars would turn a float32 vector into a float64 one.
        return real_number("learning_rate", rate, NOT_NEGATIVE)
    except InvalidValue:
        raise ValueError(
            f"a schedule must return a finite number of at least 0, got {quoted(rate)} as it did at step {step}"
        ) from None


def set_number(record: object, name: str, allowed: Range) -> None:
    """Store the attribute `name` of a frozen dataclass as a Python float. Raises InvalidValue if it is not allowed."""
    object.__setattr__(record, name, real_number(name, getattr(record, name), allowed))


def set_step_count(record: object, name: str) -> None:
    """Store the attribute `name` of a frozen dataclass as an int. Raises InvalidValue unless it counts steps."""
    object.__setattr__(record, name, whole_number(name, getattr(record, name), 1))


def _check_step(step: int) -> None:
    if step < 0:
        raise InvalidValue("step", "at least 0", step)


@dataclass(frozen=True, repr=False)
class StepDecay(Settings):
    """The learning rate is multiplied by `factor` after each `every` steps.

        lr(s) = learning_rate * factor ** floor(s / every)

    `every` is in optimizer steps. Source: He et al. 2016, "Deep residual learning", section 3.4, which divides by ten
    at each plateau, and not at fixed steps. PyTorch's `StepLR` is the same, although most scripts advance it once per
    epoch. Keras has it as `ExponentialDecay(staircase=True)`.
    """

    learning_rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        set_number(self, "learning_rate", POSITIVE)
        set_step_count(self, "every")
        set_number(self, "factor", UP_TO_ONE)

    def __call__(self, step: int) -> float:
        """Return the learning rate after `step` finished steps."""
        _check_step(step)
        return self.learning_rate * power(self.factor, step // self.every)


@dataclass(frozen=True, repr=False)
class Cosine(Settings):
    """Half a cosine wave from `learning_rate` down to `minimum`, which is reached at `total_steps` and kept after it.

        w(s) = (1 + cos(pi * s / total_steps)) / 2
        lr(s) = learning_rate * w(s) + minimum * (1 - w(s))

    Source: Loshchilov & Hutter 2017, "SGDR", equation 5, without the restarts. After the last step the paper starts
    again at `learning_rate`, and PyTorch's `CosineAnnealingLR` climbs back along the wave. Keras's `CosineDecay` stays
    at the minimum, as here, but takes it as a fraction `alpha` of the learning rate.

    >>> schedule = Cosine(0.1, total_steps=100)
    >>> [round(schedule(step), 3) for step in (0, 50, 100)]
    [0.1, 0.05, 0.0]
    """

    learning_rate: float
    total_steps: int
    minimum: float = 0.0

    def __post_init__(self) -> None:
        set_number(self, "learning_rate", POSITIVE)
        set_step_count(self, "total_steps")
        set_number(self, "minimum", NOT_NEGATIVE)
        if self.minimum > self.learning_rate:
            raise ValueError(f"minimum must be at most the learning_rate {self.learning_rate}, got {self.minimum}")

    def __call__(self, step: int) -> float:
        """Return the learning rate after `step` finished steps."""
        _check_step(step)
        if step >= self.total_steps:
            return self.minimum
        weight = half_cosine(step, self.total_steps)
        # A weighted mean rather than the paper's `minimum + (learning_rate - minimum) * weight`, which is the same
        # number but may miss `learning_rate` at step 0 by a rounding error.
        return self.learning_rate * weight + self.minimum * (1 - weight)


@dataclass(frozen=True, repr=False)
class Warmup(Settings):
    """A straight climb over `steps` steps to the first value of another schedule, then that schedule from its start.

        lr(s) = schedule(0) * (s + 1) / steps    for s < steps
        lr(s) = schedule(s - steps)              for s >= steps

    `schedule` may be a number: the rate then stays there after the climb. A run is `steps` longer than the inner
    schedule. The first step takes 1 / `steps` of the rate. Source: Goyal et al. 2017, "Accurate, large minibatch SGD",
    section 2.2 ("gradual warmup"). Other implementations begin differently. Keras's `CosineDecay(warmup_steps=...)`
    begins at its `initial_learning_rate`; if that is 0, the first step changes nothing. PyTorch's `LinearLR` begins at
    a third of the rate.
    """

    schedule: Schedule | float
    steps: int

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            set_number(self, "schedule", POSITIVE._replace(words="a schedule, or a finite number above 0"))
        set_step_count(self, "steps")

    def __call__(self, step: int) -> float:
        """Return the learning rate after `step` finished steps."""
        _check_step(step)
        if step < self.steps:
            # (step + 1) / steps first: it is exactly 1 at the end, so the climb ends on schedule(0) itself.
            return rate_at(self.schedule, 0) * ((step + 1) / self.steps)
        return rate_at(self.schedule, step - self.steps)
