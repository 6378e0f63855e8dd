"""The options of training: flag, then environment, then configuration file, then default.

The file has more than 300 lines: half of them are the list of options with their help.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from parallel_lenet import kernels
from parallel_lenet.augmentation import Augment
from parallel_lenet.checks import (
    BELOW_ONE,
    FRACTION,
    LEAST,
    NOT_NEGATIVE,
    InvalidValue,
    Range,
    quoted,
    real_number,
    whole_number,
)
from parallel_lenet.cli import _toml, _user_model
from parallel_lenet.cli._recipes import RECIPES
from parallel_lenet.cores import WORKERS_VARIABLE, WorkerCount, count_workers, default_workers, usable_cores
from parallel_lenet.datasets import NAMES
from parallel_lenet.datasets.local import LARGEST_SIDE, height_and_width
from parallel_lenet.engines.cluster.engine import STEP_TIMEOUT
from parallel_lenet.kernels import files
from parallel_lenet.settings import ON_NAN
from parallel_lenet.stopping import BEST_BY

ACTIVATIONS = ("tanh", "relu")
POOLINGS = {"average": "avg", "max": "max"}
"""The flag's names, with those that `lenet5` uses."""
# Titles in --help.
IMAGES = "images"
NETWORK = "network"
TRAINING = "training"
EXECUTION = "where it runs"
LENGTH = "length and failures"
OUTPUT = "output"
OPTIMIZERS = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw")
SCHEDULES = ("constant", "step", "cosine")
LONGEST = 10**9  # The longest time that timers accept, in seconds: 31 years.
MOST = 10**12  # The largest count: products of larger ones would overflow.
DURATION = Range(f"positive and at most {LONGEST:,} seconds", lambda value: 0 < value <= LONGEST)
# Which code runs and where, and where it writes: only the command line decides it, never a file.
COMMAND_LINE_ONLY = ("engine", "cluster_address", "out", "model")
MOST_WORKERS_PER_CORE = 4  # That a configuration file may request.


class UsageError(ValueError):
    """A mistake in the call: one sentence that names the value and what is allowed."""


class _Engines(tuple[str, ...]):
    """The engines that help and errors list. ``loky`` is accepted too: it is a cluster that starts fast, for tests."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name == "loky"


class _Kernels(tuple[str, ...]):
    """The kernels that help and errors list, and any Python file."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and files.is_file(name))


ENGINES = _Engines(("processes", "serial", "dask", "ray"))


def seconds(text: str) -> float:
    """A duration: seconds (90, 1.5), 90s, 90m, 2h, 1d, 1h30m, or MM:SS, HH:MM:SS and D-HH:MM:SS as in batch systems.

    Raises ArgumentTypeError unless it is a positive duration.
    """
    units = re.fullmatch(r"(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", text)
    clock = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):(?=[0-5]\d:))?(\d+):([0-5]\d)", text)
    try:
        parts = [float(part or 0) for part in (units or clock or []).groups()]  # type: ignore[union-attr]
        value = sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=True))
    except (AttributeError, ValueError):
        value = 0.0
    if not 0 < value <= LONGEST:
        raise argparse.ArgumentTypeError(
            f"must be a positive duration: seconds, or as in 90m, 1h30m, MM:SS, HH:MM:SS or D-HH:MM:SS, "
            f"got {quoted(text)}"
        )
    return value


def size(text: str) -> str:
    """An image size, ``28`` or ``28x32``, as ``28x28`` and ``28x32``."""
    sides = re.fullmatch(r"(\d{1,6})(?:[xX](\d{1,6}))?", text, re.ASCII)
    try:
        height, width = height_and_width(tuple(int(side or sides[1]) for side in sides.groups()) if sides else ())
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be H or HxW, each from 1 to {LARGEST_SIDE:,} pixels, got {quoted(text)}"
        ) from None
    return f"{height}x{width}"


def sides(text: str | None) -> tuple[int, int] | None:
    """Height and width of an image size as `size` returns it. None stays None."""
    if text is None:
        return None
    height, _, width = size(text).partition("x")
    return int(height), int(width)


