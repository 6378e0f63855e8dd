"""Where Numba's machine code is kept on disk: Numba's own cache, except that its failures only cost time.

Every file begins with the SHA-256 of its content, so damaged code is never run. What cannot be read is compiled anew
and written again; what cannot be written is compiled by each process. The first failure is logged as a warning.
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

from parallel_lenet.optional import reason

_DIGEST = hashlib.sha256().digest_size
_ROOM = 4_000_000  # Bytes: twice what all functions take.

_refused: dict[str, Exception] = {}
"""Folders that cannot be written, and why."""
_noted: list[str] = []


def keep(dispatcher: Any) -> None:
    """Have what Numba compiles for this function kept, in the first folder that can be written.

    That is a folder in ``NUMBA_CACHE_DIR``, or beside the source, or in the user's cache folder. Looks at what is kept
    there already, so that the coordinator's process finds what would only meet its workers.
    """
    try:
        dispatcher._cache = kept = FunctionCache(dispatcher.py_func)
    except RuntimeError:  # There is no such folder.
        tried = ", ".join(f"{folder} ({_text(error)})" for folder, error in _refused.items())
        _note(f"compiled code cannot be kept in {tried or 'any folder'}; each process compiles it anew")
        return
    provided = config.CACHE_DIR  # type: ignore[attr-defined]
    if provided and not kept.cache_path.startswith(provided):
        folder, error = next(iter(_refused.items()))
        _note(f"compiled code cannot be kept in {folder} ({_text(error)}), but is in {kept.cache_path}")
    kept.check()


def _note(text: str) -> None:
    if not _noted:  # One is enough: the others have the same reason.
        _noted.append(text)
        logging.getLogger("parallel_lenet").warning(text)


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
        """Log what is damaged and remove it; if nothing is kept yet, log that there is no room for it."""
        try:
            if not self._cache_file.check():
                _check_room(self.cache_path)
        except Exception as error:
            self._unreadable(error)

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The code for these types, or None if there is none that can be used."""
        try:
            return super().load_overload(signature, target)
        except Exception as error:  # A damaged file raises anything.
            self._unreadable(error)
            return None

    def save_overload(self, signature: Any, code: Any) -> None:
        """Keep the code for the next process."""
        try:
            super().save_overload(signature, code)
        except Exception as error:
            _unwritable(self.cache_path, error)

    def _unreadable(self, error: Exception) -> None:
        _note(f"compiled code in {self.cache_path} cannot be used ({_text(error)}); it is compiled anew")
        with suppress(Exception):
            self.flush()  # Else its damaged index would prevent saving, too.


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
    """A digest of all files of this package; of none if they are in an archive."""
    try:
        files = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    except OSError:
        files = []
    return hashlib.sha256(b"".join(files)).hexdigest()


class _Files(caching.IndexDataCacheFile):
    """An index, from types and processor to the name of a file with the code, and these files."""

    def save(self, key: Any, data: Any) -> None:
        """Write the code into a file that is named after the key.

        Numba counts files instead. Two processes that compile for different types at once would take the same name, and
        one would later run the other's code.
        """
        name = f"{self._index_name.removesuffix('.nbi')}.{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc"
        self._save_data(name, data)
        self._save_index({**self._load_index(), key: name})

    def check(self) -> bool:
        """Whether anything is kept. Raises an exception if any of it is damaged."""
        names = set(self._load_index().values())
        for name in names:
            with suppress(FileNotFoundError):  # It is compiled anew, as if it had never been.
                _read(self._data_path(name))
        return bool(names)

    def _load_index(self) -> dict[Any, str]:
        try:
            stream = io.BytesIO(_read(self._index_path))
        except FileNotFoundError:
            return {}
        if pickle.load(stream) != self._version:
            return {}  # Of another Numba, which may have pickled the rest in another way.
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
    if not stat.S_ISREG(os.stat(path).st_mode):  # To open a pipe would wait for its writer.
        raise OSError(0, "not a regular file")
    content = Path(path).read_bytes()
    if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
        raise OSError(0, "it is damaged")
    return content[_DIGEST:]


class _Checked:
    """In front of a locator of Numba: remembers why a folder is refused, and refuses one called ``~``.

    Without a home folder Numba would make that one in the current folder.
    """

    def ensure_cache_path(self: Any) -> None:
        folder = self.get_cache_path()
        try:
            if folder.startswith("~"):
                raise FileNotFoundError(0, "there is no home folder")
            super().ensure_cache_path()  # type: ignore[misc]
        except OSError as error:
            _refused[folder] = error
            raise


class _Locations(caching.CompileResultCacheImpl):
    """Which folders there are, and names for the files that are not those of Numba's own format."""

    def get_filename_base(self, name: str, flags: str) -> str:
        return f"{super().get_filename_base(name, flags)}-checked"


_Locations._locator_classes = [
    type(locator.__name__, (_Checked, locator), {})  # type: ignore[misc]
    for locator in caching.CacheImpl._locator_classes
]
FunctionCache._impl_class = _Locations
