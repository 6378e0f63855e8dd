"""Train again and again under faults, and check every result: ``python scripts/soak.py --minutes 20 --seed 1``.

Each run is one small training, started as a program and disturbed until it is done. Its workers are killed and stopped
in every phase. The program itself is killed, interrupted and terminated, and then resumed with another number of
workers. Its parameters and metrics must be those of an undisturbed run, no process and no file may be left, and exit
codes must be right. The times of faults follow from the seed, as far as the machine's timing permits. Linux only.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soak_faults import CODES, LONGEST, MARK, Fault, children, plan, processes_with, send

from parallel_lenet import archive
from parallel_lenet.archive import CheckpointError

BATCH = 100
EVERY = 5  # Steps between checkpoints. An epoch has 40: its eighth checkpoint is written right before evaluation.
SAMPLES = 4000
POLL = 0.004
DEADLINE = 180  # Seconds: a run takes about three.
ATTEMPTS = 10  # Per run. The last one has no faults.
FILES = {
    *("best.npz", "checkpoint.npz", "checkpoint.previous.npz", "config.toml", "environment.json", "events.jsonl"),
    *("metrics.jsonl", "steps.csv"),
}


@dataclass
class Soak:
    """The state of the soak: its settings, and counts of faults and problems."""

    folder: Path
    kernel: str
    epochs: int
    """Of each run."""
    random: random.Random
    faults: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)
    """Lost workers by their activity at that moment, as the runs reported it."""
    problems: list[str] = field(default_factory=list)
    runs: int = 0
    attempts: int = 0
    reference: dict[str, Any] = field(default_factory=dict)

    def start(self, arguments: list[str], mark: str) -> "subprocess.Popen[str]":
        """Training as a program. Its output goes to files, so that it never waits for a reader."""
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "parallel_lenet", "train", *arguments, "--json", "--max-tries", "50"]
        with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
            return subprocess.Popen(
                command,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                text=True,
                env={**os.environ, MARK: mark, "TMPDIR": str(temporary), "PARALLEL_LENET_REPORT": "0"},
            )

    def attempt(self, arguments: list[str], run: Path, faults: list[Fault]) -> bool:
        """Start, disturb, wait and check. Returns whether the run is done."""
        self.attempts += 1
        mark = f"{os.getpid()}.{self.attempts}"
        found = _stray_files(run)  # A killed program may leave a temporary file, which the next one removes.
        process = self.start(arguments, mark)
        sent, stopped = self._disturb(process, run, faults)
        try:
            code = process.wait(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            self.problem(f"hung after {sent or 'no signals'}", faults)
            process.kill()
            code = process.wait()
        for pid in stopped:
            send(pid, signal.SIGCONT)
        allowed = {0}.union(*(CODES[number] for number in sent))
        if code not in allowed:
            self.problem(f"exit code {code}, not one of {sorted(allowed)}: {self._output()[-300:]}", faults)
        for what in ("starting", "computing", "waiting for work"):
            self.losses[what] += self._output().count(f"while {what}")
        if "Traceback" in self._output() and code != -2:
            self.problem(f"a traceback: {self._output()[-600:]}", faults)
        may_stay = found if code else set()
        self._check_leftovers(mark, run, killed=signal.SIGKILL in sent, may_stay=may_stay, faults=faults)
        return code == 0

    def _output(self) -> str:
        return (self.folder / "err").read_text()

    def _disturb(
        self, process: "subprocess.Popen[str]", run: Path, faults: list[Fault]
    ) -> tuple[set[signal.Signals], list[int]]:
        """Send each fault's signal in time. Returns the signals to the program, and the workers that are stopped."""
        started = time.monotonic()
        began: dict[str, float] = {"any time": started}
        sent: set[signal.Signals] = set()
        stopped: dict[int, float] = {}
        seen: tuple[int, int] | None = None
        left = list(faults)
        while process.poll() is None and (left or stopped) and time.monotonic() < started + DEADLINE:
            now = time.monotonic()
            workers = children(process.pid)
            if workers:
                began.setdefault("start-up", now)
                began.setdefault("loading", now + 0.4)
            with suppress(OSError):
                stat = (run / "checkpoint.npz").stat()
                if seen not in (None, (stat.st_ino, stat.st_mtime_ns)) and workers:
                    self._note_phases(run, began, now)
                seen = stat.st_ino, stat.st_mtime_ns
            for fault in list(left):
                if fault.due is None and fault.phase in began:
                    fault.due = began[fault.phase] + fault.delay * LONGEST.get(fault.phase, 0.03)
                if fault.due is None or now < fault.due or (fault.target == "worker" and not workers):
                    continue
                left.remove(fault)
                pid = self.random.choice(workers) if fault.target == "worker" else process.pid
                if process.poll() is None and send(pid, fault.number):
                    self.faults[fault.kind] += 1
                    if fault.target == "program":
                        sent.add(fault.number)
                    elif fault.number == signal.SIGSTOP:
                        stopped[pid] = now + self.random.uniform(0.05, 1.0)
            for pid in [pid for pid, until in stopped.items() if now >= until]:
                del stopped[pid]
                send(pid, signal.SIGCONT)
            time.sleep(POLL)
        return sent, list(stopped)

    def _note_phases(self, run: Path, began: dict[str, float], now: float) -> None:
        """Note the phases that a new checkpoint shows."""
        with suppress(CheckpointError):
            described = archive.load(run / "checkpoint.npz")[1]
            began.setdefault("computing", now)
            if described["cursor"] == SAMPLES:
                began.setdefault("evaluation", now)
            if described["epoch"] == self.epochs:
                began.setdefault("shutdown", now)

    def _check_leftovers(self, mark: str, run: Path, *, killed: bool, may_stay: set[Path], faults: list[Fault]) -> None:
        """Report processes and temporary files that are left, and checkpoints that can't be loaded."""
        deadline = time.monotonic() + 3  # Workers of a killed program notice within a moment.
        while (left := processes_with(mark)) and time.monotonic() < deadline and killed:
            time.sleep(0.02)
        if left:
            self.problem(f"left-over processes {left}", faults)
            for pid in left:
                send(pid, signal.SIGKILL)
        files = [*(self.folder / "tmp").iterdir(), *(f for f in Path("/dev/shm").iterdir() if "lenet" in f.name)]
        if not killed:
            files += _stray_files(run) - may_stay
        if files:
            self.problem(f"left-over files {[str(file) for file in files]}", faults)
        for file in run.glob("*.npz"):
            try:
                archive.load(file)
            except CheckpointError as error:
                self.problem(f"a damaged checkpoint: {error}", faults)

    def run(self) -> str:
        """One training, disturbed until it is done. Returns a line about it."""
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        start = time.monotonic()
        before = sum(self.faults.values())
        problems = len(self.problems)
        for number in range(1, ATTEMPTS + 1):
            arguments = ["--resume", str(run)]
            if not (run / "checkpoint.npz").exists():
                shutil.rmtree(run, ignore_errors=True)  # Stopped before its first checkpoint.
                arguments = [*self.recipe(), "--out", str(run)]
            how = ["--engine", "serial"] if self.random.random() < 0.1 else ["--engine", "processes"]
            arguments += [*how, "--workers", str(self.random.randint(1, 4))]
            if self.attempt(arguments, run, plan(self.random) if number < ATTEMPTS else []):
                break
        self.runs += 1
        self._compare(run)
        verdict = "ok" if len(self.problems) == problems else f"WRONG: {self.problems[problems]}"
        faults = sum(self.faults.values()) - before
        return f"run {self.runs}: {number} attempts, {faults} faults, {time.monotonic() - start:.1f} s: {verdict}"

    def recipe(self) -> list[str]:
        """The options that all runs share."""
        options = {"epochs": self.epochs, "batch-size": BATCH, "checkpoint-every": EVERY, "kernel": self.kernel}
        return [word for name, value in options.items() for word in (f"--{name}", str(value))]

    def results(self, run: Path) -> dict[str, Any]:
        """The results that must be the same in every run."""
        result = json.loads((self.folder / "out").read_text())
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        numbers = [[line[name] for name in ("epoch", "step", "train_loss", "test_loss")] for line in lines]
        return {"sha256": result["parameters_sha256"], "test_loss": result["test_loss"], "metrics": numbers}

    def _compare(self, run: Path) -> None:
        try:
            results = self.results(run)
        except (OSError, ValueError, KeyError) as error:
            self.problem(f"no results: {error}", [])
            return
        if results != self.reference:
            self.problem(f"other results: {results}", [])

    def problem(self, text: str, faults: list[Fault]) -> None:
        """Record a problem, with the faults that were planned."""
        self.problems.append(f"{text} (planned: {'; '.join(fault.kind for fault in faults) or 'nothing'})")


