"""Programs run from outside, most of them the command line: `run` waits for one, `start` does not.

`run_here` calls the command line in this process, where the start of a program is not part of the test.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import parallel_lenet
from parallel_lenet.cli import main

PACKAGE_FOLDER = str(Path(parallel_lenet.__file__).resolve().parents[1])
PYTHON = [sys.executable]
COMMAND = [*PYTHON, "-m", "parallel_lenet"]
NOTHING: Mapping[str, str] = MappingProxyType({})

Run = Callable[..., "subprocess.CompletedProcess[str]"]
FILES = {
    *("checkpoint.npz", "checkpoint.previous.npz", "config.toml", "metrics.jsonl"),
    *("environment.json", "events.jsonl", "steps.csv"),
}


def write_idx(
    folder: Path, train: int, test: int, *, shape: tuple[int, ...] = (12, 12), classes: int = 4, seed: int = 0
) -> None:
    """The four IDX files of this number of random images."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, *shape))
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(count) % classes)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())


def environment(**changes: str) -> dict[str, str]:
    """That of the tests, with a path to the package even if it is not installed."""
    path = os.pathsep.join([PACKAGE_FOLDER, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **changes}


def start(
    cwd: Path, *arguments: str, command: Sequence[str] = COMMAND, env: Mapping[str, str] = NOTHING, **options: Any
) -> "subprocess.Popen[str]":
    """A program that runs: the command line, or Python with ``command=PYTHON``.

    ``env`` changes variables of the environment. ``options`` are those of `subprocess.Popen`.
    """
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *arguments], cwd=cwd, env=environment(**env), text=True, **{**pipes, **options})


def run(
    cwd: Path,
    *arguments: str,
    command: Sequence[str] = COMMAND,
    env: Mapping[str, str] = NOTHING,
    stdin: str = "",
    code: int = 0,
) -> "subprocess.CompletedProcess[str]":
    """A program that has ended with this code. A command never ends with a traceback."""
    with start(cwd, *arguments, command=command, env=env, stdin=subprocess.PIPE) as process:
        try:
            out, err = process.communicate(stdin, timeout=300)  # More than any takes on a busy machine.
        except BaseException:
            process.kill()
            raise
    assert process.returncode == code, out + err
    assert command is not COMMAND or "Traceback" not in err, err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def train(cwd: Path, *arguments: str) -> dict[str, Any]:
    """The results of a run that succeeds."""
    return dict(json.loads(run(cwd, "train", "--json", *arguments).stdout))


def run_here(cwd: Path, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    """The command line called in this process, which saves a third of a second of a core. It ends with this code."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    with contextlib.chdir(cwd), contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        returned = main(arguments)
    out, err = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    assert returned == code, out + err
    return subprocess.CompletedProcess(arguments, returned, out, err)


def train_here(cwd: Path, *arguments: str) -> dict[str, Any]:
    """The results of a run that succeeds, in this process."""
    return dict(json.loads(run_here(cwd, "train", "--json", *arguments).stdout))


def numbers(folder: Path) -> list[list[float]]:
    """What a run's metrics.jsonl says, without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [[line[name] for name in ("epoch", "step", "train_loss", "test_loss")] for line in lines]
