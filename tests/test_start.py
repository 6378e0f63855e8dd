"""How workers start: streams, signals, sockets and the program itself, in any kind of calling process."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kits.engine_contract import FEW, Opened, at, computed, expected, one_each
from kits.models import Array, Scripted
from kits.processes import children
from kits.programs import Run, environment

import parallel_lenet
from parallel_lenet import WorkerError
from parallel_lenet.engines.processes import worker_process
from parallel_lenet.engines.processes.engine import ProcessesEngine
from parallel_lenet.engines.processes.start import WORKER_VARIABLE, worker_path
from parallel_lenet.engines.processes.worker_main import COORDINATOR_SIGNALS
from parallel_lenet.metrics import Metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
    pytest.mark.usefixtures("leaves_nothing"),
]

PREAMBLE = """
import os, signal, sys
import numpy as np
from parallel_lenet import Coordinator, Layout, SGD, Metrics

class Writes:
    layout = Layout.of({"weight": (4,)})
    def initial_parameters(self, rng):
        return np.ones(4)
    def loss_and_gradient(self, parameters, inputs, targets, gradient):
        print("to standard output")
        os.write(1, b"directly")
        os.write(2, b"to standard error" * 9)
        if gradient is not None:
            gradient[:] = np.tanh(parameters) * inputs.sum()
        return Metrics(1.0, 0, len(inputs))
    def predict(self, parameters, inputs):
        return inputs

x = np.random.default_rng(0).random((16, 4))
def train():
    with Coordinator(Writes(), SGD(0.1), n_workers=1, batch_size=8, shard_size=2) as coordinator:
        coordinator.fit((x, np.zeros(16)), 1)
        low = [number for number in range(3) if os.path.exists(f"/proc/self/fd/{number}")]
        return coordinator.parameters_sha256(), low
"""


def test_closed_standard_streams_change_nothing_and_no_descriptor_of_ours_takes_their_place(run: Run) -> None:
    program = """
kept = [os.dup(number) for number in range(3)]
usual, _ = train()
found = []
for closed in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
    for number in closed:
        os.close(number)
    sha, low = train()
    for number in closed:
        os.dup2(kept[number], number)
    found.append((sha == usual, not set(low) & set(closed)))
print(found)
"""
    result = run("-c", PREAMBLE + program)
    assert result.stdout == f"{[(True, True)] * 7}\n"
    assert "to standard error" in result.stderr


@pytest.mark.parametrize("streams", [">&- 2>&-", "<&- 2>&-"])
def test_a_program_that_is_started_without_standard_streams_trains_the_same(streams: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    # The first file that it opens gets the number of a closed stream: what a worker writes must not get there.
    program.write_text(PREAMBLE + 'file = open("data", "w+")\nopen("sha", "a").write(train()[0] + "\\n")')
    for redirected in (streams, "2>/dev/null"):
        command = f'"{sys.executable}" program.py {redirected}'
        subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment(), timeout=60, check=True)
        assert (tmp_path / "data").read_text() == ""
    first, second = (tmp_path / "sha").read_text().split()
    assert first == second


def test_standard_streams_that_are_none_change_nothing(run: Run) -> None:
    program = """
usual = train()[0]
out, sys.stdout, sys.stderr = sys.stdout, None, None
sys.__stdout__ = sys.__stderr__ = None
print(train()[0] == usual, file=out)
"""
    assert run("-c", PREAMBLE + program).stdout == "True\n"


def test_what_a_model_prints_is_there_when_it_is_printed_also_if_the_worker_is_killed(run: Run) -> None:
    program = """
class Printing(Writes):
    def loss_and_gradient(self, *arguments):
        print("last words")
        os.kill(os.getpid(), signal.SIGKILL)
try:
    Coordinator(Printing(), SGD(0.1), n_workers=1, max_tries=1).fit((x, np.zeros(16)))
except RuntimeError as error:
    print(error)
"""
    result = run("-c", PREAMBLE + program, env={"PYTHONUNBUFFERED": ""})
    assert result.stderr == "last words\n"
    assert "was killed by SIGKILL" in result.stdout


class FailsAtLength(Scripted):
    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        raise ValueError("x" * 5_000_000)


def ticks(pid: int) -> int:
    """CPU time that a process has used, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize("seconds", [None, 30.0])
def test_timeouts_for_all_sockets_and_exceptions_of_any_size_change_nothing(seconds: float | None) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        with ProcessesEngine(1) as engine:
            opened = Opened(engine, FailsAtLength(), [FEW], at(0))
            (pid,) = engine.worker_pids()
            with pytest.raises(ValueError, match="x") as caught:
                list(opened.metrics(at(0), one_each(FEW)))
            assert len(str(caught.value)) == 5_000_000
            used = ticks(pid)
            time.sleep(0.5)
            assert ticks(pid) - used <= 5
            assert engine.worker_pids() == [pid]
    finally:
        socket.setdefaulttimeout(before)


