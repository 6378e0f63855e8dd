"""Optimizers: PyTorch's numbers, first steps by hand, and the contract that a resumed or repeated run relies on."""

import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kits.oracle import pytorch

from parallel_lenet import clipping, optimizers, optional
from parallel_lenet.clipping import clip_by_global_norm
from parallel_lenet.jsonable import describe
from parallel_lenet.optimizers import (
    SGD,
    Adam,
    AdamW,
    Optimizer,
    OptimizerState,
    RMSprop,
    Vector,
)
from parallel_lenet.schedules import Cosine, Schedule, StepDecay, Warmup

# Each optimizer beside the name and the options of the same one in PyTorch.
PAIRS: list[tuple[Optimizer, str, dict[str, Any]]] = [
    (SGD(0.1), "SGD", {"lr": 0.1}),
    (SGD(0.1, weight_decay=0.02), "SGD", {"lr": 0.1, "weight_decay": 0.02}),
    (SGD(0.1, 0.9), "SGD", {"lr": 0.1, "momentum": 0.9}),
    (SGD(0.1, 0.8, weight_decay=0.02), "SGD", {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.02}),
    (SGD(0.1, 0.9, nesterov=True), "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (
        SGD(0.1, 0.8, nesterov=True, weight_decay=0.02),
        "SGD",
        {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.02},
    ),
    (RMSprop(0.1), "RMSprop", {"lr": 0.1}),
    (
        RMSprop(0.1, 0.9, 1e-4, weight_decay=0.02),
        "RMSprop",
        {"lr": 0.1, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.02},
    ),
    (Adam(0.1), "Adam", {"lr": 0.1}),
    (
        Adam(0.1, 0.8, 0.95, 1e-4, weight_decay=0.02),
        "Adam",
        {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.02},
    ),
    (AdamW(0.1), "AdamW", {"lr": 0.1}),
    (AdamW(0.1, weight_decay=0.0), "AdamW", {"lr": 0.1, "weight_decay": 0.0}),
    (
        AdamW(0.1, 0.8, 0.95, 1e-4, weight_decay=0.3),
        "AdamW",
        {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.3},
    ),
]
OPTIMIZERS = [optimizer for optimizer, _, _ in PAIRS]
SCHEDULES: list[Schedule] = [StepDecay(0.1, 10, 0.5), Cosine(0.1, 40, 0.001), Warmup(Cosine(0.1, 30), 5)]


def momentum(learning_rate: Any = 0.01, **settings: Any) -> SGD:
    """SGD with its velocity."""
    return SGD(learning_rate, **{"momentum": 0.9, **settings})


KINDS: list[Callable[..., Any]] = [SGD, momentum, RMSprop, Adam, AdamW]


def vectors(count: int, dtype: type = np.float64, size: int = 37) -> tuple[Vector, list[Vector]]:
    """Return parameters and `count` gradients of very different sizes, some zero, all read-only."""
    rng = np.random.default_rng(3)
    gradients = rng.standard_normal((count, size)) * 10.0 ** rng.integers(-4, 3, (count, size))
    gradients[rng.random((count, size)) < 0.1] = 0
    parameters: Vector = rng.standard_normal(size).astype(dtype)
    result = [gradient.astype(dtype) for gradient in gradients]
    for vector in (parameters, *result):
        vector.flags.writeable = False
    return parameters, result


def run(
    optimizer: Optimizer, parameters: Vector, gradients: list[Vector], state: OptimizerState | None = None
) -> tuple[Vector, OptimizerState]:
    """Return the parameters and the state after one step for each gradient."""
    state = optimizer.init(parameters) if state is None else state
    for gradient in gradients:
        parameters, state = optimizer.update(parameters, gradient, state)
    return parameters, state


def torch_run(
    name: str, options: dict[str, Any], parameters: Vector, gradients: list[Vector], schedule: Schedule | None = None
) -> Vector:
    """Return the parameters after PyTorch has taken the same steps."""
    torch = pytorch()
    weights = torch.nn.Parameter(torch.tensor(parameters))
    optimizer = getattr(torch.optim, name)([weights], **options)
    for step, gradient in enumerate(gradients):
        if schedule is not None:
            optimizer.param_groups[0]["lr"] = schedule(step)
        weights.grad = torch.tensor(gradient)
        optimizer.step()
    result: Vector = weights.detach().numpy()
    return result