def _option(
    group: str,
    kind: type,
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] | None = None,
    least: int | None = None,
    parse: Callable[[str], Any] | None = None,
    metavar: str = "N",
    alias: str | None = None,
) -> Any:
    return field(
        default=default,
        metadata={
            "group": group,
            "kind": kind,
            "help": text,
            "choices": choices,
            "least": least,
            "parse": parse or kind,
            "metavar": metavar,
            "alias": alias,
        },
    )


@dataclass(frozen=True)
class TrainOptions:
    """The options of training. One that is None follows from the others."""

    dataset: str = _option(
        IMAGES, str, "mnist-5k", "the images to use (all but mnist-5k are downloaded on first use)", choices=NAMES
    )
    data_dir: str | None = _option(
        IMAGES,
        str,
        None,
        "images of your own instead of --dataset: one .npz or .parquet file, or a folder. It has image files in "
        "train/CLASS and test/CLASS, or IDX files (as MNIST and EMNIST), or .npz, .npy or .parquet files",
        metavar="FOLDER",
    )
    image_size: str | None = _option(
        IMAGES,
        str,
        None,
        "resize all images to this many pixels, height and width (default: all must have the same size)",
        parse=size,
        metavar="H[xW]",
    )
    validation: float | None = _option(
        IMAGES,
        float,
        None,
        "fraction of the training images to hold out: best.npz is the epoch with the lowest loss on them",
        metavar="FRACTION",
    )
    class_weights: str | None = _option(
        TRAINING,
        str,
        None,
        "how much the images of each class count in training: balanced, or LABEL=WEIGHT,... (default: all 1)",
        metavar="WEIGHTS",
    )
    augment: str | None = _option(
        IMAGES,
        str,
        None,
        "distort the training images at random, anew in each epoch: 'default', or the largest distortions, as in "
        "shift=2,rotation=10,scale=0.1,shear=0.1,elastic=34,smoothness=4 (pixels, degrees, factors, pixels); 'none' "
        "switches off those of a recipe or of a model",
        metavar="HOW",
    )
    evaluate_on: int | None = _option(
        IMAGES, int, None, "number of test images to evaluate on, spread evenly, or 0 for none (default: all)", least=0
    )
    kernel: str = _option(
        NETWORK,
        str,
        "auto",
        "how layers are computed: auto is compiled if numba works, else im2col; or a Python file with your own kernel",
        choices=_Kernels(("auto", *kernels.NAMES)),
    )
    model: str | None = _option(
        NETWORK,
        str,
        None,
        "your own model in place of LeNet-5: a Python file, and the name in it of a model or of what returns a model",
        metavar="FILE.py:NAME",
    )
    activation: str = _option(NETWORK, str, "tanh", "LeNet-5's activation", choices=tuple(ACTIVATIONS))
    pooling: str = _option(NETWORK, str, "average", "LeNet-5's pooling", choices=tuple(POOLINGS))
    workers: int = _option(
        EXECUTION, int, -1, f"worker processes: -1 is all usable cores, -2 all but one; {WORKERS_VARIABLE} sets it too"
    )
    engine: str = _option(
        EXECUTION, str, "processes", "where gradients are computed: serial in this process, dask and ray on a cluster",
        choices=ENGINES,
    )  # fmt: skip
    cluster_address: str | None = _option(
        EXECUTION,
        str,
        None,
        "a running Dask scheduler (tcp://HOST:8786) or Ray cluster (HOST:6379) (default: start one here)",
        metavar="ADDRESS",
    )
    recipe: str | None = _option(
        TRAINING,
        str,
        None,
        "options that suit MNIST, chosen by images held out of training; options beside it win (see docs/recipes.md)",
        choices=tuple(RECIPES),
    )
    epochs: int = _option(TRAINING, int, 30, "passes over the training images", least=1)
    batch_size: int = _option(
        TRAINING, int, 128, "images per step, over all workers together", least=LEAST["batch_size"]
    )
    shard_size: int | None = _option(
        TRAINING,
        int,
        None,
        "most images computed at a time, which decides the last bits with im2col only (default: what suits the kernel)",
        least=LEAST["shard_size"],
    )
    optimizer: str = _option(TRAINING, str, "adamw", "the update rule", choices=OPTIMIZERS)
    learning_rate: float | None = _option(
        TRAINING,
        float,
        None,
        "the peak learning rate (default: what suits the optimizer; adamw: 0.004)",
        metavar="RATE",
        alias="--lr",
    )
    schedule: str = _option(
        TRAINING,
        str,
        "cosine",
        "learning-rate schedule over all --epochs: step is x0.1 after each third",
        choices=SCHEDULES,
    )
    warmup: int = _option(TRAINING, int, 100, "steps over which the learning rate first rises to its peak", least=0)
    weight_decay: float | None = _option(
        TRAINING,
        float,
        None,
        "L2 penalty (default: 0), or for adamw decoupled weight decay (default: 0.2)",
        metavar="X",
    )
    clip_norm: float | None = _option(
        TRAINING, float, None, "largest norm of the gradient: larger gradients are scaled down to it"
    )
    label_smoothing: float = _option(
        TRAINING,
        float,
        0.0,
        "share of each label that training spreads evenly over all classes, from 0 to below 1, such as 0.1 (the "
        "training loss is then the smoothed one)",
        metavar="X",
    )
    initial_weights: str | None = _option(
        NETWORK,
        str,
        None,
        "start from the weights in this file instead of random ones: safetensors (PyTorch's too), .npz or a checkpoint",
        metavar="FILE",
    )
    seed: int = _option(
        TRAINING, int, 0, "seed of the initial weights, the order of the images and the choice of validation images"
    )
    on_nan: str = _option(
        LENGTH,
        str,
        "stop",
        "what to do if a loss or gradient is NaN or infinite: skip leaves out the step",
        choices=ON_NAN,
        metavar="X",
    )
    max_steps: int | None = _option(
        LENGTH, int, None, "end the run after this many steps in all (the schedule stays that of --epochs)", least=1
    )
    max_time: float | None = _option(
        LENGTH,
        float,
        None,
        "save a checkpoint and end before this much time has passed, with exit code 124: seconds, or 90m, 2h, MM:SS, "
        "HH:MM:SS, D-HH:MM:SS",
        parse=seconds,
        metavar="TIME",
    )
    early_stopping: bool = _option(
        LENGTH,
        bool,
        False,
        "end the run when --patience epochs in a row are no better than the best before them "
        "(without --validation, a tenth of the training images is held out)",
    )
    patience: int = _option(LENGTH, int, 5, "epochs without a better one after which --early-stopping ends", least=1)
    best_by: str = _option(
        LENGTH, str, "loss", "what makes an epoch the best: the lowest validation loss, or the highest accuracy",
        choices=BEST_BY,
    )  # fmt: skip
    checkpoint_every: int | None = _option(
        LENGTH, int, None, "steps between checkpoints, in addition to the one after each epoch", least=1
    )
    step_timeout: float | None = _option(
        LENGTH,
        float,
        None,
        f"seconds without a response before a worker is replaced (default: never; on a cluster {STEP_TIMEOUT:.0f})",
        metavar="SECONDS",
    )
    max_tries: int = _option(
        LENGTH, int, 3, "workers that may be lost over one block before the run fails", least=LEAST["max_tries"]
    )
    out: str | None = _option(OUTPUT, str, None, "the run's folder (default: runs/<time>)", metavar="FOLDER")

    def toml(self) -> str:
        """A configuration file that gives the same result. It leaves out `COMMAND_LINE_ONLY`."""
        left_out = COMMAND_LINE_ONLY if self.data_dir is None else (*COMMAND_LINE_ONLY, "dataset")
        if files.is_file(self.kernel):
            left_out = (*left_out, "kernel")  # Only the command line says which code runs.
        if self.model is not None:
            left_out = (*left_out, "activation", "pooling")  # LeNet-5's.
        values = {name: getattr(self, name) for name in OPTIONS if name not in left_out}
        lines = (
            f"{with_dashes(name)} = {_toml.literal(value)}\n" for name, value in values.items() if value is not None
        )
        return "".join(lines)


