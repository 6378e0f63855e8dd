"""The cluster engine over real clusters: Dask and Ray on this machine, loky's processes, threads.

Each trap of joblib's that the engine guards against has a test that hangs or fails without the guard. A hang ends with
the deadline that every test here has.
"""

import math
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits import models
from kits.clusters import BACKENDS, LOKY, MARKS, RUNNING, SECONDS, own_deadline  # noqa: F401, a fixture
from kits.engine_contract import *  # noqa: F403
from kits.engine_contract import DATASETS, FEW, MANY, Opened, at, computed, expected, one_each, scripted
from kits.models import ModelError, Once, Recorded, Scripted, Threads
from kits.processes import wait_until
from kits.programs import PYTHON, start

from parallel_lenet import Adam, Augment, Coordinator, Dataset, Dropout, Metrics, WorkerError, lenet5
from parallel_lenet.batching import Block, shards
from parallel_lenet.engines import WorkerWarning
from parallel_lenet.engines.cluster import engine as cluster_engine
from parallel_lenet.engines.cluster.engine import CALL_BYTES, MEASURED_STEPS, Cluster, ClusterWarning
from parallel_lenet.engines.cluster.ray import short_folder
from parallel_lenet.engines.cluster.task import (
    GroupAnswer,
    GroupTask,
    ModelAndData,
    Result,
    compute,
    dumps,
    forget,
    keep_locally,
)
from parallel_lenet.engines.cluster.versions import versions
from parallel_lenet.engines.serial import blas
from parallel_lenet.worker import Samples

pytestmark = MARKS


@pytest.fixture(scope="module")
def dask_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two workers, one thread each."""
    distributed = pytest.importorskip("dask.distributed")
    folder = str(tmp_path_factory.mktemp("dask"))
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=folder,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Two CPUs."""
    ray = pytest.importorskip("ray")
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir=short_folder(), ignore_cleanup_errors=True) as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # Ray warns of its own future.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # The models of these tests are beside them.
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        yield
        ray.shutdown()


