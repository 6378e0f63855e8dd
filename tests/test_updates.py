"""Long vectors: the bits of whole vectors on one thread, and memory that is used again only if no one holds it."""

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kits.models import Array, Scripted
from numpy.testing import assert_array_equal

from parallel_lenet import SGD, Adam, AdamW, Coordinator, Metrics, RMSprop, StepReport
from parallel_lenet.averaging import mean
from parallel_lenet.clipping import clip_by_global_norm, global_norm
from parallel_lenet.engines.serial import SerialEngine
from parallel_lenet.optimizers import OptimizerState
from parallel_lenet.slices import LONG, SLICE, Threads
from parallel_lenet.step_end import StepEnd, finish
from parallel_lenet.updates import VectorPool, copy_of, is_elementwise, update

SIZE = LONG + 4_321
PARAMETERS = np.ones(3000, np.float32)
OPTIMIZERS = (
    SGD(0.1, weight_decay=0.1),
    SGD(0.1, nesterov=True, weight_decay=0.1, momentum=0.9),
    RMSprop(weight_decay=0.1),
    Adam(lambda step: 0.1 / (step + 1), weight_decay=0.1),
    Adam(0.1, fused=False),
    AdamW(fused=True),
)


class Longest(SGD):
    """A step of length 1: every number depends on all others."""

    def update(self, parameters: Array, gradient: Array, state: OptimizerState) -> tuple[Array, OptimizerState]:
        return super().update(parameters, gradient / np.linalg.norm(gradient), state)


class Halved(Adam):
    """Elementwise as Adam's, with another formula."""

    elementwise = True

    def update(self, parameters: Array, gradient: Array, state: OptimizerState, **out: Any) -> Any:
        assert not out  # For Adam's own formula.
        return super().update(parameters, gradient / 2, state)


class Declared(Longest):
    elementwise = True


def test_only_the_class_that_defines_the_update_can_declare_it_elementwise() -> None:
    class Named(Adam):
        """Another name, the same update."""

    class Again(Longest):
        elementwise = True

        def update(self, parameters: Array, gradient: Array, state: OptimizerState) -> tuple[Array, OptimizerState]:
            return parameters - gradient, OptimizerState(state.step + 1)

    assert all(map(is_elementwise, (*OPTIMIZERS, Named(), Again(), Halved())))
    assert not any(map(is_elementwise, (Longest(), Declared())))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "optimizer", [*OPTIMIZERS, Longest(), Halved()], ids=lambda optimizer: type(optimizer).__name__
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_of_an_update_are_those_of_whole_vectors(optimizer: Any, threads: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    parameters = rng.standard_normal(SIZE).astype(dtype)
    ours = parameters
    state = optimizer.init(parameters)
    memory = VectorPool()
    theirs, their_state = parameters, state
    for _ in range(2):
        gradient = rng.standard_normal(SIZE).astype(dtype)
        before = gradient.copy()
        ours, state, finite = update(optimizer, ours, gradient, state, memory, Threads(threads))
        theirs, their_state = optimizer.update(theirs, gradient, their_state)
        assert finite
        assert_array_equal(gradient, before)
    assert ours.dtype == dtype
    assert_array_equal(ours, theirs)
    assert (state.step, state.slots.keys()) == (2, their_state.slots.keys())
    for name, slot in state.slots.items():
        assert_array_equal(slot, their_state.slots[name])


@pytest.mark.parametrize("where", [0, SLICE, SIZE - 1])
def test_a_number_that_is_not_finite_is_noticed_wherever_it_is(where: int) -> None:
    parameters, gradient = np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32)
    gradient[where] = 3e38
    sgd = SGD(1e30)
    memory = VectorPool()
    threads = Threads(2)
    assert not update(sgd, parameters, gradient, sgd.init(parameters), memory, threads)[2]
    assert global_norm(gradient, threads) == pytest.approx(3e38)  # Its square is not a float32.
    gradient[where] = np.nan
    assert np.isnan(global_norm(gradient, threads))


def test_sums_means_and_clipping_have_the_same_bits_on_any_number_of_threads() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.standard_normal((2, SIZE)).astype(np.float32)
    found = []
    for number in (1, 2, 7):
        threads = Threads(number)
        memory = VectorPool()
        sums = [copy_of(left, memory, threads), right, left]
        total = mean(sums, 3.0, memory, threads)
        assert_array_equal(total, (left + (right + left)) / np.float32(3))
        assert_array_equal(sums, [left, right, left])
        clipped, norm = clip_by_global_norm(total, 1.0, threads)
        found.append((clipped.tobytes(), norm, global_norm(total, threads)))
    assert len(set(found)) == 1
    assert found[0][1] == pytest.approx(np.linalg.norm(total.astype(float)), rel=1e-12)
    assert found[0][2] == pytest.approx(found[0][1], rel=1e-5)


