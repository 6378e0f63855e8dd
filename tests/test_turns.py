"""Threads that share a coordinator: served in turn or refused at once, and training is undisturbed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits import models
from kits.models import Array, Scripted, Softmax
from kits.processes import wait_until

from parallel_lenet import SGD, Coordinator, Dataset, StepReport
from parallel_lenet.engines.processes.engine import ProcessesEngine
from parallel_lenet.engines.serial import blas, one_blas_thread
from parallel_lenet.turns import Turns

SLOW = Dataset(np.array([(models.SLEEP, 3)] * 60, np.float32), np.arange(60))
OTHER = Dataset(np.array([(models.NOTHING, i) for i in range(50)], np.float32), np.arange(50))


def coordinator(engine: str) -> Coordinator:
    return Coordinator(Scripted(), SGD(0.1), engine=engine, n_workers=2, batch_size=12, shard_size=3)


def in_thread(function: Callable[[], object]) -> tuple[threading.Thread, list[Any]]:
    """Run it in a thread, which puts its result or exception into the list."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@pytest.fixture(params=["serial", "processes", "threading"])
def training(request: pytest.FixtureRequest) -> Iterator[tuple[Coordinator, Callable[[], str]]]:
    """A coordinator that another thread trains, and what waits for its end and gives its hash."""
    with coordinator(request.param) as c:
        c.evaluate(OTHER)
        thread, results = in_thread(lambda: c.fit(SLOW, 5, OTHER))
        assert wait_until(lambda: c.step > 0, 20)

        def end() -> str:
            thread.join()
            assert not isinstance(results[0], BaseException), results
            return c.parameters_sha256()

        yield c, end
        thread.join()


@pytest.fixture(scope="module")
def undisturbed() -> str:
    alone = coordinator("serial")
    alone.fit(SLOW, 5, OTHER)
    return alone.parameters_sha256()


Training = tuple[Coordinator, Callable[[], str]]


@pytest.mark.filterwarnings("ignore::parallel_lenet.ClusterWarning")
def test_another_thread_is_served_in_turn_or_refused_at_once(
    training: Training, undisturbed: str, tmp_path: Path
) -> None:
    c, end = training
    fresh = coordinator("serial")
    served = 0
    fresh.save(tmp_path / "fresh.npz")
    refused = (
        lambda: c.fit(OTHER),
        lambda: c.iterate(SLOW),
        lambda: c.load(tmp_path / "fresh.npz"),
        c.restart_epoch,
        c.close,
    )
    while c.epoch < 3:
        c.save(tmp_path / "now.npz")
        metrics = c.evaluate(OTHER)
        fresh.load(tmp_path / "now.npz")  # A step earlier, or of the same.
        assert metrics.count == 50
        assert np.isfinite(metrics.loss)
        *_, last = c.iterate_evaluation(OTHER)
        assert last.count == 50
        assert len(c.predict(OTHER.inputs)) == 50
        if c.worker_pids():
            c.resize(1 + served % 2)
        for call in refused:
            if c.epoch < 4:
                with pytest.raises(RuntimeError, match=r"another thread, Thread-.*, trains, loads or closes with this"):
                    call()
        served += 1
    assert served >= 1
    assert end() == undisturbed
    c.load(tmp_path / "now.npz")
    c.close()


def test_several_threads_that_evaluate_get_the_right_figures(digits: Dataset) -> None:
    with Coordinator(Softmax(), SGD(), n_workers=2, batch_size=50) as c:
        parts = [Dataset(digits.inputs[i::5], digits.targets[i::5]) for i in range(5)]
        wanted = [c.evaluate(part) for part in parts]
        threads = [in_thread(lambda part=part: [c.evaluate(part) for _ in range(6)]) for part in parts]
        for (thread, results), metrics in zip(threads, wanted, strict=True):
            thread.join()
            assert results == [[metrics] * 6]


def test_coordinators_with_one_engine_train_in_two_threads_without_disturbing_each_other(digits: Dataset) -> None:
    def train(seed: int, engine: Any) -> str:
        c = Coordinator(Softmax(), SGD(0.1), engine=engine, batch_size=50, shard_size=10, seed=seed)
        c.fit(digits, 4)
        return c.parameters_sha256()

    with ProcessesEngine(2) as engine:
        trained = [in_thread(lambda seed=seed: train(seed, engine)) for seed in (1, 2)]
        for seed, (thread, results) in enumerate(trained, 1):
            thread.join()
            assert results == [train(seed, "serial")]


