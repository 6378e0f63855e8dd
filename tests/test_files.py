"""Files written whole or not at all, on file systems that can't do what is optional."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parallel_lenet.files import add_name, write_atomically

pytestmark = pytest.mark.skipif(os.name != "posix", reason="as on POSIX")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is flushed and renamed, in order."""
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        seen.append("flush folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "flush file")
        fsync(descriptor)

    def record_replace(source: Any, target: Any) -> None:
        seen.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    return seen


def refuse(
    monkeypatch: pytest.MonkeyPatch, name: str, number: int, when: Callable[..., bool] = lambda *_: True
) -> None:
    """Let a function of ``os`` fail, as a file system that doesn't support it would."""
    real = getattr(os, name)

    def fail(*arguments: Any, **options: Any) -> Any:
        if when(*arguments):
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, fail)


def is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def test_the_content_is_on_the_disk_before_the_name_and_then_the_name_is(tmp_path: Path, calls: list[str]) -> None:
    write_atomically(tmp_path / "f", b"1")
    assert calls == ["flush file", "rename", "flush folder"]
    calls.clear()
    add_name(tmp_path / "f", tmp_path / "g")
    assert calls == ["rename", "flush folder"]


def test_nobody_can_foresee_the_temporary_name_and_a_link_there_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    replace = os.replace
    monkeypatch.setattr(
        os, "replace", lambda source, target: (names.append(Path(source).name), replace(source, target))
    )
    for _ in range(20):
        write_atomically(tmp_path / "f", b"1")
    assert len(set(names)) == 20
    for position in range(-16, 0):  # 64 bits, none of them always the same.
        assert len({name[position] for name in names}) > 3
    monkeypatch.setattr("parallel_lenet.files.secrets.token_hex", lambda _: "0" * 16)
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / f".f.{'0' * 16}").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "f", b"theirs")
    assert (tmp_path / "victim").read_bytes() == b"mine"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_file_system_without_fsync_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    refuse(monkeypatch, "fsync", number, lambda descriptor: is_folder(descriptor) == (what == "folder"))
    write_atomically(tmp_path / "f", b"1")
    assert (tmp_path / "f").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "f").write_bytes(b"old")
    refuse(monkeypatch, "fsync", number, lambda descriptor: not is_folder(descriptor))
    with pytest.raises(OSError, match=f"{os.strerror(number)}: '{tmp_path}/f'"):
        write_atomically(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_folder_that_may_be_written_but_not_read_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "open", errno.EACCES, lambda path, *_: os.path.isdir(path))  # Root may read any.
    write_atomically(tmp_path / "f", b"1")
    assert (tmp_path / "f").read_bytes() == b"1"


def test_permissions_stay_where_they_can_and_never_run_with_the_rights_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0")
    for mode, kept in ((0o640, 0o640), (0o444, 0o444), (0o666, 0o666), (0o6755, 0o755), (0o1777, 0o777)):
        path.chmod(mode)
        write_atomically(path, b"1")
        assert stat.S_IMODE(path.stat().st_mode) == kept
    path.chmod(0o600)
    refuse(monkeypatch, "chmod", errno.EPERM)
    write_atomically(path, b"2")
    assert path.read_bytes() == b"2"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600  # Not what the umask would give: others could read it.


@pytest.mark.parametrize("dangling", [False, True])
def test_a_symbolic_link_stays_one_and_its_target_gets_the_content(tmp_path: Path, dangling: bool) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "link").symlink_to("again")
    (tmp_path / "again").symlink_to(disk / "f")
    if not dangling:
        (disk / "f").write_bytes(b"old")
    write_atomically(tmp_path / "link", b"new")
    assert (disk / "f").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "again").is_symlink()
    assert os.listdir(disk) == ["f"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_kept_under_another_name_does_not_change_with_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        refuse(monkeypatch, "link", errno.EPERM)
        refuse(monkeypatch, "chmod", errno.EPERM)
    (tmp_path / "disk").mkdir()
    last, before = tmp_path / "last", tmp_path / "before"
    last.symlink_to(tmp_path / "disk" / "f")
    for content in (b"1", b"2", b"3"):
        if last.exists():
            add_name(last, before)
        write_atomically(last, content)
    add_name(last, last)
    assert (last.read_bytes(), before.read_bytes()) == (b"3", b"2")
    assert last.is_symlink()
    assert not before.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["before", "disk", "last"]


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("ü" * 127), b"1")
    assert (tmp_path / ("ü" * 127)).read_bytes() == b"1"


def test_what_is_not_a_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=f"{tmp_path}/{name}"):
            write_atomically(tmp_path / name, b"1")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(OSError, match="/dev/null"):
        write_atomically(Path("/dev/null"), b"1")


def test_a_file_never_takes_the_descriptor_of_a_closed_standard_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What anyone prints would be written into it."""
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    kept = os.dup(0)
    os.close(0)
    try:
        write_atomically(tmp_path / "file", b"content")
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(0)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert flushed
    assert flushed[0] > 2
