"""Setups that are broken or slow on purpose: `parallel-lenet doctor` names each and says what to do."""

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kits.processes import alive, wait_for_workers, wait_until
from kits.programs import PYTHON, run, start, write_idx

from parallel_lenet.cli import doctor as command
from parallel_lenet.doctor import (
    CHECKS,
    compiler,
    cores,
    diagnose,
    extras,
    leftovers,
    memory,
    packages,
    processor,
    speed,
    threads,
)
from parallel_lenet.doctor import python as interpreter
from parallel_lenet.doctor.finding import Finding, System
from parallel_lenet.doctor.redaction import redact
from parallel_lenet.doctor.requirements import Requirement, is_older
from parallel_lenet.engines.serial import one_blas_thread
from parallel_lenet.runs import folder as run_folder

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="makes setups with Linux's means")

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables that a check looks at."""
    for name in (*threads.VARIABLES, cores.LOKY, cores.WORKERS_VARIABLE, "PYTHONHASHSEED", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def here(tmp_path: Path) -> System:
    """A quiet machine without limits, and an empty current folder."""
    (tmp_path / "folder").mkdir()
    root = tmp_path / "root"
    write(root, {"proc/loadavg": "0.10 0.20 0.30 1/99 7", "proc/cpuinfo": "flags : fpu fma avx2\ncpu MHz : 2000.0\n"})
    return System(root, tmp_path / "folder")


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def faults(found: list[Finding]) -> list[Finding]:
    return [each for each in found if each.state in ("slow", "broken")]


def the_fault(found: list[Finding], state: str, text: str, remedy: str) -> None:
    """There is one finding that says so, with this remedy."""
    (fault,) = [each for each in found if text in each.text]
    assert (fault.state, remedy in fault.remedy) == (state, True), fault
    assert "\n" not in fault.text + fault.remedy


def test_a_quiet_machine_without_limits_has_no_fault(here: System) -> None:
    machine = [cores.check(here), processor.check(here), threads.check(here), memory.check(here), leftovers.check(here)]
    assert [fault for found in machine for fault in faults(found)] == []
    assert all(found[0].state == "ok" for found in machine)


@pytest.mark.parametrize(
    ("variable", "value", "state", "text"),
    [
        ("LOKY_MAX_CPU_COUNT", "1", "slow", "LOKY_MAX_CPU_COUNT=1 leaves only 1 of"),
        ("LOKY_MAX_CPU_COUNT", "all", "broken", "must be a positive whole number, got 'all'"),
        ("PARALLEL_LENET_WORKERS", "many", "broken", "must be a whole number such as 4 or -1, got 'many'"),
        ("PARALLEL_LENET_WORKERS", "77", "slow", "PARALLEL_LENET_WORKERS=77: 77 workers by default"),
        ("OMP_NUM_THREADS", "64", "slow", "OMP_NUM_THREADS=64: NumPy outside of training starts more threads"),
        ("OPENBLAS_NUM_THREADS", "1", "note", "OPENBLAS_NUM_THREADS=1: NumPy outside of training uses 1 of"),
        ("MKL_NUM_THREADS", "x", "broken", "MKL_NUM_THREADS must be a positive whole number, got 'x'"),
        ("NUMBA_CPU_NAME", "nehalem", "slow", "NUMBA_CPU_NAME is set: kernels are compiled for another processor"),
    ],
)
def test_a_variable_that_takes_cores_or_threads_is_named(
    variable: str, value: str, state: str, text: str, here: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value == "1" and (os.cpu_count() or 1) < 2:
        pytest.skip("takes nothing from one core")
    monkeypatch.setenv(variable, value)
    found = [*cores.check(here), *threads.check(here), *processor.check(here)]
    the_fault(found, state, text, f"unset {variable}")


@pytest.fixture
def one_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="has one core")
@pytest.mark.usefixtures("one_core")
def test_an_affinity_of_one_core_is_named(here: System) -> None:
    found = cores.check(here)
    assert found[0].facts["usable"] == found[0].facts["affinity"] == 1
    the_fault(found, "slow", "this process may use 1 of the machine's", "taskset")


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="has one core")
@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/job\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu",
            "sys/fs/cgroup/job/cpu.max": "50000 100000",
        },
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/job\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
        },
    ],
    ids=["version 2", "version 1"],
)  # fmt: skip
def test_a_quota_below_the_cores_is_named(files: dict[str, str], here: System) -> None:
    write(here.root, files)
    found = cores.check(here)
    assert found[0].facts["usable"] == 1
    the_fault(found, "slow", "a control group leaves the time of 0.5 of ", "--cpus")


def test_a_processor_without_fused_multiply_adds_is_named(here: System) -> None:
    write(here.root, {"proc/cpuinfo": "model name : Old\nflags\t: fpu sse2 avx\n"})
    found = processor.check(here)
    the_fault(found, "slow", "no fused multiply-add", "--kernel im2col")
    assert "kernels that suit it: im2col and naive; compiled works, but slowly" in found[0].text


def test_a_busy_machine_is_named(here: System) -> None:
    write(here.root, {"proc/loadavg": "999.00 3.0 2.0 5/99 7"})
    the_fault(processor.check(here), "slow", "the machine is busy: 999.0 programs", "top")


@pytest.mark.parametrize(("driver", "named"), [("acpi-cpufreq", True), ("intel_pstate", False)])
def test_a_power_saving_governor_is_named_unless_it_follows_the_load(driver: str, named: bool, here: System) -> None:
    for core in range(3):
        place = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        governor = "powersave" if core else "performance"
        write(here.root, {f"{place}/scaling_governor": f"{governor}\n", f"{place}/scaling_driver": f"{driver}\n"})
    found = processor.check(here)
    if named:
        the_fault(found, "slow", "2 of 3 cores keep their lowest clock (governor powersave)", "performance")
    else:
        assert faults(found) == []


def test_too_little_memory_is_named_with_the_workers_that_fit(here: System, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = {"proc/meminfo": f"MemAvailable: {300 * 1024} kB\nSwapFree: 0 kB\n"}
    write(here.root, limit)
    monkeypatch.setattr(cores, "usable_cores", lambda: 8)
    sentence = "300 MB are left, but training with 8 workers takes about 840 MB"
    the_fault(memory.check(here), "broken", sentence, "train with --workers 1")
    group = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cgroup.controllers": "memory"}
    group |= {"sys/fs/cgroup/memory.max": f"{120 * 2**20}", "sys/fs/cgroup/memory.current": f"{60 * 2**20}"}
    write(here.root, group)
    the_fault(memory.check(here), "broken", "60 MB are left", "raise the memory limit")


def test_few_open_files_and_a_tiny_shared_memory_are_named(here: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**26, 0, 2**26))  # type: ignore[attr-defined]
    the_fault(memory.check(here), "note", "/dev/shm has 64 MB", "--shm-size=1g")
    monkeypatch.setattr(resource, "getrlimit", lambda name: (30, 4096) if name == resource.RLIMIT_NOFILE else (-1, -1))
    the_fault(memory.check(here), "broken", "ulimit -n allows 30 open files", "ulimit -n ")
    monkeypatch.setattr(resource, "getrlimit", lambda name: (2**29, -1) if name == resource.RLIMIT_AS else (-1, -1))
    the_fault(memory.check(here), "broken", "ulimit -v allows 512 MB of address space", "ulimit -v unlimited")


def test_a_sandbox_that_shares_no_memory_is_named(here: System, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    the_fault(memory.check(here), "broken", "memory can't be shared with workers", "TMPDIR")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a module in front of all others, for programs that this process starts."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def add(name: str, text: str) -> None:
        write(folder, {name: text})

    return add


MISSING = "raise ModuleNotFoundError(\"No module named 'numba'\", name='numba')"
UPGRADE = "pip install --upgrade '"
BROKEN_NUMBA = [
    (MISSING, "slow", "numba is not installed", "pip install '"),
    ("raise ImportError('Numba needs NumPy 1.9 or less')", "broken", "Numba needs NumPy 1.9 or less", UPGRADE),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "broken", "crashed: SIGSEGV", UPGRADE),
    ("import time; time.sleep(99)", "broken", "had not ended after 1 seconds", UPGRADE),
    ("__version__ = '0.1'", "broken", "kernel compiled does not work (", UPGRADE),
]


@pytest.mark.parametrize(("program", "state", "text", "remedy"), BROKEN_NUMBA, ids=[row[2] for row in BROKEN_NUMBA])
def test_a_numba_that_does_not_work_is_named_and_harms_nobody(
    program: str,
    state: str,
    text: str,
    remedy: str,
    here: System,
    modules: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules("numba.py", program)
    monkeypatch.setattr(compiler, "SECONDS", 1.0 if "sleep" in program else 30.0)
    found = compiler.check(here)
    the_fault(found, state, text, remedy)
    assert "training uses the kernel im2col" in found[0].text


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_and_one_that_is_damaged_are_named(
    here: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "0")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/nowhere")
    the_fault(compiler.check(here), "slow", "compiled code cannot be kept in /proc/nowhere", "NUMBA_CACHE_DIR")
    from parallel_lenet.kernels.compiled import elementwise, jit_cache

    kept = next(value for value in vars(elementwise).values() if hasattr(value, "py_func"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(jit_cache.config, "CACHE_DIR", str(tmp_path / "cache"))
    index = Path(jit_cache.FunctionCache(kept.py_func)._cache_file._index_path)
    index.write_bytes(b"stale and half written")
    the_fault(compiler.check(here), "slow", "(it is damaged); it is compiled anew", "have been removed")
    assert b"stale" not in index.read_bytes()


@pytest.mark.slow
def test_a_disabled_compiler_is_named(here: System, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    the_fault(compiler.check(here), "slow", "kernel compiled runs as Python", "unset NUMBA_DISABLE_JIT")


def test_libraries_that_are_too_old_or_there_twice_are_named(
    here: System, modules: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [Requirement("numpy", "2.0", ""), Requirement("nowhere-at-all", "1.5", "")]
    monkeypatch.setattr(packages, "requirements", lambda: wanted)
    modules("numpy-1.26.4.dist-info/METADATA", "Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.4\n")
    found = packages.check(here)
    the_fault(found, "broken", "numpy 1.26.4 is too old: at least 2.0 is needed", "pip install --upgrade 'numpy>=2.0'")
    the_fault(found, "broken", "there are two copies", "virtual environment")
    the_fault(found, "broken", "nowhere-at-all is not installed", "pip install 'nowhere-at-all>=1.5'")


def test_a_file_in_the_place_of_a_library_is_named(here: System, modules: Callable[[str, str], None]) -> None:
    modules("threadpoolctl.py", "answer = 42")
    the_fault(packages.check(here), "broken", "threadpoolctl without a version is imported, but", "current folder")


@pytest.mark.parametrize(
    ("version", "least", "expected"),
    [("1.26.4", "2.0", True), ("2.0.0", "2.0", False), ("2.10", "2.9", False), ("3", "2.9.1", False), ("2", "", False)],
)  # fmt: skip
def test_versions_are_compared_by_their_numbers(version: str, least: str, expected: bool) -> None:
    assert is_older(version, least) is expected


@pytest.mark.slow
def test_a_library_that_fails_crashes_or_hangs_does_not_hide_the_others(
    modules: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "SECONDS", 1.5)
    modules("raises.py", "raise ValueError('built for another NumPy')")
    modules("crashes.py", "import os, signal; os.kill(os.getpid(), signal.SIGABRT)")
    modules("hangs.py", "import time; time.sleep(99)")
    found = extras.import_failures(["json", "raises", "crashes", "csv", "hangs", "this_is_not_there"])
    assert found == {
        "raises": "ValueError: built for another NumPy",
        "crashes": "crashed: SIGABRT",
        "hangs": "had not ended after 2 seconds",
        "this_is_not_there": "ModuleNotFoundError: No module named 'this_is_not_there'",
    }


def test_extras_are_told_apart_broken_incomplete_missing_and_fine(
    here: System, modules: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    modules("raises.py", "raise ValueError('built for another NumPy')")
    wanted = [
        ("fine", "good"),
        ("half", "good"),
        ("half", "gone"),
        ("none", "gone"),
        ("bad", "damaged"),
        ("dev", "gone"),
    ]
    monkeypatch.setattr(extras, "requirements", lambda: [Requirement(name, "1", extra) for extra, name in wanted])
    monkeypatch.setattr(extras, "modules", lambda name: {"good": ["json"], "damaged": ["raises"]}.get(name, []))
    found = extras.check(here)
    the_fault(found, "note", "work: fine; not installed: none", "pip install 'parallel-lenet[none]'")
    the_fault(found, "note", "the extra half is incomplete: gone missing", "pip install 'gone>=1'")
    text = "damaged of the extra bad is installed but does not work: ValueError: built for another NumPy"
    the_fault(found, "broken", text, "pip install --upgrade 'damaged>=1'")


def test_files_that_hide_modules_are_named(here: System) -> None:
    (here.folder / "numpy.py").write_text("")
    (here.folder / "random.py").write_text("")
    (here.folder / "joblib").mkdir()
    (here.folder / "joblib" / "__init__.py").write_text("")
    (here.folder / "threadpoolctl").mkdir()  # An empty folder hides nothing.
    (here.folder / "digits.py").write_text("")
    found = interpreter.hiding_files(here.folder)
    assert {each.text.split()[0] for each in found} == {"numpy.py", "random.py", "joblib"}
    the_fault(found, "broken", "numpy.py in the current folder hides the module numpy", "rename numpy.py")


@pytest.mark.slow
def test_flags_encoding_and_hidden_modules_are_named_and_nobodys_name_is_told(tmp_path: Path) -> None:
    """As a program, in the home folder of a user called alice, whose folder hides NumPy."""
    home = tmp_path / "home" / "alice"
    home.mkdir(parents=True)
    (home / "numpy.py").write_text("raise RuntimeError('alice')")
    variables = {"HOME": str(home), "USER": "alice", "LOGNAME": "alice", "SECRET_TOKEN": "hunter2"}
    variables |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONHASHSEED": "7"}
    variables |= {"NUMBA_CPU_NAME": "alice", "OMP_NUM_THREADS": f"{home}/x"}
    words = ("-O", "-P", "-m", "parallel_lenet", "doctor", "python", "processor", "blas")
    result = run(home, *words, command=PYTHON, env=variables, code=1)
    for text in (
        "broken  python     numpy.py in the current folder hides the module numpy",
        "Python runs with -O: assertions of your own models are not checked",
        "PYTHONHASHSEED=7: workers hash strings with this seed; no result of this package depends on it",
        "the encoding is not UTF-8 (file names: ",
        "-> export PYTHONUTF8=1",
        "OMP_NUM_THREADS must be a positive whole number, got ",
        "-> rename numpy.py, and delete __pycache__ beside it",
    ):
        assert text in result.stdout, text
    for secret in ("alice", "hunter2", str(tmp_path)):
        assert secret not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("in /home/alice/x and /home/alice. /home/alice.old", "in ~/x and ~. /home/USER"),
        ("/home/alicex/y", "/home/USER/y"),
        ("alice's, malice, /data/alice/z", "USER's, malice, /data/USER/z"),
        ("/home/bob/z and C:\\Users\\carol\\z", "/home/USER/z and C:\\Users\\USER\\z"),
        ("box.example.org and box", "HOST and HOST"),
    ],
)
def test_names_and_home_folders_are_replaced(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "alice")
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setattr("socket.gethostname", lambda: "box.example.org")
    assert redact(text) == expected


def test_what_dead_runs_left_in_the_folder_runs_is_named_and_removed(here: System) -> None:
    old = time.time() - 3600
    names = ("dead", "alive", "never", "20260102-030405", "prepared", "foreign", "new")
    run_of = {name: here.folder / "runs" / name for name in names}
    half = f".checkpoint.npz.{'0a' * 8}"
    for name, files in {
        "dead": ("checkpoint.npz", "metrics.jsonl", half, ".mine.0123456789abcdef"),
        "alive": ("checkpoint.npz", half),
        "never": ("config.toml", "environment.json", f".config.toml.{'1f' * 8}"),
        "20260102-030405": (),
        "prepared": ("config.toml",),
        "foreign": ("config.toml", "thesis.tex"),
        "new": (),
    }.items():
        run_of[name].mkdir(parents=True)
        for file in files:
            (run_of[name] / file).write_text("x")
        if name != "new":
            os.utime(run_of[name], (old, old))
    descriptor = run_folder.lock(run_of["alive"])
    assert descriptor is not None
    (found,) = leftovers.check(here)
    assert found.state == "slow"
    assert "--clean" in found.remedy
    assert {name for name in names if f"runs/{name}" in found.text} == {"dead", "never", "20260102-030405"}
    assert all(sentence.startswith("removed ") for sentence in leftovers.clean(here))
    os.close(descriptor)
    left = {str(path.relative_to(here.folder / "runs")) for path in (here.folder / "runs").rglob("*")}
    assert left >= {"dead/checkpoint.npz", "dead/.mine.0123456789abcdef", f"alive/{half}", "new"}
    assert left >= {"foreign/thesis.tex", "foreign/config.toml", "prepared/config.toml"}
    assert not {"never", "20260102-030405", f"dead/{half}"} & left


def test_old_temporary_folders_of_this_user_are_removed_and_no_others(
    here: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    for name in ("parallel-lenet-old", "parallel-lenet-new", "parallel-lenet-used", "somebody-old"):
        (place / name).mkdir(parents=True)
        (place / name / "file").write_text("x")
    (place / "parallel-lenet-link").symlink_to(place / "somebody-old")
    for name in ("parallel-lenet-old", "parallel-lenet-used", "somebody-old"):
        os.utime(place / name, (1, 1))
    used = place / "parallel-lenet-used" / "file"
    with used.open() as file, subprocess.Popen(["sleep", "60"], stdin=file) as user:
        assert list(leftovers.clean(here)) == [f"removed the temporary folder {place / 'parallel-lenet-old'}"]
        user.kill()
    assert sorted(path.name for path in place.iterdir()) == [
        "parallel-lenet-link", "parallel-lenet-new", "parallel-lenet-used", "somebody-old",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no descriptors of processes")
def test_a_worker_that_outlived_its_coordinator_is_ended_and_a_living_one_is_not(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 64, 4)
    words = ("--data-dir", "data", "--kernel", "im2col", "--workers", "2", "--epochs", "100000", "--shard-size", "8")
    # The worker's new parent is of this session: else Linux would continue it when its coordinator ends.
    prctl = ctypes.CDLL(None).prctl
    assert prctl(SUBREAPER, 1, 0, 0, 0) == 0
    with start(tmp_path, "train", *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        pids = sorted(wait_for_workers(process, 2))
        assert wait_until(lambda: all(leftovers.PROGRAM in cmdline(pid) for pid in pids), 20)
        assert [each for each in leftovers.all_leftovers(System(folder=tmp_path)) if str(pids[0]) in each.name] == []
        os.kill(pids[0], signal.SIGSTOP)
        process.kill()
        process.wait()
    try:
        assert wait_until(lambda: alive(pids) == pids[:1], 20)
        assert f"the worker process {pids[0]}" in leftovers.check(System(folder=tmp_path))[0].text
        result = run(tmp_path, "doctor", "leftovers", "--clean")
        assert f"removed the worker process {pids[0]}\n" in result.stderr
        assert wait_until(lambda: not alive(pids), 10)
    finally:
        for pid in alive(pids):
            os.kill(pid, signal.SIGKILL)
        prctl(SUBREAPER, 0, 0, 0, 0)
        for pid in pids:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def cmdline(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    monkeypatch.setattr(speed, "_kernel", lambda: ("im2col", ""))


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_speed_is_measured_and_what_is_far_below_the_usual_is_named(
    here: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 1)
    found = speed.check(here)
    one, all_workers = [each.facts for each in found if each.facts]  # Also if the machine is busy: then it is a note.
    assert one["images_per_second"] > 10
    assert one["peak_gflops"] == 64.0  # 2 GHz times 32.
    assert one["gflops"] == pytest.approx(one["images_per_second"] * speed.FLOP / 1e9, rel=0.01)
    assert all_workers["workers"] == 1
    monkeypatch.setattr(speed, "_product", lambda: (20.0, 1.0))
    monkeypatch.setattr(speed, "_images", lambda kernel: 500.0)
    monkeypatch.setattr(speed, "_workers", lambda *arguments: [])
    found = speed.check(here)
    the_fault(
        found, "slow", "NumPy's matrix product reaches 20 GFLOP/s, of 64 that the processor should reach", "power"
    )
    the_fault(found, "slow", "kernel im2col reaches 0.06 of the matrix product; 0.24 is usual", "numba, blas and")
    monkeypatch.setattr(speed, "_product", lambda: (60.0, 0.55))
    the_fault(speed.check(here), "slow", "other programs use this core: the measurement got 55% of it", "top")


@pytest.mark.usefixtures("quick")
def test_workers_that_cannot_start_are_named(here: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    (found,) = speed._workers(here, "im2col", 1.0, 1.0)
    assert found.state == "broken"
    assert "fails: worker processes need a Python interpreter" in found.text


@pytest.mark.usefixtures("quick")
def test_slow_workers_on_a_busy_machine_are_not_called_ok(here: System) -> None:
    (found,) = speed._workers(here, "im2col", 1e12, 0.5)
    assert found.state == "note"
    assert "while other programs use the cores: measure again when they have ended" in found.text


def test_the_product_is_measured_on_one_thread(quick: None) -> None:
    with one_blas_thread():
        gflops, share = speed._product()
    assert gflops > 0
    assert 0 < share <= 1


def test_a_check_that_fails_itself_is_a_finding(here: System, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(here: System) -> list[Finding]:
        raise KeyError("surprise")

    monkeypatch.setitem(CHECKS, "cores", fail)
    (found,) = diagnose(["cores"], here)
    assert (found.state, found.text) == ("broken", "the check itself failed (KeyError: 'surprise')")


def test_the_command_knows_all_checks() -> None:
    assert tuple(CHECKS) == command.CHECKS


@pytest.mark.slow
def test_the_command_prints_findings_and_ends_with_1_only_if_something_is_broken(tmp_path: Path) -> None:
    shown = run(tmp_path, "doctor", "cores", "leftovers", env={"LOKY_MAX_CPU_COUNT": "1"})
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("parallel-lenet ")
    assert lines[1].startswith("ok      cores      1 usable of")
    assert "slow" in lines[-1] or (os.cpu_count() or 1) == 1
    told = json.loads(run(tmp_path, "doctor", "blas", "--json", env={"OMP_NUM_THREADS": "x"}, code=1).stdout)
    assert told["broken"] == 1
    (fault,) = [each for each in told["findings"] if each["state"] == "broken"]
    assert fault["remedy"] == "unset OMP_NUM_THREADS"
    assert fault["check"] == "blas"


def test_an_unknown_check_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    from parallel_lenet.cli import main

    assert main(["doctor", "core"]) == 2
    assert "did you mean cores?" in capsys.readouterr().err
