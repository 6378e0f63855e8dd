"""Each call computes with the model and the data as they are when it begins, with every engine."""

import copy
import gc
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.models import Array, Counting, Softmax
from kits.processes import shared_memory
from kits.programs import Run
from numpy.testing import assert_array_equal

from parallel_lenet import SGD, Coordinator, Dataset, StepReport, WorkerWarning
from parallel_lenet.engines import Context
from parallel_lenet.engines.mapped_files import MappedFile
from parallel_lenet.engines.processes import dispatcher
from parallel_lenet.engines.processes.engine import ProcessesEngine
from parallel_lenet.engines.serial import SerialEngine
from parallel_lenet.engines.snapshots import COMPARISON_BYTES, IDLE_ARRAYS, PrivateMemory, Snapshots

ENGINES = ("serial", "processes", "threading", "loky")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::parallel_lenet.ClusterWarning")]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def coordinator(model: Any, engine: str, **settings: Any) -> Coordinator:
    return Coordinator(
        model, SGD(0.1), **{"engine": engine, "n_workers": 2, "batch_size": 10, "shard_size": 5, **settings}
    )


def constant(value: float, samples: int = 20) -> Dataset:
    return Dataset(np.full((samples, 3), value), np.zeros(samples, np.int64))


@pytest.fixture(scope="module", params=ENGINES)
def shared(request: pytest.FixtureRequest) -> Iterator[Coordinator]:
    """A coordinator per engine, whose model tests make new with `renewed`."""
    with coordinator(Counting(), request.param) as c:
        yield c


def renewed(shared: Coordinator, counts: bool = False) -> Counting:
    """The model of the shared coordinator, as if it had just been created."""
    model = shared.model
    assert isinstance(model, Counting)
    vars(model).clear()
    vars(model).update(vars(Counting(counts)))
    return model


# Coordinators: the same with every engine.


def test_a_changed_model_and_changed_data_count_from_the_next_call_on(shared: Coordinator) -> None:
    model, data = renewed(shared), constant(1.0)
    pair = (np.full((20, 3), 5.0), np.zeros(20, np.int64))
    assert (shared.evaluate(data).loss, shared.evaluate(pair).loss) == (1.0, 5.0)
    model.scale = 2.0
    data.inputs[-1] = 21.0
    pair[0][:] = 7.0
    assert (shared.evaluate(data).loss, shared.evaluate(pair).loss) == (4.0, 14.0)
    before = shared.parameters.copy()
    (report,) = [r for r in shared.iterate(constant(3.0, 10)) if isinstance(r, StepReport)]
    assert report.loss == 6.0
    assert_array_equal(shared.parameters, before - np.float32(0.1) * np.float32(6.0))


def test_within_a_call_both_are_constant_whatever_the_loop_evaluates(shared: Coordinator) -> None:
    model, data, validation = renewed(shared), constant(1.0), constant(4.0, 7)
    losses = []
    for report in shared.iterate(data, 2, validation):
        model.scale += 1
        data.inputs[:] += 1
        validation.inputs[:] = -1
        assert shared.evaluate(data).loss == model.scale * data.inputs[0, 0]
        losses.append(report.loss if isinstance(report, StepReport) else report.validation_loss)
    assert losses == [1.0, 1.0, 4.0] * 2


def test_the_data_count_as_they_are_at_the_call_of_iterate_not_at_its_first_step(shared: Coordinator) -> None:
    renewed(shared)
    data = constant(1.0, 10)
    reports = shared.iterate(data)
    data.inputs[:] = 2
    assert next(reports).loss == 1.0  # type: ignore[union-attr]
    list(reports)


def test_what_a_model_writes_to_itself_lasts_for_the_call_and_stays_with_the_worker(shared: Coordinator) -> None:
    model = renewed(shared, counts=True)
    one = constant(0.0, 5)  # One shard.
    assert [shared.evaluate(one).loss for _ in range(3)] == [1.0, 1.0, 1.0]
    assert model.calls == 0


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_data_changed_between_epochs_train_to_the_same_bits_with_any_engine(engine: str, digits: Dataset) -> None:
    with coordinator(Softmax(), engine, batch_size=50) as c:
        images = digits.inputs.copy()
        c.fit((images, digits.targets))
        np.subtract(255, images, out=images)
        c.fit((images, digits.targets))
        fresh = Coordinator(Softmax(), SGD(0.1), engine="serial", batch_size=50, shard_size=5)
        fresh.fit(digits)
        fresh.fit((255 - digits.inputs, digits.targets))
        assert c.parameters_sha256() == fresh.parameters_sha256()