@pytest.mark.parametrize(
    ("size", "vectors", "dtype"),
    [
        (1, 1, "float32"),
        (31, 2, "float64"),
        (33, 4, "float32"),
        (2048, 2, "float32"),
        (4097, 1, "float64"),
        (6177, 2, "float32"),
        (SIZE, 3, "float32"),
    ],
)
def test_a_step_in_one_pass_has_the_bits_of_one_in_many(size: int, vectors: int, dtype: str) -> None:
    rng = np.random.default_rng(size)
    metrics = Metrics(1.0, 0, 37)
    memory = VectorPool()
    for kind in (Adam, AdamW):
        many, one = kind(0.1, weight_decay=0.1, fused=False), kind(0.1, weight_decay=0.1)
        theirs = ours = (rng.standard_normal(size).astype(dtype), one.init(np.zeros(size, dtype)))
        for _ in range(2):
            sums = rng.standard_normal((vectors, size)).astype(dtype)
            sums.flags.writeable = False
            there = finish(many, theirs, metrics, sums, None, memory, Threads(1))
            here = finish(one, ours, metrics, list(sums), None, memory, Threads(2))
            theirs, ours = (there.parameters, there.state), (here.parameters, here.state)
            assert ours[0].tobytes() == theirs[0].tobytes()
            for name, slot in theirs[1].slots.items():
                assert ours[1].slots[name].tobytes() == slot.tobytes()
            assert here.norm == pytest.approx(there.norm, rel=1e-5)
            assert here.gradient_finite
            assert here.finite


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("where", [0, 40, 2999])
def test_the_end_of_a_step_tells_what_is_not_finite(fused: bool | None, where: int) -> None:
    def end(value: float, rate: float = 0.1, loss: float = 1.0, clip_norm: float | None = None) -> StepEnd:
        sums = np.zeros((2, 3000), np.float32)
        sums[1, where] = value
        adam = Adam(rate, fused=fused)
        before = PARAMETERS, adam.init(PARAMETERS)
        return finish(adam, before, Metrics(loss, 0, 2), list(sums), clip_norm, VectorPool(), Threads(1))

    for value, norm in ((1e30, 5e29), (2e-30, 1e-30), (0.0, 0.0), (6.0, 3.0)):  # Squares beyond float32, too.
        found = end(value)
        assert found.norm == pytest.approx(norm, rel=1e-5)
        assert (found.gradient_finite, found.finite, found.state.step) == (True, True, 1)
    for wrong in (end(np.nan), end(np.inf), end(1.0, loss=np.inf), end(np.nan, clip_norm=1.0)):
        assert (wrong.gradient_finite, wrong.state.step) == (False, 0)
        assert wrong.parameters is PARAMETERS
    assert end(1.0, loss=np.inf).norm == 0.5
    assert not math.isfinite(end(np.inf).norm)
    found = end(1.0, rate=1e39)
    assert (found.gradient_finite, found.finite) == (True, False)


@given(st.lists(st.tuples(st.sampled_from(["vector", "view", "drop"]), st.integers(0, 9)), max_size=40))
def test_memory_is_used_again_only_if_no_one_holds_it(actions: list[tuple[str, int]]) -> None:
    memory = VectorPool()
    like = np.empty(LONG + 1, np.float32)
    held: list[Array] = []
    addresses: set[int] = set()
    most = 0
    for action, which in actions:
        if action == "drop":
            del held[which : which + 1]
            continue
        vector = memory.empty_like(like)
        assert vector.shape == like.shape
        assert vector.dtype == like.dtype
        assert not any(np.may_share_memory(vector, other) for other in held)
        addresses.add(vector.ctypes.data)
        held.append(vector[5:] if action == "view" else vector)
        most = max(most, len(held))
        del vector
    assert len(addresses) == most  # What was dropped was used again.


def test_cleared_memory_is_given_back_once_no_one_holds_it() -> None:
    memory = VectorPool()
    like = np.empty(LONG + 1, np.float32)
    vector = memory.empty_like(like)
    vector[:] = 7
    memory.clear()
    assert not np.may_share_memory(memory.empty_like(like), vector)
    assert (vector == 7).all()


class Several(SerialEngine):
    """Computes here what is given out as if there were several workers."""

    def __init__(self, n_workers: int) -> None:
        super().__init__()
        self.n_workers = n_workers


