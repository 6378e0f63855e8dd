"""Memory that processes share: where it comes from, and what is said when there is too little."""

import errno
import gc
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from kits.engine_contract import FEW, Opened, at, computed, expected, one_each
from kits.models import Scripted
from kits.programs import Run

from parallel_lenet.datasets import Dataset
from parallel_lenet.engines import memory
from parallel_lenet.engines.memory import SharedMemory, shared_bytes
from parallel_lenet.engines.processes.dispatcher import ROWS
from parallel_lenet.engines.processes.engine import ProcessesEngine
from parallel_lenet.engines.processes.worker_process import WorkerProcess
from parallel_lenet.engines.snapshots import Snapshots

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
    pytest.mark.usefixtures("leaves_nothing"),
]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EACCES])
def test_without_memfd_create_a_file_without_a_name_does(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "memfd_create", refuse)
    with ProcessesEngine(1) as engine:
        opened = Opened(engine, Scripted(), [FEW], at(0))
        assert computed(opened, at(0), one_each(FEW)) == expected(Scripted(), [FEW], at(0), one_each(FEW))


def test_more_than_the_system_has_left_is_refused_before_anything_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 3_999_999)
    monkeypatch.setattr(os, "memfd_create", None)
    with pytest.raises(OSError, match="no room for") as caught:
        SharedMemory([((1000, 1000), np.dtype(np.float32))])
    assert caught.value.errno == errno.ENOMEM
    assert caught.value.strerror == (
        "no room for the 4,000,000 bytes of memory to share with workers: 3,999,999 bytes are left"
    )


def test_ten_terabytes_are_refused(run: Run) -> None:
    program = """
import numpy as np
from parallel_lenet.engines.memory import SharedMemory
try: SharedMemory([((10**13,), np.dtype(np.uint8))])
except OSError as error: print(error.strerror)
"""
    said = run("-c", program).stdout
    assert said.startswith("no room for the 10,000,000,000,000 bytes of memory to share with workers: ")


def test_too_little_memory_is_an_error_that_says_how_much_was_wanted(run: Run) -> None:
    program = """
import resource
import numpy as np
from parallel_lenet.engines.memory import SharedMemory
resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, resource.RLIM_INFINITY))
try:
    SharedMemory([((1000, 1000), np.dtype(np.float32))])
except OSError as error:
    print(error.errno, error)
"""
    assert "no room for the 4,000,000 bytes of memory to share with workers: " in run("-c", program).stdout


def test_memory_is_reserved_when_a_block_is_made() -> None:
    """Otherwise the first write of a worker would be the one that finds too little, and it would die of it."""
    block = SharedMemory([((1_000_000,), np.dtype(np.uint8))])
    assert isinstance(block.handle, int)
    assert os.fstat(block.handle).st_blocks * 512 >= 1_000_000
    block.close()


def reserved() -> int:
    """Bytes of all blocks that this process has mapped, without those that only wait for Python to collect them."""
    gc.collect()
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:parallel-lenet" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in (fields[0].split("-") for fields in maps))


MB = 1_000_000


@pytest.mark.slow
def test_parameters_are_shared_once_and_a_gradient_has_memory_once_it_is_needed() -> None:
    model = Scripted(size=10 * MB)  # 40 MB.
    parameters = np.zeros(10 * MB, np.float32)
    work = one_each(FEW)
    with ProcessesEngine(1) as engine:
        opened = Opened(engine, model, [FEW], parameters)
        list(opened.metrics(parameters, work))
        assert 40 * MB <= reserved() < 41 * MB
        for _ in range(3):
            list(opened.gradients(parameters, work[:1]))
            assert 80 * MB <= reserved() < 81 * MB


@pytest.mark.slow
def test_a_worker_never_has_memory_for_more_than_three_gradients() -> None:
    model, work, workers = Scripted(size=MB), one_each(FEW), 2
    with ProcessesEngine(workers) as engine:
        opened = Opened(engine, model, [FEW], at(0, model))
        for _ in range(3):
            assert computed(opened, at(0, model), work) == expected(model, [FEW], at(0, model), work)
        assert 4 * MB * (1 + workers) <= reserved() < 4 * MB * (1 + ROWS * workers) + MB
    assert ROWS == 3
    assert reserved() == 0


