"""Traces: files for viewers that show when each phase of each step began and ended, in all processes.

The file is a JSON array in the Trace Event format, which https://ui.perfetto.dev and chrome://tracing open. All times
are those of one clock, in microseconds since the trace began. The trace has one process. Its first thread is the
coordinator's, where an epoch encloses its steps, and a step encloses its phases. Each worker has a thread with the
blocks that it computed.

======== ===============================================================================================
send     from the step's begin until the first worker has begun: cutting the batch, copying, waking
wait     the coordinator waits for the next gradient (with the serial engine, it computes the gradient)
add      it adds gradients along the tree
clip     with ``clip_norm``: the last additions, the mean, its norm, and clipping
update   optimizer and checks (without ``clip_norm`` also the last additions, the mean and its norm)
compute  a worker computes a block
======== ===============================================================================================

Worker processes report when they began. Workers of a cluster may be on machines with other clocks, so only the time
that they computed is known. Their blocks are shown one after the other from the step's begin.

Source: "Trace Event Format", Google, 2016.

The file has a little more than 300 lines: half of it turns times into the spans that viewers draw.
"""

import gzip
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from parallel_lenet.archive import path_string
from parallel_lenet.closing import Closeable
from parallel_lenet.engines import BlockGradient
from parallel_lenet.optional import note_once
from parallel_lenet.reports import EpochReport, StepReport

FLUSH_BYTES = 1 << 16
FLUSH_SECONDS = 1.0
FLUSH_STEPS = 500
COORDINATOR = 1  # The number of its thread. Those of the workers follow.
SHORT = 2000  # Nanoseconds: shorter waits count as adding.
SERIAL = "this process"  # A worker's name if the coordinator computes itself.


# A block: when its result was asked for and came, its worker, when that began, the seconds it took, and its samples.
_Arrival = tuple[float, float, str, float, float, int]


