"""Imports optional libraries lazily. If an import fails, the error says in one sentence what to do."""

import logging
import re
from functools import cache
from importlib import import_module
from typing import Any


class ExtraError(ModuleNotFoundError):
    """An optional library is missing or does not work. The message has the reason and the ``pip install`` line.

    ``name`` is the library, and ``installed`` is False if it is missing.
    """

    installed = False


def load(extra: str, library: str, purpose: str, module: str | None = None) -> Any:
    """Import ``module``, by default ``library`` itself, which comes with the extra ``extra``.

    Raises ExtraError, which says that ``purpose`` needs the library, if the import fails in any way. A library may be
    missing, built for another NumPy, damaged, or hidden by a file of the same name.
    """
    try:
        result = import_module(module or library)
        if result.__spec__ is not None and result.__spec__.origin is None:
            # A folder without code, which an incomplete uninstall leaves.
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
        return result
    except Exception as error:
        installed = not (isinstance(error, ModuleNotFoundError) and error.name == library)
        state = f"is installed but does not work ({reason(error)})" if installed else "is not installed"
        option = "--upgrade " if installed else ""
        line = f"pip install {option}{' '.join(_requirements(extra, library))}"
        failure = ExtraError(f"{purpose} needs {library}, which {state}: {line}", name=library)
        failure.installed = installed
        raise failure from error


@cache
def note_once(text: str) -> None:
    """Log a warning of the library, each text once per process. Unlike a warning of Python it never raises."""
    logging.getLogger("parallel_lenet").warning(text)


def reason(error: Exception) -> str:
    """The error's type and the first line of its text."""
    lines = str(error).split("\n")
    first = next((line.strip() for line in lines if line.strip()), "")
    return f"{type(error).__name__}: {first[:200].rstrip('.')}".removesuffix(": ")


def _requirements(extra: str, library: str) -> list[str]:
    """The requirements of the extra, quoted for a shell.

    A clone that is not installed knows only the library's name.
    """
    from importlib.metadata import PackageNotFoundError, requires  # 20 ms, for failures only.

    try:
        lines = requires("parallel-lenet") or []
    except PackageNotFoundError:
        lines = []
    marker = re.compile(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""")
    return [f"'{line.partition(';')[0].strip()}'" for line in lines if marker.search(line)] or [library]
