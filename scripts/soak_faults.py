"""The faults of `soak.py`: signals, the phases of a training in which they strike, and the processes they strike."""

import os
import random
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PHASES = ("start-up", "loading", "computing", "evaluation", "shutdown", "any time")
LONGEST = {"any time": 3.0, "start-up": 0.4, "loading": 0.8, "computing": 0.3}  # Seconds of delay within a phase.
MARK = "PARALLEL_LENET_SOAK"  # An environment variable that marks the processes of a run.
CODES = {signal.SIGKILL: {-9}}
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    CODES[_number] = {128 + _number, -_number}  # Negative if the program did not handle signals yet.


@dataclass
class Fault:
    """A signal to the program or to one of its workers, ``delay`` (0 to 1) of the longest time after a phase begins."""

    target: str
    number: signal.Signals
    phase: str
    delay: float
    due: float | None = None
    """When it strikes, by `time.monotonic`, or None before its phase begins."""

    @property
    def kind(self) -> str:
        """The fault in words, for the summary."""
        return f"{self.target} {self.number.name}, {self.phase}"


def plan(pick: random.Random) -> list[Fault]:
    """The faults of one attempt: up to four for workers, and in most attempts one for the program."""
    numbers = [signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP]
    faults = [
        Fault("worker", pick.choice(numbers), pick.choice(PHASES), pick.random()) for _ in range(pick.randint(0, 4))
    ]
    if pick.random() < 0.7:
        faults.append(Fault("program", pick.choice(list(CODES)), pick.choice(PHASES), pick.random()))
    return faults


def children(pid: int) -> list[int]:
    """The processes that a program has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def processes_with(mark: str) -> list[int]:
    """The processes that carry the mark in their environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found


def send(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