@pytest.mark.parametrize(("optimizer", "name", "options"), PAIRS, ids=map(repr, OPTIMIZERS))
def test_against_torch(optimizer: Optimizer, name: str, options: dict[str, Any]) -> None:
    """The same parameters after 50 steps, to rounding."""
    parameters, gradients = vectors(50)
    expected = torch_run(name, options, parameters, gradients)
    np.testing.assert_allclose(run(optimizer, parameters, gradients)[0], expected, rtol=1e-12, atol=1e-12)


def formula_run(optimizer: Any, parameters: list[float], gradients: list[list[float]]) -> list[float]:
    """The parameters after the steps of the optimizer's formula, as its docstring has it, with Python's numbers."""
    result = []
    for p, *column in zip(parameters, *gradients, strict=True):
        u = v = m = 0.0
        for t, g in enumerate(column, start=1):
            rate = optimizer.learning_rate(t - 1) if callable(optimizer.learning_rate) else optimizer.learning_rate
            if isinstance(optimizer, AdamW):
                p -= rate * optimizer.weight_decay * p
            else:
                g += optimizer.weight_decay * p
            if isinstance(optimizer, SGD):
                u = optimizer.momentum * u + g
                p -= rate * (g + optimizer.momentum * u if optimizer.nesterov else u)
            elif isinstance(optimizer, RMSprop):
                v = optimizer.decay * v + (1 - optimizer.decay) * g * g
                p -= rate * g / (math.sqrt(v) + optimizer.epsilon)
            else:
                m = optimizer.beta1 * m + (1 - optimizer.beta1) * g
                v = optimizer.beta2 * v + (1 - optimizer.beta2) * g * g
                corrected = m / (1 - optimizer.beta1**t), v / (1 - optimizer.beta2**t)
                p -= rate * corrected[0] / (math.sqrt(corrected[1]) + optimizer.epsilon)
        result.append(p)
    return result


@pytest.mark.parametrize(
    "optimizer", [*OPTIMIZERS, AdamW(SCHEDULES[0]), RMSprop(SCHEDULES[1]), SGD(SCHEDULES[2], 0.9)], ids=repr
)
def test_long_runs_follow_the_formulas(optimizer: Optimizer) -> None:
    """After 1, 2 and 2,500 steps: corrections of the first steps, and any change that would begin late."""
    parameters, gradients = vectors(2500, size=5)
    for steps in (1, 2, 2500):
        found, _ = run(optimizer, parameters, gradients[:steps])
        expected = formula_run(optimizer, parameters.tolist(), [each.tolist() for each in gradients[:steps]])
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_against_torch_with_a_schedule(kind: Callable[..., Any], schedule: Schedule) -> None:
    """The rate of an update is the schedule at the number of finished steps, also for the decay of AdamW."""
    parameters, gradients = vectors(50)
    name = kind.__name__
    options = {"weight_decay": 0.02}
    if kind is momentum:
        name = "SGD"
        options = {"weight_decay": 0.02, "momentum": 0.9}
    expected = torch_run(name, options, parameters, gradients, schedule)
    actual, state = run(kind(schedule, weight_decay=0.02), parameters, gradients)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    assert state.step == 50


@pytest.mark.parametrize("kind", KINDS)
def test_constant_schedule_is_the_plain_number(kind: Callable[..., Any]) -> None:
    """Bit for bit."""
    parameters, gradients = vectors(20)
    plain, scheduled = (run(kind(rate), parameters, gradients)[0] for rate in (0.1, lambda step: 0.1))
    assert plain.tobytes() == scheduled.tobytes()


