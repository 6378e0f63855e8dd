"""Learning-rate schedules: their values at the ends and joints, PyTorch's beside them, and what they refuse."""

import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kits.oracle import pytorch

from parallel_lenet.schedules import Cosine, Schedule, StepDecay, Warmup, rate_at

SCHEDULES: list[Schedule] = [
    StepDecay(0.3, every=4, factor=0.5),
    Cosine(0.3, total_steps=10, minimum=0.01),
]


def test_constant() -> None:
    """The same at every step."""
    assert [rate_at(0.3, step) for step in (0, 1, 10**9)] == [0.3, 0.3, 0.3]
    assert [Warmup(0.3, 3)(step) for step in (0, 1, 2, 3, 10**9)] == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])


def test_step_decay_drops_exactly_at_the_multiples() -> None:
    """Steps 0-2 at the full rate, 3-5 at half of it, and so on."""
    assert [StepDecay(0.4, every=3, factor=0.5)(step) for step in range(7)] == [0.4] * 3 + [0.2] * 3 + [0.1]


def test_step_decay_fades_to_zero_without_an_error() -> None:
    """A power too small for a float is zero."""
    assert StepDecay(0.4, every=1)(10**6) == 0.0


@pytest.mark.parametrize(("rate", "minimum"), [(0.1, 0.0), (0.3, 0.1), (1.0, 1.0), (0.7, 0.3)])
def test_cosine_has_exact_ends(rate: float, minimum: float) -> None:
    """The ends and the middle, and the minimum for ever after."""
    schedule = Cosine(rate, total_steps=8, minimum=minimum)
    assert schedule(0) == rate
    assert schedule(4) == pytest.approx((rate + minimum) / 2, rel=1e-15)
    assert [schedule(step) for step in (8, 9, 16, 10**9)] == [minimum] * 4


def test_cosine_is_the_equation_of_the_paper() -> None:
    """Loshchilov & Hutter 2017, equation 5."""
    for step in range(11):
        expected = 0.01 + 0.5 * (0.3 - 0.01) * (1 + math.cos(step / 10 * math.pi))
        assert Cosine(0.3, total_steps=10, minimum=0.01)(step) == pytest.approx(expected, rel=1e-14)


@given(st.floats(1e-6, 10), st.floats(0, 1), st.integers(1, 200))
def test_cosine_never_rises_nor_leaves_its_limits(rate: float, fraction: float, total_steps: int) -> None:
    """Falling, up to one rounding error of the weighted mean."""
    schedule = Cosine(rate, total_steps, minimum=rate * fraction)
    values = [schedule(step) for step in range(total_steps + 3)]
    tolerance = 1 + 1e-15
    assert all(later <= earlier * tolerance for earlier, later in itertools.pairwise(values))
    assert all(rate * fraction <= value * tolerance and value <= rate * tolerance for value in values)


@pytest.mark.parametrize("inner", SCHEDULES, ids=repr)
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_warmup_climbs_to_the_start_of_any_schedule_and_follows_it(inner: Schedule, steps: int) -> None:
    """The last step of the climb and the first of the inner schedule have the same rate."""
    schedule = Warmup(inner, steps)
    assert schedule(0) == inner(0) * (1 / steps)
    assert schedule(steps - 1) == schedule(steps) == inner(0)
    assert [schedule(steps + step) for step in range(15)] == [inner(step) for step in range(15)]
    climb = [schedule(step) for step in range(steps)]
    assert climb == pytest.approx([inner(0) * (step + 1) / steps for step in range(steps)])


def test_warmup_takes_a_plain_function() -> None:
    """The contract of a schedule is to be callable, nothing more."""
    assert [Warmup(lambda step: 1.0 / (step + 1), 2)(step) for step in range(4)] == [0.5, 1.0, 1.0, 0.5]


