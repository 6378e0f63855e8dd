"""What the tests share: a few digits, a deadline against hangs, programs run from outside, a look for left-overs."""

import compileall
import faulthandler
import gc
import ipaddress
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from browser import chromium, open_page  # noqa: F401, two fixtures

import parallel_lenet
from parallel_lenet import Dataset, load_dataset

PACKAGE_FOLDER = str(Path(parallel_lenet.__file__).resolve().parents[1])
DEADLINE = 120  # Seconds a test may take before it counts as hung: many times what the slowest needs.

Run = Callable[..., subprocess.CompletedProcess[str]]


# The files that take longest, longest first.
LONG = [
    *(
        "test_cluster",
        "test_cluster_ray",
        "test_cluster_dask",
        "test_worker_death",
        "test_cli",
        "test_cli_cluster",
        "test_compiled",
        "test_engines",
    ),
    *("test_verify", "test_interrupts", "test_kernels", "test_resume", "test_coordinator", "test_model"),
    *("test_benchmark", "test_gradcheck"),
]


def pytest_configure(config: pytest.Config) -> None:
    """Have xdist give out files in the order below, rather than those of the most tests first.

    And compile the package once, not in each of the hundreds of programs and workers that the tests start.
    """
    config.option.loadscopereorder = False
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(parallel_lenet.__file__).parent, quiet=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, so that at the end no process works on one while the others have nothing to do."""
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


@pytest.fixture(autouse=True)
def deadline(request: pytest.FixtureRequest) -> Iterator[None]:
    """Show where a test hangs, and end the run, rather than wait for ever; workers leave when they are hung up on."""
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
        yield


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """A few of the bundled digits: 150, so that neither 32 nor 64 divides their number."""
    train, _ = load_dataset()
    return Dataset(train.inputs[:150], train.targets[:150], "150 digits")


def environment(**changes: str) -> dict[str, str]:
    """Ours, with a path to the package even where it isn't installed."""
    path = os.pathsep.join([PACKAGE_FOLDER, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **changes}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run Python in a folder of its own: ``run("-c", program, stdin=..., env={...})``; it must end well."""

    def start(
        *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, *arguments],
            input=stdin,
            env=environment(**(env or {})),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result

    return start


def other_user() -> list[str]:
    """What to begin a command with so that another user runs it; nothing if this one can't, or if it can't read us."""
    prefix = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    program = [*prefix, sys.executable, "-c", "import numpy"]
    return [] if subprocess.run(program, cwd="/", env={}, capture_output=True).returncode else prefix


def children(pid: int | None = None) -> set[int]:
    """The processes that ``pid`` (by default this one) has started and that haven't ended; ended ones count too
    until they are waited for."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # It has ended meanwhile.
            continue
        if int(fields[1]) == (pid or os.getpid()):
            found.add(int(stat.parent.name))
    return found


def listening(pids: Iterable[int]) -> set[tuple[str, int]]:
    """The addresses and ports of TCP at which these processes take connections."""
    sockets = {}
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # LISTEN.
                number, _, port = fields[1].partition(":")
                words = [bytes.fromhex(number[i : i + 8])[::-1] for i in range(0, len(number), 8)]
                address = ipaddress.ip_address(b"".join(words))
                mapped = getattr(address, "ipv4_mapped", None)
                sockets[f"socket:[{fields[9]}]"] = str(mapped or address), int(port, 16)
    links = {_target(link) for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()}
    return {place for socket, place in sockets.items() if socket in links}


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition comes true within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _files() -> set[str]:
    folders = ("/dev/shm", tempfile.gettempdir())
    return {
        f"{folder}/{name}"
        for folder in folders
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if "lenet" in name or "dask" in name
    }


def _shared_memory() -> set[str]:
    """The anonymous shared files that this process holds."""
    links = Path("/proc/self/fd").iterdir()
    return {f"{link.name}: {target}" for link in links if "memfd:parallel-lenet" in (target := _target(link))}


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # The descriptor of the listing itself.
        return ""


@pytest.fixture
def leaves_nothing() -> Iterator[None]:
    """Fail a test after which a process, shared memory or a temporary file is left that wasn't there before."""
    if not sys.platform.startswith("linux"):
        pytest.skip("looks into /proc")

    def there() -> tuple[set[int], set[str], set[str]]:
        return children(), _files(), _shared_memory()

    def clean() -> bool:
        return all(now <= then for now, then in zip(there(), before, strict=True))

    before = there()
    yield
    if not clean():
        gc.collect()  # A traceback that a test caught holds the engine's arrays in a cycle.
        assert clean(), (there(), before)