@pytest.mark.parametrize(
    ("optimizer", "first", "second"),
    [
        # Parameter 1, gradient 2, then gradient -1. Worked by hand.
        (SGD(0.1), 0.8, 0.9),
        (SGD(0.1, weight_decay=0.5), 0.75, 0.75 - 0.1 * (-1 + 0.375)),
        (SGD(0.1, weight_decay=1), 0.7, 0.7 - 0.1 * (-1 + 0.7)),
        (SGD(0.1, 0.5), 0.8, 0.8),
        (SGD(0.1, 0.5, nesterov=True), 0.7, 0.7 - 0.1 * (-1 + 0.5 * 0)),
        (RMSprop(0.1, 0.75), 0.8, 0.8 + 0.1 / 1.0),
        (Adam(0.1, 0.5, 0.75), 0.9, 0.9),
        (AdamW(0.1, 0.5, 0.75, weight_decay=0.5), 0.85, 0.85 * 0.95),
    ],
    ids=repr,
)
def test_first_steps_by_hand(optimizer: Optimizer, first: float, second: float) -> None:
    """RMSprop: v is 1, then 1. Adam: m' is 2, then (0.5 - 0.5) / 0.75 = 0, so only the decay of AdamW moves."""
    parameters, state = run(optimizer, np.array([1.0]), [np.array([2.0])])
    assert parameters[0] == pytest.approx(first, abs=1e-8)
    parameters, state = run(optimizer, parameters, [np.array([-1.0])], state)
    assert parameters[0] == pytest.approx(second, abs=1e-8)
    assert state.step == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_inputs_stay_and_results_are_fresh(optimizer: Optimizer, dtype: type) -> None:
    """Read-only arguments are accepted, keep their bits, and share no memory with what is returned."""
    parameters, gradients = vectors(3, dtype)
    state = optimizer.init(parameters)
    for gradient in gradients:
        for slot in state.slots.values():
            slot.flags.writeable = False
        before = pickle.dumps((parameters, gradient, state))
        updated, new_state = optimizer.update(parameters, gradient, state)
        assert pickle.dumps((parameters, gradient, state)) == before
        for array in (updated, *new_state.slots.values()):
            assert array.dtype == dtype
            assert not any(np.shares_memory(array, old) for old in (parameters, gradient, *state.slots.values()))
        assert new_state.slots.keys() == state.slots.keys()
        parameters, state = updated, new_state


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_scalars_leave_float32_alone(kind: Callable[..., Any]) -> None:
    """NumPy hyper-parameters, rates and step counts give the bits of Python's numbers."""
    parameters, gradients = vectors(5, np.float32)
    expected, expected_state = run(kind(0.1, weight_decay=0.02), parameters, gradients)
    for rate in (np.float64(0.1), lambda step: np.float64(0.1)):
        optimizer = kind(rate, weight_decay=np.float64(0.02))
        halfway, state = run(optimizer, parameters, gradients[:2])
        state = OptimizerState(np.int64(state.step), state.slots)  # type: ignore[arg-type]
        actual, state = run(optimizer, halfway, gradients[2:], state)
        assert actual.dtype == np.float32
        assert actual.tobytes() == expected.tobytes()
        assert state.slots.keys() == expected_state.slots.keys()
        assert all(state.slots[name].tobytes() == slot.tobytes() for name, slot in expected_state.slots.items())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, Adam(SCHEDULES[2])], ids=repr)
