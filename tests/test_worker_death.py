"""Real workers, really killed, stopped and hung: the run goes on, and not a bit of its result changes."""

import contextlib
import gc
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits import models
from kits.engine_contract import FEW, Opened, at, computed, expected, holding, one_each, scripted, usable
from kits.models import Array, Scripted
from kits.processes import alive, children, wait_until
from kits.programs import PYTHON, start

from parallel_lenet import SGD, Coordinator, Dataset, Engine, Metrics, WorkerError, WorkerWarning, lenet5
from parallel_lenet.batching import Block, shards
from parallel_lenet.engines.processes import dispatcher, worker_process
from parallel_lenet.engines.processes.dispatcher import ROWS
from parallel_lenet.engines.processes.engine import ProcessesEngine
from parallel_lenet.engines.serial import SerialEngine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="POSIX signals, and /proc to look into"),
    pytest.mark.usefixtures("leaves_nothing"),
]
unwarned = pytest.mark.filterwarnings("ignore::parallel_lenet.WorkerWarning")

OFTEN = 10**6  # Tries: however often chance hits the same block.


def sleepy(samples: int, seed: int) -> Dataset:
    """Each sample takes up to 3 ms, so that a random moment is mostly in the middle of some."""
    milliseconds = np.random.default_rng(seed).uniform(0, 3, samples)
    return scripted(*[(models.SLEEP, value) for value in milliseconds])


TRAIN, VALIDATION = sleepy(90, seed=1), sleepy(20, seed=2)

Trained = tuple[str, list[tuple[float, float, float | None]]]


def train(engine: Engine, between: Callable[[Coordinator], object] = lambda coordinator: None) -> Trained:
    """Three epochs with validation; ``between`` is called after every step and every epoch."""
    with Coordinator(Scripted(), SGD(0.1), engine=engine, batch_size=20, shard_size=3) as coordinator:
        for _ in coordinator.iterate(TRAIN, 3, VALIDATION):
            between(coordinator)
        epochs = [(r.train_loss, r.train_accuracy, r.validation_loss) for r in coordinator.history]
        return coordinator.parameters_sha256(), epochs


@pytest.fixture(scope="module")
def undisturbed() -> Trained:
    return train(SerialEngine())


@pytest.fixture(scope="module")
def digits_undisturbed(digits: Dataset) -> str:
    return train_lenet(SerialEngine(), digits)


def train_lenet(engine: Engine, digits: Dataset, between: Callable[[], object] = lambda: None) -> str:
    model = lenet5(kernel="im2col")  # A worker that is to run compiled code takes longer to start.
    with Coordinator(model, SGD(0.05), engine=engine, batch_size=50, shard_size=8) as coordinator:
        for _ in coordinator.iterate(digits, 2):
            between()
        return coordinator.parameters_sha256()


def kill(pids: Sequence[int], how: signal.Signals = signal.SIGKILL) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # It has ended and been replaced meanwhile.
            os.kill(pid, how)


@contextlib.contextmanager
def at_random_times(disturb: Callable[[random.Random], object], seed: int, times: int) -> Iterator[None]:
    """Call it from another thread every few moments, until it has returned something true so many times."""
    rng, done = random.Random(seed), threading.Event()

    def run() -> None:
        left = times
        while left and not done.wait(rng.uniform(0.02, 0.25)):
            left -= bool(disturb(rng))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def once(condition: Callable[[], bool], act: Callable[[], object]) -> Iterator[None]:
    """Act from another thread when the condition comes true."""
    thread = threading.Thread(target=lambda: wait_until(condition, 60) and act())
    thread.start()
    try:
        yield
    finally:
        thread.join()


# Death.


@unwarned
@pytest.mark.parametrize("everyone", [False, True], ids=["one", "all"])
def test_workers_killed_between_steps_change_nothing(everyone: bool, undisturbed: Trained) -> None:
    rng = random.Random(4)
    engine = ProcessesEngine(2, max_tries=OFTEN)
    killed = set[int]()

    def disturb(coordinator: Coordinator) -> None:
        if rng.random() < 0.2:
            pids = engine.worker_pids()
            killed.update(pids if everyone else pids[:1])
            kill(pids if everyone else pids[:1])

    assert train(engine, disturb) == undisturbed
    assert len(killed) > 3