# Worker processes.


def test_a_class_that_changes_in_a_loop_changes_for_later_calls_alone() -> None:
    class Local(Counting):  # It travels whole, as those of a script or notebook do.
        scale = 1.0

    with coordinator(Local(), "processes") as c:
        losses = []
        for report in c.iterate(constant(1.0), 2):
            Local.scale += 1
            assert c.evaluate(constant(1.0)).loss == Local.scale
            losses.append(report.loss if isinstance(report, StepReport) else report.train_loss)
        assert losses == [1.0] * 6


def test_a_model_of_the_program_itself_is_not_touched_by_the_serial_engine(run: Run) -> None:
    program = """
from parallel_lenet import *
import numpy as np
count = 0
class Mine:
    layout = Layout.of({"w": (2,)})
    def initial_parameters(self, rng): return np.zeros(2)
    def loss_and_gradient(self, p, x, y, g):
        global count
        count += 1
        return Metrics(0.0, 0, len(x))
    def predict(self, p, x): return x
method = Mine.loss_and_gradient
for engine in ("serial", "threading"):
    with Coordinator(Mine(), SGD(), engine=engine, n_workers=1) as c:
        c.evaluate((np.zeros((5, 1)), np.zeros(5)))
print(Mine.loss_and_gradient is method, count)
"""
    assert run("-W", "ignore", "-c", program).stdout == "True 2\n"


def test_workers_stay_for_tuples_for_more_datasets_for_larger_ones_and_for_a_changed_model() -> None:
    with coordinator(Counting(), "processes") as c:
        c.evaluate(constant(0.0))
        pids = c.worker_pids()
        for i in range(12):
            assert c.evaluate(constant(i)).loss == i
        large = np.full((9, 4 * COMPARISON_BYTES // 9), 2.0), np.zeros(9)
        for data in (large, large, (large[0].astype(np.float32)[:, ::2], large[1]), constant(2.0, 1)):
            assert c.evaluate(data).loss == 2.0
        c.model.scale = 3.0
        assert c.evaluate(large).loss == 6.0
        assert c.worker_pids() == pids


@on_linux
def test_memory_of_data_that_are_no_longer_used_is_bounded_and_given_back(leaves_nothing: None) -> None:
    with coordinator(Counting(), "processes") as c:
        c.evaluate(constant(0.0))
        most = len(shared_memory()) + 2 * (IDLE_ARRAYS + 2)  # Two descriptors each; two of the call itself.
        (pid, _) = c.worker_pids()
        for samples in range(30, 50):
            c.evaluate(constant(1.0, samples))
            next(c.iterate(constant(2.0, samples)))  # Dropped at once.
            assert len(shared_memory()) <= most
            c.restart_epoch()
        mapped = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "memfd" in line]
        assert len(mapped) <= most
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 40


@on_linux
def test_a_worker_that_starts_in_the_middle_of_two_calls_takes_part_in_both() -> None:
    with coordinator(Counting(), "processes", n_workers=1) as c:
        losses = []
        for report in c.iterate(constant(1.0, 10), 1):
            os.kill(c.worker_pids()[0], signal.SIGKILL)
            with pytest.warns(WorkerWarning, match="killed by SIGKILL"):
                assert c.evaluate(constant(5.0)).loss == 5.0
            losses.append(report.loss if isinstance(report, StepReport) else report.train_loss)
        assert losses == [1.0, 1.0]


@on_linux
def test_a_stopped_worker_is_given_all_that_it_missed_when_it_goes_on() -> None:
    with coordinator(Counting(), "processes") as c:
        c.evaluate(constant(0.0))
        first, second = c.worker_pids()
        os.kill(first, signal.SIGSTOP)
        for i in range(40):  # Of as many sizes: the memory of the first is long gone.
            assert c.evaluate(constant(i, 10 + i)).loss == i
        os.kill(first, signal.SIGCONT)
        os.kill(second, signal.SIGSTOP)
        assert c.evaluate(constant(7.0, 70)).loss == 7.0
        os.kill(second, signal.SIGCONT)
        assert c.evaluate(constant(8.0, 80)).loss == 8.0
        assert c.worker_pids() == [first, second]


@on_linux
def test_workers_stopped_between_two_calls_are_replaced_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    with coordinator(Counting(), "processes", step_timeout=1.0) as c:
        assert c.evaluate(constant(1.0)).loss == 1.0
        pids = c.worker_pids()
        with monkeypatch.context() as patch:
            patch.setattr(dispatcher, "START_SECONDS", 3600.0)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            with pytest.warns(WorkerWarning, match=r"the step_timeout of 1 s while loading a model and data: "):
                assert c.evaluate(constant(2.0)).loss == 2.0
        assert not set(pids) & set(c.worker_pids())


def test_a_model_that_cannot_be_made_again_ends_its_own_call_alone() -> None:
    class Fragile(Counting):
        fails = False

        def __getstate__(self) -> dict[str, Any]:
            return self.__dict__ | {"fails": self.fails}

        def __setstate__(self, state: dict[str, Any]) -> None:
            if state["fails"]:
                raise LookupError("not here")
            self.__dict__ |= state

    with coordinator(Fragile(), "processes") as c:
        c.model.counts = False
        for report in c.iterate(constant(1.0)):
            assert report.step
            c.model.fails = True
            with pytest.raises(LookupError, match="not here"):
                c.evaluate(constant(1.0))
            c.model.fails = False
            assert c.evaluate(constant(3.0)).count == 20
        assert c.epoch == 1


# Files.


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Array]:
    """Twenty samples in a file, of one row each."""
    values = np.arange(20 * 700, dtype=np.float64).reshape(20, 700)
    np.save(tmp_path / "inputs.npy", values)
    return tmp_path / "inputs.npy", values