@pytest.fixture(scope="module", params=BACKENDS)
def engine(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """An engine of two workers over each backend, which tests open as they like. Dask and Ray are running."""
    name = request.param
    address = request.getfixturevalue("dask_cluster").scheduler_address if name == "dask" else None
    if name == "ray":
        request.getfixturevalue("ray_cluster")
    with Cluster(name, address=address, n_workers=2, step_timeout=SECONDS) as engine:
        yield engine


@pytest.fixture(scope="module")
def opened(engine: Cluster) -> Opened:
    """One that many tests share, those of the contract: what one does to it must not trouble the next."""
    return Opened(engine, Scripted(), DATASETS, at(0))


def test_training_gives_the_bits_of_the_serial_engine(engine: Cluster, digits: Dataset) -> None:
    for batch_size, shard_size in ((50, 7), (150, 75)):
        results = set()
        for each in ("serial", engine):
            coordinator = Coordinator(
                lenet5(kernel="im2col"), Adam(), engine=each, batch_size=batch_size, shard_size=shard_size
            )
            history = coordinator.fit(digits, 1, digits)
            results.add((coordinator.parameters_sha256(), history[-1].validation_loss))
        assert len(results) == 1


def test_weights_and_random_numbers_of_samples_reach_the_workers(engine: Cluster, digits: Dataset) -> None:
    weights = np.linspace(0, 2, len(digits)).astype(np.float32)
    weighted = Dataset(digits.inputs, digits.targets, weights=weights)
    network = lenet5(kernel="im2col", augment=Augment(shift=2))
    network = replace(network, layers=(*network.layers[:-1], Dropout(0.3), network.layers[-1]))
    results = set()
    for each in ("serial", engine):
        coordinator = Coordinator(network, Adam(), engine=each, batch_size=50, shard_size=7)
        history = coordinator.fit(weighted, 1, weighted)
        results.add((coordinator.parameters_sha256(), history[-1].train_loss, history[-1].validation_loss))
    assert len(results) == 1
    plain = Coordinator(network, Adam(), engine="serial", batch_size=50, shard_size=7)
    plain.fit(digits)
    assert plain.parameters_sha256() not in {sha256 for sha256, *_ in results}


def test_blas_has_one_thread_in_a_task_and_what_it_had_behind_it(engine: Cluster) -> None:
    before = [library["num_threads"] for library in blas().info()]
    opened = Opened(engine, Threads(), (FEW,), at(0))
    assert {metrics.loss_sum for metrics in opened.metrics(at(0), one_each(FEW))} <= {1.0}
    assert [library["num_threads"] for library in blas().info()] == before


def test_a_model_that_cannot_be_made_in_a_worker_raises_its_own_error(engine: Cluster) -> None:
    opened = Opened(engine, models.FailsToUnpickle(), (FEW,), at(0))
    with pytest.raises(ModelError, match="it can't be made here"):
        list(opened.metrics(at(0), one_each(FEW)))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_it_can_be_opened_again_resized_and_closed_twice(backend: Any) -> None:
    with Cluster(backend, n_workers=2) as engine:
        for data, workers in ((FEW, 3), (MANY, 1), (FEW, 2)):
            opened = Opened(engine, Scripted(), (data,), at(0))
            engine.resize(workers)
            assert engine.n_workers == workers
            work = shards(np.arange(len(data)), 3)
            assert computed(opened, at(1), work) == expected(Scripted(), (data,), at(1), work)
        results = opened.metrics(at(0), one_each(FEW))
        next(results)
        engine.close()
        with pytest.raises(RuntimeError, match="its engine was closed"):
            next(results)
    with pytest.raises(RuntimeError, match="its engine was closed"):
        list(opened.metrics(at(0), one_each(FEW)))


# What goes over the wire.


def test_the_dataset_travels_once_and_then_parameters_positions_and_gradients(
    engine: Cluster, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_engine, "TASK_SECONDS", math.inf)  # One task a worker, however busy this machine is.
    digits = Dataset(digits.inputs + 0, digits.targets, "not what another test has sent")
    digits.inputs[0, 0, 0] += 1
    model = lenet5(kernel="im2col")
    parameters = model.initial_parameters(np.random.default_rng(0))
    work = shards(np.arange(128), 32)
    opened = Opened(engine, model, (digits,), parameters)
    sent = []
    for _ in range(5):
        list(opened.gradients(parameters, work))
        sent.append(engine.bytes_per_step.sent)
    least = 2 * parameters.nbytes + 128 * 8
    data = digits.inputs.nbytes + digits.targets.nbytes
    assert (sent[0] > least + data) == (engine._backend.name != "threading")  # A thread has the data already.
    assert sent[-1] == least, sent  # By then every worker has met a first task, and has the data.
    assert engine.bytes_per_step.received == len(work) * parameters.nbytes
    list(opened.metrics(parameters, work))
    assert engine.bytes_per_step == (least, 0)


def test_a_task_is_too_small_for_rays_object_store_that_would_keep_it() -> None:
    assert sys.getsizeof(GroupTask(1, "0" * 64, "0" * 20, np.zeros(100), [(0, Block(np.arange(100)))], True)) < 100


def test_parameters_changed_in_place_are_not_stale_in_workers(engine: Cluster) -> None:
    model = Scripted(size=300_000)  # 1.2 MB: joblib would map it into a file, once.
    parameters = model.initial_parameters(np.random.default_rng(0))
    opened = Opened(engine, model, (FEW,), parameters)
    for _ in range(3):
        work = shards(np.arange(7), 4)
        assert computed(opened, parameters, work) == expected(model, (FEW,), parameters, work)
        parameters += 1


def test_where_a_message_puts_the_parameters_changes_no_bit() -> None:
    model = Scripted(size=10_001)
    parameters = at(0, model)
    work = one_each(FEW)
    moved = np.empty(parameters.nbytes + 1, np.uint8)[1:].view(np.float32)
    moved[:] = parameters
    assert not moved.flags.aligned
    keep_locally("a key", ModelAndData(dumps(model), (Samples(FEW.inputs, FEW.targets),)), model)
    results = compute(GroupTask(1, "a key", "a context", moved, list(enumerate(work)), True), None).results
    forget("a key")
    got = [(result.metrics, result.gradient.tobytes()) for result in results if result.gradient is not None]
    assert got == expected(model, (FEW,), parameters, work)


@pytest.mark.slow
def test_a_step_with_more_gradients_than_are_held_at_once_comes_in_several_calls() -> None:
    size = CALL_BYTES // 4 // 9
    model = Scripted(size=size)
    parameters = np.zeros(size, np.float32)
    with Cluster("threading", n_workers=2) as engine:
        opened = Opened(engine, model, (MANY,), parameters)
        results = opened.gradients(parameters, one_each(MANY)[:20])
        next(results)
        assert engine.bytes_per_step.received <= CALL_BYTES
        parameters[:] = 1  # Not those of this step.
        assert {float(result.gradient[0]) for result in results} == {0.0}
        assert engine.bytes_per_step.received == 20 * parameters.nbytes


# What goes wrong.


def once(value: float) -> Dataset:
    """Eight samples, of which the sixth does something once."""
    return scripted(*[(models.HOLD if index == 5 else models.NOTHING, value) for index in range(8)])


def survives(engine: Cluster, model: Scripted, data: Dataset) -> None:
    work = one_each(data)
    opened = Opened(engine, model, (data,), at(0))
    results = computed(opened, at(0), work)
    assert Path(model.folder, "done").exists()
    assert results == expected(model, (data,), at(0), work)


@pytest.mark.parametrize("backend", [LOKY, pytest.param("ray", marks=RUNNING)])
def test_a_killed_worker_costs_a_warning_and_the_bits_stay(
    backend: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if backend == "ray":
        request.getfixturevalue("ray_cluster")
    with (
        Cluster(backend, n_workers=2, step_timeout=SECONDS) as engine,
        pytest.warns(WorkerWarning, match=r"was lost .*: (1 block is|\d blocks are) computed again"),
    ):
        survives(engine, Once(folder=str(tmp_path)), once(-1))


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("allowed", [3, 0], ids=["rerun by Dask", "given up by Dask"])
def test_a_killed_dask_worker(allowed: int, dask_cluster: Any, tmp_path: Path) -> None:
    """Given up, it never reaches joblib, which waits for ever without a time limit."""
    dask_cluster.scheduler.allowed_failures = allowed
    try:
        with (
            Cluster("dask", address=dask_cluster.scheduler_address, n_workers=2, step_timeout=3) as engine,
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            survives(engine, Once(folder=str(tmp_path)), once(-1))
        lost = [str(warning.message) for warning in caught if warning.category is WorkerWarning]
        assert len(lost) == (0 if allowed else 1)
        assert all("no result within 3 s" in message for message in lost)
    finally:
        dask_cluster.scheduler.allowed_failures = 3
        dask_cluster.wait_for_workers(2)


def test_a_call_that_takes_too_long_is_made_again_with_another_parallel(tmp_path: Path) -> None:
    with Cluster("threading", n_workers=2, step_timeout=0.5) as engine:
        opened = Opened(engine, Scripted(), (FEW,), at(0))
        list(opened.metrics(at(0), one_each(FEW)))
        before = engine._parallel
        with pytest.warns(WorkerWarning, match="no result within 0.5 s"):
            survives(engine, Once(folder=str(tmp_path)), once(1.5))
        assert engine._parallel is not before


def test_a_parallel_is_thrown_away_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    """And results of its earlier calls, which it may still give, are nobody's."""
    made: list[Any] = []

    class Stub:
        """Fails in its first call, then would give that call's results for ever."""

        def __init__(self) -> None:
            self.late: list[GroupAnswer] = []
            made.append(self)

        def __enter__(self) -> "Stub":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def __call__(self, tasks: Any) -> Iterator[GroupAnswer]:
            if self.late:
                yield from self.late
                return
            self.late = [function(*arguments) for function, arguments, _ in tasks]
            if len(made) == 1:
                yield self.late[0]
                raise OSError("it broke")
            stale = [
                result._replace(version=result.version - 1, metrics=Metrics(666)) for result in self.late[0].results
            ]
            yield GroupAnswer("stale", 0.0, stale)
            yield from self.late

    with Cluster("threading", n_workers=2) as engine:
        opened = Opened(engine, Scripted(), (FEW,), at(0))
        monkeypatch.setattr(engine._backend, "parallel", lambda workers, timeout: Stub())
        with pytest.warns(WorkerWarning, match=r"OSError: it broke\): 3 blocks"):
            results = computed(opened, at(0), one_each(FEW))
        assert results == expected(Scripted(), (FEW,), at(0), one_each(FEW))
        assert len(made) == 2


@pytest.mark.slow
def test_what_cannot_be_computed_is_given_up_after_max_tries() -> None:
    data = scripted((models.NOTHING, 0), (models.EXIT, 3), (models.NOTHING, 0))
    with Cluster("loky", n_workers=2, step_timeout=SECONDS) as engine:
        opened = Opened(engine, Scripted(), (data,), at(0))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(WorkerError) as error:
                list(opened.metrics(at(0), one_each(data)))
        assert "could not be computed in 3 tries: TerminatedWorkerError" in str(error.value)
        assert len([warning for warning in caught if warning.category is WorkerWarning]) == 2
        with pytest.raises(RuntimeError, match="its engine was closed"):
            engine.start(opened.context)


@pytest.mark.cluster
@pytest.mark.slow
def test_a_worker_added_during_a_run_takes_part(
    dask_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parallel_lenet.engines.cluster.engine.COUNT_INTERVAL", 0.0)
    model = Recorded(folder=str(tmp_path))
    work = one_each(FEW)
    with Cluster("dask", address=dask_cluster.scheduler_address, step_timeout=SECONDS) as engine:
        assert engine.n_workers == 2
        opened = Opened(engine, model, (FEW,), at(0))
        wanted = expected(Scripted(), (FEW,), at(0), work)
        assert computed(opened, at(0), work) == wanted
        before = len(list(tmp_path.iterdir()))
        try:
            dask_cluster.scale(3)
            dask_cluster.wait_for_workers(3)
            assert wait_until(lambda: computed(opened, at(0), work) == wanted and engine.n_workers == 3, 10)
            assert wait_until(
                lambda: computed(opened, at(0), work) == wanted and len(list(tmp_path.iterdir())) == 3, 10
            )
            assert before <= 2
        finally:
            dask_cluster.scale(2)
    assert len(dask_cluster.scheduler.workers) >= 2  # It belongs to someone else.


@pytest.mark.cluster
@pytest.mark.slow
def test_a_dask_worker_with_another_numpy_is_refused_at_joining_and_when_it_answers(
    dask_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = np.__version__
    with Cluster("dask", address=dask_cluster.scheduler_address, step_timeout=SECONDS) as engine:
        opened = Opened(engine, Scripted(), (FEW,), at(0))
        list(opened.metrics(at(0), one_each(FEW)))
        monkeypatch.setattr(np, "__version__", "1.0.0")
        versions.cache_clear()
        try:
            words = rf"has NumPy {re.escape(theirs)}, and the coordinator 1\.0\.0"
            with pytest.raises(WorkerError, match=words):
                list(opened.metrics(at(0), one_each(FEW)))
            with pytest.raises(WorkerError, match=words):
                Cluster("dask", address=dask_cluster.scheduler_address)
        finally:
            versions.cache_clear()


SCHEDULER = """
import time
from dask.distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        print(cluster.scheduler_address, flush=True)
        time.sleep(100)
"""


@pytest.mark.cluster
@pytest.mark.slow
def test_a_scheduler_that_is_gone_ends_the_run_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask.distributed")
    monkeypatch.setattr("parallel_lenet.engines.cluster.dask.CONNECT_LIMIT", 2.0)
    script = tmp_path / "scheduler.py"
    script.write_text(SCHEDULER)
    process = start(tmp_path, str(script), command=PYTHON, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    try:
        with Cluster("dask", address=address, step_timeout=2) as engine:
            assert engine.n_workers == 2
            model = lenet5(kernel="im2col")  # These workers can't see the models beside the tests.
            data = Dataset(np.zeros((7, 28, 28), np.uint8), np.zeros(7, np.uint8))
            parameters = model.initial_parameters(np.random.default_rng(0))
            opened = Opened(engine, model, (data,), parameters)
            list(opened.metrics(parameters, one_each(data)))
            process.kill()
            process.wait()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", WorkerWarning)
                with pytest.raises(WorkerError, match="lost the dask cluster with 7 blocks left to compute"):
                    list(opened.metrics(parameters, one_each(data)))
            with pytest.raises(RuntimeError, match="its engine was closed"):
                engine.start(opened.context)
        with pytest.raises(WorkerError, match=f"no dask cluster with a worker at {address}"):
            Cluster("dask", address=address)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_it_says_once_that_a_cluster_does_not_pay_with_the_measured_times() -> None:
    with Cluster("threading", n_workers=2) as engine, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opened = Opened(engine, Scripted(), (FEW,), at(0))
        for _ in range(MEASURED_STEPS * 3):
            list(opened.gradients(at(0), one_each(FEW)))
        (message,) = [str(warning.message) for warning in caught if warning.category is ClusterWarning]
        assert message.startswith("a step takes ")
        assert "ms, of which its busiest worker computes" in message
        slow = scripted(*[(models.SLEEP, 50)] * 2)
        opened = Opened(engine, Scripted(), (slow,), at(0))
        engine._step_times.clear()
        for _ in range(MEASURED_STEPS + 1):
            list(opened.gradients(at(0), one_each(slow)))
        assert len([warning for warning in caught if warning.category is ClusterWarning]) == 1


def test_a_result_names_its_version_and_block() -> None:
    assert Result._fields[:2] == ("version", "block")
