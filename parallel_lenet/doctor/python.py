"""Checks the interpreter: its flags, its encoding, and files that hide modules."""

import multiprocessing
import os
import platform
import sys
from pathlib import Path

from parallel_lenet.doctor.finding import Finding, System
from parallel_lenet.doctor.requirements import modules, requirements

CHECK = "python"
CORE = ("numpy", "joblib", "threadpoolctl")


def check(system: System) -> list[Finding]:
    """The interpreter's version, and findings about how it was started."""
    method = multiprocessing.get_all_start_methods()[0]
    facts = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.platform(),
        "start_method": method,
        "encoding": sys.getfilesystemencoding(),
    }
    text = (
        f"{facts['implementation']} {facts['python']} on {facts['system']}; workers are separate programs "
        f"(multiprocessing's start method {method} is not used)"
    )
    return [Finding(CHECK, "ok", text, facts=facts), *_flags(), *_encoding(), *hiding_files(system.folder)]


def _flags() -> list[Finding]:
    found = []
    if sys.flags.optimize:
        text = f"Python runs with -{'O' * sys.flags.optimize}: assertions of your own models are not checked"
        found.append(Finding(CHECK, "note", text, "unset PYTHONOPTIMIZE, or leave out -O"))
    seed = os.environ.get("PYTHONHASHSEED", "random")
    if seed != "random":
        text = f"PYTHONHASHSEED={seed}: workers hash strings with this seed; no result of this package depends on it"
        found.append(Finding(CHECK, "note", text, "unset PYTHONHASHSEED, unless a model of your own needs it"))
    return found


def _encoding() -> list[Finding]:
    output = getattr(sys.stdout, "encoding", None) or "none"
    names = {"file names": sys.getfilesystemencoding(), "output": output}
    others = {use: name for use, name in names.items() if name.lower().replace("-", "") != "utf8"}
    if not others:
        return []
    text = "the encoding is not UTF-8 (" + ", ".join(f"{use}: {name}" for use, name in others.items()) + ")"
    remedy = (
        "export PYTHONUTF8=1, or LC_ALL=C.UTF-8: otherwise tables have no lines, and some file names cannot be used"
    )
    return [Finding(CHECK, "note", text, remedy)]


def hiding_files(folder: Path) -> list[Finding]:
    """Findings about files that programs in this folder import in place of a library or a standard module."""
    libraries = {module for each in requirements() for module in modules(each.name)} | {*CORE}
    hideable = libraries | {name for name in sys.modules.keys() & sys.stdlib_module_names if name not in _NOT_HIDEABLE}
    names = []
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    for entry in entries:
        module = entry.stem if entry.suffix == ".py" else entry.name if (entry / "__init__.py").is_file() else ""
        if module in hideable and not _is_library(entry):
            names.append((entry.name, module))
    return [
        Finding(
            CHECK,
            "broken",
            f"{name} in the current folder hides the module {module} from programs that are started here",
            f"rename {name}, and delete __pycache__ beside it",
        )
        for name, module in names
    ]


_NOT_HIDEABLE = frozenset(sys.builtin_module_names) | {"__main__"}


def _is_library(entry: Path) -> bool:
    """Whether the file is the module itself, because the library is installed in the current folder."""
    module_file = getattr(sys.modules.get(entry.stem), "__file__", None)
    path = entry if entry.suffix == ".py" else entry / "__init__.py"
    return module_file is not None and Path(module_file).resolve() == path.resolve()
