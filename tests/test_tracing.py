"""Traces: what the format allows, what viewers need, and that times are those of the reports."""

import gzip
import json
import os
import signal
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kits import programs

from parallel_lenet import SGD, Coordinator, Dataset, EpochReport, Metrics, StepReport, StepTimes, Trace, lenet5
from parallel_lenet.cli import main
from parallel_lenet.engines import BlockGradient
from parallel_lenet.tracing import FLUSH_STEPS, SERIAL

Event = dict[str, Any]
PHASES = ("send", "wait", "add", "clip", "update")


def read(file: Path, *, killed: bool = False) -> list[Event]:
    """The events, checked against the rules of the format: spans of a thread nest, and none has a negative duration."""
    content = file.read_bytes()
    if file.suffix == ".gz":
        content = gzip.decompress(content)
    text = content.decode()
    assert killed != text.endswith("\n]\n")
    events: list[Event] = json.loads(text + "]" * killed)
    open_spans: dict[tuple[int, int], int] = defaultdict(int)
    spans: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        assert {"ph", "pid", "tid"} <= event.keys()
        thread = event["pid"], event["tid"]
        if event["ph"] != "M":
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            start = round(event["ts"] * 1000)
            spans[thread].append((start, start + round(event["dur"] * 1000)))
        elif event["ph"] in "BE":
            open_spans[thread] += 1 if event["ph"] == "B" else -1
            assert open_spans[thread] in (0, 1)
        else:
            assert event["ph"] in "Mi"
    assert killed or not any(open_spans.values())
    begun = {event["ts"] for event in events if event["ph"] == "B"}
    assert not begun & {
        event["ts"] for event in events if event["ph"] == "X"
    }  # Perfetto would take them for misplaced.
    for each in spans.values():
        around: list[tuple[int, int]] = []
        for start, end in sorted(each, key=lambda span: (span[0], -span[1])):
            while around and around[-1][1] <= start:
                around.pop()
            assert not around or end <= around[-1][1]
            around.append((start, end))
    named = {
        (event["pid"], event["tid"]) for event in events if event["name" if "name" in event else "ph"] == "thread_name"
    }
    assert spans.keys() <= named
    return events


def seconds(events: list[Event]) -> Counter[str]:
    """By name."""
    total: Counter[str] = Counter()
    for event in events:
        if event["ph"] == "X":
            total[event["name"]] += event["dur"] / 1e6
    return total