@unwarned
@pytest.mark.parametrize(
    ("workers", "everyone", "times"),
    [(1, True, 4), (3, False, 6), (3, True, 3)],
    ids=["the only one", "one of three", "all three"],
)
def test_workers_killed_at_any_time_change_nothing(
    workers: int, everyone: bool, times: int, undisturbed: Trained
) -> None:
    engine = ProcessesEngine(workers, max_tries=OFTEN)
    killed = set[int]()

    def disturb(rng: random.Random) -> bool:
        # One that isn't ready yet is mostly spared: otherwise hardly any would ever get that far.
        pids = [worker.process.pid for worker in list(engine._workers) if worker.ready or rng.random() < 0.1]
        hit = pids if everyone else rng.sample(pids, min(1, len(pids)))
        killed.update(hit)
        kill(hit)
        return bool(hit)

    with at_random_times(disturb, seed=workers, times=times):
        assert train(engine) == undisturbed
    assert len(killed) >= 3


@unwarned
def test_lenet_trains_to_the_same_bits_while_workers_are_killed(digits: Dataset, digits_undisturbed: str) -> None:
    engine = ProcessesEngine(2, max_tries=OFTEN)
    rng = random.Random(7)
    assert train_lenet(engine, digits, lambda: kill(engine.worker_pids()[: rng.choice([0, 1, 2])])) == (
        digits_undisturbed
    )


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_killed_while_idle_is_replaced_with_a_warning(victim: int) -> None:
    with ProcessesEngine(2) as engine:
        opened = Opened(engine, Scripted(), [FEW], at(0))
        pids = engine.worker_pids()
        kill([pids[victim]])
        work = one_each(FEW)
        with pytest.warns(WorkerWarning) as caught:
            results = [computed(opened, at(0), work) for _ in range(3)]
        assert results == [expected(Scripted(), [FEW], at(0), work)] * 3
        (warning,) = caught
        ending = rf"worker {victim} (pid {pids[victim]}) was killed by SIGKILL while "
        assert str(warning.message).startswith(ending)
        assert str(warning.message).endswith(": another has taken its place, and the result is not affected")
        assert wait_until(lambda: len(engine.worker_pids()) == 2, 10)
        assert pids[1 - victim] in engine.worker_pids()
        assert pids[victim] not in engine.worker_pids()


def test_a_worker_killed_between_calls_counts_as_no_try() -> None:
    with Coordinator(Scripted(), SGD(0.1), n_workers=1, max_tries=1) as coordinator:
        before = coordinator.evaluate(VALIDATION)
        kill(coordinator.worker_pids())
        with pytest.warns(
            WorkerWarning, match=r"was killed by SIGKILL while (loading a model and data|waiting for work): "
        ):
            assert coordinator.evaluate(VALIDATION) == before


def test_survivors_go_on_while_a_replacement_starts(tmp_path: Path) -> None:
    data = scripted((models.DIE_AT_FIRST, 1), *[(models.SLEEP, 3)] * 30)
    work = one_each(data)
    with ProcessesEngine(2) as engine:
        opened = Opened(engine, Scripted(folder=str(tmp_path)), [data], at(0))
        before = children()
        title = Path("/proc/self/cmdline").read_bytes()
        replacement = list[int]()

        def has_program(pid: int) -> bool:
            """Whether the process runs its program. To stop it before that would stop this one too, which waits."""
            return Path(f"/proc/{pid}/cmdline").read_bytes() not in (title, b"")

        def stop() -> None:
            replacement.extend(children() - before)
            kill(replacement, signal.SIGSTOP)

        with (
            once(lambda: any(map(has_program, children() - before)), stop),
            pytest.warns(WorkerWarning, match="was killed by SIGKILL while computing block 0: another"),
        ):
            results = [result.metrics for result in opened.gradients(at(0), work)]
        assert len(replacement) == 1
        kill(replacement, signal.SIGCONT)
        assert results == list(opened.metrics(at(0), work))


