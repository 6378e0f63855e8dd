"""Ctrl-C and SIGTERM in every phase of a training run: a checkpoint, the right exit code, and nothing left."""

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from kits.models import SLEEP, Scripted
from kits.processes import children, descendants_end, wait_for_workers, wait_until
from kits.programs import FILES, PYTHON, run_here, start, train, train_here, write_idx

from parallel_lenet import SGD, Coordinator, archive
from parallel_lenet.cli._interrupts import Interrupted, Interrupts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals as POSIX has them, and /proc"),
]

OPTIONS = ("--data-dir", "data", "--kernel", "im2col", "--batch-size", "10", "--workers", "2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupts")
    write_idx(folder / "data", 205, 64)
    write_idx(folder / "long", 4, 40_000)
    return folder


def leave(process: "subprocess.Popen[str]", number: signal.Signals, times: int = 1) -> str:
    """Send the signal, check how the program ends, and return what it said."""
    workers = children(process.pid)
    process.send_signal(number)
    for _ in range(times - 1):
        time.sleep(0.1)
        process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert descendants_end(workers, 0.1)
    return errors


def goes_on(errors: str, place: Path) -> None:
    """The command that it names resumes the run."""
    found = re.search(r"the checkpoint is (\S+); continue with: (.+)\n", errors)
    assert found
    file = place / found[1]
    assert {path.name for path in file.parent.iterdir()} <= FILES
    assert f"step {archive.load(file)[1]['step']:,};" in errors
    command = shlex.split(found[2])
    program = command.index("train")  # Called with an option that disagrees, it says that it has found the run.
    assert "disagrees with the run in" in run_here(place, *command[program:], "--seed", "1", code=2).stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_while_workers_start(place: Path, number: signal.Signals) -> None:
    process = start(place, "train", *OPTIONS, "--out", f"start-{number}")
    wait_for_workers(process, 1)
    errors = leave(process, number)
    assert ("interrupted" if number == signal.SIGINT else "terminated") in errors
    goes_on(errors, place)


def test_while_steps_are_computed_with_and_without_quiet(place: Path) -> None:
    for quiet in ([], ["--quiet"]):
        out = f"steps-{len(quiet)}"
        process = start(place, "train", *OPTIONS, "--checkpoint-every", "1", "--epochs", "9999", "--out", out, *quiet)
        assert wait_until((place / out / "metrics.jsonl").exists, 30)
        errors = leave(process, signal.SIGINT)
        assert archive.load(place / out / "checkpoint.npz")[1]["step"] > 0
        assert re.search(r"continue with: .* -m parallel_lenet train --resume " + out, errors)


def test_while_it_evaluates(place: Path) -> None:
    out = place / "evaluating"
    arguments = ("--data-dir", "long", "--kernel", "naive", "--batch-size", "4", "--checkpoint-every", "1")
    process = start(place, "train", *arguments, "--workers", "2", "--out", str(out))
    assert wait_until((out / "checkpoint.previous.npz").exists, 60)
    time.sleep(0.1)
    leave(process, signal.SIGTERM)
    described = archive.load(out / "checkpoint.npz")[1]
    assert (described["cursor"], described["epoch"]) == (0, 1)
    assert described["user"]["figures"] == []  # To be measured on resuming.


def test_during_a_long_step_in_this_process(place: Path) -> None:
    out = place / "slow"
    arguments = ("--data-dir", "data", "--kernel", "naive", "--batch-size", "200", "--engine", "serial")
    process = start(place, "train", *arguments, "--out", str(out))
    assert wait_until((out / "checkpoint.npz").exists, 30)
    time.sleep(0.3)
    errors = leave(process, signal.SIGINT)
    assert "step 0;" in errors


def test_before_there_is_a_run_nothing_is_written(place: Path) -> None:
    hold = (
        "import sys, time\nfrom parallel_lenet.cli import _preparation, main\n"
        "def load(*_):\n    print('loading', flush=True)\n    time.sleep(60)\n"
        "_preparation.load = load\nsys.exit(main(['train', '--out', 'never', '--quiet']))"
    )
    process = start(place, "-c", hold, command=PYTHON)
    assert process.stdout is not None
    process.stdout.readline()
    assert leave(process, signal.SIGINT) == "parallel-lenet: interrupted before the run began\n"
    assert not (place / "never").exists()


