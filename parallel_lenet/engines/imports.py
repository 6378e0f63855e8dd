"""Lets workers import the program's modules, and pickles models with their code.

A worker gets the program's import path with relative entries resolved. It also gets the files of the modules that a
search along this path would not find. Such a module was loaded by its path, or its folder was removed from
``sys.path``, or a file beside a notebook hides it. Modules without a file are sent with the model.
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

from parallel_lenet.engines.copying import copy_model
from parallel_lenet.model import Model

LARGEST = 1 << 20  # Bytes that the code of the user's modules, with the globals it uses, may add to a pickled model.


def _absolute(entry: str) -> str:
    """The absolute path of an entry of ``sys.path``, or the entry itself if it is neither a folder nor a file."""
    try:
        absolute = os.path.abspath(entry)
    except OSError:  # The working directory has been removed.
        return entry
    return absolute if os.path.exists(absolute) else entry


_folders: dict[str, dict[str, None]] = {}
"""The folders of each entry of ``sys.path`` so far: those of a relative one depend on the working directory."""


def import_path() -> list[str]:
    """``sys.path`` with each relative entry replaced by its folders in all calls of this function."""
    path: dict[str, None] = {}
    for entry in sys.path:
        if isinstance(entry, str):
            _folders.setdefault(entry, {})[_absolute(entry)] = None
            path |= _folders[entry]
    return list(path)


import_path()  # The working directory may change before a coordinator is created.


class Imports(NamedTuple):
    """How to import the program's modules."""

    path: list[str]
    """The entries for ``sys.path``."""
    files: dict[str, str]
    """The files of the modules that are not found along the path, by module. A package has its __init__.py."""


def _contents(name: str) -> dict[str, Any]:
    """The globals of a loaded module, read so that a module that loads lazily is not loaded."""
    try:
        contents = object.__getattribute__(sys.modules.get(name), "__dict__")
    except AttributeError:  # Not every object in sys.modules has one: cffi's libraries, for example.
        return {}
    return contents if isinstance(contents, dict) else {}


def _file(name: str, contents: dict[str, Any]) -> str | None:
    """The source or binary file that a module was loaded from, or None if there is none."""
    spec = contents.get("__spec__")
    if isinstance(spec, ModuleSpec):
        return spec.origin if spec.has_location and spec.name == name else None
    file = contents.get("__file__")
    return os.path.abspath(file) if isinstance(file, str) and file.endswith(".py") else None


def _is_package(file: str) -> bool:
    return os.path.basename(file).startswith("__init__.")


def _is_found(name: str, file: str, path: Sequence[str]) -> bool:
    """Whether ``import`` finds this file under this name."""
    package = name.rpartition(".")[0]
    if not package:
        spec = PathFinder.find_spec(name, path)
        return spec is not None and spec.origin == file
    folder = os.path.dirname(file)
    return (os.path.dirname(folder) if _is_package(file) else folder) in _contents(package).get("__path__", ())


def _is_package_found(name: str, path: Sequence[str]) -> bool:
    """Whether ``import`` finds the outermost package of the module: pickle needs it for a class of the module."""
    outermost, dot, _ = name.partition(".")
    return not dot or outermost in sys.modules or PathFinder.find_spec(outermost, path) is not None


def _imports() -> tuple[Imports, list[str], list[str]]:
    """How workers import, the modules that they cannot import because these have no file, and the user's modules."""
    path = import_path()
    state = _State(
        path, [_change_time(entry) for entry in path], list(sys.modules), list(map(id, sys.modules.values()))
    )
    if not _last_search or _last_search[0] != state or not all(map(os.path.exists, _last_search[1].files.values())):
        _last_search[:] = state, *_search(path)
    return _last_search[1], _last_search[2], _last_search[3]


class _State(NamedTuple):
    """Everything that a search for the program's modules depends on."""

    path: list[str]
    change_times: list[int]
    modules: list[str]
    identities: list[int]


_last_search: list[Any] = []
"""The state and the result of the last search. Each call needs one, and with a thousand modules it takes 15 ms."""


def _change_time(entry: str) -> int:
    """When a file was last added to this folder or removed, in nanoseconds, or 0 if there is no such folder."""
    try:
        return os.stat(entry).st_mtime_ns
    except OSError:
        return 0