class Trace(Closeable):
    """Writes what a `Coordinator` does to ``path``, compressed if the name ends with ``.gz``.

    >>> import tempfile
    >>> import numpy as np
    >>> from parallel_lenet import SGD, Coordinator, lenet5, load_dataset
    >>> digits = load_dataset()[0].subset(np.arange(100))
    >>> with tempfile.TemporaryDirectory() as folder, Trace(f"{folder}/trace.json") as trace:
    ...     with Coordinator(lenet5(kernel="im2col"), SGD(0.1), engine="serial", trace=trace) as coordinator:
    ...         history = coordinator.fit(digits)

    Events are written about once per second. If the program is killed, the file still opens and lacks the last second.
    If the file can't be written any more, the trace ends with a logged warning, and training continues. Raises OSError
    if the file can't be created. With ``opens=False`` `open` creates the file, so that its folder may be made before
    that.
    """

    def __init__(self, path: str | os.PathLike[str], *, opens: bool = True) -> None:
        self.path = Path(path_string(path))
        self._file: BinaryIO | None = None
        self._compresses = self.path.suffix == ".gz"
        self._origin = time.perf_counter_ns()
        self._events: list[str] = []
        self._size = 0
        self._first = True
        self._flush_time = time.monotonic()
        self._arrivals: list[_Arrival] = []
        self._steps: list[tuple[StepReport, float, list[_Arrival]]] = []
        """The steps that have no events yet: the report, when it was made, and the results."""
        self._templates: dict[str, str] = {}
        """The template of each worker's events."""
        self._full_names: dict[str, str] = {}
        """The last name of each worker with its process, by the name without it."""
        self._ends: dict[str, int] = {}
        """When each worker's last event ends."""
        self._epoch: int | None = None
        self._pid = os.getpid()
        self._thread_fields = f'"pid":{self._pid},"tid":{COORDINATOR}'
        self._name("process_name", 0, f"parallel_lenet (pid {self._pid})")
        self._thread("coordinator", COORDINATOR)
        if opens:
            self.open()

    def open(self) -> None:
        """Create the file, or empty one that is there. Raises OSError if that is not possible."""
        self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115, `close` closes it.

    def record_arrivals(self, results: Iterable[BlockGradient]) -> Iterator[BlockGradient]:
        """Yields the same results, and notes when each was asked for and when it came."""
        clock = time.perf_counter
        self._arrivals.clear()  # Those of an interrupted step.
        request_time = clock()
        for result in results:
            arrival_time = clock()
            start = result.start
            if not start and result.worker == SERIAL:  # An engine of the user's own, which computed it just now.
                start = max(request_time, arrival_time - result.seconds)
            self._arrivals.append(
                (request_time, arrival_time, result.worker, start, result.seconds, result.metrics.count)
            )
            yield result
            request_time = clock()

    def report(self, report: StepReport | EpochReport) -> None:
        """Record what the coordinator has just done."""
        now = time.perf_counter()
        if isinstance(report, EpochReport):
            self._write_steps()
            self._end_epoch(self._at(now))
        else:  # The workers wait: the text is made later, for many steps at once.
            self._steps.append((report, now, self._arrivals))
            self._arrivals = []
        if (
            len(self._steps) >= FLUSH_STEPS
            or self._size > FLUSH_BYTES
            or time.monotonic() - self._flush_time > FLUSH_SECONDS
        ):
            self.flush()

    def _write_steps(self) -> None:
        """Make the events of the steps that were only noted."""
        steps = self._steps
        self._steps = []
        for report, now, arrivals in steps:
            self._step(report, now, arrivals)

    def _step(self, report: StepReport, now: float, arrivals: list[_Arrival]) -> None:
        # The step ended before this call, and began before it asked for the first result.
        begun = now - report.seconds
        if arrivals:
            begun = min(begun, arrivals[0][0])
        now = begun + report.seconds
        start = self._at(begun)
        end = self._at(now)
        if report.epoch != self._epoch:
            self._end_epoch(start)
            self._epoch = report.epoch
            begin = max(0, start - SHORT)  # Viewers may take two spans that begin together for the other way round.
            self._add(f'{{"ph":"B","name":"epoch {report.epoch}",{self._thread_fields},"ts":{begin / 1000:.3f}}}')
        arguments = (
            f'{{"step":{report.step},"images":{report.count},"loss":{_number(report.loss)},'
            f'"gradient_norm":{_number(report.gradient_norm)}}}'
        )
        self._span("step", start, end, arguments)
        begin = start
        sum_end = now - report.times.updating
        clip_end = self._at(sum_end + report.times.clipping) if report.times.clipping else 0
        for name, until in self._phases(arrivals, start, end, self._at(sum_end), clip_end):
            self._span(name, begin, until)
            begin = until
        # In the order of their beginnings: a worker may have computed a later block first.
        for arrival in sorted(arrivals, key=_start_of) if len(arrivals) > 1 else arrivals:
            self._compute(arrival, start)

    def _phases(
        self, arrivals: list[_Arrival], start: int, end: int, sum_end: int, clip_end: int
    ) -> list[tuple[str, int]]:
        """What the coordinator did from the step's start to its end, without gaps: names, and until when."""
        parts: list[tuple[str, int]] = []
        last = start
        if arrivals:
            known = [arrival[3] for arrival in arrivals if arrival[3]]
            last = min(max(start, self._at(min(known) if known else arrivals[0][0])), self._at(arrivals[0][1]))
            parts.append(("send", last))
        origin = self._origin
        adding = False  # Since the last part.
        for request_time, arrival_time, *_ in arrivals:
            before = int(request_time * 1e9) - origin
            after = int(arrival_time * 1e9) - origin
            if after - max(before, last) >= SHORT:
                if adding and before > last:
                    parts.append(("add", before))
                parts.append(("wait", after))
                last = after
            adding = True
        for name, until in (("add", sum_end), ("clip", min(clip_end, end))):
            if until > last:
                parts.append((name, until))
                last = until
        if end > last:
            parts.append(("update", end))
        return parts

    def _compute(self, arrival: _Arrival, step: int) -> None:
        """The block that a worker computed, within what is free in its thread."""
        _, arrival_time, worker, began, seconds, samples = arrival
        template = self._templates.get(worker) or self._worker(worker, self._at(arrival_time))
        before = max(self._ends.get(worker, 0), step)
        start = max(int(began * 1e9) - self._origin, before) if began else before
        end = min(start + int(seconds * 1e9), int(arrival_time * 1e9) - self._origin)
        if end > start:
            self._ends[worker] = end
            self._add(template % (start / 1000, (end - start) / 1000, samples))

    def _worker(self, worker: str, moment: int) -> str:
        """The template of a worker's events. A worker with a new process gets an event."""
        thread = COORDINATOR
        if worker != SERIAL:
            name = worker.partition(" (pid")[0]
            number = name.removeprefix("worker ")
            if number.isdecimal() and len(number) < 4 and name not in self._full_names:
                thread += 1 + int(number)  # Viewers show threads in this order.
            else:
                thread += 1000 + len(self._templates)
            self._thread(worker, thread)
            if name in self._full_names:
                self._instant(f"{self._full_names[name]} was replaced", thread, moment)
            self._full_names[name] = worker
        where = f'"pid":{self._pid},"tid":{thread}'
        template = f'{{"ph":"X","name":"compute",{where},"ts":%.3f,"dur":%.3f,"args":{{"images":%d}}}}'
        self._templates[worker] = template
        return template

    def instant(self, name: str, text: str = "") -> None:
        """Record something that happened now."""
        self._instant(name, COORDINATOR, self._at(time.perf_counter()), text)

    def _instant(self, name: str, thread: int, moment: int, text: str = "") -> None:
        event = {"ph": "i", "s": "p", "name": name, "pid": self._pid, "tid": thread, "ts": moment / 1000}
        self._add(json.dumps({**event, "args": {"text": text}} if text else event))

    def span(self, name: str, seconds: float, ago: float = 0.0) -> None:
        """Record that ``name`` took ``seconds``, outside of a step, and ended ``ago`` seconds ago."""
        now = time.perf_counter() - ago
        self._span(json.dumps(name)[1:-1], self._at(now - seconds), self._at(now))

    def _end_epoch(self, moment: int) -> None:
        if self._epoch is not None:
            self._add(f'{{"ph":"E",{self._thread_fields},"ts":{moment / 1000:.3f}}}')
            self._epoch = None

    def _at(self, seconds: float) -> int:
        """A time of `time.perf_counter` in nanoseconds since the trace began."""
        return max(0, int(seconds * 1e9) - self._origin)

    def _span(self, name: str, start: int, end: int, arguments: str = "{}") -> None:
        """An event of the coordinator. Times are whole nanoseconds, so spans end exactly where their parts end."""
        times = f'"ts":{start / 1000:.3f},"dur":{(end - start) / 1000:.3f}'
        self._add(f'{{"ph":"X","name":"{name}",{self._thread_fields},{times},"args":{arguments}}}')

    def _name(self, kind: str, thread: int, name: str) -> None:
        self._add(json.dumps({"ph": "M", "name": kind, "pid": self._pid, "tid": thread, "args": {"name": name}}))

    def _thread(self, name: str, thread: int) -> None:
        self._name("thread_name", thread, name)
        order = {
            "ph": "M",
            "name": "thread_sort_index",
            "pid": self._pid,
            "tid": thread,
            "args": {"sort_index": thread},
        }
        self._add(json.dumps(order))

    def _add(self, event: str) -> None:
        self._events.append(event)
        self._size += len(event)

    def flush(self) -> None:
        """Write the events so far."""
        self._write_steps()
        events = self._events
        self._events = []
        self._size = 0
        self._flush_time = time.monotonic()
        if events:
            text = ("[\n" if self._first else ",\n") + ",\n".join(events)
            self._first = False
            self._write(text.encode())

    def _write(self, content: bytes) -> None:
        if self._file is None:
            return
        if self._compresses:  # Each piece is a gzip file in itself, so that those before a kill can be read.
            content = gzip.compress(content, 1, mtime=0)
        try:
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            self._file.close()
            self._file = None
            note_once(f"{self.path}: {error.strerror or error}: the trace ends here")

    def close(self) -> None:
        """Write the rest and close the file."""
        if self._file is not None:
            self._write_steps()
            self._end_epoch(self._at(time.perf_counter()))
            self.flush()
            self._write(b"\n]\n")
        if self._file is not None:
            self._file.close()
            self._file = None


def _start_of(arrival: _Arrival) -> float:
    return arrival[3]


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else f'"{value}"'
