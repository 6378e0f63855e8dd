"""The process that `isolated` starts: it runs the file, and writes what it finds as lines of JSON."""

import json
import os
import sys
from typing import Any, TextIO

from parallel_lenet import user_files
from parallel_lenet.checking import kernels, speed
from parallel_lenet.kernels.files import FUNCTIONS

CONSTANTS = "constants"
LOADING = "loading"
DIFFERENCES = "finite differences"
SPEED = "speed"
"""The four parts of the check beside the functions."""


def main() -> None:
    """Check the file that the first argument names, except the parts that the other arguments name."""
    path, *finished_parts = sys.argv[1:]
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What the file prints is not a result.
    _check(path, finished_parts, output)
    os._exit(0)  # Do not wait for the file's threads or for its exit handlers.


def _check(path: str, finished_parts: list[str], output: TextIO) -> None:
    """Write what is found as lines of JSON."""

    def send(**message: Any) -> None:
        output.write(json.dumps(message) + "\n")
        output.flush()

    send(begins=LOADING)
    try:
        module = user_files.run(path, user_files.read(path), "user_kernel")
    except user_files.UserFileError as error:
        send(result={"error": str(error)})
        return
    send(result={})
    failed = False
    for part in (CONSTANTS, *FUNCTIONS):
        if part in finished_parts:
            continue
        send(begins=part)
        problems = list(kernels.constants(module)) if part == CONSTANTS else kernels.check_function(module, part)
        failed = failed or bool(problems)
        send(result=problems)
    if DIFFERENCES not in finished_parts:
        send(begins=DIFFERENCES)
        send(
            result={}
            if failed or any(part in FUNCTIONS for part in finished_parts)
            else kernels.finite_differences(module)
        )
    if SPEED not in finished_parts:
        send(begins=SPEED)
        send(result=[] if failed or any(part in FUNCTIONS for part in finished_parts) else speed.speeds(module))
