"""Explain a trained network: one HTML page that follows an image through it, forward, backward and in parallel."""

import argparse
import os
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import optional
from parallel_lenet.archive import CheckpointError
from parallel_lenet.checkpoint import Checkpoint
from parallel_lenet.cli import _checkpoints, _network, _sources
from parallel_lenet.cli._console import Console, printable
from parallel_lenet.cli._options import UsageError, add_train_options, flags
from parallel_lenet.cli._sources import load
from parallel_lenet.datasets import Dataset, DatasetError
from parallel_lenet.files import write_atomically
from parallel_lenet.image_files import PictureError
from parallel_lenet.pictures import read_image
from parallel_lenet.trained import TrainedModel, from_checkpoint

DEFAULT = "mnist-5k"
PAGE = "explain.html"
HELP = "write a page that follows an image through a trained network"
EXAMPLES = (
    ("the newest run and an instructive test image", "explain"),
    ("a photograph of your own, and what it shows", "explain runs/mine --image photo.jpg --label 7 --out lesson.html"),
    ("pictures for slides", "explain --digit 3 --png slides"),
)
HESITANT = 0.75  # The lesson follows an image whose right class has about this probability.
CANDIDATES = 1000  # Test images among which the most instructive one is chosen.

Array = NDArray[Any]