def test_a_second_signal_ends_it_at_once_and_leaves_nothing(place: Path) -> None:
    out = place / "twice"
    hold = (  # Writing a checkpoint of the second epoch takes for ever: the disk is slow, or gone.
        "import os, sys, time\nfrom parallel_lenet import archive\nfrom parallel_lenet.cli import main\n"
        "fsync = os.fsync\n"
        "def hang(descriptor):\n    fsync(descriptor)\n"
        "    file = os.readlink(f'/proc/self/fd/{descriptor}')\n"
        "    if '.checkpoint.npz.' in file and os.path.exists('twice/metrics.jsonl'):\n"
        "        print('hanging', file=sys.stderr, flush=True)\n        time.sleep(60)\n"
        "archive.os.fsync = hang\n"
        f"sys.exit(main(['train', *{OPTIONS!r}, '--epochs', '99999', '--out', 'twice', '--quiet']))"
    )
    process = start(place, "-c", hold, command=PYTHON)
    assert process.stderr is not None
    assert process.stderr.readline() == "hanging\n"
    assert any(file.name.startswith(".checkpoint.npz.") for file in out.iterdir())
    errors = leave(process, signal.SIGINT, times=2)
    assert "ended at once" in errors
    assert {path.name for path in out.iterdir()} <= FILES
    archive.load(out / "checkpoint.npz")


def test_an_interrupted_run_gives_the_result_of_one_that_was_not(place: Path) -> None:
    options = [*OPTIONS, "--epochs", "3", "--engine", "serial"]
    whole = train_here(place, *options, "--out", "undisturbed")
    arguments = [*options, "--out", "disturbed"]
    for number in itertools.cycle((signal.SIGINT, signal.SIGTERM)):
        process = start(place, "train", *arguments)
        assert process.stdout is not None
        process.stdout.readline()  # After an epoch.
        process.send_signal(number)
        process.communicate(timeout=100)
        arguments = ["--resume", "disturbed"]
        if process.returncode in (0, -number):  # It was done, and Python on its way out.
            break
        assert process.returncode == 128 + number
    result = train(place, "--resume", "disturbed")
    assert result["parameters_sha256"] == whole["parameters_sha256"]


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_the_library_stays_usable_with_the_last_finished_step(engine: str, leaves_nothing: None) -> None:
    inputs = np.zeros((60, 2), np.float32)
    inputs[:, 0] = SLEEP  # So that training takes longer than both delays.
    inputs[:, 1] = 10
    data = inputs, np.arange(60)
    reference = Coordinator(Scripted(), SGD(), engine="serial", batch_size=10, shard_size=5)
    hashes = [reference.parameters_sha256()]
    hashes += [reference.parameters_sha256() for _ in reference.iterate(data)][:-1]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Coordinator(Scripted(), SGD(), engine=engine, n_workers=2, batch_size=10, shard_size=5) as coordinator:
            coordinator.evaluate(data)  # Workers are there.
            for delay in (0.03, 0.13):
                timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
                with pytest.raises(KeyboardInterrupt):  # noqa: PT012
                    timer.start()  # Inside: on a busy machine the signal may come before training begins.
                    coordinator.fit(data, 1 - coordinator.epoch)
                timer.join()
                assert coordinator.epoch == 0
                assert coordinator.parameters_sha256() == hashes[coordinator.step]
            coordinator.fit(data, 1)
            assert coordinator.parameters_sha256() == hashes[-1]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("when", ["after", "between"])
def test_a_signal_when_all_is_over_sets_no_alarm(when: str) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupts() as interrupts:
            if when == "after":
                interrupts.stop_raising()
            signal.raise_signal(signal.SIGINT)
            if when == "between":
                with pytest.raises(Interrupted):
                    interrupts.check()
            assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
            assert interrupts.number == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_looks_at_no_mark_is_raised_out_of_but_not_while_a_file_is_written() -> None:
    written = []

    def work() -> None:
        with Interrupts() as interrupts:
            with interrupts.delay():
                signal.raise_signal(signal.SIGINT)
                time.sleep(0.7)
                written.append("a file")
            time.sleep(60)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert written