@unwarned
def test_a_result_stays_valid_though_its_worker_is_dead() -> None:
    with ProcessesEngine(1) as engine:
        opened = Opened(engine, Scripted(), [FEW], at(0))
        wanted = expected(Scripted(), [FEW], at(0), one_each(FEW))
        got = []
        for result in opened.gradients(at(0), one_each(FEW)):
            kill(engine.worker_pids())
            time.sleep(0.02)
            got.append((result.metrics, result.gradient.tobytes()))
        assert got == wanted


def test_workers_killed_while_starting_are_replaced() -> None:
    before = children()
    with ProcessesEngine(2) as engine:
        with (
            once(lambda: len(children() - before) == 2, lambda: kill(sorted(children() - before))),
            pytest.warns(WorkerWarning) as caught,
        ):
            opened = Opened(engine, Scripted(), [FEW], at(0))
        assert len(caught) == 2
        assert all("was killed by SIGKILL while starting" in str(warning.message) for warning in caught)
        assert computed(opened, at(1), one_each(FEW)) == expected(Scripted(), [FEW], at(1), one_each(FEW))


@unwarned
def test_a_model_that_kills_a_worker_when_it_is_unpickled_is_tried_again(tmp_path: Path) -> None:
    with ProcessesEngine(2) as engine:
        opened = Opened(engine, models.DiesUnpickling(folder=str(tmp_path), deaths=2), [FEW], at(0))
        assert computed(opened, at(1), one_each(FEW)) == expected(Scripted(), [FEW], at(1), one_each(FEW))
    assert len(list(tmp_path.glob("*.died"))) == 2


@unwarned
def test_workers_that_never_get_ready_are_an_error_that_says_how_they_ended(tmp_path: Path) -> None:
    model = models.DiesUnpickling(folder=str(tmp_path), deaths=OFTEN)
    with ProcessesEngine(2) as engine:
        with pytest.raises(
            WorkerError,
            match=r"^3 workers in a row crashed before being ready; the last one: worker \d "
            r"\(pid \d+\) was killed by SIGKILL while loading a model and data$",
        ):
            Opened(engine, model, [FEW], at(0))
        assert usable(engine)


@unwarned
@pytest.mark.parametrize(
    ("action", "ending"),
    [(models.EXIT, "ended with exit code 9"), (models.SEGFAULT, "was killed by SIGSEGV")],
)
def test_a_block_that_no_worker_survives_is_an_error_that_names_it(action: int, ending: str) -> None:
    data = scripted((models.NOTHING, 0), *[(models.NOTHING, i) for i in range(11)], (action, 9), (models.NOTHING, 1))
    work = [Block(np.array([0])), Block(np.arange(2, 13)), Block(np.array([13]))]
    with ProcessesEngine(2) as engine:
        opened = Opened(engine, Scripted(), [data], at(0))
        results = opened.metrics(at(0), work)
        next(results)
        with pytest.raises(WorkerError) as caught:
            next(results)
        message = str(caught.value)
        assert message.startswith(
            "block 1 (samples 2, 3, 4, 5, 6, 7, 8, 9 and 3 more of dataset 0) crashed 3 workers; the last one: worker "
        )
        assert message.endswith(f"{ending} while computing block 1")
        work = [work[0], work[2]]
        assert computed(opened, at(1), work) == expected(Scripted(), [data], at(1), work)


@unwarned
def test_the_tries_are_those_that_were_asked_for_and_count_for_one_step_only(tmp_path: Path) -> None:
    data = scripted((models.DIE_AT_FIRST, 3))
    with ProcessesEngine(1, max_tries=2) as engine:
        opened = Opened(engine, Scripted(folder=str(tmp_path)), [data], at(0))
        with pytest.raises(WorkerError, match="crashed 2 workers; the last one: "):
            list(opened.metrics(at(0), one_each(data)))
        assert len(list(opened.metrics(at(0), one_each(data)))) == 1  # After a third death.


class StartsHelper(Scripted):
    """Forks a process that has all that the worker has, and then works as usual."""

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        file = Path(self.folder, f"{os.getpid()}.helper")
        if not file.exists():
            helper = os.fork()
            if not helper:
                time.sleep(60)
                os._exit(0)
            file.write_text(str(helper))
        return super().loss_and_gradient(parameters, inputs, targets, gradient)


