"""The options of training: flag, then environment, then configuration file, then default."""

import argparse
import json
import os
import tomllib
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from parallel_lenet import kernels
from parallel_lenet.cores import WorkerCount, count_workers
from parallel_lenet.datasets import NAMES

OPTIMIZERS = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw")
SCHEDULES = ("constant", "step", "cosine")
ENGINES = ("processes", "serial", "dask", "ray", "loky")
ON_NAN = ("stop", "skip")
WORKERS_VARIABLE = "PARALLEL_LENET_WORKERS"


class UsageError(ValueError):
    """A mistake in the call: one sentence that names the value and what is allowed."""


def _option(kind: type, default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"kind": kind, "help": text, "choices": choices})


@dataclass(frozen=True)
class TrainOptions:
    """Everything that decides a training run; None where it follows from the others."""

    dataset: str = _option(str, "mnist-5k", "what to train on; all but mnist-5k are downloaded once", NAMES)
    data_dir: str | None = _option(str, None, "a folder of four IDX files, gzipped or not, instead of --dataset")
    kernel: str = _option(
        str, "auto", "how layers are computed; auto: compiled with numba, else im2col", ("auto", *kernels.NAMES)
    )
    workers: int = _option(int, -1, f"worker processes: -1 all usable cores, -2 all but one; or {WORKERS_VARIABLE}")
    engine: str = _option(
        str, "processes", "where shards are computed; serial: in this process; dask, ray: on a cluster", ENGINES
    )
    cluster_address: str | None = _option(
        str, None, "of a running Dask scheduler (tcp://HOST:8786) or Ray cluster (HOST:6379); by default one of our own"
    )
    epochs: int = _option(int, 30, "passes over the training images")
    batch_size: int = _option(int, 128, "images a step, over all workers together")
    shard_size: int | None = _option(int, None, "images a worker gets at a time; by default what suits the kernel")
    optimizer: str = _option(str, "adamw", "how a gradient becomes a step", OPTIMIZERS)
    learning_rate: float | None = _option(float, None, "its peak; by default what suits the optimizer (adamw: 0.004)")
    schedule: str = _option(str, "cosine", "of the learning rate; step: a tenth after each third of the run", SCHEDULES)
    warmup: int = _option(int, 100, "steps over which the learning rate first rises to its value")
    weight_decay: float | None = _option(float, None, "L2 penalty, by default 0; adamw: decoupled, by default 1")
    clip_norm: float | None = _option(float, None, "largest norm of a step's gradient")
    seed: int = _option(int, 0, "decides the initial weights and the order of the images")
    on_nan: str = _option(str, "stop", "where a loss or gradient is NaN or infinite; skip: pass the step over", ON_NAN)
    max_steps: int | None = _option(int, None, "end after so many steps")
    checkpoint_every: int | None = _option(int, None, "write a checkpoint after so many steps, not only every epoch")
    step_timeout: float | None = _option(float, None, "seconds without an answer after which a worker is replaced")
    max_tries: int = _option(int, 3, "workers that may be lost over one shard before the run fails")
    out: str | None = _option(str, None, "the run's folder; by default runs/<time>")

    def toml(self) -> str:
        """As a configuration file that gives the same run again, in a folder of its own."""
        values = {option.name: getattr(self, option.name) for option in fields(self) if option.name != "out"}
        return "".join(f"{dashed(name)} = {json.dumps(value)}\n" for name, value in values.items() if value is not None)


def dashed(name: str) -> str:
    """An option's name as flags and files have it."""
    return name.replace("_", "-")


def as_usage(error: ValueError) -> UsageError:
    """What the library says of a value, beginning with its name, about the option that has it."""
    name, _, rest = str(error).partition(" ")
    known = any(option.name == name for option in fields(TrainOptions))
    return UsageError(f"--{dashed(name)} {rest}" if known else str(error))