def test_a_loop_that_another_thread_left_refuses_nothing(digits: Dataset) -> None:
    with Coordinator(Softmax(), SGD(), engine="serial", batch_size=50) as c:
        reports = c.iterate(digits)
        thread, results = in_thread(lambda: next(reports))
        thread.join()
        assert isinstance(results[0], StepReport)
        c.fit(digits)
        assert c.epoch == 1


def test_a_signal_handler_during_a_step_may_save_and_predict_but_not_evaluate(tmp_path: Path) -> None:
    with coordinator("processes") as c:
        c.evaluate(OTHER)
        got: list[Any] = []

        def handle(number: int, frame: object) -> None:
            c.save(tmp_path / "saved.npz")
            c.predict(OTHER.inputs)
            for call in (lambda: c.evaluate(OTHER), lambda: c.resize(1), c.close):
                try:
                    got.append(call())
                except RuntimeError as error:
                    got.append(str(error))

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            slow = Dataset(np.array([(models.SLEEP, 300)] * 4, np.float32), np.arange(4))
            timer = threading.Timer(0.15, os.kill, [os.getpid(), signal.SIGUSR1])
            timer.start()
            c.fit(slow)
            timer.join()
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert got == [
            f"{what} was called during another call of this coordinator, by the same thread"
            for what in ("evaluate", "resize", "close")
        ]
        assert c.epoch == 1


# The queue itself.


def test_turns_come_in_the_order_of_the_calls_even_if_one_between_gives_up() -> None:
    turns = Turns()
    order = list[int]()
    begin = threading.Event()
    first, _ = in_thread(lambda: turns.run("first", begin.wait))
    assert wait_until(lambda: turns._owner != 0, 10)

    def queued(number: int) -> threading.Thread:
        last = turns._last
        thread, _ = in_thread(lambda: turns.run("next", lambda: order.append(number)))
        assert wait_until(lambda: turns._last is not last, 10)
        return thread

    threads = [queued(1)]

    class LateError(Exception):
        pass

    def late(number: int, frame: object) -> None:
        raise LateError

    before = signal.signal(signal.SIGUSR1, late)
    timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1])
    timer.start()
    try:
        with pytest.raises(LateError):
            turns.run("this thread", lambda: order.append(-1))
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    threads += [queued(number) for number in (2, 3, 4)]
    time.sleep(0.05)
    assert order == []
    begin.set()
    for thread in [first, *threads]:
        thread.join()
    assert order == [1, 2, 3, 4]
    assert turns.run("last", lambda: 5) == 5


def test_an_exception_ends_a_turn_and_reaches_the_caller() -> None:
    turns = Turns()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            turns.run("divide", lambda: 1 // 0)
    with pytest.raises(RuntimeError, match="inner was called during another call"):
        turns.run("outer", lambda: turns.run("inner", lambda: 1))
    assert turns.run("again", lambda: 2) == 2


# BLAS, which all threads share.


def threads_of_blas() -> list[int]:
    return [library["num_threads"] for library in blas().info()]


def test_blas_has_as_many_threads_as_before_however_predictions_overlap(digits: Dataset) -> None:
    one, two = threading.Event(), threading.Event()
    seen: list[int] = []

    class Overlapping(Softmax):
        def predict(self, parameters: Array, inputs: Array) -> Array:
            if threading.current_thread().name == "first":
                one.set()
                two.wait()
            else:
                two.set()
                first.join()
            seen.extend(threads_of_blas())
            return super().predict(parameters, inputs)

    with blas().limit(limits=2):
        before = threads_of_blas()
        c = Coordinator(Overlapping(), SGD(), engine="serial")
        first, second = (
            threading.Thread(target=c.predict, args=(digits.inputs,), name=name) for name in ("first", "second")
        )
        first.start()
        one.wait()
        second.start()
        second.join()
        assert threads_of_blas() == before
        assert set(seen) <= {1}
        with pytest.raises(ZeroDivisionError), one_blas_thread(), one_blas_thread():
            _ = 1 // 0
        assert threads_of_blas() == before
