"""The command line as a program: started, watched and disturbed by the tests that need it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from conftest import children, environment, wait_until

COMMAND = [sys.executable, "-m", "parallel_lenet"]
FILES = {"checkpoint.npz", "checkpoint.previous.npz", "config.toml", "metrics.jsonl"}


def write_idx(
    folder: Path, train: int, test: int, *, shape: tuple[int, ...] = (12, 12), classes: int = 4, seed: int = 0
) -> None:
    """The four IDX files of so many random images."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, *shape))
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(count) % classes)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())


def start(cwd: Path, *arguments: str, **extra: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(cwd: Path, *arguments: str, code: int = 0, **extra: str) -> "subprocess.CompletedProcess[str]":
    process = start(cwd, *arguments, **extra)
    out, err = process.communicate(timeout=100)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def train(cwd: Path, *arguments: str) -> dict[str, Any]:
    """The results of a run that succeeds."""
    return dict(json.loads(run(cwd, "train", "--json", *arguments).stdout))


def numbers(folder: Path) -> list[list[float]]:
    """What a run's metrics.jsonl says, without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [[line[name] for name in ("epoch", "step", "train_loss", "test_loss")] for line in lines]


def descendants_end(pids: set[int], seconds: float = 3) -> bool:
    """Whether these processes are gone within the time."""
    return wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), seconds)


def wait_for_workers(process: "subprocess.Popen[str]", count: int) -> set[int]:
    assert wait_until(lambda: len(children(process.pid)) >= count or process.poll() is not None, 30)
    return children(process.pid)
