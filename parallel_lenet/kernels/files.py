"""The user's kernels: a Python file with the functions of the contract, named by its path.

The name of such a kernel is ``PATH@HASH``: the absolute path, and the beginning of the file's SHA-256. It goes wherever
a kernel's name goes. So each worker makes sure that it computes with the same file, and a checkpoint tells it.
"""

import os
import re
from typing import Any

from parallel_lenet import user_files
from parallel_lenet.user_files import DIGITS, UserFileError

FUNCTIONS = (
    "prepare_images",
    "conv2d",
    "conv2d_input_gradient",
    "conv2d_weight_gradient",
    "avg_pool2d",
    "avg_pool2d_gradient",
    "max_pool2d",
    "max_pool2d_gradient",
    "tanh",
    "tanh_gradient",
    "relu",
    "relu_gradient",
    "dense",
    "dense_input_gradient",
    "dense_weight_gradient",
    "softmax",
    "softmax_cross_entropy",
)
"""The functions of `Kernels`."""

SHARD_SIZE = 32  # Of a file that doesn't say.


def is_file(name: str) -> bool:
    """Whether the name of a kernel is that of a file."""
    return path_of(name).endswith(".py")


def path_of(name: str) -> str:
    """The path in a name, which may have a hash."""
    return re.sub(rf"@[0-9a-f]{{{DIGITS}}}$", "", name)


def resolve(name: str) -> str:
    """The full name of a file's kernel. Raises UserFileError if it can't be read, or has another hash than the name."""
    path = os.path.abspath(path_of(name))
    found = user_files.digest(user_files.read(path))
    if name not in (path_of(name), f"{path_of(name)}@{found}"):
        raise UserFileError(f"{path} has changed: its SHA-256 begins with {found}, not {name[-DIGITS:]}")
    return f"{path}@{found}"


def load(name: str) -> Any:
    """The module of a full name. Raises UserFileError if it can't be run, or lacks a function."""
    resolve(name)
    path = path_of(name)
    module = user_files.run(path, user_files.read(path), f"parallel_lenet_kernel_{name[-DIGITS:]}")
    missing = [function for function in FUNCTIONS if not callable(getattr(module, function, None))]
    if missing:
        more = f" and {len(missing) - 3} more functions" if len(missing) > 3 else ""
        raise UserFileError(
            f"{path} lacks {', '.join(missing[:3])}{more}: to take them from another kernel, begin it with "
            "`from parallel_lenet.kernels.im2col import *`"
        )
    module.__dict__.setdefault("LEAF", None)
    module.__dict__.setdefault("SHARD_SIZE", SHARD_SIZE)
    return module
