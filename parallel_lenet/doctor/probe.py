"""Runs test programs in a separate process, so that a crash or a hang does not reach this one."""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass

from parallel_lenet.engines.processes.start import interpreter

_PATH = "import sys, json; sys.path[:] = json.loads(sys.argv[1])\n"


@dataclass(frozen=True)
class Outcome:
    """The end of a program."""

    output: str
    failure: str
    """What went wrong, in a few words. Empty if nothing did."""


def outcome_of(program: str, *arguments: str, seconds: float) -> Outcome:
    """The outcome of a Python program that finds modules where this one does, and may take ``seconds``."""
    path = json.dumps([entry for entry in sys.path if entry])
    # -P: otherwise the path would begin with the current folder.
    command = [interpreter(), "-P", "-c", _PATH + program, path, *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    with process:
        try:
            output, error = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            return Outcome(output, f"had not ended after {seconds:.0f} seconds")
        except BaseException:
            process.kill()
            raise
    if process.returncode < 0:
        return Outcome(output, f"crashed: {_signal_name(-process.returncode)}")
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    failure = f"exit code {process.returncode}" if not lines else lines[-1][:300]
    return Outcome(output, failure if process.returncode else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
