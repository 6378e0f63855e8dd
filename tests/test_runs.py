"""A run's folder on a disk that is full or can't be written: one sentence, and what was there stays."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kits.programs import FILES, PYTHON, run, write_idx

from parallel_lenet import SGD, Coordinator, archive, lenet5
from parallel_lenet.cli._options import UsageError
from parallel_lenet.cli._run_folder import RunFolder
from parallel_lenet.runs import LAST, PREVIOUS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="folders and links as on POSIX"),
]
OPTIONS = ("--data-dir", "data", "--kernel", "im2col", "--batch-size", "10", "--engine", "serial")


def coordinator() -> Coordinator:
    return Coordinator(lenet5(), SGD(), engine="serial")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for two checkpoints of this network, and not for a third."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2000k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_a_run_with_one_sentence_and_the_last_checkpoint(disk: Path, tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 60, 20)
    arguments = ("train", *OPTIONS, "--epochs", "5", "--checkpoint-every", "1", "--validation", "0.2")
    result = run(tmp_path, *arguments, "--out", str(disk / "run"), code=1)
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"parallel-lenet: {disk / 'run'}/")
    assert last.endswith(os.strerror(errno.ENOSPC))
    assert {file.name for file in (disk / "run").iterdir()} <= FILES
    assert archive.load(disk / "run" / LAST)[1]["step"] >= 1
    assert archive.load(disk / "run" / PREVIOUS)
    resumed = run(tmp_path, "train", "--resume", str(disk / "run"), code=1)
    assert resumed.stderr.splitlines()[-1].endswith(os.strerror(errno.ENOSPC))
    archive.load(disk / "run" / LAST)


@pytest.mark.parametrize("name", ["checkpoint.npz", "best.npz", "config.toml"])
def test_so_does_any_file_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    write_idx(tmp_path / "data", 60, 20)
    program = f"""
import errno, os, sys
from parallel_lenet import archive
from parallel_lenet.cli import main, _run_folder
write, written = archive.write_atomically, []
def fail(path, content):
    if path.name == {name!r}:
        written.append(path)
    if len(written) == {2 if name == "checkpoint.npz" else 1}:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
    write(path, content)
archive.write_atomically = _run_folder.write_atomically = fail
sys.exit(main(["train", *{OPTIONS!r}, "--epochs", "2", "--validation", "0.2", "--out", "r"]))
"""
    (tmp_path / "program.py").write_text(program)
    result = run(tmp_path, "program.py", command=PYTHON, code=1)
    assert result.stderr.splitlines()[-1] == f"parallel-lenet: r/{name}: {os.strerror(errno.EROFS)}"
    if name != "config.toml":
        archive.load(tmp_path / "r" / LAST)


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    c = coordinator()
    for number in range(3):
        folder.save(c, {"number": number})
    assert archive.load(tmp_path / LAST)[1]["user"] == {"number": 2}
    assert archive.load(tmp_path / PREVIOUS)[1]["user"] == {"number": 1}
    assert sorted(os.listdir(tmp_path)) == [LAST, PREVIOUS]


def test_a_disk_without_links_keeps_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    test_the_last_two_checkpoints_are_kept(tmp_path)


def test_an_earlier_checkpoint_that_is_taken_is_not_pushed_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    c = coordinator()
    for number in range(2):
        folder.save(c, {"number": number})
    (tmp_path / LAST).write_bytes(b"damaged")
    folder.make_last(tmp_path / PREVIOUS)
    folder.save(c, {"number": 2})
    assert [archive.load(tmp_path / name)[1]["user"]["number"] for name in (LAST, PREVIOUS)] == [2, 0]
    folder.make_last(tmp_path / PREVIOUS)
    folder.make_last(tmp_path / PREVIOUS)  # Both are one file now.
    assert sorted(os.listdir(tmp_path)) == [LAST, PREVIOUS]


def test_one_program_holds_a_folder(tmp_path: Path) -> None:
    first = RunFolder(tmp_path)
    with pytest.raises(UsageError, match="is being written by another training run"):
        RunFolder(tmp_path)
    assert first.path == tmp_path
