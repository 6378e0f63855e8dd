"""Python files of the user that are named by their path: kernels and models. A failure in one becomes a sentence."""

import hashlib
import os
import re
import sys
import sysconfig
import traceback
from types import ModuleType

_LIBRARIES = (os.path.dirname(os.path.abspath(__file__)) + os.sep, sysconfig.get_paths()["stdlib"] + os.sep, "<")
"""The folders of code that is not the user's: this package and the standard library."""

DIGITS = 16  # Of a file's SHA-256, in names and errors.


class UserFileError(ValueError):
    """A file of the user's that can't be read, run or used. The message names it, and the line if there is one."""


def read(path: str) -> bytes:
    """The file's bytes. Raises UserFileError if it can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise UserFileError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error


def digest(source: bytes) -> str:
    """The beginning of the SHA-256, to tell whether a file has changed."""
    return hashlib.sha256(source).hexdigest()[:DIGITS]


def run(path: str, source: bytes, name: str) -> ModuleType:
    """The file's module under this name, run as a program would be: modules beside the file can be imported.

    Raises UserFileError, with the line, if it cannot be compiled or raises anything.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except BaseException as error:
        del sys.modules[name]
        raise UserFileError(error_text(path, error)) from error
    return module


def error_text(path: str, error: BaseException) -> str:
    """An exception that code of the file raised, with its line: ``FILE, line N: ValueError: ...``."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"{path}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    line = line_in(path, error)
    place = f", line {line}" if line else ""
    text = " ".join(str(error).split())
    samples = [note for note in getattr(error, "__notes__", []) if note.startswith("On sample")]
    where = f" (on {samples[0][3:].rstrip('.')})" if samples else ""
    return f"{path}{place}: {type(error).__name__}{f': {text}' if text else ''}{where}"


def origin(error: BaseException) -> str:
    """Where in the user's code an exception comes from: `` in FILE, line N``, or "" if that is not known."""
    places = [
        f" in {frame.filename}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_LIBRARIES) and f"{os.sep}site-packages{os.sep}" not in frame.filename
    ]
    return places[-1] if places else ""


def line_in(path: str, error: BaseException) -> int | None:
    """The line of the file that an exception comes from, also if a worker raised it, or None if it has none."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    for note in getattr(error, "__notes__", []):  # The traceback of a worker.
        lines += [int(number) for number in re.findall(rf'File "{re.escape(path)}", line (\d+)', note)]
    return lines[-1] if lines else None