def _search(path: list[str]) -> tuple[Imports, list[str], list[str]]:
    files: dict[str, str] = {}
    without_file = []
    user_modules = []
    for name in list(sys.modules):
        contents = _contents(name)
        if contents.get("__name__") != name or name == "__main__":  # An alias, or the program itself.
            continue
        file = _file(name, contents)
        if _is_the_users(file):
            user_modules.append(name)
        if file is not None and _is_found(name, file, path):
            continue
        if not _is_package_found(name, path):
            without_file.append(name)
        elif file is not None and os.path.exists(file):
            files[name] = file
        elif file is not None or (contents.get("__spec__") is None and "." not in name):
            without_file.append(name)
    return Imports(path, files), without_file, user_modules


_LIBRARIES = tuple(
    {os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__))) + os.sep


def _is_the_users(file: str | None) -> bool:
    """Whether a source file belongs to the user's program, which may have changed it or its definitions."""
    if file is None or not file.endswith(".py"):
        return False
    file = os.path.realpath(file)
    return not file.startswith((*_LIBRARIES, _PACKAGE)) and f"{os.sep}site-packages{os.sep}" not in file


def _cloudpickle() -> Any:
    """The cloudpickle that joblib uses: its own copy, or since version 1.6 the package."""
    try:
        from joblib.externals import cloudpickle  # Imported lazily: it takes 0.1 s, for worker processes only.
    except ImportError:
        import cloudpickle
    return cloudpickle


def pickle_model(model: Model) -> bytes:
    """The model, pickled for `unpickle_model`, with the classes and functions of the user's modules as they are now.

    A worker that imported these modules would not have the program's changes, such as a method replaced in a notebook
    or a file that was edited meanwhile. But if the modules contain something that cannot be pickled, such as a lock, or
    more than `LARGEST` bytes, the worker imports them.

    Raises TypeError, which names the attribute, if the model cannot be pickled.
    """
    imports, without_file, user_modules = _imports()
    try:
        content = _dumps(model, [*without_file, *user_modules])
    except Exception:  # Pickling the globals of these modules can raise anything.
        content = copy_model(model, lambda each: _dumps(each, without_file))
    if len(content) > LARGEST:
        smaller = _dumps(model, without_file)
        if len(smaller) + LARGEST < len(content):
            content = smaller
    return pickle.dumps((imports, content))


@cache
def _pickler() -> Any:
    """Cloudpickle's pickler, with code that keeps its file's name: a traceback from a worker then shows the line."""
    cloudpickle = _cloudpickle()
    dispatch_table = cloudpickle.Pickler.dispatch_table
    reduce = dispatch_table[CodeType]

    def reduce_code(code: CodeType) -> tuple[Any, ...]:
        make, arguments = reduce(code)[:2]
        return make, tuple(code.co_filename if each == "<dynamic-code>" else each for each in arguments)

    return type(
        "Pickler", (cloudpickle.Pickler,), {"dispatch_table": ChainMap({CodeType: reduce_code}, dispatch_table)}
    )


def _dumps(model: Any, by_value: Sequence[str]) -> bytes:
    cloudpickle = _cloudpickle()
    modules = [sys.modules[name] for name in by_value if name in sys.modules]
    known = cloudpickle.list_registry_pickle_by_value()
    modules = [module for module in modules if module.__name__ not in known]
    try:
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        stream = io.BytesIO()
        _pickler()(stream).dump(model)
        return stream.getvalue()
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


class _FileFinder:
    """A finder for ``sys.meta_path``: finds modules by `Imports.files`, before the import path is searched."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        file = self.files.get(name)
        if file is not None:
            folder = [os.path.dirname(file)] if _is_package(file) else None
            return spec_from_file_location(name, file, submodule_search_locations=folder)
        if any(known.startswith(f"{name}.") for known in self.files) and PathFinder.find_spec(name, path) is None:
            return ModuleSpec(name, None, is_package=True)  # A package without a file, of a module with one.
        return None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError) as error:
            message = f"a worker cannot import {name} from the module {module}: {error}"
            raise ImportError(message, name=module) from error


_finder = _FileFinder()
"""The finder of this process, if it is a worker."""


def unpickle_model(message: bytes) -> Model:
    """The model that `pickle_model` pickled. Raises ImportError, which names module and class, if an import fails."""
    imports, model = pickle.loads(message)
    sys.path[:] = imports.path
    _finder.files = imports.files
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    # Otherwise cloudpickle would update a class that came earlier. But a context that is still open must keep the class
    # as it was.
    for name in ("cloudpickle.cloudpickle", "joblib.externals.cloudpickle.cloudpickle"):
        getattr(sys.modules.get(name), "_DYNAMIC_CLASS_TRACKER_BY_ID", {}).clear()
    result: Model = _Unpickler(io.BytesIO(model)).load()
    return result