@on_linux
def test_a_file_that_is_mapped_for_reading_is_mapped_by_the_workers_too(stored: tuple[Path, Array]) -> None:
    file, values = stored
    targets = np.zeros(20)
    mapped = np.load(file, mmap_mode="r")
    before = len(shared_memory())
    with coordinator(Counting(), "processes", n_workers=1) as c:
        for rows in (slice(None), slice(3, 9)):
            expected = c.evaluate((values[rows].copy(), targets[rows]))
            next(reports := c.iterate((mapped[rows], targets[rows])))
            maps = Path(f"/proc/{c.worker_pids()[0]}/maps").read_text()
            assert str(file) in maps
            assert c.evaluate((mapped[rows], targets[rows])) == expected
            del reports
            c.restart_epoch()
        assert len(shared_memory()) > before
    with coordinator(Counting(), "serial") as alone:
        context = alone.engine.open(alone.model, (Dataset(mapped, targets),), alone.parameters)
        assert np.shares_memory(context.datasets[0].inputs, mapped)


@on_linux
def test_a_file_that_is_not_certain_to_be_the_mapped_one_is_copied(stored: tuple[Path, Array]) -> None:
    file, values = stored
    mapped = np.load(file, mmap_mode="r")
    found = MappedFile.of(mapped)
    assert found is not None
    assert found.size == file.stat().st_size
    found.close()
    other_order = MappedFile.of(mapped.T)  # The same numbers, without gaps.
    assert other_order is not None
    assert other_order.offset == found.offset
    other_order.close()
    writable = np.load(file, mmap_mode="r+")
    for array in (values, writable, np.load(file, mmap_mode="c"), mapped[:, ::2]):
        assert MappedFile.of(array) is None
    file.unlink()
    assert MappedFile.of(mapped) is None
    np.save(file, values + 1)
    assert MappedFile.of(mapped) is None
    with coordinator(Counting(), "processes") as c:
        assert c.evaluate((mapped, np.zeros(20))).loss == values.mean()


# Dropped, closed, copied.


@on_linux
@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_a_coordinator_that_is_dropped_or_closed_leaves_no_descriptor_and_no_memory_at_once(engine: str) -> None:
    def left() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        return len(os.listdir("/proc/self/fd")), maps.count("memfd:parallel-lenet")

    with coordinator(Counting(), engine, n_workers=1) as c:  # What is imported stays.
        c.evaluate(constant(0.0))
    del c
    gc.collect()
    before = left()
    gc.disable()
    try:
        for how in ("drop in a loop", "close", "close in a loop"):
            c = coordinator(Counting(), engine, n_workers=1)
            c.fit(constant(1.0), validation=constant(2.0))
            reports = c.iterate(constant(1.0))
            next(reports)
            pids = c.worker_pids()
            if "loop" not in how:
                del reports
            if "close" in how:
                c.close()
                assert left() == before
            reports = None
            del c
            assert left() == before
            assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    finally:
        gc.enable()