@pytest.mark.filterwarnings("ignore::parallel_lenet.ClusterWarning")  # It compares times.
@pytest.mark.parametrize(("engine", "workers"), [("serial", 1), ("processes", 2), ("threading", 2)])
def test_a_trace_shows_the_times_of_the_reports(engine: str, workers: int, tmp_path: Path, digits: Dataset) -> None:
    file = tmp_path / "trace.json"
    with (
        Trace(file) as trace,
        Coordinator(
            lenet5(kernel="im2col"),
            SGD(0.1),
            engine=engine,
            n_workers=workers,
            batch_size=50,
            shard_size=16,
            clip_norm=0.5,
            trace=trace,
        ) as coordinator,
    ):
        reports = list(coordinator.iterate(digits, 2, validation=digits.subset(np.arange(20))))
        pids = coordinator.worker_pids()
    events = read(file)
    steps = [report for report in reports if isinstance(report, StepReport)]
    shown = [event for event in events if event["name" if "name" in event else "ph"] == "step"]
    assert [event["args"]["step"] for event in shown] == [1, 2, 3, 4, 5, 6]
    assert [event["args"]["loss"] for event in shown] == pytest.approx([report.loss for report in steps], rel=1e-5)
    for event, report in zip(shown, steps, strict=True):
        assert event["dur"] / 1e6 == pytest.approx(report.seconds, abs=1e-6)
    assert [event["name"] for event in events if event["ph"] == "B"] == ["epoch 1", "epoch 2"]
    total = seconds(events)
    phases = sum(total[name] for name in PHASES)
    assert total["clip"] == pytest.approx(sum(report.times.clipping for report in steps), abs=1e-4)
    assert total["clip"] > 0
    assert phases == pytest.approx(total["step"], abs=1e-6)  # Without gaps.
    computed = sum(sum(report.times.computing.values()) for report in steps)
    assert total["compute"] == pytest.approx(computed, rel=0.02 if engine != "threading" else 1)
    assert sum(event["args"]["images"] for event in events if event.get("name") == "compute") == 300
    names = {event["args"]["name"] for event in events if event["name" if "name" in event else "ph"] == "thread_name"}
    assert "coordinator" in names
    if engine == "processes":
        assert names == {"coordinator", *(f"worker {i} (pid {pid})" for i, pid in enumerate(pids))}
    elif engine == "serial":
        assert names == {"coordinator"}


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 4000), st.integers(0, 3000), st.integers(0, 3), st.integers(0, 5000), st.booleans()
        ),
        max_size=6,
    ),
    st.booleans(),
    st.integers(0, 3000),
)  # fmt: skip
def test_spans_nest_for_any_order_of_answers(
    blocks: list[tuple[int, int, int, int, bool]], serial: bool, updating: int
) -> None:
    """Answers that wait, come early, late, or without a time of their own, in microseconds."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with Trace(Path(folder) / "t.json") as trace:
            begun = now = time.perf_counter()
            arrivals = []
            for waited, added, worker, took, known in blocks:
                asked = now
                now = now + waited * 1e-6
                start = max(begun, now - took * 1e-6) if known else 0.0
                name = SERIAL if serial else f"worker {worker}"
                if serial:
                    start = asked
                arrivals.append((asked, now, name, start, took * 1e-6, 3))
                now += added * 1e-6
            for epoch in (1, 2):
                end = now + updating * 1e-6
                report = StepReport(
                    epoch,
                    epoch,
                    1.0,
                    0.5,
                    9,
                    1.0,
                    end - begun,
                    times=StepTimes(updating=updating * 1e-6, clipping=updating * 4e-7),
                )
                trace._step(report, end, list(arrivals))
                begun, now = begun + 1, now + 1
                arrivals = [(a + 1, g + 1, w, s + 1 if s else 0.0, t, n) for a, g, w, s, t, n in arrivals]
        events = read(Path(folder) / "t.json")
    total = seconds(events)
    assert sum(total[name] for name in PHASES) == pytest.approx(total["step"], abs=1e-7)


def test_a_worker_that_was_replaced_is_told_of_and_bad_numbers_are_words(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "t.json")
    for pid in (5, 5, 9):
        time.sleep(0.01)  # More than a step takes, as reported below.
        result = BlockGradient(Metrics(1.0, 1, 4), np.zeros(1), f"worker 0 (pid {pid})", 1e-4)
        assert list(trace.record_arrivals([result])) == [result]
        trace.report(StepReport(1, 1, float("nan"), 0.5, 4, float("inf"), 0.001))
    trace.report(EpochReport(1, 3, 1.0, 1.0, 1.0, 1.0))
    trace.instant('quo"ted', "text")
    trace.close()
    trace.close()
    events = read(tmp_path / "t.json")
    assert [event["name"] for event in events if event["ph"] == "i"] == ["worker 0 (pid 5) was replaced", 'quo"ted']
    first = next(event for event in events if event.get("name") == "step")
    assert first["args"] == {"step": 1, "images": 4, "loss": "nan", "gradient_norm": "inf"}


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_a_killed_program_leaves_a_trace_that_opens(name: str, tmp_path: Path) -> None:
    program = f"""
import time
from parallel_lenet import StepReport, Trace
trace = Trace({name!r})
for step in range(1, 10**9):
    trace.report(StepReport(1, step, 1.0, 0.5, 4, 1.0, 1e-6))
    if step == 3000:
        print("now", flush=True)
    if step > 3000:
        time.sleep(0.001)
