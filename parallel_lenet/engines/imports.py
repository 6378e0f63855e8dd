"""What a worker needs to import what the program has imported: from wherever, and whatever has changed since.

A worker gets the program's import path with relative entries resolved, and the files of those modules that a search
along this path would not find: a module that was loaded by its path, a folder that has left ``sys.path``, a module of
the standard library that a file beside a notebook hides. Modules without a file travel with the model.
"""

import io
import os
import pickle
import sys
import sysconfig
from collections import ChainMap
from collections.abc import Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from parallel_lenet.engines.copying import copied
from parallel_lenet.model import Model

LARGEST = 1 << 20  # Bytes that the code of the user's modules, with the globals it uses, may add to a model.


def _absolute(entry: str) -> str:
    """An entry of ``sys.path`` as it is meant now; what is not a folder or file is left alone (an import hook)."""
    try:
        absolute = os.path.abspath(entry)
    except OSError:  # The working directory has been removed.
        return entry
    return absolute if os.path.exists(absolute) else entry


_meant: dict[str, dict[str, None]] = {}
"""For each entry of ``sys.path`` the folders that it has meant, in this order: another in each working directory."""


def import_path() -> list[str]:
    """``sys.path`` with each relative entry replaced by what it meant whenever this function was called."""
    path: dict[str, None] = {}
    for entry in sys.path:
        if isinstance(entry, str):
            _meant.setdefault(entry, {})[_absolute(entry)] = None
            path |= _meant[entry]
    return list(path)


import_path()  # The working directory may change before a coordinator is made.


class Imports(NamedTuple):
    """How to import what the program has imported."""

    path: list[str]
    """For ``sys.path``."""
    files: dict[str, str]
    """For each module that is not found along the path: its file, which is __init__.py for a package."""


def _contents(name: str) -> dict[str, Any]:
    """What a loaded module contains, read without triggering a module that loads lazily."""
    try:
        contents = object.__getattribute__(sys.modules.get(name), "__dict__")
    except AttributeError:  # Not every object in sys.modules has one: cffi's libraries, for example.
        return {}
    return contents if isinstance(contents, dict) else {}


def _file(name: str, contents: dict[str, Any]) -> str | None:
    """The source or binary that a module was loaded from, if it was."""
    spec = contents.get("__spec__")
    if isinstance(spec, ModuleSpec):
        return spec.origin if spec.has_location and spec.name == name else None
    file = contents.get("__file__")
    return os.path.abspath(file) if isinstance(file, str) and file.endswith(".py") else None


def _is_package(file: str) -> bool:
    return os.path.basename(file).startswith("__init__.")


def _found(name: str, file: str, path: Sequence[str]) -> bool:
    """Whether ``import`` finds this file under this name."""
    package = name.rpartition(".")[0]
    if not package:
        spec = PathFinder.find_spec(name, path)
        return spec is not None and spec.origin == file
    folder = os.path.dirname(file)
    return (os.path.dirname(folder) if _is_package(file) else folder) in _contents(package).get("__path__", ())


def _package_found(name: str, path: Sequence[str]) -> bool:
    """Whether ``import`` finds the outermost package of the module: pickle needs it for a class of the module."""
    outermost, dot, _ = name.partition(".")
    return not dot or outermost in sys.modules or PathFinder.find_spec(outermost, path) is not None


def _imports() -> tuple[Imports, list[str], list[str]]:
    """How workers import; the modules that they cannot import at all, since no file holds them; those of the user."""
    path = import_path()
    state = _State(path, [_changed(entry) for entry in path], list(sys.modules), list(map(id, sys.modules.values())))
    if not _last or _last[0] != state or not all(map(os.path.exists, _last[1].files.values())):
        _last[:] = state, *_search(path)
    return _last[1], _last[2], _last[3]


class _State(NamedTuple):
    """What a search for the program's modules depends on."""

    path: list[str]
    changed: list[int]
    modules: list[str]
    identities: list[int]


_last: list[Any] = []
"""The state and the result of the last search: with a thousand modules one takes 15 ms, and every call needs it."""


def _changed(entry: str) -> int:
    """When a file was last added to this folder, or removed, in nanoseconds; 0 if there is no such folder."""
    try:
        return os.stat(entry).st_mtime_ns
    except OSError:
        return 0


