"""Writes files completely or not at all. Features that the file system lacks are skipped."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from parallel_lenet.descriptors import above_standard

_NAME_MAX = 255  # Bytes of a file's name, on most file systems.
_PERMISSIONS = 0o777  # Without set-uid, set-gid and sticky: new content must not run with another user's rights.
# Errors of fsync that mean lost data. Any other one means that the file system does not support it.
_DATA_LOSS = (errno.EIO, errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file or leave it unchanged: write a temporary file beside it, flush it to the disk, and rename it.

    If ``path`` is a symbolic link, it stays one, and its target is replaced. A new file's permissions follow the umask,
    as with `open`. A replaced file keeps its own, as far as the file system allows. Raises OSError, which names the
    file, if it can't be written.
    """
    with _name_in_errors(path), above_standard():
        target = _target(path)
        before = _permissions(target)
        temporary = _temporary(target)
        try:
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, before or 0o666)) as file:
                if before is not None:
                    with suppress(OSError):
                        os.chmod(temporary, before)
                file.write(content)
                file.flush()
                _flush_to_disk(file.fileno())
            _rename(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def add_name(source: Path, path: Path) -> None:
    """Give the file ``source`` a second name, ``path``, completely or not at all.

    The two are one file if the file system has links. A later `write_atomically` of one does not change the other.
    """
    with _name_in_errors(path):
        target = _target(path)
        temporary = _temporary(target)
        try:
            try:
                os.link(_target(source), temporary)
            except OSError:
                write_atomically(path, source.read_bytes())
            else:
                _rename(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)  # It remains after an error, and if both were one file already.


def append_line(path: Path, line: str) -> None:
    """Append a line to a file: all of it or, if the disk is full, nothing.

    If the last line has no end, because a program was killed while it wrote, it gets one. Raises OSError, which names
    the file, if it can't be written.
    """
    with _name_in_errors(path), path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
        content = (b"" if not size or file.read(1) == b"\n" else b"\n") + line.encode() + b"\n"
        try:
            while content:
                content = content[file.write(content) :]
        except BaseException:
            file.truncate(size)
            raise


@contextmanager
def _name_in_errors(path: Path) -> Iterator[None]:
    """Let an OSError name this file. It may name a temporary file, or none if the disk is full."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _target(path: Path) -> Path:
    """The file at the end of symbolic links. Raises OSError if it exists and is not a regular file."""
    target = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        mode = target.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file")
    return target


def _permissions(target: Path) -> int | None:
    """The permissions of a file, or None if it does not exist."""
    try:
        return stat.S_IMODE(target.stat().st_mode) & _PERMISSIONS
    except FileNotFoundError:
        return None


def _temporary(target: Path) -> Path:
    """A new, unpredictable name in the folder of the target."""
    ending = f".{secrets.token_hex(8)}"
    name = os.fsencode(target.name)[: _NAME_MAX - len(ending) - 1]
    return target.with_name(f".{os.fsdecode(name)}{ending}")


def _flush_to_disk(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _DATA_LOSS:
            raise


def _rename(temporary: Path, target: Path) -> None:
    """Replace the target by the temporary file, and flush the folder to the disk if that is possible."""
    os.replace(temporary, target)
    if os.name != "posix":  # Windows can't open folders.
        return
    try:
        folder = os.open(target.parent, os.O_RDONLY)
    except OSError:  # It may be written but not read.
        return
    try:
        _flush_to_disk(folder)
    finally:
        os.close(folder)
