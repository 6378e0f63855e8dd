"""Configuration files: the options of training as TOML, written by runs or by users."""

import argparse
import os
import select
import sys
import tomllib
from dataclasses import Field
from pathlib import Path
from typing import Any

from parallel_lenet.checks import quoted
from parallel_lenet.cli import _recipes, _sources
from parallel_lenet.cli._options import OPTIONS, TrainOptions, UsageError, recorded_value, with_dashes
from parallel_lenet.cli._suggestions import did_you_mean
from parallel_lenet.kernels import files

LARGEST = 1 << 20  # Bytes. No configuration is as long, but a device file has no end.
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
PATIENCE = 10  # Seconds for the next bytes of a pipe.


def encode(text: str) -> bytes:
    """The text as UTF-8, and the bytes of file names that are not UTF-8 as they are."""
    return text.encode("utf-8", sys.getfilesystemencodeerrors())


def _from_pipe(path: Path) -> bytes:
    """The content of a pipe, at most `LARGEST` bytes and one more. Raises TimeoutError if no data arrives."""
    content = b""
    # Open it without waiting for a writer, which may never come.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
        while len(content) <= LARGEST:
            if not select.select([pipe], [], [], PATIENCE)[0]:
                raise TimeoutError(0, f"the pipe sent nothing for {PATIENCE} seconds")
            part = pipe.read(LARGEST + 1 - len(content))
            if not part:
                break
            content += part
    return content


def read(file: str) -> dict[str, Any]:
    """The options in a TOML file, which may be a pipe. Raises UsageError for values that flags would not allow."""
    path = Path(file)
    try:
        if file == "-":
            content = _sources.standard_input().read(LARGEST + 1)
        elif path.is_fifo():
            content = _from_pipe(path)
        else:
            with path.open("rb") as stream:
                content = stream.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"--config {path}: can't be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > LARGEST:
        raise UsageError(f"--config {path}: is longer than {LARGEST:,} bytes")
    try:
        table = tomllib.loads(content.decode("utf-8-sig", sys.getfilesystemencodeerrors()))
    except (ValueError, RecursionError) as error:  # ValueError also for an integer of thousands of digits.
        raise UsageError(f"--config {path}: is not TOML: {_sentence(error)}") from None
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in OPTIONS:
            allowed = ", ".join(map(with_dashes, OPTIONS))
            hint = did_you_mean(key, map(with_dashes, OPTIONS))
            raise UsageError(f"--config {path}: unknown option {quoted(key)}{hint}; allowed are {allowed}")
        if name in values:
            raise UsageError(f"--config {path}: names {with_dashes(name)} twice")
        where = f"--config {path}: {with_dashes(name)}"
        if name == "cluster_address":  # The program at that address can run code here.
            raise UsageError(f"{where} is not taken from a file: give --cluster-address on the command line")
        if name == "model":  # It is code.
            raise UsageError(f"{where} is not taken from a file: give --model on the command line")
        if name == "kernel" and isinstance(value, str) and files.is_file(value):  # It is code.
            raise UsageError(f"{where} can't be a Python file: give --kernel on the command line")
        values[name] = recorded_value(name, _check(where, value, OPTIONS[name]), where)
    if "data_dir" in values and values.pop("dataset", TrainOptions.dataset) != TrainOptions.dataset:
        raise UsageError(f"--config {path}: dataset and data-dir both name the images: leave one out")
    return values


def merge(file_options: dict[str, Any], flag_options: dict[str, Any]) -> dict[str, Any]:
    """Options of a file and of the command line, which takes precedence, also for the source of the images.

    A recipe of the command line replaces the file's recipe, and the file's options that belong to either recipe. A
    run's config.toml has such options. The result has the recipe's name, and `_recipes.expand` adds its options.
    """
    sources = {"dataset", "data_dir"}
    left_out = sources if sources & flag_options.keys() else set()
    if "recipe" in flag_options:
        left_out = left_out | _recipes.options_of(file_options | flag_options).keys()
        left_out |= {
            name for name, value in _recipes.options_of(file_options).items() if file_options.get(name) == value
        }
    return {name: value for name, value in file_options.items() if name not in left_out} | flag_options


def _sentence(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _check(where: str, value: Any, option: Field[Any]) -> Any:
    kind, parse, choices = (option.metadata[name] for name in ("kind", "parse", "choices"))
    try:
        if kind is float and type(value) is int:
            value = float(value)
        if parse is not kind and type(value) is str:
            value = parse(value)
    except OverflowError:
        raise UsageError(f"{where} is too large: {quoted(value)}") from None
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{where} {error}") from None
    if type(value) is not kind:
        raise UsageError(f"{where} must be {KINDS[kind]}, got {quoted(value)}")
    if choices and value not in choices:
        hint = did_you_mean(str(value), choices)
        raise UsageError(f"{where} must be one of {', '.join(choices)}, got {quoted(value)}{hint}")
    return value