def test_interrupted_run_ends_in_the_same_bits(optimizer: Optimizer, dtype: type) -> None:
    """Parameters, state and optimizer carried through pickle between any two steps change nothing."""
    parameters, gradients = vectors(12, dtype)
    expected, _ = run(optimizer, parameters, gradients)
    for stop in (0, 1, 7, 12):
        halfway = (optimizer, *run(optimizer, parameters, gradients[:stop]))
        resumed, middle, state = pickle.loads(pickle.dumps(halfway))
        assert state.step == stop
        assert run(resumed, middle, gradients[stop:], state)[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_each_element_is_on_its_own(optimizer: Optimizer) -> None:
    """Any piece of the vector alone gets the bits it gets in the whole, at any place in memory."""
    parameters, gradients = vectors(5, np.float32, size=1001)
    whole, _ = run(optimizer, parameters, gradients)
    for piece in (slice(0, 1), slice(3, 500), slice(17, None)):
        alone, _ = run(optimizer, parameters[piece], [gradient[piece] for gradient in gradients])
        assert alone.tobytes() == whole[piece].tobytes()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_nan_is_not_hidden(optimizer: Optimizer) -> None:
    """A NaN in the gradient shows in its parameter and in no other."""
    updated, _ = run(optimizer, np.ones(3), [np.array([1.0, np.nan, 1.0])])
    assert np.isnan(updated).tolist() == [False, True, False]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_zero_gradients_only_decay(optimizer: Optimizer) -> None:
    """No division by zero on a parameter whose gradient has always been zero."""
    parameters = np.zeros(4, np.float32)
    updated, _ = run(optimizer, parameters, [np.zeros(4, np.float32)] * 3)
    assert not updated.any()


def test_small_second_moment_decay_is_accurate() -> None:
    """With beta2 = 0 the second moment is the last square alone, even after a gradient 10,000,000 times as large."""
    gradients = [np.full(1, 1.0, np.float32), np.full(1, 1e-7, np.float32)]
    _, state = run(Adam(beta2=0.0), np.zeros(1, np.float32), gradients)
    assert state.slots["second_moment"][0] == pytest.approx(1e-14, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [0.0, -0.1, math.nan, math.inf, "0.1", None])
def test_bad_learning_rates(kind: Callable[..., Any], bad: Any) -> None:
    """One sentence with the name, what is allowed, and the value."""
    with pytest.raises(ValueError, match=r"^learning_rate must be a finite number above 0, got .*$") as error:
        kind(bad)
    assert repr(bad) in str(error.value)


@pytest.mark.parametrize(
    ("kind", "name", "bad", "allowed"),
    [
        *((kind, "weight_decay", bad, "a finite number of at least 0") for kind in KINDS for bad in (-1.0, math.nan)),
        (SGD, "momentum", 1.0, "a number of at least 0 and below 1"),
        (SGD, "momentum", -0.1, "a number of at least 0 and below 1"),
        (SGD, "nesterov", 0.1, "True or False"),
        (Adam, "fused", 1, "True, False or None"),
        (RMSprop, "decay", 1.0, "a number of at least 0 and below 1"),
        *((kind, "epsilon", bad, "a finite number above 0") for kind in KINDS[2:] for bad in (0.0, math.inf)),
        *((kind, name, 1.0, "a number of at least 0 and below 1") for kind in KINDS[3:] for name in ("beta1", "beta2")),
    ],
)
def test_bad_values(kind: Callable[..., Any], name: str, bad: Any, allowed: str) -> None:
    """The whole sentence."""
    with pytest.raises(ValueError, match=name) as error:
        kind(**{name: bad})
    assert str(error.value) == f"{name} must be {allowed}, got {bad!r}"


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf, None, "0.1", np.array([0.1]), True])
def test_bad_schedules_are_caught_when_asked(rate: Any) -> None:
    """A schedule is the user's own function, so its answers are checked."""
    with pytest.raises(
        ValueError, match=rf"^a schedule must return .* got {re.escape(repr(rate))} as it did at step 0$"
    ):
        run(SGD(lambda step: rate), np.ones(2), [np.ones(2)])


@pytest.mark.parametrize("parameters", [np.ones((2, 2)), np.float32(1), np.ones(2, int), np.ones(2, np.float16)])
@pytest.mark.parametrize("kind", KINDS)
def test_bad_parameters(kind: Callable[..., Any], parameters: Any) -> None:
    """Flat float32 or float64 vectors only."""
    with pytest.raises(ValueError, match=r"^parameters must be a float32 or float64 vector, got .*$"):
        kind().init(parameters)


@pytest.mark.parametrize("gradient", [np.ones(1), np.ones((3, 1)), np.ones(3, np.float32), np.float64(1)])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_another_kind(kind: Callable[..., Any], gradient: Any) -> None:
    """Refused rather than broadcast or converted."""
    with pytest.raises(ValueError, match=r"^gradient must be float64 of shape \(3,\) like the parameters, got .*$"):
        run(kind(), np.ones(3), [gradient])


def test_state_of_another_kind() -> None:
    """A state left by another optimizer, or for other parameters, is refused."""
    message = "the state of this optimizer must hold ['first_moment', 'second_moment'], got ['velocity']"
    with pytest.raises(ValueError, match="state of this optimizer") as error:
        run(Adam(), np.ones(3), [np.ones(3)], momentum().init(np.ones(3)))
    assert str(error.value) == message
    with pytest.raises(ValueError, match=r"^velocity must be float64 of shape \(3,\)"):
        run(momentum(), np.ones(3), [np.ones(3)], momentum().init(np.ones(4)))
    with pytest.raises(ValueError, match=r"must hold \[\], got \['velocity'\]"):
        run(SGD(), np.ones(3), [np.ones(3)], momentum().init(np.ones(3)))
    with pytest.raises(ValueError, match=r"^step must be at least 0, got -1$"):
        OptimizerState(-1)


