"""Deliberate faults, to test that a run survives them: ``--chaos kill:every=20,stop:every=7,seed=1``."""

import os
import random
import signal
import threading
from contextlib import suppress

from parallel_lenet.cli._options import UsageError
from parallel_lenet.coordinator import Coordinator

HELP = (
    "faults that the run survives, joined with commas: kill:every=N kills a random worker every N steps, stop:every=N "
    "stops one for a second, seed=N makes other random choices"
)
PAUSE = 1.0  # Seconds for which a stopped worker stays stopped.
SPREAD = 0.01  # Seconds after its step within which a fault strikes, at a random moment.


class Chaos:
    """Kills and stops workers during a run, if there is a plan. Raises UsageError if the plan is invalid."""

    def __init__(self, plan: str | None = None) -> None:
        every: dict[str, int] = {}
        seed = 0
        for item in [] if plan is None else plan.split(","):
            name, _, value = item.strip().partition("=")
            if name not in ("kill:every", "stop:every", "seed") or not value.isdecimal():
                raise UsageError(f"--chaos {plan}: {item!r} is not one of kill:every=N, stop:every=N and seed=N")
            if name == "seed":
                seed = int(value)
            elif int(value) == 0:
                raise UsageError(f"--chaos {plan}: {name} must be at least 1, got 0")
            else:
                every[name.partition(":")[0]] = int(value)
        if plan is not None and os.name != "posix":
            raise UsageError("--chaos needs the signals of POSIX, which this system doesn't have")
        self.kills = 0
        self.stops = 0
        self._every = every
        self._random = random.Random(seed)
        self._steps = 0
        self._stopped_pids: set[int] = set()
        self._timers: list[threading.Timer] = []

    def plan_faults(self, coordinator: Coordinator) -> None:
        """Plan the faults that are due after a step. Training calls this after each step."""
        self._steps += 1
        for fault, every in self._every.items():
            if self._steps % every == 0 and (pids := sorted(coordinator.worker_pids())):
                self._start_timer(self._random.uniform(0, SPREAD), fault, self._random.choice(pids), coordinator)

    def _start_timer(self, seconds: float, fault: str, pid: int, coordinator: Coordinator) -> None:
        timer = threading.Timer(seconds, self._strike, (fault, pid, coordinator))
        timer.daemon = True
        self._timers = [*(other for other in self._timers if other.is_alive()), timer]
        timer.start()

    def _strike(self, fault: str, pid: int, coordinator: Coordinator) -> None:
        if fault != "continue" and pid not in coordinator.worker_pids():
            return  # The worker has ended, and its number may belong to another process by now.
        with suppress(ProcessLookupError):
            if fault == "kill":
                os.kill(pid, signal.SIGKILL)
                self.kills += 1
            elif fault == "stop":
                os.kill(pid, signal.SIGSTOP)
                self.stops += 1
                self._stopped_pids.add(pid)
                self._start_timer(PAUSE, "continue", pid, coordinator)
            elif pid in self._stopped_pids:
                self._stopped_pids.discard(pid)
                os.kill(pid, signal.SIGCONT)

    def end(self) -> None:
        """Plan no more faults, and continue the workers that are stopped."""
        self._every = {}
        for timer in self._timers:
            timer.cancel()
        for pid in list(self._stopped_pids):
            self._stopped_pids.discard(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