def _stray_files(run: Path) -> set[Path]:
    """The files that don't belong into a run's folder."""
    return {file for file in run.iterdir() if file.name not in FILES} if run.exists() else set()


def main() -> int:
    """Soak for the given time. Print one line per run and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule of faults (default: 0)")
    parser.add_argument("--kernel", default="auto", help="of the network (default: auto)")
    parser.add_argument("--epochs", type=int, default=3, help="of each run (default: 3)")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object on standard output")
    arguments = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("soaking needs Linux: it looks into /proc")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A program in the background inherits an ignored SIGINT.
    progress = sys.stderr if arguments.json else sys.stdout
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(Path(folder), arguments.kernel, arguments.epochs, random.Random(arguments.seed))
        run = soak.folder / "reference"
        if not soak.attempt([*soak.recipe(), "--out", str(run)], run, []):
            sys.exit(f"the undisturbed run failed: {soak.problems}")
        soak.reference = soak.results(run)
        end = time.monotonic() + 60 * arguments.minutes
        while time.monotonic() < end:
            print(soak.run(), file=progress, flush=True)
    summary = {
        "seed": arguments.seed,
        "runs": soak.runs,
        "attempts": soak.attempts,
        "faults": dict(sorted(soak.faults.items())),
        "workers_lost_while": dict(soak.losses),
        "problems": soak.problems,
    }
    if arguments.json:
        print(json.dumps(summary))
    else:
        for kind, times in sorted(soak.faults.items()):
            print(f"{times:6,}  {kind}")
        print(f"workers lost while {', '.join(f'{what}: {times:,}' for what, times in soak.losses.items())}")
        print(
            f"{soak.runs:,} runs in {soak.attempts:,} attempts, {sum(soak.faults.values()):,} faults; "
            f"results that differed, left-overs, hangs and wrong exit codes: {len(soak.problems)}"
        )
        for problem in soak.problems:
            print(f"WRONG: {problem}")
    return 1 if soak.problems else 0


if __name__ == "__main__":
    sys.exit(main())