def finite_vectors(dtype: type, largest: float) -> st.SearchStrategy[Vector]:
    """Return vectors of any length, empty ones included."""
    width = 32 if dtype is np.float32 else 64
    elements = st.floats(-largest, largest, width=width)  # type: ignore[arg-type]
    return hnp.arrays(dtype, st.integers(0, 60), elements=elements)


GRADIENTS = st.one_of(finite_vectors(np.float32, 2.0**127), finite_vectors(np.float64, 1e100))


@given(GRADIENTS, st.floats(1e-6, 1e6))
def test_clip_keeps_the_limit_and_the_direction(gradient: Vector, max_norm: float) -> None:
    """Never longer than the limit beyond rounding, and the same multiple of the gradient everywhere."""
    gradient.flags.writeable = False
    clipped, norm = clip_by_global_norm(gradient, max_norm)
    assert clipped.dtype == gradient.dtype
    assert type(norm) is float
    assert norm == pytest.approx(math.hypot(*gradient.tolist()), rel=1e-12, abs=1e-150)
    if norm <= max_norm:
        assert clipped is gradient
        return
    precision = 4 * float(np.finfo(gradient.dtype).eps)
    assert math.hypot(*clipped.tolist()) == pytest.approx(max_norm, rel=precision)
    expected = [value * (max_norm / norm) for value in gradient.tolist()]
    smallest = float(np.finfo(gradient.dtype).smallest_subnormal)
    np.testing.assert_allclose(clipped.astype(float), expected, rtol=precision, atol=smallest)


def test_clip_by_hand() -> None:
    """A 3-4-5 triangle, at the limit, above it and with no limit."""
    gradient = np.array([3.0, -4.0])
    assert clip_by_global_norm(gradient, 5.0)[0] is gradient
    assert clip_by_global_norm(gradient, math.inf)[0] is gradient
    clipped, norm = clip_by_global_norm(gradient, 2.5)
    assert (clipped.tolist(), norm) == ([1.5, -2.0], 5.0)
    assert gradient.tolist() == [3.0, -4.0]


@pytest.mark.slow
def test_clip_against_torch() -> None:
    """PyTorch's is shorter by its 1e-6 in the denominator."""
    torch = pytorch()
    gradient = vectors(1)[1][0]
    weights = torch.nn.Parameter(torch.zeros(len(gradient), dtype=torch.float64))
    weights.grad = torch.tensor(gradient)
    norm = torch.nn.utils.clip_grad_norm_([weights], 0.5)
    clipped, our_norm = clip_by_global_norm(gradient, 0.5)
    assert our_norm == pytest.approx(norm.item(), rel=1e-12)
    np.testing.assert_allclose(clipped * our_norm / (our_norm + 1e-6), weights.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_clip_does_not_hide_what_is_not_finite(bad: float) -> None:
    """The gradient comes back untouched and the norm tells."""
    gradient = np.array([1.0, bad], np.float32)
    clipped, norm = clip_by_global_norm(gradient, 0.1)
    assert clipped is gradient
    assert not math.isfinite(norm)


def test_clip_of_float32_extremes() -> None:
    """Neither the squares nor the factor leave the range of the type, up to the largest float32."""
    gradient = np.full(100, np.finfo(np.float32).max)
    clipped, norm = clip_by_global_norm(gradient, 1e-3)
    assert norm == pytest.approx(10 * float(np.finfo(np.float32).max))
    np.testing.assert_allclose(clipped, 1e-4, rtol=1e-6)


def test_clip_when_float64_squares_overflow() -> None:
    """An infinite norm and the gradient itself, without a warning."""
    gradient = np.array([1e200, 1.0])
    clipped, norm = clip_by_global_norm(gradient, 1.0)
    assert clipped is gradient
    assert norm == math.inf


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, None, "1"])
def test_bad_max_norm(bad: Any) -> None:
    """The whole sentence."""
    with pytest.raises(ValueError, match="max_norm") as error:
        clip_by_global_norm(np.ones(2), bad)
    assert str(error.value) == f"max_norm must be a number above 0, got {bad!r}"


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_adam_gives_the_same_bits(kind: type[Adam] | type[AdamW], dtype: str) -> None:
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    plain, fused = (kind(Cosine(0.01, 20), weight_decay=0.1, fused=flag) for flag in (False, True))
    ours = theirs = rng.standard_normal(1001).astype(dtype)
    ours.flags.writeable = False
    state = fused.init(ours)
    their_state = plain.init(theirs)
    for _ in range(20):
        gradient = (rng.standard_normal(1001) * 10.0 ** rng.integers(-15, 4, 1001)).astype(dtype)
        gradient[0] = 0
        ours, state = fused.update(ours, gradient, state)
        theirs, their_state = plain.update(theirs, gradient, their_state)
    assert ours.tobytes() == theirs.tobytes()
    assert {name: slot.tobytes() for name, slot in state.slots.items()} == {
        name: slot.tobytes() for name, slot in their_state.slots.items()
    }
    assert ours.dtype == dtype
    assert state.step == their_state.step == 20


