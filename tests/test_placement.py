"""On which cores workers run, looked up in the system; and that two trainings do not bind workers to the same core."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest
from kits.engine_contract import FEW, Opened, at
from kits.models import Scripted
from kits.programs import environment

from parallel_lenet.engines.processes import placement
from parallel_lenet.engines.processes.engine import ProcessesEngine
from parallel_lenet.engines.processes.placement import Placement

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="affinity as on Linux"),
    pytest.mark.usefixtures("leaves_nothing"),
]


@pytest.fixture(autouse=True)
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A namespace of this test's own: other trainings may have claimed the cores of this machine."""
    own = f"\0parallel-lenet/{uuid.uuid4()}/"
    monkeypatch.setattr(placement, "NAME", own)
    return own


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        pytest.skip("needs two cores")
    return usable


@pytest.fixture
def pids(cores: list[int]) -> Iterator[list[int]]:
    """Processes to be placed, one more than cores."""
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(len(cores) + 1)]
    yield [process.pid for process in processes]
    for process in processes:
        process.kill()
        process.wait()


def placed(where: Placement, pids: list[int], n_workers: int) -> list[list[int]]:
    for number, pid in enumerate(pids[:n_workers]):
        where.set_affinity(pid, number, n_workers)
    return [sorted(os.sched_getaffinity(pid)) for pid in pids[:n_workers]]


def test_as_many_workers_as_cores_get_one_each_and_other_numbers_may_use_all(cores: list[int], pids: list[int]) -> None:
    where, before = Placement(), set(os.listdir("/proc/self/fd"))
    assert placed(where, pids, len(cores)) == [[core] for core in cores]
    assert placed(where, pids, len(cores)) == [[core] for core in cores]  # Again, as when a worker is replaced.
    assert placed(where, pids, len(cores) + 1) == [cores] * (len(cores) + 1)
    assert placed(where, pids, len(cores) - 1) == [cores] * (len(cores) - 1)
    where.release()
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_one_training_has_claimed_another_leaves_alone_until_it_is_released(
    cores: list[int], pids: list[int]
) -> None:
    first, second = Placement(), Placement()
    first.set_affinity(pids[0], 0, len(cores))
    assert placed(second, pids, len(cores)) == [cores, *([core] for core in cores[1:])]
    first.release()
    assert placed(second, pids, len(cores)) == [[core] for core in cores]
    second.release()


def test_a_claim_ends_with_its_process_however_that_ends(cores: list[int], pids: list[int], name: str) -> None:
    program = f"""
import sys
from parallel_lenet.engines.processes import placement
placement.NAME = {name!r}
where = placement.Placement()
for number, pid in enumerate({pids[: len(cores)]}):
    where.set_affinity(pid, number, {len(cores)})
print("claimed", flush=True)
sys.stdin.read()
"""
    where = Placement()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"claimed\n"
        assert placed(where, pids, len(cores)) == [cores] * len(cores)
        other.send_signal(signal.SIGKILL)
    assert placed(where, pids, len(cores)) == [[core] for core in cores]
    where.release()


def test_a_process_that_has_ended_is_no_error(cores: list[int]) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    where = Placement()
    where.set_affinity(process.pid, 0, len(cores))
    where.release()


def test_an_engine_places_its_workers_and_gives_the_cores_back(cores: list[int]) -> None:
    def affinities(engine: ProcessesEngine) -> list[list[int]]:
        return [sorted(os.sched_getaffinity(pid)) for pid in engine.worker_pids()]

    with ProcessesEngine(len(cores)) as engine:
        Opened(engine, Scripted(), [FEW], at(0))
        assert sorted(affinities(engine)) == [[core] for core in cores]
        engine.resize(len(cores) - 1)
        assert affinities(engine) == [cores] * (len(cores) - 1)
        engine.resize(len(cores))
        assert sorted(affinities(engine)) == [[core] for core in cores]
    where = Placement()
    where.set_affinity(os.getpid(), 0, len(cores))
    assert os.sched_getaffinity(0) == {cores[0]}  # The engine's claims are gone.
    where.release()
    os.sched_setaffinity(0, cores)
