"""``--model FILE.py:NAME``: a model of the user's, from the file and name that the command line gives.

Runs record it as ``PATH@HASH:NAME``, with the beginning of the file's SHA-256. A checkpoint or a configuration file
never decides which file is executed.
"""

import os
import re
import sys
from contextlib import redirect_stdout
from typing import Any, NamedTuple

from parallel_lenet import user_files
from parallel_lenet.checks import quoted
from parallel_lenet.cli._suggestions import did_you_mean
from parallel_lenet.kernels import files
from parallel_lenet.model import Model
from parallel_lenet.user_files import UserFileError

MEMBERS = ("layout", "initial_parameters", "loss_and_gradient", "predict")
FORM = "must be FILE.py:NAME: a Python file, and the name in it of a model or of what returns a model"


class Reference(NamedTuple):
    """A model by file and name."""

    path: str
    digest: str
    """The beginning of the file's SHA-256."""
    name: str

    def __str__(self) -> str:
        return f"{self.path}@{self.digest}:{self.name}"

    @property
    def words(self) -> str:
        """The reference in the form that the command line takes."""
        return f"{self.path}:{self.name}"


def parse(text: str) -> Reference | None:
    """The reference that a run recorded or a user wrote, which has no hash. None for any other text."""
    found = re.fullmatch(rf"(.+\.py)(?:@([0-9a-f]{{{user_files.DIGITS}}}))?:([^\W\d]\w*)", text, re.DOTALL)
    return None if found is None else Reference(found[1], found[2] or "", found[3])


def load(reference: Reference) -> Model:
    """The model: an object with the members of one, or the result of a class or function without arguments.

    What the file prints goes to standard error: standard output is for the command's results. Raises UserFileError,
    with the line, if the file can't be run, or holds no such model.
    """
    with redirect_stdout(sys.stderr):
        return _load(reference)


def _load(reference: Reference) -> Model:
    source = user_files.read(reference.path)
    module = user_files.run(reference.path, source, f"parallel_lenet_model_{user_files.digest(source)}")
    public = [name for name in vars(module) if not name.startswith("_")]
    if not hasattr(module, reference.name):
        hint = did_you_mean(reference.name, public)
        raise UserFileError(f"{reference.path} defines no {reference.name}{hint}")
    value: Any = getattr(module, reference.name)
    if isinstance(value, type) or not _is_model(value):
        if not callable(value):
            raise UserFileError(f"{reference.path}: {_missing_members(reference.name, value)}")
        try:
            value = value()
        except Exception as error:
            raise UserFileError(f"{user_files.error_text(reference.path, error)} (from {reference.name}())") from error
        if isinstance(value, type) or not _is_model(value):
            raise UserFileError(f"{reference.path}: {_missing_members(f'{reference.name}()', value)}")
    model: Model = value
    return model


def _is_model(value: Any) -> bool:
    return all(hasattr(value, member) for member in MEMBERS)


def _missing_members(name: str, value: Any) -> str:
    missing_members = ", ".join(member for member in MEMBERS if not hasattr(value, member))
    return f"{name} is not a model: {quoted(value)} has no {missing_members or 'members of its own, being a class'}"


def absolute(reference: Reference) -> Reference:
    """The reference with an absolute path and the file's present hash. Raises UserFileError if it can't be read."""
    path = os.path.abspath(reference.path)
    return Reference(path, user_files.digest(user_files.read(path)), reference.name)


def without_hash(text: str) -> str:
    """A recorded reference in the form that the command line takes."""
    reference = parse(text)
    return text if reference is None else reference.words


def file_behind(options: Any, error: Exception) -> str | None:
    """The file of ``--model`` or ``--kernel`` that raised an exception, or None if neither did."""
    reference = parse(getattr(options, "model", None) or "")
    paths = [] if reference is None else [os.path.abspath(reference.path)]
    kernel = getattr(options, "kernel", None)
    if isinstance(kernel, str) and files.is_file(kernel):
        paths.append(os.path.abspath(files.path_of(kernel)))
    return next((path for path in paths if user_files.line_in(path, error)), None)
