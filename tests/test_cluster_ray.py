"""A Ray that the package starts: private, on this machine alone. The program keeps its signals, and nothing is left."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from kits.processes import listening, other_user, wait_until
from kits.programs import PYTHON, run, start

from parallel_lenet.cli import main
from parallel_lenet.engines.cluster.guard import Guard, is_stopped, kill, processes_using
from parallel_lenet.engines.cluster.ray import Ray

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
]

PROGRAM = """
import sys
from parallel_lenet import *
train, _ = load_dataset()
data = Dataset(train.inputs[:150], train.targets[:150])
with Coordinator(lenet5(kernel="im2col"), Adam(), engine="ray", n_workers=2, batch_size=64) as coordinator:
    coordinator.fit(data)
    import ray
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.readline()
    while True:
        coordinator.fit(data)
"""

# What another user can ask of the control service, with and without the token.
ASK = """
import os, sys
from ray._raylet import GcsClient
try:
    print("IN", GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=5)[:1])
except Exception as error:
    print("refused", type(error).__name__)
sys.stdout.flush()
os._exit(0)
"""


def ask(address: str, **variables: str) -> str:
    """As another user, if possible. With the token as this one, who may read it."""
    command = [*([] if variables else other_user()), sys.executable, "-c", ASK, address]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd="/", env={"HOME": "/nonexistent", **variables}
    )
    return result.stdout.split(" ")[0]


def test_a_started_ray_is_private_and_a_killed_raylet_leaves_one_sentence_and_nothing_else() -> None:
    """Ray ends the program at once when its raylet dies: no one but another process can say so and clean up."""
    pytest.importorskip("ray")
    with TemporaryDirectory(prefix="t", dir="/tmp") as outer:  # Short: the names of sockets are.
        arguments = ("-W", "ignore", "-c", PROGRAM)
        with start(Path(outer), *arguments, command=PYTHON, env={"TMPDIR": outer}, stdin=subprocess.PIPE) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            address = program.stdout.readline().strip()
            (folder,) = Path(outer).glob("lenet-ray-*")
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
            pids = processes_using(str(folder))
            assert len(pids) >= 6
            assert {host for host, _ in listening([program.pid, *pids])} == {"127.0.0.1"}
            assert ask(address) == "refused"
            token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
            assert ask(address, **token) == "IN"
            raylets = [pid for pid in pids if b"/raylet/raylet" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            program.stdin.write("continue\n")
            program.stdin.flush()
            kill(raylets)
            _, errors = program.communicate(timeout=60)
            assert program.returncode == 1
            said = [line for line in errors.splitlines() if line.startswith("parallel-lenet")]
            assert said == [
                "parallel-lenet: the program ended without leaving its ray cluster (Ray itself ends a program when "
                "Ray's process on its machine dies). Files that it saved before are complete"
            ]
            assert "Traceback" not in errors
            assert not folder.exists()
            assert wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), 10)


def test_a_guard_ends_stopped_processes_and_removes_their_folder_after_a_program_that_was_killed(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    sleeper = "import sys, time; file = open(sys.argv[1], 'w'); print(flush=True); time.sleep(100)"
    program = f"""
import os, signal, subprocess, sys
from parallel_lenet.engines.cluster.guard import Guard
guard = Guard("dask", {str(folder)!r})
child = subprocess.Popen([sys.executable, "-c", {sleeper!r}, {str(folder / "file")!r}], stdout=subprocess.PIPE)
child.stdout.readline()
os.kill(child.pid, signal.SIGSTOP)
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = run(tmp_path, "-c", program, command=PYTHON, code=-signal.SIGKILL)
    pid = int(result.stdout)
    assert not folder.exists()
    assert wait_until(lambda: not Path(f"/proc/{pid}/exe").exists(), 10)
    assert result.stderr == (
        "parallel-lenet: the program ended without leaving its dask cluster. Files that it saved before are complete\n"
    )


def test_a_dismissed_guard_leaves_everything_and_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    guard = Guard("ray", str(tmp_path))
    guard.dismiss()
    assert tmp_path.exists()
    assert capfd.readouterr().err == ""


def test_a_stopped_process_is_known() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]) as process:
        assert not is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: is_stopped(process.pid), 10)
        process.kill()
    assert not is_stopped(process.pid)


def test_the_command_ends_with_its_code_also_if_leaving_ray_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter would crash at its end: a thread of Ray's is still running."""
    codes: list[int] = []
    monkeypatch.setattr(Ray, "hung", True)
    monkeypatch.setattr(os, "_exit", codes.append)
    assert main(["train", "--engine", "spark"]) == 2
    assert codes == [2]