OPTIONS: dict[str, Field[Any]] = {option.name: option for option in fields(TrainOptions)}


def with_dashes(name: str) -> str:
    """An option's name with dashes, as in flags and files."""
    return name.replace("_", "-")


def as_usage(error: ValueError) -> UsageError:
    """The library's error about a value, as one about the option that gave the value."""
    if isinstance(error, InvalidValue) and error.name in OPTIONS:
        # Without "or None": on the command line an option is None if it is left out.
        return UsageError(str(InvalidValue(f"--{with_dashes(error.name)}", error.allowed, error.value)))
    if isinstance(error, InvalidValue) and error.name.endswith(" of augment"):
        return UsageError(f"--augment: {error}")
    return UsageError(str(error))


def require_count(name: str, value: int, least: int) -> None:
    """Raises UsageError, which names the flag, unless the value of a command's own flag is in its range."""
    try:
        whole_number(f"--{with_dashes(name)}", value, least, MOST)
    except InvalidValue as error:
        raise UsageError(str(error)) from None


def option_group(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    """The group of options with this title in ``--help``."""
    found = [group for group in parser._action_groups if group.title == title]
    return found[0] if found else parser.add_argument_group(title)


def add_train_options(parser: argparse.ArgumentParser, names: tuple[str, ...] | None = None) -> None:
    """Add a flag for each option, or for those in ``names``."""
    for option in OPTIONS.values():
        if names is None or option.name in names:
            group = option_group(parser, option.metadata["group"])
            flag = f"--{with_dashes(option.name)}"
            if option.metadata["kind"] is bool:
                group.add_argument(
                    flag,
                    action=argparse.BooleanOptionalAction,
                    default=argparse.SUPPRESS,
                    help=option.metadata["help"],
                )
                continue
            default = "" if option.default is None or names else f" (default: {option.default})"
            group.add_argument(
                *filter(None, (flag, option.metadata["alias"])),
                dest=option.name,
                type=option.metadata["parse"],
                choices=option.metadata["choices"],
                metavar=None if option.metadata["choices"] else option.metadata["metavar"],
                default=argparse.SUPPRESS,  # An absent flag differs from one that gives the default.
                help=option.metadata["help"] + default,
            )


def flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options on the command line. Raises UsageError if two of them name the images."""
    flag_options = {name: value for name, value in vars(arguments).items() if name in OPTIONS}
    if "dataset" in flag_options and "data_dir" in flag_options:
        raise UsageError(
            f"--dataset {flag_options['dataset']} and --data-dir {flag_options['data_dir']} both name the images: "
            "leave one out"
        )
    return {name: recorded_value(name, value, f"--{with_dashes(name)}") for name, value in flag_options.items()}


def recorded_value(name: str, value: Any, where: str) -> Any:
    """A value as runs record it: a path becomes absolute. Raises UsageError if a value cannot be a path."""
    if name in ("data_dir", "initial_weights", "out") and value is not None:
        if "\0" in value or not _is_encodable(value):
            raise UsageError(f"{where} must be a path, got {quoted(value)}")
        if name != "out":
            return os.path.abspath(value)
    if name == "model" and value is not None:
        return _model_reference(value, where)
    if name == "kernel" and files.is_file(value):
        return _kernel_file(value, where)
    return value


def no_file(path: str) -> str:
    """The mistake in a path that should be that of a file."""
    if "\0" not in path and os.path.isdir(path):
        return f"{quoted(path)} is a folder: name a file"
    return f"the file {quoted(path)} does not exist"


def _model_reference(text: str, where: str) -> str:
    """A model by absolute path, hash and name. Raises UsageError if the text is not one, or there is no such file."""
    reference = None if "\0" in text or not _is_encodable(text) else _user_model.parse(text)
    if reference is None:
        raise UsageError(f"{where} {_user_model.FORM}, got {quoted(text)}")
    if not os.path.isfile(reference.path):
        raise UsageError(f"{where}: {no_file(reference.path)}")
    return str(_user_model.absolute(reference))


def _kernel_file(name: str, where: str) -> str:
    """The full name of a kernel in a file.

    What the file prints goes to standard error. Raises UsageError without it.
    """
    if "\0" in name or not _is_encodable(name) or not os.path.isfile(files.path_of(name)):
        raise UsageError(f"{where}: {no_file(files.path_of(name))}")
    with redirect_stdout(sys.stderr):
        full_name = files.resolve(name)
        kernels.load(full_name)  # Finds mistakes in the file now.
    return full_name


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeError:
        return False
    return True


def check(options: TrainOptions) -> None:
    """Raises UsageError if a number is out of its range. The library checks the numbers that only it uses."""
    try:
        for name, option in OPTIONS.items():
            value = getattr(options, name)
            least = option.metadata["least"]
            if value is not None and least is not None:
                whole_number(name, value, least, MOST)
        if options.image_size is not None:
            size(options.image_size)
        if options.validation is not None:
            real_number("validation", options.validation, FRACTION)
        if options.class_weights is not None:
            parse_class_weights(options.class_weights)
        if options.max_time is not None:
            real_number("max_time", options.max_time, DURATION)
        parse_augment(options.augment)
        real_number("label_smoothing", options.label_smoothing, BELOW_ONE)
    except InvalidValue as error:
        raise as_usage(error) from None
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--image-size {error}") from None


def parse_augment(text: str | None) -> Augment | None:
    """The value of ``--augment``: distortions, or None for "none" and without the option."""
    if text is None or text == "none":
        return None
    try:
        return Augment.parse(text)
    except InvalidValue as error:
        if error.name != "augment":
            raise
        raise InvalidValue("augment", f"none, {error.allowed}", text) from None


def parse_class_weights(text: str) -> str | dict[int, float]:
    """The value of ``--class-weights`` for `sample_weights`: "balanced", or a weight for each label that is named."""
    if text == "balanced":
        return text
    weights: dict[int, float] = {}
    for part in text.split(","):
        found = re.fullmatch(r" *([0-9]{1,18}) *= *([0-9.eE+-]+) *", part)
        try:
            if found is None or int(found[1]) in weights:
                raise ValueError
            weights[int(found[1])] = real_number("a class weight", float(found[2]), NOT_NEGATIVE)
        except ValueError:
            raise UsageError(
                "--class-weights must be balanced, or a finite weight of at least 0 for each label as in 0=1,7=2.5, "
                f"got {quoted(text)}"
            ) from None
    return weights


def is_of_kind(value: Any, option: Field[Any]) -> bool:
    """Whether an option can have this value, which was read from a checkpoint."""
    if value is None:
        return option.default is None
    choices = option.metadata["choices"]
    return type(value) is option.metadata["kind"] and (not choices or value in choices)


def worker_count(flag: int | None, file_value: int | None = None) -> WorkerCount:
    """The number of workers and its origin: flag, then environment, then file, then all cores.

    Raises UsageError if the number is 0.
    """
    number = -1
    origin = "the default"
    if flag is not None:
        number = flag
        origin = "--workers"
    elif os.environ.get(WORKERS_VARIABLE):
        origin = WORKERS_VARIABLE
        try:
            number = default_workers()
        except ValueError as error:
            raise UsageError(str(error)) from None
    elif file_value is not None:
        number = file_value
        origin = "--config"
    if origin == "--config" and number > MOST_WORKERS_PER_CORE * max(2, usable_cores()):
        # A file may come from a larger machine, or from another person: a thousand processes need the user's consent.
        workers = count_workers(-1)
        return replace(
            workers,
            origin=f"{workers.origin}, not the {quoted(number)} of --config: to use that number, give --workers",
        )
    try:
        workers = count_workers(number)
    except ValueError as error:
        raise UsageError(f"{origin}: {error}") from None
    return replace(workers, origin=f"{workers.origin}: {origin}")
