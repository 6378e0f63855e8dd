"""Clusters that the package starts and ends, the programs that use them, and mistakes in a call."""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from kits.clusters import LOKY, MARKS, own_deadline  # noqa: F401, a fixture
from kits.processes import children, temporary_files, wait_until
from kits.programs import Run

from parallel_lenet import Adam, Coordinator, Dataset, lenet5
from parallel_lenet.engines.cluster.engine import Cluster

pytestmark = MARKS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("backend", ["threading", LOKY])
def test_a_started_cluster_leaves_nothing(backend: Any, digits: Dataset) -> None:
    trackers = _trackers()
    before = children() - trackers
    files = temporary_files()
    with Coordinator(lenet5(kernel="im2col"), Adam(), engine=backend, n_workers=2, batch_size=64) as run:
        run.fit(digits)
        assert backend == "threading" or children() - before - _trackers()
    assert wait_until(lambda: children() - _trackers() <= before, 10)
    assert temporary_files() <= files


def _trackers() -> set[int]:
    """Python's and joblib's resource trackers: once started they stay as long as this process, and end with it."""
    found = set()
    for pid in children():
        try:
            if "resource_tracker" in Path(f"/proc/{pid}/cmdline").read_text():
                found.add(pid)
        except OSError:
            continue
    return found


MAIN = """
import numpy as np
from parallel_lenet import Coordinator, Layout, SGD, Metrics
from parallel_lenet.engines.cluster.engine import Cluster

class Mine:
    layout = Layout.of({"weight": (4,)})
    def initial_parameters(self, rng):
        return np.zeros(4)
    def loss_and_gradient(self, parameters, inputs, targets, gradient):
        errors = inputs @ parameters - targets
        if gradient is not None:
            gradient[:] = errors @ inputs
        return Metrics(float(errors @ errors), 0, len(inputs))
    def predict(self, parameters, inputs):
        return inputs @ parameters

if __name__ == "__main__":
    x = np.random.default_rng(0).random((40, 4))
    results = set()
    for engine in ("serial", "loky", "dask"):
        with Coordinator(Mine(), SGD(0.1), engine=engine, n_workers=1, batch_size=8, shard_size=2) as coordinator:
            coordinator.fit((x, x.sum(axis=1)), 1)
            results.add(coordinator.parameters_sha256())
    print(len(results))
"""


@pytest.mark.cluster
@pytest.mark.slow
def test_a_model_of_a_program_travels(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("dask.distributed")
    (tmp_path / "program.py").write_text(MAIN)
    assert run("program.py").stdout == "1\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "mpi"}, "unknown cluster backend 'mpi': choose dask, ray, loky, threading"),
        ({"backend": "loky", "address": "host:1"}, "loky runs on this machine and takes no address, such as 'host:1'"),
        ({"backend": "dask", "address": "host"}, "a dask cluster's address is one like tcp://HOST:8786, got 'host'"),
        ({"backend": "ray", "address": 3}, "a ray cluster's address is one like HOST:6379, got 3"),
        ({"backend": "loky", "n_workers": 0}, "n_workers must be a whole number of at least 1, got 0"),
        ({"backend": "loky", "step_timeout": 0}, "step_timeout must be a number above 0, or None, got 0"),
    ],
)
def test_a_value_out_of_its_range_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        Cluster(**arguments)
    assert str(error.value) == message


@pytest.mark.cluster
@pytest.mark.slow
def test_a_ray_that_is_not_there_is_an_error_at_once(run: Run) -> None:
    """In a program of its own: this one may have a Ray, and would use it."""
    pytest.importorskip("ray")
    result = run("-W", "ignore", "-c", "from parallel_lenet import *; Cluster('ray', address='127.0.0.1:1')", code=1)
    assert (
        result.stderr.rstrip()
        .splitlines()[-1]
        .endswith("no ray cluster with a worker at 127.0.0.1:1: [Errno 111] Connection refused")
    )


