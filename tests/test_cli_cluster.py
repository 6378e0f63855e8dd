"""The command line on a cluster: real Dask and Ray, the same hashes, mistakes in one sentence."""

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from kits.processes import children, listening, wait_until
from kits.programs import PYTHON, run, start, write_idx

from parallel_lenet import archive
from parallel_lenet.cli import main
from parallel_lenet.parameters import sha256

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

HERE = Path()
OPTIONS = ("--kernel", "im2col", "--batch-size", "32", "--warmup", "0", "--schedule", "constant", "--json")
TWO = ("--epochs", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    write_idx(folder, 160, 20)
    return str(folder)


@pytest.fixture(scope="module")
def expected(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash without a cluster."""
    out = str(tmp_path_factory.mktemp("run") / "run")
    result = run(HERE, "train", "--data-dir", data, *OPTIONS, *TWO, "--engine", "serial", "--out", out)
    return str(json.loads(result.stdout)["parameters_sha256"])


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Dask scheduler and a worker of three threads, started as docs/clusters.md says."""
    pytest.importorskip("distributed")
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    quiet = {"command": [*PYTHON, "-m"], "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    of_its_own = ["--port", "0", "--scheduler-file", str(file)]
    running = [start(folder, *documented_line("dask scheduler"), *of_its_own, **quiet)]
    try:
        assert wait_until(lambda: file.exists() and file.read_text().endswith("}"), 60)
        address = str(json.loads(file.read_text())["address"])
        line = documented_line("dask worker", {"tcp://127.0.0.1:8786": address, "--nworkers -1": "--nworkers 1"})
        running.append(start(folder, *line, "--nthreads", "3", **quiet))
        yield address
        pids = {process.pid for process in running}
        pids |= {child for pid in pids for child in children(pid)}
        places = listening(pids) if sys.platform.startswith("linux") else set()
        assert {host for host, _ in places} <= {"127.0.0.1"}  # Where the page says that they listen, and only there.
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGINT)
        for process in running:
            process.wait(30)


def documented_line(begin: str, changes: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """The words of a command of docs/clusters.md, for a cluster on this machine."""
    text = (Path(__file__).parents[1] / "docs" / "clusters.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^({begin} .*?)(?: +#.*)?$", text, re.MULTILINE)
    for old, new in {"HOST": "127.0.0.1", "WORKER": "127.0.0.1", **changes}.items():
        assert old in line or old in ("HOST", "WORKER")
        line = line.replace(old, new)
    return shlex.split(line)


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_the_documented_command_makes_a_token_of_ray_that_others_cannot_read(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    text = (Path(__file__).parents[1] / "docs" / "clusters.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"`(\(umask 077 && ray\s+get-auth-token --generate\))`", text)
    variables = {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    run(tmp_path, "-c", command.replace("\n", " "), command=["sh"], env=variables)
    token = tmp_path / ".ray" / "auth_token"
    assert token.read_text()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_a_run_on_a_running_dask_cluster_has_the_same_hash_and_leaves_it_running(
    scheduler: str, data: str, expected: str, tmp_path: Path
) -> None:
    cluster = ("--engine", "dask", "--cluster-address", scheduler)
    out = str(tmp_path / "run")
    result = json.loads(run(HERE, "train", "--data-dir", data, *OPTIONS, *TWO, *cluster, "--out", out).stdout)
    assert (result["parameters_sha256"], result["engine"], result["workers"]) == (expected, "dask", 3)
    file = str(tmp_path / "run" / "checkpoint.npz")
    measured = json.loads(run(HERE, "evaluate", file, *cluster, "--workers", "2", "--json").stdout)
    assert (measured["parameters_sha256"], measured["workers"]) == (expected, 2)
    assert measured["test_accuracy"] == result["test_accuracy"]


def test_a_run_begun_on_a_cluster_continues_without_it(
    scheduler: str, data: str, expected: str, tmp_path: Path
) -> None:
    out = str(tmp_path / "run")
    cluster = ("--engine", "dask", "--cluster-address", scheduler)
    run(HERE, "train", "--data-dir", data, *OPTIONS, *cluster, "--epochs", "1", "--out", out)
    resumed = run(HERE, "train", "--resume", out, *TWO, "--json")  # A file never decides where code runs.
    assert "to use a cluster, give --engine and --cluster-address again" in resumed.stderr
    result = json.loads(resumed.stdout)
    assert (result["parameters_sha256"], result["engine"], result["epochs"]) == (expected, "processes", 2)


def test_loky_gives_the_same_hash(data: str, expected: str, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    result = json.loads(run(HERE, "train", "--data-dir", data, *OPTIONS, *TWO, "--engine", "loky", "--out", out).stdout)
    assert (result["parameters_sha256"], result["engine"]) == (expected, "loky")


def test_verify_compares_a_cluster_too(scheduler: str) -> None:
    cluster = ("--engine", "dask", "--cluster-address", scheduler, "--workers", "2")
    result = run(HERE, "verify", *cluster, "--kernel", "im2col", "--steps", "2", "--batch-size", "32", "--json")
    report = json.loads(result.stdout)
    assert report["passed"]
    assert "on dask" in [run["what"] for run in report["runs"]]


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
@pytest.mark.parametrize(("engine", "number", "code"), [("dask", signal.SIGINT, 130), ("ray", signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_with_the_bits_of_a_serial_run_and_no_process(
    engine: str, number: signal.Signals, code: int, data: str, tmp_path: Path
) -> None:
    """Also SIGTERM with Ray, which would take it from the program."""
    pytest.importorskip(engine)
    out = tmp_path / "run"
    options = ("train", "--data-dir", data, *OPTIONS, "--epochs", "10000")
    with start(tmp_path, *options, "--engine", engine, "--out", str(out)) as process:
        assert wait_until(lambda: (out / "metrics.jsonl").exists(), 60)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = children.read_text().split() if children.exists() else []
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "continue with:" in errors
    assert "Traceback" not in errors
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 20)
    arrays, described = archive.load(out / "checkpoint.npz")
    steps = str(described["step"])
    serial = run(HERE, *options, "--engine", "serial", "--max-steps", steps, "--out", str(tmp_path / "serial"))
    assert json.loads(serial.stdout)["parameters_sha256"] == sha256(arrays["parameters"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--cluster-address", "tcp://127.0.0.1:1"), 2, "goes with --engine dask or ray, not with processes"),
        (("--engine", "loky", "--cluster-address", "tcp://h:1"), 2, "loky runs on this machine and takes no address"),
        (("--engine", "dask", "--step-timeout", "-1"), 2, "--step-timeout must be a number above 0, got -1.0"),
        (("--engine", "spark"), 2, "'spark'"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["train", *arguments, "--out", str(tmp_path / "run")]) == code
    finally:
        signal.signal(signal.SIGTERM, handler)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not (tmp_path / "run").exists()