@pytest.mark.slow
def test_against_torch() -> None:
    """PyTorch's StepLR and CosineAnnealingLR up to the last step of the wave."""
    torch = pytorch()
    scheduler = torch.optim.lr_scheduler
    pairs: list[tuple[Schedule, Callable[[Any], Any]]] = [
        (StepDecay(0.3, every=4, factor=0.5), lambda optimizer: scheduler.StepLR(optimizer, 4, 0.5)),
        (Cosine(0.3, 20, minimum=0.01), lambda optimizer: scheduler.CosineAnnealingLR(optimizer, 20, 0.01)),
    ]
    for ours, theirs in pairs:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
        schedule = theirs(optimizer)
        for step in range(21):
            assert ours(step) == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
            optimizer.step()
            schedule.step()


@pytest.mark.parametrize("schedule", [*SCHEDULES, *(Warmup(inner, 3) for inner in SCHEDULES)], ids=repr)
def test_pickles_compares_and_repeats(schedule: Schedule) -> None:
    """A copy from another process is equal and gives the same numbers."""
    copy = pickle.loads(pickle.dumps(schedule))
    assert copy == schedule
    assert [copy(step) for step in range(20)] == [schedule(step) for step in range(20)]


@pytest.mark.parametrize("schedule", [*SCHEDULES, Warmup(0.1, 3)], ids=repr)
def test_negative_step_is_refused(schedule: Schedule) -> None:
    """There is nothing before step 0."""
    with pytest.raises(ValueError, match=r"^step must be at least 0, got -1$"):
        schedule(-1)


def test_numpy_numbers_become_python_numbers() -> None:
    """So that a float32 vector times a rate stays float32."""
    schedule = Cosine(np.float64(0.5), np.int64(10), minimum=np.float32(0.25))  # type: ignore[arg-type]
    assert schedule == Cosine(0.5, 10, minimum=0.25)
    assert {type(schedule(step)) for step in (0, 5, 10)} == {float}


@pytest.mark.parametrize("bad", [0, 0.0, -0.1, math.nan, math.inf, "0.1", None, True, 1j])
@pytest.mark.parametrize("make", [lambda rate: StepDecay(rate, 3), lambda rate: Cosine(rate, 3)])
def test_bad_learning_rates(make: Callable[[Any], object], bad: Any) -> None:
    """One sentence with the name, what is allowed, and the value."""
    with pytest.raises(ValueError, match=r"^learning_rate must be a finite number above 0, got .*$") as error:
        make(bad)
    assert repr(bad) in str(error.value)


@pytest.mark.parametrize("bad", [0, -1, 2.0, math.nan, "3", None, True])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda steps: StepDecay(0.1, steps), "every"),
        (lambda steps: Cosine(0.1, steps), "total_steps"),
        (lambda steps: Warmup(0.1, steps), "steps"),
    ],
    ids=["every", "total_steps", "steps"],
)
def test_bad_step_counts(make: Callable[[Any], object], name: str, bad: Any) -> None:
    """Whole numbers of at least 1 only."""
    with pytest.raises(ValueError, match=rf"^{name} must be a whole number of at least 1, got .*$") as error:
        make(bad)
    assert repr(bad) in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepDecay(0.1, 3, factor=0.0), "factor must be a number above 0 and at most 1, got 0.0"),
        (lambda: StepDecay(0.1, 3, factor=1.5), "factor must be a number above 0 and at most 1, got 1.5"),
        (lambda: StepDecay(0.1, 3, factor=math.nan), "factor must be a number above 0 and at most 1, got nan"),
        (lambda: Cosine(0.1, 3, minimum=-0.5), "minimum must be a finite number of at least 0, got -0.5"),
        (lambda: Cosine(0.1, 3, minimum=0.2), "minimum must be at most the learning_rate 0.1, got 0.2"),
        (lambda: Warmup(-0.1, 3), "schedule must be a schedule, or a finite number above 0, got -0.1"),
        (lambda: Warmup(None, 3), "schedule must be a schedule, or a finite number above 0, got None"),  # type: ignore[arg-type]
    ],
)
def test_other_bad_values(make: Callable[[], object], message: str) -> None:
    """The whole sentence."""
    with pytest.raises(ValueError, match="must be") as error:
        make()
    assert str(error.value) == message
