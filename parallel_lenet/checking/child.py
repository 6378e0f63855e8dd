"""The process that `isolated` starts: it runs the file, and writes what it finds as lines of JSON."""

import json
import os
import sys
from typing import Any, TextIO

from parallel_lenet import user_files
from parallel_lenet.checking import kernels, speed
from parallel_lenet.kernels.files import FUNCTIONS

CONSTANTS, LOADING, DIFFERENCES, SPEED = "constants", "loading", "finite differences", "speed"
"""The parts of the check, beside the functions."""


def main() -> None:
    """The other process's program: check the file that is named first, except the parts that are named after it."""
    path, *done = sys.argv[1:]
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What the file prints is not a result.
    _check(path, done, output)
    os._exit(0)  # Do not wait for the file's threads or for its exit handlers.


def _check(path: str, done: list[str], output: TextIO) -> None:
    """Write what is found as lines of JSON."""

    def say(**message: Any) -> None:
        output.write(json.dumps(message) + "\n")
        output.flush()

    say(begins=LOADING)
    try:
        module = user_files.run(path, user_files.read(path), "user_kernel")
    except user_files.UserFileError as error:
        say(result={"error": str(error)})
        return
    say(result={})
    failed = False
    for part in (CONSTANTS, *FUNCTIONS):
        if part in done:
            continue
        say(begins=part)
        problems = list(kernels.constants(module)) if part == CONSTANTS else kernels.check_function(module, part)
        failed = failed or bool(problems)
        say(result=problems)
    if DIFFERENCES not in done:
        say(begins=DIFFERENCES)
        say(result={} if failed or any(part in FUNCTIONS for part in done) else kernels.finite_differences(module))
    if SPEED not in done:
        say(begins=SPEED)
        say(result=[] if failed or any(part in FUNCTIONS for part in done) else speed.speeds(module))