class LessonImage(NamedTuple):
    """The image that the lesson follows, as it is stored, its class if that is known, and its name."""

    image: Array
    label: int | None
    source: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="a run's checkpoint.npz or its folder (default: that of the newest run in the folder runs)",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--image",
        metavar="FILE",
        help="a picture of a digit of your own: PNG, JPEG and so on, any size (-: standard input)",
    )
    choice.add_argument("--digit", type=int, metavar="CLASS", help="a test image of this class")
    choice.add_argument("--index", type=int, metavar="N", help="test image number N, counted from 0")
    parser.add_argument(
        "--label", type=int, metavar="CLASS", help="what --image shows (default: what the network says)"
    )
    parser.add_argument("--out", metavar="FILE", help=f"the page to write (default: {PAGE} beside the checkpoint)")
    parser.add_argument(
        "--png", metavar="FOLDER", help="also write each figure as a picture for slides, 1600 pixels wide"
    )
    add_train_options(parser, names=("dataset", "data_dir", "image_size"))
    parser.add_argument("--json", action="store_true", help="print one JSON object, the results, on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Compute the whole lesson before any file is written."""
    console = Console(json=arguments.json)
    file = _checkpoints.find(arguments.checkpoint, console)
    _checkpoints.require(file)
    out = Path(os.path.join(os.path.dirname(file), PAGE) if arguments.out is None else arguments.out)
    _require_writable(arguments.out, arguments.png)
    if arguments.image not in (None, "-") and not os.path.exists(arguments.image):
        raise UsageError(f"--image {printable(arguments.image) or repr('')} does not exist")
    from parallel_lenet.explain import explain, page, slides

    optional.load("report", "jinja2", "an HTML page")  # A missing extra is an error before anything is computed.
    if arguments.png is not None:
        optional.load("report", "matplotlib", "pictures for slides")
    with console.warnings_as_notes():
        trained = _load_network(file)
    flag_options = flags(arguments)
    dataset, data_dir = _checkpoints.images_of(file, flag_options, trained.metadata, console)
    images = load(
        dataset or DEFAULT,
        data_dir,
        "data_dir" in flag_options,
        _checkpoints.image_size(flag_options, trained.metadata, trained.model),
    )
    train = images.train
    test = images.test
    _network.check(trained.model, test)
    with console.warnings_as_notes():
        subject = _lesson_image(arguments, trained, test)
        console.note("computing every number of the lesson with the loops of the tutorial ...")
        try:
            lesson = explain(
                trained.model,
                trained.parameters,
                subject.image,
                subject.label,
                train.inputs,
                train.targets,
                subject.source,
                trained.class_names,
            )
        except ValueError as error:
            raise CheckpointError(f"{file}: can't be explained: {error}") from error
        html = page.page(lesson, file, _command(arguments, file))
        pictures = slides.draw(lesson) if arguments.png is not None else {}
    write_atomically(out, html.encode("utf-8", "backslashreplace"))
    figure_files = slides.write(pictures, arguments.png) if arguments.png is not None else []
    probability = float(lesson.numbers["probabilities"][lesson.prediction])
    if arguments.json:
        console.result(
            {
                "checkpoint": file,
                "image": subject.source,
                "label": lesson.label,
                "label_known": lesson.known,
                "predicted": lesson.prediction,
                "probability": probability,
                "loss": lesson.trace.loss,
                "kernel": lesson.model.kernel,
                "page": str(out),
                "pictures": [str(path) for path in figure_files],
            }
        )
    else:
        name = printable(lesson.name_of(lesson.prediction))
        console.line(f"{printable(subject.source)}: class {name} with probability {probability:.2f}")
        console.line(f"wrote {out} ({out.stat().st_size / 1000:,.0f} kB)")
        if figure_files:
            console.line(f"wrote {len(figure_files)} pictures to {arguments.png}")
    return 0


def _require_writable(out: str | None, png: str | None) -> None:
    """Raises UsageError if the page or the pictures cannot be written where the flags say."""
    if out is not None and (not out or os.path.isdir(out)):
        raise UsageError(f"--out must name a file, got {out or repr('')}{', a folder' if out else ''}")
    if out is not None and not os.path.isdir(os.path.dirname(out) or "."):
        raise UsageError(f"--out {out}: the folder {os.path.dirname(out)} does not exist")
    if png is not None and (not png or (os.path.exists(png) and not os.path.isdir(png))):
        raise UsageError(f"--png must name a folder, got {png or repr('')}{', a file' if png else ''}")


def _load_network(file: str) -> TrainedModel:
    """The network. Raises CheckpointError if it is not made of this package's layers, or has no classes."""
    checkpoint = Checkpoint.load(file)
    if not isinstance(checkpoint.description, dict) or "layers" not in checkpoint.description:
        raise CheckpointError(
            f"{file}: can't be explained: its model is not made of this package's layers, which the lesson is about"
        )
    trained = from_checkpoint(checkpoint, _checkpoints.kernel_of(checkpoint))
    if not trained.model.classifies:
        raise CheckpointError(
            f"{file}: can't be explained: its loss is {trained.model.loss!r}, and the lesson is about classes"
        )
    return trained


def _lesson_image(arguments: argparse.Namespace, trained: TrainedModel, test: Dataset) -> LessonImage:
    """The requested image, or the test image whose right class has the probability nearest to `HESITANT`."""
    classes = trained.model.classes
    for name, value, most in (("digit", arguments.digit, classes), ("label", arguments.label, classes),
                              ("index", arguments.index, len(test))):  # fmt: skip
        if value is not None and not 0 <= value < most:
            raise UsageError(f"--{name} must be from 0 to {most - 1:,}, got {value:,}")
    if arguments.image is not None:
        try:
            image = read_image(
                _sources.file_or_input(arguments.image), trained.model.images, whole=trained.whole_pictures
            )[0]
        except PictureError as error:
            raise DatasetError(printable(str(error))) from error
        return LessonImage(
            image, arguments.label, "standard input" if arguments.image == "-" else os.path.basename(arguments.image)
        )
    if arguments.label is not None:
        raise UsageError("--label is for --image: the class of a test image is known")
    if arguments.index is not None:
        index = arguments.index
    else:
        rows = np.arange(len(test)) if arguments.digit is None else np.flatnonzero(test.targets == arguments.digit)
        rows = rows[:CANDIDATES]
        if not len(rows):
            raise DatasetError(f"{test.name}: no test image shows class {arguments.digit}")
        probabilities = trained.predict_proba(test.inputs[rows])[np.arange(len(rows)), test.targets[rows]]
        index = int(rows[np.abs(np.nan_to_num(probabilities) - HESITANT).argmin()])
    return LessonImage(test.inputs[index], int(test.targets[index]), f"image {index:,} of {test.name}")


def _command(arguments: argparse.Namespace, file: str) -> str:
    """The command that makes the page again."""
    words = ["parallel-lenet", "explain", file]
    for name in ("image", "digit", "index", "label", "dataset", "data_dir", "image_size"):
        value = getattr(arguments, name, None)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)
