"""A Dask cluster that the package starts lets in nobody else, and stopped processes do not delay a run for long."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kits.processes import children, listening, other_user, temporary_files, wait_until
from kits.programs import PYTHON, start

from parallel_lenet import Adam, Coordinator, Dataset, WorkerError, lenet5
from parallel_lenet.engines import WorkerWarning
from parallel_lenet.engines.cluster import dask, limits
from parallel_lenet.engines.cluster.engine import Cluster

pytestmark = [
    # Not importorskip: each of xdist's processes would import it, and one needs it.
    pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="Dask is not installed"),
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
    pytest.mark.filterwarnings("ignore::parallel_lenet.engines.cluster.engine.ClusterWarning"),
    # Dask leaves sockets, pipes and processes to the garbage collector when a cluster ends or a worker dies.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# What another user can try on each port: a message of Dask's own, plain or with a certificate of the user's own, and a
# page. It answers with what came back.
ATTACK = """
import asyncio, os, sys, urllib.request
from distributed.comm import connect
from distributed.security import Security

async def message(port, kind, arguments):
    comm = await connect(f"{kind}://127.0.0.1:{port}", timeout=2, **arguments)
    await comm.write({"op": "identity", "reply": True})
    return await asyncio.wait_for(comm.read(), 2)

def page(port, path):
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=2).status

async def attempt(what, answer):
    try:
        print("IN", what, await answer)
    except Exception as error:
        print("refused", what, type(error).__name__)

async def main():
    own = Security.temporary().get_connection_args("client")
    attempts = []
    for port in sys.argv[1:]:
        attempts += [attempt("tcp", message(port, "tcp", {})), attempt("tls", message(port, "tls", own))]
        for path in ("status", "health", "json/counts.json", "info/main/workers.html", "api/v1/get_workers"):
            attempts.append(attempt(path, asyncio.to_thread(page, port, path)))
    done, pending = await asyncio.wait(map(asyncio.ensure_future, attempts), timeout=4.5)
    print("refused without an answer\\n" * len(pending), end="", flush=True)
    os._exit(0)

asyncio.run(main())
"""


def test_a_started_cluster_is_private_and_a_stopped_worker_costs_a_warning(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Training, the time limit of a worker, and closing, with one start of a cluster."""
    files = temporary_files()
    variables = _of_speed()
    results = set()
    for name in ("dask", "serial"):
        with Coordinator(lenet5(kernel="im2col"), Adam(), engine=name, n_workers=2, batch_size=50) as coordinator:
            coordinator.fit(digits)
            if name != "serial":
                nannies = list(coordinator.engine._backend._cluster.workers.values())
                ports = listening([os.getpid(), *(nanny.pid for nanny in nannies)])
                assert len(ports) >= 5  # The scheduler, two nannies and two workers.
                assert {host for host, _ in ports} == {"127.0.0.1"}
                _attack(sorted(port for _, port in ports))
                monkeypatch.setattr(dask, "SILENCE_LIMIT", 2.0)
                os.kill(nannies[0].pid, signal.SIGSTOP)
                with pytest.warns(WorkerWarning, match="the Dask worker tls://.* sent no heartbeat for 2 s"):
                    coordinator.fit(digits)
                nannies = list(coordinator.engine._backend._cluster.workers.values())
                os.kill(nannies[1].pid, signal.SIGSTOP)
            else:
                coordinator.fit(digits)
            results.add(coordinator.parameters_sha256())
    assert len(results) == 1
    assert wait_until(lambda: not {nanny.pid for nanny in nannies} & children(), 10)
    assert temporary_files() <= files
    assert _of_speed() == variables


def _of_speed() -> dict[str, str]:
    """What is in the environment for the C library's malloc and for threads: programs started later would have it."""
    return {name: value for name, value in os.environ.items() if "MALLOC" in name or "THREADS" in name}


def _attack(ports: list[int]) -> None:
    """As another user, if possible. As this one otherwise: it has no more than the other to show."""
    command = [*other_user(), sys.executable, "-c", ATTACK, *map(str, ports)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd="/", env={"HOME": "/nonexistent"})
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 7 * len(ports)
    assert [line for line in lines if line.startswith("IN")] == []


SCHEDULER = """
import sys, time
from dask.distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None,
                      scheduler_kwargs={"dashboard_address": "127.0.0.1:0"}) as cluster:
        print(cluster.scheduler_address, *(nanny.pid for nanny in cluster.workers.values()), flush=True)
        time.sleep(100)
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str], list[int]]]:
    """A scheduler's address and process, and the process ids of its two workers."""
    script = tmp_path / "scheduler.py"
    script.write_text(SCHEDULER)
    with start(tmp_path, str(script), command=PYTHON, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        address, *pids = process.stdout.readline().split()
        try:
            yield address, process, [int(pid) for pid in pids]
        finally:
            process.kill()
            for pid in pids:
                dask.kill([int(pid)])


def test_a_stopped_worker_and_a_stopped_scheduler_of_a_running_cluster(
    running: tuple[str, subprocess.Popen[str], list[int]], monkeypatch: pytest.MonkeyPatch, digits: Dataset
) -> None:
    address, scheduler, pids = running
    monkeypatch.setattr(dask, "SILENCE_LIMIT", 2.0)
    monkeypatch.setattr(dask, "CONNECT_LIMIT", 4.0)
    monkeypatch.setattr(limits, "LEAVE_LIMIT", 1.0)
    results = []
    for name, where in (("dask", address), ("serial", None)):
        with Coordinator(
            lenet5(kernel="im2col"), Adam(), engine=name, cluster_address=where, n_workers=2, batch_size=50
        ) as coordinator:
            coordinator.fit(digits)
            if name != "serial":
                os.kill(pids[0], signal.SIGSTOP)
                with pytest.warns(WorkerWarning, match="sent no heartbeat for 2 s: others compute its blocks"):
                    coordinator.fit(digits)
                os.kill(pids[0], signal.SIGCONT)
            else:
                coordinator.fit(digits)
            results.append(coordinator.parameters_sha256())
            if name != "serial":
                scheduler.send_signal(signal.SIGSTOP)
                with pytest.raises(WorkerError, match=r"lost the dask cluster with \d blocks left .*: no response"):
                    coordinator.fit(digits)
    assert results[0] == results[1]
    with pytest.raises(WorkerError, match=re.escape(f"no dask cluster with a worker at {address}: ")):
        Cluster("dask", address=address)


def test_without_cryptography_no_cluster_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ModuleNotFoundError, match="starting a Dask cluster needs cryptography"):
        Cluster("dask", n_workers=1)._backend.start(1)
