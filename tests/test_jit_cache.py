"""The files in which compiled code is kept: damage to them costs time, and never a result."""

import logging
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parallel_lenet import SGD, Coordinator, Layout, Metrics

pytest.importorskip("numba")

from numba import float32, float64
from numba.core import config
from numba.core.registry import cpu_target

from parallel_lenet.kernels.compiled import jit, jit_cache


def half(x: float) -> float:
    return x / 2


def twice(x: float) -> float:
    return x * 2


def first(array: Any) -> Any:
    return array[0]


def compute() -> int:
    """Compute as a new process does. Returns how often the kept code was used."""
    function: Any = jit.compiled(half)
    assert function(3.0) == 1.5
    return sum(function.stats.cache_hits.values())


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been found out or logged yet."""
    monkeypatch.setattr(jit_cache, "_notes", [])
    monkeypatch.setattr(jit_cache, "_refusals", {})
    jit_cache._check_room.cache_clear()
    jit_cache._note_compiling.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def foreign(file: Path) -> None:
    """As Numba itself writes it, or anyone else."""
    file.write_bytes(b"\x80\x05garbage")


@pytest.mark.parametrize(
    ("files", "damage"), [("*.nbc", flip), ("*.nbi", flip), ("*.nbc", cut), ("*.nbi", foreign), ("*.nb?", empty)]
)
def test_damaged_files_are_compiled_anew_and_replaced(
    files: str, damage: Callable[[Path], None], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert compute() == 0
    assert compute() == 1
    found = list(folder.rglob(files))
    assert found
    for file in found:
        damage(file)
    assert caplog.messages == []
    assert compute() == 0
    (message,) = caplog.messages
    assert message == f"compiled code in {found[0].parent} cannot be used (it is damaged); it is compiled anew"
    assert compute() == 1
    assert len(caplog.messages) == 1


def test_a_missing_file_is_compiled_anew_without_a_word(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    compute()
    for file in folder.rglob("*.nbc"):
        file.unlink()
    assert [compute(), compute()] == [0, 1]
    assert caplog.messages == []


def test_the_first_compilation_of_a_process_is_logged_as_information(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "parallel_lenet")
    assert compute() == 0
    jit.compiled(twice)(1.0)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert caplog.messages[0].startswith("compiling the kernels for this machine")
    caplog.clear()
    jit_cache._note_compiling.cache_clear()
    assert compute() == 1
    assert caplog.messages == []


def test_code_is_found_in_memory_and_on_disk_and_only_for_its_type_and_processor(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.ones(3, np.float32)

    def kept(number: Any) -> bool:
        return jit_cache.is_kept(jit.compiled(first), number)

    assert not kept(float32)
    function: Any = jit.compiled(first)
    assert function(array) == 1
    assert jit_cache.is_kept(function, float32)
    assert kept(float32)
    assert not kept(float64)
    with monkeypatch.context() as other:
        other.setattr(type(cpu_target.target_context.codegen()), "magic_tuple", lambda self: ("another processor",))
        assert not kept(float32)
    for index in folder.rglob("*.nbi"):
        index.write_bytes(b"damaged")
    assert not kept(float32)


def test_folders_in_place_of_the_files(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    compute()
    for file in list(folder.rglob("*.nb?")):
        file.unlink()
        file.mkdir()
    assert [compute(), compute()] == [0, 0]
    assert [message.endswith("cannot be used (not a regular file); it is compiled anew") for message in caplog.messages]
    assert len(caplog.messages) == 1


def test_two_processes_that_compile_for_other_types_at_once_keep_apart(folder: Path) -> None:
    """The second looks at the index before the first has written to it."""
    first: Any = jit.compiled(half)
    second: Any = jit.compiled(half)
    index = second._cache._cache_file
    before = index._load_index()
    assert first(3.0) == 1.5
    load = index._load_index
    index._load_index = lambda: before
    assert second(3) == 1.5
    index._load_index = load
    names = {path.name for path in folder.rglob("*.nbc")}
    assert len(names) == 2


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_code_that_cannot_be_written_is_compiled_by_each_process(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        results = [compute(), compute()]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert results == [0, 0]
    (where,) = folder.iterdir()
    assert caplog.messages == [
        f"compiled code cannot be kept in {where} (File too large); each process compiles it anew"
    ]
    assert list(where.iterdir()) == []


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("may not mount a small disk")
    with suppress(OSError), (disk / "filler").open("wb") as file:
        file.write(bytes(20_000))
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(full_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(full_disk))
    assert [compute(), compute()] == [0, 0]
    (message,) = caplog.messages
    assert message.startswith(f"compiled code cannot be kept in {full_disk}/")
    assert message.endswith(" (No space left on device); each process compiles it anew")


@pytest.mark.parametrize("name", ["file/cache", "~/cache"])
def test_a_folder_that_cannot_be_used_is_replaced_by_another(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(config, "CACHE_DIR", name)
    compute()
    (message,) = caplog.messages
    assert message.startswith(f"compiled code cannot be kept in {name}/")
    assert "), but is in " in message
    assert os.listdir(tmp_path) == ["file"]


def test_without_a_home_and_any_folder_it_is_compiled_by_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As for a user without a home folder and an entry in the list of users, who may not write to the package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    locators = [each for each in jit_cache._Locations._locator_classes if "InTree" not in each.__name__]
    monkeypatch.setattr(jit_cache._Locations, "_locator_classes", locators)
    assert [compute(), compute()] == [0, 0]
    (message,) = caplog.messages
    assert message.startswith("compiled code cannot be kept in ~/.cache/numba/")
    assert message.endswith(" (there is no home folder); each process compiles it anew")
    assert os.listdir(tmp_path) == []


class Halves:
    """A model that compiles a function of its own."""

    layout = Layout.of({"weight": (1,)})

    def initial_parameters(self, rng: np.random.Generator) -> Any:
        return np.zeros(1, np.float32)

    def loss_and_gradient(self, parameters: Any, inputs: Any, targets: Any, gradient: Any) -> Metrics:
        return Metrics(jit.compiled(half)(3.0) * len(inputs), 0, len(inputs))

    def predict(self, parameters: Any, inputs: Any) -> Any:
        return inputs


@pytest.mark.slow
def test_workers_go_on_without_the_cache_and_leave_it_to_the_coordinator_to_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    with Coordinator(Halves(), SGD(0.1), n_workers=1) as coordinator:
        assert coordinator.evaluate((np.zeros((8, 1)), np.zeros(8))).loss == 1.5
    assert capfd.readouterr() == ("", "")


def test_what_is_logged_is_a_warning_of_the_library(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.touch()
    compute()
    assert [(record.name, record.levelno) for record in caplog.records] == [("parallel_lenet", logging.WARNING)]
