"""Where Numba's machine code is kept on disk: Numba's own cache, except that its failures only cost time.

Every file begins with the SHA-256 of its content, so damaged code is never run. Code that cannot be read is compiled
again and written again. Code that cannot be written is compiled by each process. The first failure is logged as a
warning, and the first compilation of a process as information.
"""

import hashlib
import io
import logging
import os
import pickle
import stat
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

from numba.core import caching, config
from numba.core.registry import cpu_target

from parallel_lenet.optional import reason

_DIGEST = hashlib.sha256().digest_size
_ROOM = 4_000_000  # Bytes: twice as many as all functions take.
_LOGGER = logging.getLogger("parallel_lenet")

_refusals: dict[str, Exception] = {}
"""Folders that cannot be written, and why."""
_notes: list[str] = []
"""The warning of this process, if there was one."""
_caches: dict[Any, "FunctionCache"] = {}
"""By Numba's dispatcher of the function."""


def keep(dispatcher: Any) -> None:
    """Keep the code that Numba compiles for this function in the first folder that can be written.

    That is a folder in ``NUMBA_CACHE_DIR``, or beside the source, or in the user's cache folder. The code that is there
    is checked at once, so that the coordinator's process reports damage, which workers would find otherwise.
    """
    try:
        dispatcher._cache = kept = FunctionCache(dispatcher.py_func)
    except RuntimeError:  # There is no such folder.
        tried = ", ".join(f"{folder} ({_text(error)})" for folder, error in _refusals.items())
        _note(f"compiled code cannot be kept in {tried or 'any folder'}; each process compiles it anew")
        return
    provided = config.CACHE_DIR  # type: ignore[attr-defined]
    if provided and not kept.cache_path.startswith(provided):
        folder, error = next(iter(_refusals.items()))
        _note(f"compiled code cannot be kept in {folder} ({_text(error)}), but is in {kept.cache_path}")
    _caches[dispatcher] = kept
    kept.check()


def is_kept(dispatcher: Any, number: Any) -> bool:
    """Whether code for arrays of ``number`` (Numba's type) and this processor is in memory or on disk."""
    if any(types[0].dtype == number for types in dispatcher.signatures):
        return True
    return dispatcher in _caches and _caches[dispatcher].holds(number)


def folders() -> list[str]:
    """Where code is kept."""
    return sorted({kept.cache_path for kept in _caches.values()})


@cache
def _note_compiling() -> None:
    _LOGGER.info("compiling the kernels for this machine; the code is kept for later runs ...")


def _note(text: str) -> None:
    if not _notes:  # One is enough: the others have the same reason.
        _notes.append(text)
        _LOGGER.warning(text)


def _text(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else reason(error)


class FunctionCache(caching.FunctionCache):
    """The cache of one function. Raises RuntimeError if no folder can be written."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        # Other files than the function's own are compiled into it.
        stamp = (self._impl.locator.get_source_stamp(), _sources())
        self._cache_file: _Files = _Files(self._cache_path, self._impl.filename_base, stamp)

    def check(self) -> None:
        """Log damage and remove the damaged code. If there is no code yet, log if there is no room for it."""
        try:
            if not self._cache_file.check():
                _check_room(self.cache_path)
        except Exception as error:
            self._unreadable(error)

    def holds(self, number: Any) -> bool:
        """Whether code for arrays of ``number`` and this processor is kept. False if the index cannot be read."""
        processor = cpu_target.target_context.codegen().magic_tuple()
        try:
            index = self._cache_file.index()
            return any(types[0].dtype == number and made_for == processor for types, made_for, _ in index)
        except Exception:  # A damaged file raises anything.
            return False

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The code for these types, or None if it has to be compiled, which Numba does next."""
        code = None
        try:
            code = super().load_overload(signature, target)
        except Exception as error:  # A damaged file raises anything.
            self._unreadable(error)
        if code is None:
            _note_compiling()
        return code

    def save_overload(self, signature: Any, code: Any) -> None:
        try:
            super().save_overload(signature, code)
        except Exception as error:
            _unwritable(self.cache_path, error)

    def _unreadable(self, error: Exception) -> None:
        _note(f"compiled code in {self.cache_path} cannot be used ({_text(error)}); it is compiled anew")
        with suppress(Exception):
            self.flush()  # Otherwise the damaged index would prevent saving, too.


@cache
def _check_room(folder: str) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_ROOM))
    except OSError as error:
        _unwritable(folder, error)


def _unwritable(folder: str, error: Exception) -> None:
    _note(f"compiled code cannot be kept in {folder} ({_text(error)}); each process compiles it anew")


@cache
def _sources() -> str:
    """A digest of all files of this package, or of no files if they are in an archive."""
    try:
        files = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    except OSError:
        files = []
    return hashlib.sha256(b"".join(files)).hexdigest()


class _Files(caching.IndexDataCacheFile):
    """The files of one function: an index from (types, processor, code) to names of files, and these files."""

    def index(self) -> dict[Any, str]:
        """Names of files by (types, processor, hashes of the code). Empty if nothing is kept."""
        return self._load_index()

    def save(self, key: Any, data: Any) -> None:
        """Write the code into a file that is named after the key.

        Numba numbers the files instead: two processes that compile for different types at once would use the same name,
        and one would later run the other's code.
        """
        name = f"{self._index_name.removesuffix('.nbi')}.{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc"
        self._save_data(name, data)
        self._save_index({**self._load_index(), key: name})

    def check(self) -> bool:
        """Whether any code is kept. Raises an exception if some of it is damaged."""
        names = set(self._load_index().values())
        for name in names:
            with suppress(FileNotFoundError):  # It is compiled again.
                _read(self._data_path(name))
        return bool(names)

    def _load_index(self) -> dict[Any, str]:
        try:
            stream = io.BytesIO(_read(self._index_path))
        except FileNotFoundError:
            return {}
        if pickle.load(stream) != self._version:
            return {}  # From another version of Numba, which may have pickled the rest in another way.
        stamp, overloads = pickle.load(stream)
        return cast(dict[Any, str], overloads) if stamp == self._source_stamp else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, pickle.dumps(self._version) + self._dump((self._source_stamp, overloads)))

    def _load_data(self, name: str) -> Any:
        return pickle.loads(_read(self._data_path(name)))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), self._dump(data))

    def _write(self, path: str, content: bytes) -> None:
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(content).digest() + content)


def _read(path: str) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):  # Opening a pipe would wait for its writer.
        raise OSError(0, "not a regular file")
    content = Path(path).read_bytes()
    if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
        raise OSError(0, "it is damaged")
    return content[_DIGEST:]


class _CheckedLocator:
    """Wraps a locator of Numba: records why a folder is refused, and refuses a folder called ``~``.

    Without a home folder Numba would make that folder in the current one.
    """

    def ensure_cache_path(self: Any) -> None:
        folder = self.get_cache_path()
        try:
            if folder.startswith("~"):
                raise FileNotFoundError(0, "there is no home folder")
            super().ensure_cache_path()  # type: ignore[misc]
        except OSError as error:
            _refusals[folder] = error
            raise


class _Locations(caching.CompileResultCacheImpl):
    """The folders to try, and names of files that differ from those of Numba's own format."""

    def get_filename_base(self, name: str, flags: str) -> str:
        return f"{super().get_filename_base(name, flags)}-checked"


_Locations._locator_classes = [
    type(locator.__name__, (_CheckedLocator, locator), {})  # type: ignore[misc]
    for locator in caching.CacheImpl._locator_classes
]
FunctionCache._impl_class = _Locations