@unwarned
@pytest.mark.parametrize("told", [True, False], ids=["told by the system", "found out"])
def test_a_death_is_noticed_though_a_helper_holds_the_workers_socket(
    told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError

    if not told:
        monkeypatch.setattr(os, "pidfd_open", refuse)
    model = StartsHelper(folder=str(tmp_path))
    wanted = expected(Scripted(), [FEW], at(0), one_each(FEW))
    with ProcessesEngine(1) as engine:
        opened = Opened(engine, model, [FEW], at(0))
        for _ in range(2):
            assert computed(opened, at(0), one_each(FEW)) == wanted
            results = opened.gradients(at(0), one_each(FEW))
            next(results)
            kill(engine.worker_pids())
            assert len(list(results)) == len(FEW) - 1
    kill([int(file.read_text()) for file in tmp_path.glob("*.helper")])


def test_a_model_that_leaves_is_no_death_but_its_own_exception() -> None:
    data = scripted((models.LEAVE, 4))
    with ProcessesEngine(1) as engine:
        opened = Opened(engine, Scripted(), [data], at(0))
        pids = engine.worker_pids()
        with pytest.raises(SystemExit) as caught:
            list(opened.metrics(at(0), one_each(data)))
        assert caught.value.code == 4
        assert engine.worker_pids() == pids


# Slow and hung workers.


def stopped(pid: int) -> bool:
    return "T" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_stopped_worker_holds_no_one_back_and_goes_on_when_it_is_continued() -> None:
    work = one_each(TRAIN)
    assert len(work) > 3 * ROWS
    wanted = expected(Scripted(), [TRAIN], at(1), work)
    with ProcessesEngine(3) as engine:
        opened = Opened(engine, Scripted(), [TRAIN], at(0))
        pids = engine.worker_pids()
        for frozen in (pids[:1], pids[1:]):
            results = opened.gradients(at(1), work)
            assert next(results).metrics == wanted[0][0]
            kill(frozen, signal.SIGSTOP)
            assert wait_until(lambda: all(map(stopped, frozen)), 10)  # noqa: B023
            rest = [(result.metrics, result.gradient.tobytes()) for result in results]
            assert rest == wanted[1:]
            assert computed(opened, at(1), work) == wanted  # What is left of the step before is still unanswered.
            kill(frozen, signal.SIGCONT)
            for _ in range(2):
                assert computed(opened, at(1), work) == wanted
        assert engine.worker_pids() == pids


class Forgetful(Scripted):
    """It does not write the last number of its gradient."""

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        return super().loss_and_gradient(parameters[:-1], inputs, targets, None if gradient is None else gradient[:-1])


def test_all_gradients_stay_valid_though_one_worker_computes_more_blocks_than_it_has_rows() -> None:
    work = one_each(FEW)[: ROWS + 1]
    model = Forgetful()
    wanted = expected(model, [FEW], at(1), work)
    with ProcessesEngine(len(work)) as engine:
        opened = Opened(engine, model, [FEW], at(0))
        stopped_ones = engine.worker_pids()[1:]
        kill(stopped_ones, signal.SIGSTOP)
        assert wait_until(lambda: all(map(stopped, stopped_ones)), 10)
        kept = list(opened.gradients(at(1), work))
        assert kept[0].ready == len(work) - 1
        assert len({result.worker for result in kept}) == 1
        assert [(result.metrics, result.gradient.tobytes()) for result in kept] == wanted
        kill(stopped_ones, signal.SIGCONT)
        assert computed(opened, at(1), work) == wanted


def test_a_stopped_worker_that_reads_nothing_does_not_block_who_writes_to_it() -> None:
    rows = np.zeros(100_000, np.int64)  # 0.8 MB: more than any socket takes.
    work = [Block(rows[:4])] + [Block(rows)] * 4
    with ProcessesEngine(2) as engine:
        opened = Opened(engine, Scripted(), [FEW], at(0))
        pids = engine.worker_pids()
        kill(pids[:1], signal.SIGSTOP)
        assert wait_until(lambda: stopped(pids[0]), 10)
        counts = [metrics.count for metrics in opened.metrics(at(0), work[:3])]
        assert counts == [4, 100_000, 100_000]
        kill(pids[:1], signal.SIGCONT)
        assert [metrics.count for metrics in opened.metrics(at(0), work)] == [4] + [100_000] * 4


@pytest.fixture
def no_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers get no more time for their first blocks than for others."""
    monkeypatch.setattr(dispatcher, "FIRST_SECONDS", 0.0)


@pytest.mark.usefixtures("no_first")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_worker_is_replaced_after_the_timeout(workers: int) -> None:
    work = one_each(FEW)
    with ProcessesEngine(workers, step_timeout=0.5) as engine:
        opened = Opened(engine, Scripted(), [FEW], at(0))
        pids = engine.worker_pids()
        kill(pids, signal.SIGSTOP)
        with pytest.warns(WorkerWarning) as caught:
            assert computed(opened, at(0), work) == expected(Scripted(), [FEW], at(0), work)
        assert len(caught) == workers
        assert "was killed because it took longer than the step_timeout of 0.5 s while computing block" in str(
            caught[0].message
        )
        assert not set(engine.worker_pids()) & set(pids)


class WarmedUp(Scripted):
    """Cannot compute a block before it is warmed up, which takes longer than the timeout below."""

    ready = False

    def warm_up(self, parameters: Array, inputs: Array, targets: Array) -> None:
        time.sleep(0.6)
        self.ready = len(inputs) == len(targets) == 1

    def loss_and_gradient(self, *arguments: Any) -> Metrics:
        assert self.ready
        return super().loss_and_gradient(*arguments)


@unwarned
@pytest.mark.usefixtures("no_first")
def test_what_a_worker_compiles_before_its_first_block_does_not_count_as_hanging() -> None:
    work = one_each(FEW)
    with ProcessesEngine(2, step_timeout=0.5) as engine:
        assert computed(Opened(engine, WarmedUp(), [FEW], at(0)), at(0), work) == expected(
            Scripted(), [FEW], at(0), work
        )


@unwarned
def test_workers_stopped_while_starting_are_replaced_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "START_SECONDS", 5.0)
    before = children()

    def stop() -> None:
        first = sorted(children() - before)[:1]
        kill(first, signal.SIGSTOP)
        assert wait_until(lambda: not alive(first), 60)
        monkeypatch.setattr(dispatcher, "START_SECONDS", 3600.0)  # Others may start as slowly as a busy machine does.

    with ProcessesEngine(2, step_timeout=0.5) as engine:
        with once(lambda: len(children() - before) == 2, stop):
            opened = Opened(engine, Scripted(), [FEW], at(0))
        assert computed(opened, at(1), one_each(FEW)) == expected(Scripted(), [FEW], at(1), one_each(FEW))


@unwarned
@pytest.mark.usefixtures("no_first")
def test_a_block_on_which_every_worker_hangs_is_an_error(tmp_path: Path) -> None:
    data = scripted((models.NOTHING, 0), (models.SLEEP_NATIVE, 3600), (models.NOTHING, 0))
    with ProcessesEngine(2, step_timeout=0.5, max_tries=2) as engine:
        opened = Opened(engine, Scripted(folder=str(tmp_path)), [data], at(0))
        with pytest.raises(
            WorkerError,
            match=r"^block 1 \(sample 1 of dataset 0\) crashed 2 workers; the last one: .* was killed because "
            r"it took longer than the step_timeout of 0.5 s while computing block 1$",
        ):
            list(opened.gradients(at(0), one_each(data)))
        work = [Block(np.array([2])), Block(np.array([0]))]
        assert computed(opened, at(1), work) == expected(Scripted(), [data], at(1), work)


_compiled = set[tuple[bool, int]]()
"""In a worker: what it has computed."""


class Compiles(Scripted):
    """Takes its time for the first block of each size and kind, as a model does that is compiled then."""

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        if (gradient is None, len(inputs)) not in _compiled:
            _compiled.add((gradient is None, len(inputs)))
            time.sleep(0.6)
        return super().loss_and_gradient(parameters, inputs, targets, gradient)


def test_a_timeout_leaves_time_to_compile() -> None:
    work = [Block(np.arange(4)), Block(np.arange(4)), Block(np.arange(2))]
    with ProcessesEngine(1, step_timeout=0.3) as engine:
        opened = Opened(engine, Compiles(), [FEW], at(0))
        assert computed(opened, at(0), work) == expected(Scripted(), [FEW], at(0), work)
        assert len(list(opened.metrics(at(0), work))) == 3
        assert len(engine.worker_pids()) == 1


@pytest.mark.parametrize("seconds", [30 * 86_400, 1e300, math.inf])
def test_a_timeout_may_be_longer_than_any_system_waits_at_once(seconds: float) -> None:
    with ProcessesEngine(1, step_timeout=seconds) as engine:
        opened = Opened(engine, Scripted(), [FEW], at(0))
        assert computed(opened, at(0), one_each(FEW)) == expected(Scripted(), [FEW], at(0), one_each(FEW))


def test_a_timeout_does_not_count_while_no_one_asks() -> None:
    work = one_each(FEW)
    with ProcessesEngine(2, step_timeout=0.3) as engine:
        opened = Opened(engine, Scripted(), [FEW], at(0))
        pids = engine.worker_pids()
        results = opened.gradients(at(0), work)
        for metrics, _ in expected(Scripted(), [FEW], at(0), work)[:2]:
            assert next(results).metrics == metrics
            time.sleep(0.5)
        assert len(list(results)) == 5
        assert engine.worker_pids() == pids


@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_a_timeout_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^step_timeout must be a number above 0, or None, got "):
        ProcessesEngine(1, step_timeout=value)


@unwarned
@pytest.mark.usefixtures("no_first")
def test_kills_and_stops_together_change_nothing(undisturbed: Trained) -> None:
    engine = ProcessesEngine(3, max_tries=OFTEN, step_timeout=1)

    def disturb(rng: random.Random) -> bool:
        pids = engine.worker_pids()
        kill(rng.sample(pids, min(2, len(pids))), rng.choice([signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT]))
        return bool(pids)

    with at_random_times(disturb, seed=11, times=10):
        assert train(engine) == undisturbed


# Another number of workers.


def test_resizing_between_steps_changes_nothing(undisturbed: Trained) -> None:
    engine = ProcessesEngine(1)
    rng = random.Random(3)
    sizes = []

    def resize(coordinator: Coordinator) -> None:
        if rng.random() < 0.5:
            sizes.append(rng.randint(1, 4))
            engine.resize(sizes[-1])
            assert engine.n_workers == coordinator.n_workers == len(engine.worker_pids()) == sizes[-1]

    assert train(engine, resize) == undisturbed
    assert len(set(sizes)) > 2


def test_resizing_in_the_middle_of_a_step_loses_nothing() -> None:
    work = one_each(TRAIN)
    with ProcessesEngine(3) as engine:
        opened = Opened(engine, Scripted(), [TRAIN], at(0))
        got = []
        for index, result in enumerate(opened.gradients(at(1), work)):
            got.append((result.metrics, result.gradient.tobytes()))
            if index % 10 == 5:
                engine.resize(1 + index % 3)
        assert got == expected(Scripted(), [TRAIN], at(1), work)


def test_shrinking_does_not_wait_for_a_block_that_nobody_wants(tmp_path: Path) -> None:
    data = scripted((models.NOTHING, 0), (models.HOLD, 3600), (models.HOLD, 3600), (models.NOTHING, 1))
    with ProcessesEngine(3) as engine:
        opened = Opened(engine, Scripted(folder=str(tmp_path)), [data], at(0))
        results = opened.gradients(at(0), one_each(data))
        next(results)
        assert wait_until(lambda: len(holding(tmp_path)) == 2, 10)
        engine.resize(1)
        engine.resize(2)
        work = [Block(np.array([3])), Block(np.array([0]))]
        assert computed(opened, at(1), work) == expected(Scripted(), [data], at(1), work)


def test_a_closed_engine_can_be_resized() -> None:
    engine = ProcessesEngine(1)
    engine.resize(2)
    assert engine.worker_pids() == []
    with engine:
        Opened(engine, Scripted(), [FEW], at(0))
        assert len(engine.worker_pids()) == 2


def test_a_number_of_workers_that_cannot_be_is_refused() -> None:
    with ProcessesEngine(1) as engine:
        opened = Opened(engine, Scripted(), [FEW], at(0))
        for value in (0, -1, 1.5, True, "2"):
            message = f"^n_workers must be a whole number of at least 1, got {value!r}$"
            with pytest.raises(ValueError, match=message):
                ProcessesEngine(value)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match=message):
                engine.resize(value)  # type: ignore[arg-type]
            assert len(list(opened.metrics(at(0), one_each(FEW)))) == 7


# Interrupts.


def interrupt_soon() -> None:
    time.sleep(0.3)  # Until it waits for certain.
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_while_waiting_leaves_the_engine_usable_at_once(tmp_path: Path) -> None:
    data = scripted((models.NOTHING, 0), (models.HOLD, 3600))
    with ProcessesEngine(2) as engine:
        opened = Opened(engine, Scripted(folder=str(tmp_path)), [data], at(0))
        pids = engine.worker_pids()
        for _ in range(2):
            with (
                once(lambda: bool(holding(tmp_path)), interrupt_soon),
                pytest.raises(KeyboardInterrupt),
            ):
                list(opened.gradients(at(0), one_each(data)))
            for file in tmp_path.glob("*.holds"):
                file.unlink()
            work = one_each(data)[:1] * 5
            with warnings.catch_warnings(action="error"):
                assert computed(opened, at(1), work) == expected(Scripted(), [data], at(1), work)
        assert set(pids) & set(engine.worker_pids()) or len(engine.worker_pids()) == 2


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # An interrupted call leaves closing to Python.
def test_interrupts_at_any_time_lose_nothing(undisturbed: Trained) -> None:
    """Each ends the loop somewhere, perhaps while the engine talks to workers or closes; the loop is begun again."""
    rng = random.Random(0)
    caught = 0
    with Coordinator(Scripted(), SGD(0.1), n_workers=2, batch_size=20, shard_size=3) as coordinator:
        for _ in range(7):
            timer = threading.Timer(rng.uniform(0, 0.7), os.kill, [os.getpid(), signal.SIGINT])
            try:
                timer.start()
                coordinator.fit(TRAIN, 3 - coordinator.epoch, VALIDATION)
                timer.join()
                time.sleep(0.01)
            except KeyboardInterrupt:
                caught += 1
        coordinator.fit(TRAIN, 3 - coordinator.epoch, VALIDATION)
        assert coordinator.epoch == 3
        assert coordinator.parameters_sha256() == undisturbed[0]
    assert caught > 2


def test_signals_that_the_program_handles_disturb_nothing(undisturbed: Trained) -> None:
    """Many of them, while workers start and compute."""
    caught = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: caught.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        assert train(ProcessesEngine(2)) == undisturbed
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(caught) > 10


def test_a_handler_that_raises_while_a_worker_starts_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(number: int, frame: object) -> None:
        raise TimeoutError

    def start(*arguments: Any) -> "subprocess.Popen[bytes]":
        started = original(*arguments)
        signal.raise_signal(signal.SIGALRM)
        return started

    original = worker_process.start
    monkeypatch.setattr(worker_process, "start", start)
    handler = signal.signal(signal.SIGALRM, stop)
    before = children()
    try:
        with pytest.raises(TimeoutError), ProcessesEngine(2) as engine:
            Opened(engine, Scripted(), [FEW], at(0))
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert children() == before


def test_a_second_interrupt_while_closing_leaves_nothing(tmp_path: Path) -> None:
    data = scripted((models.HOLD, 3600), (models.NOTHING, 0))
    engine = ProcessesEngine(2)
    Opened(engine, Scripted(folder=str(tmp_path)), [data], at(0))
    pids = engine.worker_pids()
    kill(pids, signal.SIGSTOP)  # Then hanging up is not enough, and closing waits.
    timers = [threading.Timer(delay, os.kill, [os.getpid(), signal.SIGINT]) for delay in (0.2, 0.25)]
    for timer in timers:
        timer.start()
    with contextlib.suppress(KeyboardInterrupt):
        engine.close()
    with contextlib.suppress(KeyboardInterrupt):
        for timer in timers:
            timer.join()
        time.sleep(0.05)
    engine.close()
    assert not alive(pids)


# Forks of the coordinator's process.


def forked(act: Callable[[], object]) -> None:
    """Act in a child process, and wait until it has ended; it must end well."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            act()
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_process_leaves_its_parents_workers_alone(undisturbed: Trained) -> None:
    def evaluates() -> None:
        with pytest.raises(RuntimeError, match="this call has ended, or its engine was closed: start another call"):
            next(reports)
        assert coordinator.evaluate(VALIDATION).count == len(VALIDATION)
        assert not set(coordinator.worker_pids()) & workers
        coordinator.close()

    def drops() -> None:
        nonlocal reports
        del reports
        gc.collect()

    coordinator = Coordinator(Scripted(), SGD(0.1), n_workers=2, batch_size=20, shard_size=3)
    with coordinator:
        reports = coordinator.iterate(TRAIN, 3, VALIDATION)
        next(reports)
        workers = set(coordinator.worker_pids())
        for act in (coordinator.close, evaluates, drops, lambda: coordinator.engine.resize(1)):
            forked(act)
            next(reports)
        process = multiprocessing.get_context("fork").Process(target=coordinator.close)
        process.start()
        process.join()
        for _ in reports:
            pass
        assert coordinator.parameters_sha256() == undisturbed[0]
        assert set(coordinator.worker_pids()) == workers


# The coordinator's own death, and its memory.


# Not native code under a coordinator of another thread: no signal can be had there, and Python's threads don't run.
@pytest.mark.parametrize(
    ("action", "thread"),
    [(models.HOLD, False), (models.SLEEP_NATIVE, False), (models.HOLD, True)],
    ids=["python, main thread", "native, main thread", "python, other thread"],
)
def test_workers_end_with_a_killed_coordinator(action: int, thread: bool, tmp_path: Path) -> None:
    program = f"""
import sys, threading
sys.path.append({os.path.dirname(__file__)!r})
import numpy as np
from kits.models import Scripted
from parallel_lenet import SGD, Coordinator
def train():
    x = np.array([({action}, 100.0)] * 2, np.float32)  # Longer than the test waits: they don't end by themselves.
    model = Scripted(folder={str(tmp_path)!r})
    Coordinator(model, SGD(), n_workers=2, batch_size=2, shard_size=1).fit((x, np.zeros(2)))
if {thread}:
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
else:
    train()
"""
    process = start(tmp_path, "-c", program, command=PYTHON, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert wait_until(lambda: len(holding(tmp_path)) == 2, 60)
    pids = holding(tmp_path)
    process.kill()
    process.wait()
    assert wait_until(lambda: not alive(pids), 30)


def test_workers_stay_when_the_thread_that_started_them_ends() -> None:
    with ProcessesEngine(2) as engine:
        contexts: list[Opened] = []
        thread = threading.Thread(target=lambda: contexts.append(Opened(engine, Scripted(), [FEW], at(0))))
        thread.start()
        thread.join()
        (opened,) = contexts
        pids = engine.worker_pids()
        time.sleep(0.5)
        assert computed(opened, at(1), one_each(FEW)) == expected(Scripted(), [FEW], at(1), one_each(FEW))
        assert engine.worker_pids() == pids


def test_all_workers_at_once_many_times_over_are_only_a_delay() -> None:
    work = shards(np.arange(90), 4)
    wanted = expected(Scripted(), [TRAIN], at(1), work)
    with warnings.catch_warnings(), ProcessesEngine(2) as engine:
        warnings.simplefilter("ignore", WorkerWarning)
        opened = Opened(engine, Scripted(), [TRAIN], at(0))
        for _ in range(3):
            got = []
            for result in opened.gradients(at(1), work):
                got.append((result.metrics, result.gradient.tobytes()))
                if len(got) == 10:
                    kill(engine.worker_pids())
            assert got == wanted
