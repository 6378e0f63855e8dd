"""Fixtures of all tests: a few digits, a deadline against hangs, programs run from outside, a look for leftovers."""

import compileall
import faulthandler
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("kits")

from kits import programs
from kits.browser import chromium, open_page  # noqa: F401, two fixtures
from kits.processes import children, shared_memory, temporary_files
from kits.programs import Run

import parallel_lenet
from parallel_lenet import Dataset, ProcessesEngine, load_dataset

# An example may take any time on a busy machine. The programs of test_fuzzing.py and others run more of them.
settings.register_profile("any machine", deadline=None, max_examples=40)
settings.load_profile("any machine")

HERE = Path(__file__).parent
DEADLINE = 300  # Seconds a test may take before it counts as hung: many times what the slowest needs.

# The files that take longest, longest first, but so that not all that begin have a cluster.
LONG = [
    *("test_cluster", "test_worker_death", "test_compiled", "test_readme", "test_cli_cluster", "test_notebooks"),
    *("test_kernels", "test_model", "test_coordinator", "test_cli", "test_gradcheck", "test_sklearn"),
    *("test_cluster_ray", "test_cluster_dask", "test_cluster_start", "test_explain", "test_report", "test_engines"),
    *("test_train", "test_start", "test_interrupts", "test_verify", "test_resume", "test_recipes", "test_progress"),
    *("test_snapshots", "test_pad", "test_augmentation", "test_kernel_files", "test_benchmark", "test_published"),
]


def pytest_xdist_auto_num_workers() -> int:
    """Three processes on two cores: a third of the time tests wait for programs and for time limits."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores * 3 // 2)


def pytest_configure(config: pytest.Config) -> None:
    """Have xdist give out files in the order below, rather than those of the most tests first.

    And compile the package once, not in each of the hundreds of programs and workers that the tests start.
    """
    config.option.loadscopereorder = False
    if hasattr(config, "workerinput"):
        share_rewriting(config)
    else:
        compileall.compile_dir(Path(parallel_lenet.__file__).parent, quiet=2)


def share_rewriting(config: pytest.Config) -> None:
    """Have each of xdist's processes begin with other files, and keep the assertions that pytest has rewritten.

    All of them import all files. Rewriting takes most of that time, and so each file is rewritten by the process that
    comes to it first.
    """
    sys.dont_write_bytecode = False
    if [Path(argument).resolve() for argument in config.args] == [HERE]:
        worker = config.workerinput  # type: ignore[attr-defined]
        files = sorted(map(str, HERE.glob("test_*.py")))
        begin = len(files) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
        config.args = files[begin:] + files[:begin]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, so that at the end no process works on one while the others have nothing to do.

    And mark as slow what needs a browser.
    """
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: (order.get(item.path.stem, len(LONG)), item.path))


@pytest.fixture(autouse=True)
def deadline(request: pytest.FixtureRequest) -> Iterator[None]:
    """Show where a test hangs and end the run. Workers exit when their connection closes."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        standard_error = os.dup(2)
    faulthandler.dump_traceback_later(DEADLINE, exit=True, file=standard_error)
    yield
    faulthandler.cancel_dump_traceback_later()
    os.close(standard_error)


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder for temporary files that no other program uses, nor other tests at the same time: see leaves_nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temporary")))
        patch.setattr(tempfile, "tempdir", None)
        patch.setenv("PARALLEL_LENET_REPORT", "0")  # A second for each of the hundreds of runs.
        yield


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """A few of the bundled digits: 150, so that neither 32 nor 64 divides their number."""
    train, _ = load_dataset()
    return Dataset(train.inputs[:150], train.targets[:150], "150 digits")


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessesEngine]:
    """Two worker processes for many tests: a process takes a quarter of a second to start."""
    with ProcessesEngine(2) as engine:
        yield engine


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run Python in a folder of its own: ``run("-c", program, stdin=..., env={...})``. It must end well."""
    return partial(programs.run, tmp_path, command=programs.PYTHON)


@pytest.fixture
def leaves_nothing() -> Iterator[None]:
    """Fail a test after which a process, shared memory or a temporary file is left that wasn't there before."""
    if not sys.platform.startswith("linux"):
        pytest.skip("looks into /proc")

    def there() -> tuple[set[int], set[str], set[str]]:
        return children(), temporary_files(), shared_memory()

    def clean() -> bool:
        return all(now <= then for now, then in zip(there(), before, strict=True))

    before = there()
    yield
    if not clean():
        gc.collect()  # A traceback that a test caught holds the engine's arrays in a cycle.
        assert clean(), (there(), before)
