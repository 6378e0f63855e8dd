"""``fit(progress=True)``: a bar on a terminal or in a notebook, nothing elsewhere, and an end however fit ends."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.models import RAISE, ModelError, Scripted
from kits.programs import environment

from parallel_lenet import SGD, Adam, Coordinator, Dataset, DatasetError, EpochReport, StepReport, lenet5
from parallel_lenet.display import progress
from parallel_lenet.optional import ExtraError

pytestmark = pytest.mark.slow

pytest.importorskip("rich")

BEGIN = """
import sys, threading, time, warnings
import numpy as np
from parallel_lenet import *
train, _ = load_dataset()
few = Dataset(train.inputs[:200], train.targets[:200])
def coordinator(model=None, **settings):
    return Coordinator(model or lenet5(kernel="im2col"), Adam(), batch_size=20, **{"engine": "serial", **settings})
"""
SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


def on_terminal(program: str, columns: int = 120, interrupt: bool = False, **changes: str) -> tuple[int, str, str]:
    """Exit code, what a terminal as standard error received, and standard output, which is a pipe."""
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + program],
        env=environment(**{"TERM": "xterm", "COLUMNS": str(columns), **changes}),
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # The program's end of the terminal has closed.
        while block := os.read(leader, 65536):
            shown += block
            if interrupt and b"loss" in shown:
                os.killpg(process.pid, signal.SIGINT)
                interrupt = False
    os.close(leader)
    output, _ = process.communicate(timeout=60)
    return process.returncode, shown.decode(), output.decode()


def screen(shown: str) -> list[str]:
    """What a terminal would show in the end: enough of one for rich's bars."""
    lines = [""]
    row = 0
    column = 0
    for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", shown):
        if part == "\r":
            column = 0
        elif part == "\n":
            row = row + 1
            column = 0
            lines += [""] * (row + 1 - len(lines))
        elif part.startswith("\x1b"):
            if part.endswith("A"):
                row -= int(part[2:-1] or 1)
            elif part == "\x1b[2K":
                lines[row] = ""
        else:
            lines[row] = lines[row].ljust(column)[:column] + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines if line.strip()]


def test_a_bar_stays_with_the_figures_of_the_last_epoch() -> None:
    code, shown, output = on_terminal(
        """
with coordinator(engine="processes", n_workers=2) as c:
    for call in range(2):
        history = c.fit(few, 2, 0.1, progress=True)
print(history[-1].train_loss, history[-1].validation_accuracy, sys.stderr is sys.__stderr__)
""",
        NO_COLOR="1",
    )
    assert code == 0, shown
    first, second = screen(shown)
    loss, accuracy, restored = output.split()
    assert re.match(r"epoch 2/2 +\S+ +100% ", first)
    assert re.match(r"epoch 4/4 +\S+ +100% ", second)
    assert f"loss {float(loss):.4f}, " in second
    assert f", {float(accuracy):.2%}  " in second
    assert second.endswith("images/s")
    assert shown.count(HIDE) == shown.count(SHOW) == 2
    assert restored == "True"
    assert not re.search(r"\x1b\[[\d;]*m", re.sub(r"\x1b\[0?m", "", shown)), "colours"


def test_an_interrupt_and_an_exception_end_the_bar() -> None:
    code, shown, output = on_terminal(
        """
c = coordinator()
try:
    c.fit(few, 10_000, progress=True)
except KeyboardInterrupt as error:
    print("interrupted", c.step > 0, sys.stderr is sys.__stderr__)
    keep = error  # With its traceback, which holds the frames.
c.fit(few, 1, progress=True)
raise SystemExit(3)
""",
        interrupt=True,
    )
    assert (code, output) == (3, "interrupted True True\n"), shown
    assert len(screen(shown)) == 2
    assert shown.count(HIDE) == shown.count(SHOW) == 2
    assert shown.endswith(SHOW)

    code, shown, _ = on_terminal(
        """
class Broken:
    layout = Layout.of({"w": (1,)})
    def initial_parameters(self, rng): return np.zeros(1, np.float32)
    def predict(self, parameters, inputs): return inputs
    def loss_and_gradient(self, parameters, inputs, targets, gradient): raise ValueError("broken model")
coordinator(Broken()).fit(few, progress=True)
"""
    )
    assert code == 1
    assert "100%" not in shown
    lines = screen(shown)
    assert lines[0].startswith("epoch 1/1")
    assert lines[1] == "Traceback (most recent call last):"
    assert "ValueError: broken model" in lines