def test_signals_to_the_whole_job_do_not_end_workers() -> None:
    with ProcessesEngine(2) as engine:
        before = children()
        opened = Opened(engine, Scripted(), [FEW], at(0))
        started = children() - before
        for name in COORDINATOR_SIGNALS:
            for pid in started:
                os.kill(pid, getattr(signal, name))
        assert computed(opened, at(0), one_each(FEW)) == expected(Scripted(), [FEW], at(0), one_each(FEW))
        assert set(engine.worker_pids()) == started


def test_signals_while_workers_start_do_not_end_them(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def start(*arguments: Any) -> "subprocess.Popen[bytes]":
        started.append(original(*arguments))
        os.kill(started[-1].pid, signal.SIGTERM)
        return started[-1]

    original = worker_process.start
    monkeypatch.setattr(worker_process, "start", start)
    with ProcessesEngine(1) as engine:
        Opened(engine, Scripted(), [FEW], at(0))
        assert engine.worker_pids() == [started[0].pid]


class StartsHelpers(Scripted):
    """Its loss is the number of helper processes that SIGTERM ends."""

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        forked = os.fork()
        if not forked:
            time.sleep(60)
            os._exit(0)
        started = subprocess.Popen(["sleep", "60"])
        time.sleep(0.05)
        os.kill(forked, signal.SIGTERM)
        started.terminate()
        ended = (os.waitpid(forked, 0)[1] == signal.SIGTERM) + (started.wait() == -signal.SIGTERM)
        return Metrics(float(ended), 0, len(inputs))


def test_what_a_model_starts_can_be_ended_as_usual() -> None:
    with ProcessesEngine(1) as engine:
        opened = Opened(engine, StartsHelpers(), [FEW], at(0))
        assert next(iter(opened.metrics(at(0), one_each(FEW)))).loss_sum == 2


@pytest.mark.parametrize(
    ("executable", "frozen", "reason"),
    [
        (None, False, "sys.executable is None"),
        ("", False, "sys.executable is ''"),
        ("/opt/trainer/trainer", False, "sys.executable is '/opt/trainer/trainer'"),
        (sys.executable, True, f"{sys.executable!r} is a packed program"),
    ],
)
def test_without_an_interpreter_nothing_is_started(
    executable: str | None, frozen: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(WorkerError) as caught, ProcessesEngine(2) as engine:
        Opened(engine, Scripted(), [FEW], at(0))
    message = f'worker processes need a Python interpreter, but {reason}: use engine="serial"'
    assert str(caught.value) == message


AS_WORKER = """
from parallel_lenet import SGD, Coordinator, lenet5, load_dataset
open("{folder}/starts", "a").write("x")
try:
    Coordinator(lenet5(kernel="im2col"), SGD(0.1), n_workers=2).evaluate(load_dataset()[1])
except RuntimeError as error:
    open("{folder}/errors", "a").write(str(error) + "\\n")
"""


@pytest.mark.filterwarnings("ignore::parallel_lenet.WorkerWarning")
def test_a_program_that_is_started_as_a_worker_starts_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "program.py"
    script.write_text(AS_WORKER.format(folder=str(tmp_path)))
    packed = tmp_path / "python-program"
    packed.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}"\n')
    packed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(packed))
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WorkerError, match="ended with exit code 0 while starting"), ProcessesEngine(1) as engine:
        Opened(engine, Scripted(), [FEW], at(0))
    assert (tmp_path / "starts").read_text() == "xxx"
    errors = (tmp_path / "errors").read_text().splitlines()
    assert len(errors) == 3
    assert all("was started as a worker but runs another program" in error for error in errors)


class Surroundings(Scripted):
    """Its loss depends on how this process hashes; its count of correct answers is 1 if all else is as it should be."""

    def loss_and_gradient(self, parameters: Array, inputs: Array, targets: Array, gradient: Array | None) -> Metrics:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
        inherited = [number for number in descriptors if number > 2 and _inherited(number)]
        proper = os.getpgid(0) == os.getpid() and WORKER_VARIABLE not in os.environ and not inherited
        return Metrics(float(hash("a") % 2**30), int(proper), len(inputs))


def _inherited(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # That of the listing itself.
        return False


def test_workers_hash_alike_have_a_group_of_their_own_and_hand_down_no_descriptor() -> None:
    with ProcessesEngine(2) as engine:
        opened = Opened(engine, Surroundings(), [FEW], at(0))
        found = {(metrics.loss_sum, metrics.correct) for metrics in opened.metrics(at(0), one_each(FEW))}
    assert len(found) == 1
    assert found.pop()[1] == 1


def test_a_worker_finds_this_package_but_not_its_modules_by_their_bare_names(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(parallel_lenet.__file__).parent
    monkeypatch.setattr(sys, "path", [])
    folders = [Path(folder) for folder in worker_path()]
    assert package.parent in folders
    assert package not in folders  # Else `import random` may find parallel_lenet/random.py.
