"""The engine contract, run over every engine of this machine; then what only processes can go through."""

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from kits import models
from kits.engine_contract import *  # noqa: F403
from kits.engine_contract import DATASETS, FEW, Opened, at, computed, expected, holding, one_each, usable
from kits.models import ModelError, Scripted
from kits.processes import alive, wait_until
from kits.programs import PYTHON, Run, start

from parallel_lenet import Dataset, Engine, lenet5
from parallel_lenet.batching import shards
from parallel_lenet.engines.processes.engine import ProcessesEngine
from parallel_lenet.engines.serial import SerialEngine

ENGINES: dict[str, Callable[[], Engine]] = {
    "serial": SerialEngine,
    "1 process": lambda: ProcessesEngine(1),
    "2 processes": lambda: ProcessesEngine(2),
    "3 processes": lambda: ProcessesEngine(3),
}
every_engine = pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES.keys())
on_posix = pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")


@pytest.fixture(scope="module", params=ENGINES.values(), ids=ENGINES.keys())
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    """An engine that many tests share: what one does to it must not trouble the next."""
    with request.param() as engine:
        yield Opened(engine, Scripted(), DATASETS, at(0))


# The contract, from opening to closing.


@every_engine
def test_lenet5_gives_the_same_bits_in_every_engine(
    make: Callable[[], Engine], digits: Dataset, leaves_nothing: None
) -> None:
    model = lenet5(kernel="im2col")
    parameters = model.initial_parameters(np.random.default_rng(0))
    work = shards(np.arange(150), 32)
    with make() as engine:
        opened = Opened(engine, model, [digits], parameters)
        assert computed(opened, parameters, work) == expected(model, [digits], parameters, work)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(SerialEngine, id="serial"),
        pytest.param(lambda: ProcessesEngine(2), id="processes", marks=pytest.mark.slow),
    ],
)
def test_it_can_be_closed_twice_opened_again_with_another_model_and_left_by_an_exception(
    make: Callable[[], Engine], leaves_nothing: None
) -> None:
    engine = make()
    engine.close()
    opened = []
    for model in (Scripted(), Scripted(size=3, dtype="float64"), Scripted(size=1000)):
        opened.append(Opened(engine, model, [FEW], at(0, model)))
        work = one_each(FEW)
        results = opened[-1].gradients(at(1, model), work)
        next(results)
        got = computed(opened[-1], at(2, model), work)
        assert got == expected(model, [FEW], at(2, model), work)
        assert len(got[0][1]) == model.size * np.dtype(model.dtype).itemsize
    small = Scripted(size=3, dtype="float64")
    assert computed(opened[1], at(3, small), work) == expected(small, [FEW], at(3, small), work)
    opened[1].context.close()
    opened[1].context.close()
    for late in (opened[1].gradients, opened[1].metrics):
        with pytest.raises(RuntimeError, match="this call has ended, or its engine was closed"):
            next(late(at(0, small), one_each(FEW)))
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="this call has ended, or its engine was closed"):
        list(opened[2].metrics(at(0, model), one_each(FEW)))

    def leave() -> None:
        with engine:
            opened.append(Opened(engine, Scripted(), [FEW], at(0)))
            next(opened[-1].gradients(at(0), one_each(FEW)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    with pytest.raises(RuntimeError, match="this call has ended, or its engine was closed"):
        next(opened[-1].gradients(at(0), one_each(FEW)))


# Processes only. What happens when they are lost is in test_worker_death.py.


def test_a_model_that_cannot_be_made_in_a_worker_raises_its_own_error_and_leaves_nothing(leaves_nothing: None) -> None:
    engine = ProcessesEngine(2)
    with engine:
        with pytest.raises(ModelError, match="it can't be made here") as caught:
            Opened(engine, models.FailsToUnpickle(), [FEW], at(0))
        assert "_refuse" in caught.value.__notes__[0]
        assert usable(engine)


def test_a_model_that_cannot_be_pickled_is_an_error_here_and_leaves_nothing(leaves_nothing: None) -> None:
    model = Scripted()
    object.__setattr__(model, "lock", threading.Lock())
    with pytest.raises(TypeError, match="pickle"):
        ProcessesEngine(2).open(model, [FEW], at(0))


def test_an_engine_that_nobody_closed_ends_its_workers_when_it_is_garbage(leaves_nothing: None) -> None:
    engine = ProcessesEngine(1)
    opened = Opened(engine, Scripted(), [FEW], at(0))
    results = opened.gradients(at(0), one_each(FEW))
    next(results)
    del engine, results
    gc.collect()


# Whole programs, run from outside.

PREAMBLE = """
import sys, warnings
import numpy as np
from parallel_lenet import Coordinator, Layout, SGD, Metrics

class Failed(Exception):
    pass

class Mine:
    layout = Layout.of({"weight": (4,)})
    def initial_parameters(self, rng):
        return np.zeros(4)
    def loss_and_gradient(self, parameters, inputs, targets, gradient):
        if inputs[0, 0] < 0:
            raise Failed("negative")
        errors = inputs @ parameters - targets
        if gradient is not None:
            gradient[:] = errors @ inputs
        print("computing")
        return Metrics(float(errors @ errors), 0, len(inputs))
    def predict(self, parameters, inputs):
        return inputs @ parameters

x = np.random.default_rng(0).random((40, 4))
y = x.sum(axis=1)
coordinator = Coordinator(Mine(), SGD(0.1), n_workers=2, batch_size=8, shard_size=2)
"""

PROGRAM = (
    PREAMBLE.replace("n_workers=2", "n_workers=1")
    + """
history = coordinator.fit((x, y), 2)
try: coordinator.evaluate((-x, y))
except Failed as error: print("caught", error)

print(coordinator.step, coordinator.parameters_sha256()[:8])
"""
)
ENDLESS = (
    PREAMBLE
    + """
for report in coordinator.iterate((x, y), 10**6):
    print(*coordinator.engine.worker_pids(), flush=True)
"""
)


@pytest.mark.slow
def test_a_model_of_a_program_needs_no_main_guard_prints_to_standard_error_and_leaves_quietly(
    tmp_path: Path, run: Run
) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    # At a prompt a blank line ends a class or function; the program has none inside.
    results = {
        "script": run("-X", "dev", str(script)),
        "standard input": run("-", stdin=PROGRAM),
        "-c": run("-c", PROGRAM),
        "prompt": run("-i", "-q", stdin=PROGRAM),
    }
    assert {result.stdout for result in results.values()} == {results["script"].stdout}
    # What the model prints in a worker goes to standard error, and nothing else does, though the development mode warns
    # of what isn't closed, and here nobody closes anything. Lines of two processes can run into each other.
    stderr = results["script"].stderr
    assert results["script"].stdout.startswith("caught negative\n10 ")
    assert stderr.count("computing") >= 40
    assert stderr.replace("computing", "").split() == []


def endless(folder: Path, program: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A program that trains, and its workers' process ids, once it has finished a step."""
    process = start(folder, "-c", program, command=PYTHON)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    return process, pids


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL", "SIGTERM"])
def test_a_training_program_that_is_ended_leaves_no_worker(how: str, leaves_nothing: None, tmp_path: Path) -> None:
    process, pids = endless(tmp_path, ENDLESS)
    process.send_signal(getattr(signal, how))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == -getattr(signal, how)
    assert ("KeyboardInterrupt" in stderr) == (how == "SIGINT")
    assert wait_until(lambda: not alive(pids), 20)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_workers_leave_a_killed_coordinator_in_the_middle_of_a_block(tmp_path: Path, leaves_nothing: None) -> None:
    program = f"""
import sys
sys.path.append({os.path.dirname(__file__)!r})
import numpy as np
from kits.models import HOLD, Scripted
from parallel_lenet import SGD, Coordinator
coordinator = Coordinator(Scripted(folder={str(tmp_path)!r}), SGD(), n_workers=2, batch_size=2, shard_size=1)
x = np.array([(HOLD, 3600.0)] * 2, np.float32)
coordinator.fit((x, np.zeros(2)))
"""
    process = start(tmp_path, "-c", program, command=PYTHON, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert wait_until(lambda: len(holding(tmp_path)) == 2, 60)
    pids = holding(tmp_path)
    process.kill()
    process.wait()
    assert wait_until(lambda: not alive(pids), 20)