TWO = """
import os, signal
from parallel_lenet import *
from parallel_lenet.engines.cluster.guard import processes_using
def ours():
    return signal.getsignal(signal.SIGTERM), {name: value for name, value in os.environ.items() if "AUTH" in name}
before = ours()
train, _ = load_dataset()
data = Dataset(train.inputs[:150], train.targets[:150])
both = [Coordinator(lenet5(kernel="im2col"), Adam(), engine="ray", n_workers=2, batch_size=64) for _ in "ab"]
serial = Coordinator(lenet5(kernel="im2col"), Adam(), engine="serial", batch_size=64)
for coordinator in (*both, serial):
    coordinator.fit(data)
try:
    Cluster("ray", address="127.0.0.1:1")
except WorkerError as error:
    print(str(error).partition(" already")[0].split(" at ")[0])
try:
    Coordinator(lenet5(kernel="im2col"), Adam(), engine=Cluster("ray", n_workers=3)).evaluate(data)
except WorkerError as error:
    print(error)
both[0].close()
both[1].fit(data)
serial.fit(data)
print(both[1].parameters_sha256() == serial.parameters_sha256())
(folder,) = [name for name in os.listdir(os.environ["TMPDIR"]) if name.startswith("lenet-ray-")]
for pid in processes_using(os.path.join(os.environ["TMPDIR"], folder)):
    with open(f"/proc/{pid}/cmdline") as file:
        if "gcs_server" in file.read():
            os.kill(pid, signal.SIGSTOP)  # It leaves nothing even if a part of it does not answer any more.
print(signal.getsignal(signal.SIGTERM) == before[0])
both[1].close()
import ray
print(ray.is_initialized(), ours() == before)
print([name for name in os.listdir(os.environ["TMPDIR"]) if name.startswith("lenet-ray-")])
"""


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_engines_of_one_program_share_its_ray_train_to_the_same_bits_and_leave_nothing(run: Run) -> None:
    """In a program of its own: one process can have one Ray."""
    pytest.importorskip("ray")
    wrong = "127.0.0.1:1"  # Not used: another Ray is started in spite of it.
    before = children()
    with TemporaryDirectory(prefix="t", dir="/tmp") as folder:  # Short, and Ray's own folder is looked for in it.
        result = run("-W", "ignore", "-c", TWO, env={"RAY_ADDRESS": wrong, "TMPDIR": folder})
    assert result.stderr == ""
    # On a busy machine Ray may lose a worker, and says so itself: the result is the same.
    assert [line for line in result.stdout.splitlines() if "(raylet)" not in line] == [
        "this program uses a Ray",
        "the ray cluster has 2 CPUs, too few for 3 workers",
        "True",
        "True",
        "False True",
        "[]",
    ]
    assert wait_until(lambda: children() <= before, 10)


HEADLESS = """
import os, signal
from pathlib import Path
from parallel_lenet import *
train, _ = load_dataset()
from parallel_lenet.engines.cluster import ray
ray.SILENCE_LIMIT = 3.0
coordinator = Coordinator(lenet5(kernel="im2col"), Adam(), engine="ray", n_workers=2, batch_size=64)
with coordinator:
    coordinator.engine._follows = True  # As with an address: the number of workers is asked for again and again.
    for report in coordinator.iterate(train, 10000):
        if report.step == 3:
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                command = file.read_bytes()
                if b"gcs_server" in command.split(b"\\0")[0] and os.environ["TMPDIR"].encode() in command:
                    os.kill(int(file.parent.name), signal.SIGKILL)
"""


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_ray_whose_control_service_is_gone_ends_the_run_with_an_error(run: Run) -> None:
    pytest.importorskip("ray")
    before = children()
    with TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        result = run("-W", "ignore", "-c", HEADLESS, env={"TMPDIR": folder}, code=1)
        assert os.listdir(folder) == []
    assert "WorkerError: lost the ray cluster with 2 blocks left to compute: no response" in result.stderr
    assert wait_until(lambda: children() <= before, 10)


@pytest.mark.cluster
@pytest.mark.slow
def test_a_dask_program_without_the_guard_is_told_of_it(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("dask.distributed")
    (tmp_path / "program.py").write_text(MAIN.replace('if __name__ == "__main__":', "if True:"))
    last = run("program.py", code=1).stderr.rstrip().splitlines()[-1]
    assert last.startswith("parallel_lenet.engines.WorkerError: can't start a Dask cluster: ")
    assert 'put the code that starts the cluster under `if __name__ == "__main__":`' in last


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_missing_extra_is_named(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, {"dask": "distributed"}.get(backend, backend), None)
    with pytest.raises(ModuleNotFoundError, match=rf"^the {backend} engine needs .* is not installed: pip install"):
        Cluster(backend, n_workers=2)