def test_memory_for_gradients_is_looked_for_before_any_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Scripted(size=MB)
    with ProcessesEngine(2) as engine:
        opened = Opened(engine, model, [FEW], at(0, model))
        before = reserved()
        monkeypatch.setattr(memory, "available_memory", lambda: 7 * MB)  # Enough for one worker.
        with pytest.raises(OSError, match=r"no room for the 8,000,000 bytes .*: 7,000,000 bytes are left"):
            next(opened.gradients(at(0, model), one_each(FEW)))
        assert reserved() == before
        assert len(list(opened.metrics(at(0, model), one_each(FEW)))) == 7


def test_memory_that_runs_out_within_a_step_is_an_error_that_leaves_the_engine_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, work = Scripted(size=MB), one_each(FEW)
    with ProcessesEngine(1) as engine:
        opened = Opened(engine, model, [FEW], at(0, model))
        list(opened.gradients(at(0, model), work[:1]))
        with monkeypatch.context() as patch:
            patch.setattr(memory, "available_memory", lambda: 3 * MB)
            list(opened.gradients(at(0, model), work[:1]))  # It has what it needs.
            with pytest.raises(OSError, match=r"no room for the 4,000,000 bytes .*: 3,000,000 bytes are left"):
                list(opened.gradients(at(0, model), work))
        assert computed(opened, at(0, model), work) == expected(model, [FEW], at(0, model), work)


@pytest.mark.slow
def test_a_dropped_engine_leaves_neither_memory_nor_descriptors_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        before = set(os.listdir("/proc/self/fd"))
        for how in ("closed", "dropped"):
            engine = ProcessesEngine(2)
            opened = Opened(engine, Scripted(), [FEW], at(0))
            assert len(computed(opened, at(0), one_each(FEW))) == 7
            if how == "closed":
                engine.close()
            del engine, opened
            assert set(os.listdir("/proc/self/fd")) == before
            assert reserved() == 0
    finally:
        gc.enable()


def test_a_block_holds_no_descriptor_after_its_end() -> None:
    before = set(os.listdir("/proc/self/fd"))
    block = SharedMemory([((10,), np.dtype(np.uint8))])
    array = block.arrays[0]
    block.close()
    del block, array
    assert set(os.listdir("/proc/self/fd")) == before


def interrupted_at_every_line(action: Callable[[], object]) -> int:
    """Run it again and again, each time with a KeyboardInterrupt one line later, until none comes; how many came."""
    for lines in itertools.count():
        left = itertools.count(lines, -1)

        def trace(frame: FrameType, event: str, argument: object, left: Iterator[int] = left) -> Any:
            if "parallel_lenet/engines" not in frame.f_code.co_filename:
                return None
            if event == "line" and next(left) == 0:
                raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            action()
            return lines
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
    raise AssertionError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Interrupts in `__del__`.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_an_interrupt_at_any_line_leaves_no_memory() -> None:
    block = [((1000,), np.dtype(np.float32))]
    before = len(os.listdir("/proc/self/fd"))
    assert interrupted_at_every_line(lambda: SharedMemory(block)) > 10
    data = Dataset(np.arange(100).reshape(50, 2), np.arange(50))

    def opened() -> None:
        snapshots: Snapshots[bytes] = Snapshots(shared_bytes, may_overwrite=lambda: True)
        try:
            snapshots.open(b"", [data], np.zeros(3))
        finally:
            snapshots.clear()

    assert interrupted_at_every_line(opened) > 100
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_interrupt_while_a_worker_is_told_of_a_row_leaves_no_memory() -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    worker = object.__new__(WorkerProcess)
    worker.rows = {}
    worker.send = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        worker.add_row(0, np.zeros(1000, np.float32))