MODEL = Scripted(size=SIZE)
INPUTS = np.random.default_rng(2).standard_normal((12, 2)) * 0.001
DATA = (INPUTS, np.arange(12.0))


def train(n_workers: int = 3, steps: int = 5, **settings: Any) -> Coordinator:
    settings = {"batch_size": 4, "shard_size": 1, "engine": Several(n_workers), **settings}
    coordinator = Coordinator(MODEL, settings.pop("optimizer", Adam(0.01)), **settings)
    for report in coordinator.iterate(DATA, 10):
        if isinstance(report, StepReport) and report.step == steps:
            break
    return coordinator


def test_parameters_that_were_handed_out_stay_as_they_are() -> None:
    coordinator = train(steps=1)
    kept = coordinator.parameters
    part = coordinator.parameters[7:9]
    digest = coordinator.parameters_sha256()
    then = kept.copy()
    coordinator.fit(DATA, epochs=2)
    assert coordinator.parameters_sha256() != digest
    assert_array_equal(kept, then)
    assert_array_equal(part, then[7:9])


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 0.5}, {"optimizer": Longest(0.01)}], ids=str)
def test_a_long_model_trains_to_the_same_bits_for_any_number_of_workers(settings: dict[str, Any]) -> None:
    assert len({train(n, steps=3, **settings).parameters_sha256() for n in (1, 2, 5)}) == 1


class Interrupted(SGD):
    """Interrupts the second step at its last slice."""

    elementwise = True

    def update(self, parameters: Array, gradient: Array, state: OptimizerState) -> tuple[Array, OptimizerState]:
        if state.step == 1 and len(parameters) == SIZE % SLICE:
            raise KeyboardInterrupt
        return super().update(parameters, gradient, state)


def test_an_interrupt_among_the_slices_leaves_the_step_before() -> None:
    coordinator = Coordinator(MODEL, Interrupted(0.1), batch_size=4, shard_size=1, engine=Several(2))
    loop = coordinator.iterate(DATA)
    next(loop)
    parameters = coordinator.parameters
    digest = coordinator.parameters_sha256()
    with pytest.raises(KeyboardInterrupt):
        next(loop)
    assert coordinator.parameters is parameters
    assert (coordinator.step, coordinator.parameters_sha256()) == (1, digest)


class Written:
    """An optimizer of the user's own: gradient descent with a result that ``change`` replaces."""

    elementwise = True
    learning_rate = 0.1

    def __init__(self, change: Any, init: Any = OptimizerState) -> None:
        self.change = change
        self.init = lambda parameters: init(0, {"mean": np.zeros_like(parameters)})

    def update(self, parameters: Array, gradient: Array, state: OptimizerState) -> Any:
        return self.change(parameters - np.float32(0.1) * gradient, OptimizerState(state.step + 1, state.slots), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, new, old: p, "must return parameters and an OptimizerState, got array"),
        (lambda p, new, old: (p, {}), "must return parameters and an OptimizerState, got (array"),
        (lambda p, new, old: (np.float64(1) * p, new), "must return parameters as float32 of shape"),
        (lambda p, new, old: (p[:, None], new), "must return parameters as float32 of shape"),
        (lambda p, new, old: (list(p), new), "must return parameters as float32 of shape"),
        (lambda p, new, old: (p, OptimizerState(new.step, {"mean": 0.5})), "must return mean as float32 of shape"),
        (lambda p, new, old: (p, old), "must return a state of step 1, got 0"),
        (
            lambda p, new, old: (p, OptimizerState(new.step, {"sum": p})),
            "with the vectors of its init, ['mean'], got ['sum']",
        ),
        (lambda p, new, old: (p, old.slots["mean"].fill(1)), "assignment destination is read-only"),
    ],
    ids=range(9),
)
def test_what_an_optimizer_may_not_return_or_overwrite(change: Any, message: str) -> None:
    for size in (2, SIZE):  # At once, and in slices.
        coordinator = Coordinator(Scripted(size=size), Written(change), engine="serial", batch_size=4, on_nan="skip")
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            coordinator.fit((INPUTS * 0, np.arange(12.0)))
        assert coordinator.step == 0
        assert not coordinator.parameters.flags.writeable


def test_what_an_optimizer_may_not_start_with() -> None:
    for init, message in (
        (lambda *_: {}, "must return an OptimizerState, got {}"),
        (lambda *_: OptimizerState(0, {"m": 1}), "must return m as"),
    ):
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            Coordinator(Scripted(), Written(None, init))