def test_a_loop_ends_with_its_coordinator_and_another_call_starts_again() -> None:
    with coordinator(Counting(), "processes") as c:
        reports = c.iterate(constant(1.0))
        next(reports)
        c.close()
        with pytest.raises(RuntimeError, match="this call has ended, or its engine was closed"):
            next(reports)
        c.fit(constant(1.0))
        assert (c.epoch, c.step) == (1, 2)


def test_a_coordinator_or_an_engine_cannot_be_copied_and_says_what_to_do() -> None:
    c = coordinator(Counting(), "serial")
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"a Coordinator cannot be copied or pickled.*: save\(path\) writes its st"):
            duplicate(c)
        for engine in (SerialEngine(), ProcessesEngine(1)):
            with pytest.raises(TypeError, match=r"Engine cannot be copied or pickled.*: create another one instead"):
                duplicate(engine)


# The store itself.


def contexts(quiet: bool = True) -> Snapshots[None]:
    return Snapshots(PrivateMemory, may_overwrite=lambda: quiet)


def opened(snapshots: Snapshots[None], *arrays: Array) -> Context:
    return snapshots.open(None, [Dataset(array, np.zeros(len(array))) for array in arrays], np.zeros(1))


@pytest.mark.parametrize("dtype", [np.uint8, ">i4", np.float32, bool])
@pytest.mark.parametrize("shape", [(3,), (5, 7), (40, 5000), (2, COMPARISON_BYTES), (4, 0)])
def test_equal_arrays_share_a_copy_and_a_single_other_byte_does_not(shape: tuple[int, ...], dtype: Any) -> None:
    array = (np.arange(np.prod(shape)).reshape(shape) % 2).astype(dtype)
    store = contexts()
    first, second = opened(store, array), opened(store, np.asfortranarray(array.copy()))
    assert first.datasets[0].inputs is second.datasets[0].inputs
    assert first.datasets[0].inputs.flags.c_contiguous
    for position in {0, array.size // 2, array.size - 1} if array.size else ():
        changed = array.copy()
        changed.reshape(-1)[position] = not changed.reshape(-1)[position]
        third = opened(store, changed)
        assert third.datasets[0].inputs is not first.datasets[0].inputs
        assert_array_equal(third.datasets[0].inputs, changed)
        assert_array_equal(first.datasets[0].inputs, array)


def test_bytes_are_compared_not_values() -> None:
    store = contexts()
    zero = opened(store, np.zeros(4))
    assert opened(store, -np.zeros(4)).datasets[0].inputs is not zero.datasets[0].inputs
    assert opened(store, np.zeros(4, np.int64)).datasets[0].inputs is not zero.datasets[0].inputs


@pytest.mark.parametrize("quiet", [True, False])
def test_memory_of_a_closed_context_is_overwritten_only_when_nobody_reads_it(quiet: bool) -> None:
    store = contexts(quiet)
    array = np.arange(1000.0)
    first = opened(store, array)
    kept, closed = first.datasets[0].inputs, opened(store, array + 1).datasets[0].inputs
    second = opened(store, array + 2)
    assert np.shares_memory(second.datasets[0].inputs, closed) == quiet
    assert_array_equal(kept, array)
    assert not np.shares_memory(second.datasets[0].inputs, kept)


def test_a_failed_copy_leaves_nothing_in_use() -> None:
    blocks: list[PrivateMemory] = []

    def block(size: int) -> PrivateMemory:
        if len(blocks) == 3:
            raise OSError("no room")
        blocks.append(PrivateMemory(size))
        return blocks[-1]

    store: Snapshots[None] = Snapshots(block, may_overwrite=lambda: True)
    with pytest.raises(OSError, match="no room"):
        opened(store, np.arange(10.0), np.arange(500.0))
    assert store.open_contexts() == []
    again = opened(store, np.arange(10.0))
    assert len(blocks) == 3
    assert_array_equal(again.datasets[0].inputs, np.arange(10.0))