def test_threads_have_a_line_each_and_warnings_stand_above() -> None:
    code, shown, output = on_terminal(
        """
begun = threading.Barrier(3)
def rate(step):
    if step == 2:
        begun.wait(30)
        warnings.warn(f"in {threading.current_thread().name}")
        sys.stdout.write("standard output is left alone\\n")
        begun.wait(30)
    return 0.01
def train():
    with Coordinator(lenet5(kernel="im2col"), SGD(rate), batch_size=20, engine="serial") as c:
        c.fit(few, 2, progress=True)
threads = [threading.Thread(target=train, name=f"thread {i}") for i in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sys.stderr is sys.__stderr__)
coordinator().fit(few, progress=True)
"""
    )
    assert code == 0, shown
    assert set(output.splitlines()) == {"standard output is left alone", "True"}
    lines = screen(shown)
    bars = [line for line in lines if line.startswith("epoch")]
    assert [line[:9] for line in bars] == ["epoch 2/2"] * 3 + ["epoch 1/1"]
    assert all("100%" in line for line in bars)
    assert [i for i in range(3) if any(f"in thread {i}" in line for line in lines)] != []
    assert all("warn" in line or "thread" in line for line in lines[: lines.index(bars[0])])
    assert shown.count(HIDE) == shown.count(SHOW) == 2


@pytest.mark.parametrize("stream", ["pipe", "closed", "none"])
def test_nothing_is_written_where_nobody_watches(stream: str, digits: Dataset) -> None:
    streams: dict[str, Any] = {"pipe": io.StringIO(), "closed": io.StringIO(), "none": None}
    if stream == "closed":
        streams["closed"].close()
    with Coordinator(lenet5(kernel="im2col"), Adam(), engine="serial") as coordinator:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(streams[stream]):
            coordinator.fit(digits, 1, progress=True)
            assert sys.stderr is streams[stream]
        assert coordinator.epoch == 1
        assert output.getvalue() == ""
        assert stream != "pipe" or streams["pipe"].getvalue() == ""


class Terminal(io.StringIO):
    """A terminal that goes away after some writes."""

    writes = 10**9

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.writes -= 1
        if self.writes < 0:
            raise OSError(5, "Input/output error")
        return super().write(text)