"""
    with programs.start(tmp_path, "-c", program, command=programs.PYTHON) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
    events = read(tmp_path / name, killed=True)
    assert sum(event.get("name") == "step" for event in events) > 300
    assert sum(map(len, map(json.dumps, events))) > 2**16


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_a_full_disk_ends_the_trace_and_not_the_training(
    tmp_path: Path, digits: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "full.json").symlink_to("/dev/full")
    with Trace(tmp_path / "full.json") as trace:
        coordinator = Coordinator(lenet5(kernel="im2col"), SGD(0.1), engine="serial", batch_size=50, trace=trace)
        coordinator.fit(digits)
        trace.flush()
        coordinator.fit(digits)
    assert coordinator.step == 6
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / 'full.json'}: No space left on device: the trace ends here"
    ]
    with pytest.raises(OSError, match="No such file"):
        Trace(tmp_path / "no" / "t.json")
    with pytest.raises(TypeError, match=r"trace must be a Trace or None, got 't.json'"):
        Coordinator(lenet5(), SGD(), trace="t.json")  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_command_traces_epochs_evaluations_and_lost_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.write_idx(tmp_path / "data", 40, 8)
    common = ["--data-dir", "data", "--kernel", "im2col", "--batch-size", "10", "--no-report", "--epochs", "2"]
    command = [
        "--workers",
        "2",
        "--shard-size",
        "5",
        "--out",
        "run",
        "--trace",
        "run/trace.json.gz",
        "--chaos",
        "kill:every=3",
    ]
    result = programs.train(tmp_path, *common, *command)
    assert result["trace"] == "run/trace.json.gz"
    events = read(tmp_path / "run" / "trace.json.gz")
    told = [event["name"] for event in events if event["ph"] == "i"]
    assert told[0] == "started"
    assert told[-1] == "finished"
    assert any(name == "worker lost" for name in told)
    lost = next(event["args"]["text"] for event in events if event.get("name") == "worker lost")
    assert "SIGKILL" in lost
    names = Counter(event["name"] for event in events if event["ph"] == "X")
    assert (names["step"], names["evaluating"], names["saving"]) == (8, 2, 2)
    again = ["--resume", "run", "--trace", "run/trace.json.gz"]
    traces = tmp_path / "run" / "trace.json.gz", tmp_path / "run" / "trace-1.json.gz"
    earlier = traces[0].read_bytes()
    monkeypatch.chdir(tmp_path)
    assert main(["train", *again, "--no-report"]) == 0  # Nothing is left to train: the trace stays as it is.
    assert traces[0].read_bytes() == earlier
    assert main(["train", *again, "--epochs", "3", "--no-report", "--engine", "serial"]) == 0
    assert "the trace of the run so far is kept as run/trace-1.json.gz" in capsys.readouterr().err
    assert traces[1].read_bytes() == earlier
    assert sum(event.get("name") == "step" for event in read(traces[0])) == 4
    for file, words in (("", "--trace must name a file, got ''"), ("data", "--trace must name a file, got 'data'")):
        refused = programs.run_here(tmp_path, "train", *common, "--trace", file, "--out", "other", code=2)
        assert words in refused.stderr
    assert not (tmp_path / "other").exists()


def test_a_long_run_is_written_while_it_runs_and_complete_at_its_end(tmp_path: Path) -> None:
    """The text of steps is made later: none is lost, and no more than `FLUSH_STEPS` wait in memory."""
    trace = Trace(tmp_path / "t.json")
    steps_of_trace = range(1, 2 * FLUSH_STEPS + 10)
    for step in steps_of_trace:
        trace.report(StepReport(1 + step // 700, step, 1.0, 0.5, 9, 1.0, 1e-7))
        assert len(trace._steps) < FLUSH_STEPS
    on_disk = (tmp_path / "t.json").read_text().count('"name":"step"')
    assert on_disk >= 2 * FLUSH_STEPS - 1
    trace.close()
    steps = [event["args"]["step"] for event in read(tmp_path / "t.json") if event.get("name") == "step"]
    assert steps == list(steps_of_trace)
