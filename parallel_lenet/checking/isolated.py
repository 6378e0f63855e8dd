"""The check of a kernel file in another process, since the file's code may crash or never end.

The other process runs `child` and writes a line of JSON before and after each part of the check. A part that takes too
long, or ends the process, is a problem. Then another process continues with the next part.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parallel_lenet import user_files
from parallel_lenet.checking.child import DIFFERENCES, LOADING, SPEED
from parallel_lenet.network.gradcheck import TOLERANCE

CODE = "from parallel_lenet.checking.child import main; main()"
STARTING = 60.0  # Seconds for Python and NumPy, beside the time limit.


@dataclass
class FileCheck:
    """What the check of a file found."""

    file: str
    sha256: str
    problems: dict[str, list[str]] = field(default_factory=dict)
    """Problems by function, or by another part of the check: one sentence for each."""
    errors: dict[str, float] = field(default_factory=dict)
    """Of the gradients against finite differences."""
    speed: list[tuple[str, float, float]] = field(default_factory=list)
    """The function, its microseconds per image in LeNet-5, and those of im2col's."""

    @property
    def sentences(self) -> list[str]:
        return [sentence for sentences in self.problems.values() for sentence in sentences]


def check_file(path: str, time_limit: float) -> FileCheck:
    """Check the kernel in a file. Each function may take ``time_limit`` seconds.

    Raises UserFileError if the file cannot be read or run, with the line that failed.
    """
    path = os.path.abspath(path)
    found = FileCheck(path, user_files.digest(user_files.read(path)))
    finished_parts: list[str] = []
    while True:
        part = LOADING
        for part, result in _parts(path, finished_parts, time_limit):
            if isinstance(result, str):  # It took too long, or ended the process.
                found.problems[part] = [f"{part}: {result}"]
            elif part == LOADING and result:
                raise user_files.UserFileError(result["error"])
            elif part == DIFFERENCES:
                found.errors = result
                wrong = [name for name, error in result.items() if not error < TOLERANCE]
                if wrong:
                    found.problems[part] = [
                        f"{name}: the gradient differs from finite differences by {result[name]:.2g}" for name in wrong
                    ]
            elif part == SPEED:
                found.speed = [tuple(row) for row in result]
            elif result:
                found.problems[part] = result
            finished_parts.append(part)
        if LOADING in found.problems:
            raise user_files.UserFileError(f"{path}: {found.problems[LOADING][0]}")
        if SPEED in finished_parts or (DIFFERENCES in finished_parts and found.problems):
            return found


def _parts(path: str, finished_parts: list[str], time_limit: float) -> Iterator[tuple[str, Any]]:
    """The parts that another process checked, with their results. A part that ends the process has a sentence."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([_package(), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, path, *finished_parts],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    lines: queue.Queue[str] = queue.Queue()

    def receive() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    reader = threading.Thread(target=receive, daemon=True)
    reader.start()
    part = LOADING
    try:
        limit = STARTING + time_limit
        while True:
            try:
                line = lines.get(timeout=limit)
            except queue.Empty:
                yield part, f"did not end within {time_limit:g} s"
                return
            limit = time_limit
            if not line:
                try:
                    code = process.wait(limit)
                except subprocess.TimeoutExpired:  # The file closed the stream.
                    yield part or LOADING, f"did not end within {time_limit:g} s"
                    return
                if code != 0 or part != "":
                    yield part or LOADING, _ending(code)
                return
            message = json.loads(line)
            if "begins" in message:
                part = message["begins"]
            else:
                yield part, message["result"]
                part = ""
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def _ending(code: int) -> str:
    if code < 0:
        return f"crashed the process: {signal.Signals(-code).name}"
    return f"ended the process with exit code {code}"


def _package() -> str:
    """The folder to import this package from."""
    return str(Path(__file__).parents[2])