def add_train_options(parser: argparse.ArgumentParser, only: tuple[str, ...] | None = None) -> None:
    """A flag for each option, or for those named."""
    for option in fields(TrainOptions):
        if only is None or option.name in only:
            default = "" if option.default is None or only else f" (default: {option.default})"
            parser.add_argument(
                f"--{dashed(option.name)}",
                type=option.metadata["kind"],
                choices=option.metadata["choices"],
                metavar=None if option.metadata["choices"] else option.metadata["kind"].__name__.upper(),
                default=argparse.SUPPRESS,  # so that an absent flag can be told from one that says the default
                help=option.metadata["help"] + default,
            )


def resolve(arguments: argparse.Namespace) -> TrainOptions:
    """The options in force; UsageError where one makes no sense."""
    options = TrainOptions(**given(arguments))
    check_ranges(options)
    return options


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by flag or, where not, in the configuration file."""
    return _configured(arguments) | _flags(arguments)


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    known = {option.name for option in fields(TrainOptions)}
    return {name: value for name, value in vars(arguments).items() if name in known}


def _configured(arguments: argparse.Namespace) -> dict[str, Any]:
    return {} if arguments.config is None else _from_file(Path(arguments.config))


def check_ranges(options: TrainOptions) -> None:
    """UsageError where a whole number is too small."""
    for name in ("epochs", "batch_size", "shard_size", "max_steps", "checkpoint_every", "max_tries"):
        _at_least(options, name, 1)
    _at_least(options, "warmup", 0)


def _at_least(options: TrainOptions, name: str, least: int) -> None:
    value = getattr(options, name)
    if value is not None and value < least:
        raise UsageError(f"--{dashed(name)} must be at least {least}, not {value}")


def train_workers(arguments: argparse.Namespace, before: TrainOptions | None = None) -> WorkerCount:
    """How many workers to train with; ``before`` are the options of the run to go on with."""
    configured = _configured(arguments).get("workers")
    if configured is None and before is not None:
        return worker_count(_flags(arguments).get("workers"), before.workers, "as the run began")
    return worker_count(_flags(arguments).get("workers"), configured)


def worker_count(flag: int | None, configured: int | None = None, source: str = "--config") -> WorkerCount:
    """How many workers to use and why: flag, then environment, then file, then all cores; UsageError for 0."""
    if flag is not None:
        asked, origin = flag, "--workers"
    elif os.environ.get(WORKERS_VARIABLE):
        asked, origin = _whole_number(os.environ[WORKERS_VARIABLE]), WORKERS_VARIABLE
    elif configured is not None:
        asked, origin = configured, source
    else:
        asked, origin = -1, "the default"
    try:
        workers = count_workers(asked)
    except ValueError as error:
        raise UsageError(f"{origin}: {error}") from None
    return replace(workers, how=f"{workers.how}: {origin}")


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{WORKERS_VARIABLE} must be a whole number such as 4 or -1, not {text!r}") from None


def _from_file(path: Path) -> dict[str, Any]:
    """The options in a TOML file, checked as flags are."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: is no TOML: {error}") from error
    options = {option.name: option for option in fields(TrainOptions)}
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in options:
            raise UsageError(f"--config {path}: unknown option {key!r}; allowed are {', '.join(map(dashed, options))}")
        values[name] = _checked(path, key, value, options[name])
    return values


def _checked(path: Path, key: str, value: Any, option: Field[Any]) -> Any:
    kind, choices = option.metadata["kind"], option.metadata["choices"]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UsageError(f"--config {path}: {key} must be of type {kind.__name__}, not {value!r}")
    if choices and value not in choices:
        raise UsageError(f"--config {path}: {key} must be one of {', '.join(choices)}, not {value!r}")
    return value


def is_of_kind(value: Any, option: Field[Any]) -> bool:
    """Whether an option can have this value; for values that a file of ours gives back."""
    if value is None:
        return option.default is None
    choices = option.metadata["choices"]
    return type(value) is option.metadata["kind"] and (not choices or value in choices)