@pytest.mark.parametrize("writes", [0, 1, 2, 3, 5, 9])
def test_a_terminal_that_goes_away_ends_the_bar_and_not_the_training(
    writes: int, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    terminal = Terminal()
    terminal.writes = writes
    with Coordinator(lenet5(kernel="im2col"), Adam(), engine="serial", batch_size=10) as coordinator:
        with contextlib.redirect_stderr(terminal):
            coordinator.fit(digits, 1, progress=True)
            assert sys.stderr is terminal
        assert coordinator.epoch == 1
    again = Terminal()
    coordinator = Coordinator(lenet5(kernel="im2col"), Adam(), engine="serial")
    with contextlib.redirect_stderr(again):
        coordinator.fit(digits, 1, progress=True)
    assert "100%" in again.getvalue()


@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_a_narrow_terminal_keeps_one_line_per_bar_and_a_dumb_one_gets_the_last_state(
    kind: str, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    coordinator = Coordinator(lenet5(kernel="im2col"), Adam(), engine="serial", batch_size=40)
    with contextlib.redirect_stderr(Terminal()) as terminal:
        coordinator.fit(digits, 2, 0.5, progress=True)
    shown = terminal.getvalue()
    (line,) = screen(shown)
    assert re.match(r"epoch 2/2 \S+ +100% 0:00:\d\d loss \d\.\d\d", line)
    assert len(line) <= (50 if kind == "xterm" else 80)  # rich's own width for the other kind.
    assert re.search(r" (\d+\.\d+|\d+\.\d+%|images/s)$", line)  # No number is cut.
    assert kind != "dumb" or shown.count("epoch") == 1


def test_a_result_is_the_same_with_and_without(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    hashes = set()
    for shown in (False, True):
        with Coordinator(lenet5(kernel="im2col"), Adam(), engine="serial", batch_size=40) as coordinator:
            with contextlib.redirect_stderr(Terminal()):
                history = coordinator.fit(digits, 3, 0.2, keep_best=True, progress=shown)
            hashes.add((coordinator.parameters_sha256(), coordinator.epoch, len(history)))
    assert len(hashes) == 1


def test_it_begins_where_an_unfinished_epoch_stopped_and_wrong_arguments_draw_nothing(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    terminal = Terminal()
    with Coordinator(lenet5(kernel="im2col"), Adam(), engine="serial", batch_size=50) as coordinator:
        next(coordinator.iterate(digits))
        with contextlib.redirect_stderr(terminal):
            with pytest.raises(ValueError, match="validation must be a fraction"):
                coordinator.fit(digits, 1, 3.0, progress=True)
            with pytest.raises(DatasetError, match="is unfinished"):
                coordinator.fit(Dataset(digits.inputs[1:], digits.targets[1:]), 1, progress=True)
            assert coordinator.fit(digits, 0, progress=True) == ()
            assert terminal.getvalue() == ""
            coordinator.fit(digits, 1, progress=True)
    percents = [int(number) for number in re.findall(r"(?<![.\d])(\d+)%", terminal.getvalue())]
    assert 33 <= min(percents[1:]) <= 67, percents
    assert percents[-1] == 100


def test_a_model_that_predicts_numbers_shows_no_accuracy() -> None:
    report = EpochReport(1, 5, 0.25, 0.0, 1.0, 1234.0, 0.125, 0.0)
    assert progress.epoch_figures(report) == "loss 0.2500  validation 0.1250  1,234 images/s"


def test_a_failing_model_leaves_no_bar_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    inputs = np.zeros((20, 3), np.float32)
    inputs[7, 0] = RAISE
    coordinator = Coordinator(Scripted(), SGD(), engine="serial", batch_size=5)
    with contextlib.redirect_stderr(Terminal()) as terminal:
        with pytest.raises(ModelError):
            coordinator.fit((inputs, np.zeros(20)), progress=True)
        assert sys.stderr is terminal
    assert progress._Terminal._current is None


class Without:
    """Finds all modules but rich."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] == "rich" else self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


@pytest.mark.parametrize("broken", [False, True])
def test_rich_that_is_missing_or_broken_is_named_before_anything_begins(
    broken: bool, digits: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name == "rich" or name.startswith("rich.")]:
        monkeypatch.delitem(sys.modules, name)
    if broken:
        (tmp_path / "rich.py").write_text("raise ImportError('built for another Python')")
        monkeypatch.syspath_prepend(tmp_path)
    else:
        finders = [Without(finder) for finder in sys.meta_path]
        monkeypatch.setattr(sys, "meta_path", finders)
    state = r"installed but does not work \(.*\): pip install --upgrade" if broken else "not installed: pip install"
    with Coordinator(lenet5(kernel="im2col"), Adam(), engine="serial") as coordinator:
        with pytest.raises(ExtraError, match=rf"^fit\(progress=True\) needs rich, which is {state} .rich>="):
            coordinator.fit(digits, 1, progress=True)
        assert coordinator.step == 0
        coordinator.fit(digits, 1)


def test_pictures_are_drawn_a_few_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many reports come: what they show is not even computed."""
    monkeypatch.setenv("TERM", "xterm")
    computed = []

    def so_far() -> EpochReport:
        computed.append(time.monotonic())
        return EpochReport(1, 1, 1.0, 0.5, 1.0, 1.0)

    reports = [StepReport(1, i, 1.0, 0.5, 1, 1.0, 0.1) for i in range(20_000)]
    start = time.monotonic()
    with contextlib.redirect_stderr(Terminal()):
        assert list(progress.with_bar(iter(reports), range(1), 20_000, 0, so_far)) == reports
    assert len(computed) <= 2 + (time.monotonic() - start) / progress.SECONDS
    assert threading.active_count() == 1 or not any("rich" in repr(thread) for thread in threading.enumerate())