def test_fused_adam_lets_nan_through() -> None:
    pytest.importorskip("numba")
    adam = Adam(0.1, fused=True)
    parameters = np.ones(9, np.float32)
    gradient = np.array([1, np.nan, np.inf, 0, 1, 1, 1, 1, 1], np.float32)
    updated, _ = adam.update(parameters, gradient, adam.init(parameters))
    assert np.isnan(updated[1:3]).all()
    assert np.isfinite(np.delete(updated, [1, 2])).all()


def test_nesterov_needs_a_momentum_as_in_torch() -> None:
    with pytest.raises(ValueError, match=r"^nesterov needs a momentum above 0"):
        SGD(0.1, nesterov=True)
    assert SGD(0.1, 0.9, nesterov=np.True_).nesterov is True  # type: ignore[arg-type]
    assert SGD(0.1).init(np.ones(2)).slots == {}


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_adam_is_fused_if_numba_works_and_that_is_no_setting(
    kind: type[Adam], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("numba")
    from parallel_lenet.kernels.compiled import adam

    parameters, gradients = vectors(3, np.float32)
    calls: list[int] = []
    update = adam.update

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return update(*arguments)

    monkeypatch.setattr(adam, "update", counted)
    optimizers._fused_module.cache_clear()
    results = set()
    for fused, count in ((None, 3), (True, 6), (False, 6)):
        results.add(run(kind(0.1, fused=fused), parameters, gradients)[0].tobytes())
        assert len(calls) == count
        assert kind(0.1, fused=fused) == kind(0.1)
        assert describe(kind(0.1, fused=fused)) == describe(kind(0.1))
    assert len(results) == 1

    monkeypatch.setattr(adam, "DISABLED", True)  # Numba's own switch: its loops would be Python's.
    optimizers._fused_module.cache_clear()
    run(kind(0.1), parameters, gradients)
    assert len(calls) == 6
    monkeypatch.undo()
    optimizers._fused_module.cache_clear()


def test_without_numba_numpy_computes_and_only_fused_true_is_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    error = optional.ExtraError("Adam's compiled step needs numba, which is not installed")

    def load() -> Any:
        raise error

    monkeypatch.setattr(optimizers, "_load_fused", load)
    for installed, messages in ((False, 0), (True, 1)):
        error.installed = installed
        optimizers._fused_module.cache_clear()
        optional.note_once.cache_clear()
        run(Adam(), np.ones(3), [np.ones(3)] * 2)
        assert len(caplog.messages) == messages
        with pytest.raises(ModuleNotFoundError, match="needs numba"):
            Adam(fused=True)
    optimizers._fused_module.cache_clear()


@pytest.mark.parametrize("optimizer", [Adam(0.1), AdamW(0.1), RMSprop(0.1), SGD(0.1, 0.9)], ids=repr)
def test_checkpoints_know_an_optimizer_by_its_settings(optimizer: Any) -> None:
    described = describe(optimizer)
    assert described["class"] == type(optimizer).__name__
    assert "fused" not in described
    assert {"learning_rate", "weight_decay"} <= described.keys()


def test_the_norm_for_reports_adds_all_blocks_without_the_slow_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipping, "sum_of_squares", lambda *_: pytest.fail("the slow sum was used"))
    for size in (1, clipping.NORM_BLOCK, 2 * clipping.NORM_BLOCK + 3):
        gradient = np.ones(size, np.float32)
        gradient[0] = gradient[-1] = 100
        assert clipping.global_norm(gradient) == pytest.approx(math.sqrt((gradient.astype(float) ** 2).sum()), rel=1e-6)
    assert math.isnan(clipping.global_norm(np.array([1, math.nan], np.float32)))