def _search(path: list[str]) -> tuple[Imports, list[str], list[str]]:
    files: dict[str, str] = {}
    without = []
    users = []
    for name in list(sys.modules):
        contents = _contents(name)
        if contents.get("__name__") != name or name == "__main__":  # An alias; or the program, which travels whole.
            continue
        file = _file(name, contents)
        if _is_the_users(file):
            users.append(name)
        if file is not None and _found(name, file, path):
            continue
        if not _package_found(name, path):
            without.append(name)
        elif file is not None and os.path.exists(file):
            files[name] = file
        elif file is not None or (contents.get("__spec__") is None and "." not in name):
            without.append(name)
    return Imports(path, files), without, users


_LIBRARIES = tuple(
    {os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__))) + os.sep


def _is_the_users(file: str | None) -> bool:
    """Whether a source file belongs to the user's program: it may change, and what it defined may be replaced."""
    if file is None or not file.endswith(".py"):
        return False
    file = os.path.realpath(file)
    return not file.startswith((*_LIBRARIES, _PACKAGE)) and f"{os.sep}site-packages{os.sep}" not in file


def _cloudpickle() -> Any:
    """The one that joblib uses: its own copy, or since version 1.6 the package."""
    try:
        from joblib.externals import cloudpickle  # Lazily: 0.1 s that only worker processes need.
    except ImportError:
        import cloudpickle
    return cloudpickle


def pickle_model(model: Model) -> bytes:
    """The model for `unpickle_model`. Classes and functions of the user's modules travel whole, as they are now.

    A worker that imported them would have what the file says, not what the program has made of it: a method replaced in
    a notebook, an attribute of the class, a file that was edited meanwhile. If the modules hold what cannot be pickled,
    such as a lock, or more than `LARGEST` bytes, the worker imports them all the same.

    Raises TypeError, which names the attribute, if the model cannot be pickled.
    """
    imports, without, users = _imports()
    try:
        pickled = _dumps(model, [*without, *users])
    except Exception:  # What their globals hold may fail to pickle in any way.
        pickled = copied(model, lambda each: _dumps(each, without))
    if len(pickled) > LARGEST:
        imported = _dumps(model, without)
        if len(imported) + LARGEST < len(pickled):
            pickled = imported
    return pickle.dumps((imports, pickled))


@cache
def _pickler() -> Any:
    """Cloudpickle's, but code keeps the name of its file: a traceback from a worker shows the line."""
    cloudpickle = _cloudpickle()
    usual = cloudpickle.Pickler.dispatch_table
    reduce = usual[CodeType]

    def named(code: CodeType) -> tuple[Any, ...]:
        make, arguments = reduce(code)[:2]
        return make, tuple(code.co_filename if each == "<dynamic-code>" else each for each in arguments)

    return type("Pickler", (cloudpickle.Pickler,), {"dispatch_table": ChainMap({CodeType: named}, usual)})


def _dumps(model: Any, by_value: Sequence[str]) -> bytes:
    cloudpickle = _cloudpickle()
    modules = [sys.modules[name] for name in by_value if name in sys.modules]
    known = cloudpickle.list_registry_pickle_by_value()
    modules = [module for module in modules if module.__name__ not in known]
    try:
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        pickler, stream = _pickler(), io.BytesIO()
        pickler(stream).dump(model)
        return stream.getvalue()
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


class _Files:
    """Finds modules by `Imports.files`, before the import path is searched."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        file = self.files.get(name)
        if file is not None:
            folder = [os.path.dirname(file)] if _is_package(file) else None
            return spec_from_file_location(name, file, submodule_search_locations=folder)
        if any(known.startswith(f"{name}.") for known in self.files) and PathFinder.find_spec(name, path) is None:
            return ModuleSpec(name, None, is_package=True)  # The package of such a module, which has no file itself.
        return None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError) as error:
            message = f"a worker cannot import {name} from the module {module}: {error}"
            raise ImportError(message, name=module) from error


_files = _Files()
"""Of this process, if it is a worker."""


def unpickle_model(message: bytes) -> Model:
    """The model, imported as the program does it; ImportError, which names module and class, if that fails."""
    imports, model = pickle.loads(message)
    sys.path[:] = imports.path
    _files.files = imports.files
    if _files not in sys.meta_path:
        sys.meta_path.insert(0, _files)
    # Cloudpickle would know again a class that has come before, and change it to what it is now. But a context that is
    # still open has to keep the class as it was.
    for name in ("cloudpickle.cloudpickle", "joblib.externals.cloudpickle.cloudpickle"):
        getattr(sys.modules.get(name), "_DYNAMIC_CLASS_TRACKER_BY_ID", {}).clear()
    unpickled: Model = _Unpickler(io.BytesIO(model)).load()
    return unpickled
