"""Recognise digits in image files: drawn, scanned or photographed, of any size, grey or in colour.

The digit is found, cut out and centred as in MNIST. Each image gets a line with the most probable classes. On a
terminal, the pixels that the network sees are drawn below it. An image that can't be used gets a sentence on standard
error. The others are still recognised, and the exit code is 1, or 2 if an image does not exist.
"""

import argparse
import os
import sys
from typing import Any

import numpy as np

from parallel_lenet.checkpoint import Checkpoint
from parallel_lenet.cli import _checkpoints, _sources
from parallel_lenet.cli._blocks import image_lines
from parallel_lenet.cli._classifier import classifier
from parallel_lenet.cli._console import Console, printable, write
from parallel_lenet.cli._options import add_train_options, flags
from parallel_lenet.image_files import PictureError
from parallel_lenet.pictures.prediction import Prediction
from parallel_lenet.pictures.unit import black_and_white

HELP = "recognise digits in image files"
EXAMPLES = (
    ("the digit in a photograph, by the newest run", "predict photo.jpg"),
    ("several images, by a certain run, for a program", "predict one.png two.png --checkpoint runs/mine --json"),
    ("an image from another program", "predict - < photo.jpg"),
)
TOP = 3  # Classes per image.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="PNG, JPEG, GIF, BMP, WebP, TIFF, AVIF, PPM, ... (-: standard input)"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="CHECKPOINT",
        help="a run's checkpoint.npz or its folder (default: that of the newest run in the folder runs)",
    )
    add_train_options(parser, names=("kernel", "model"))
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, with the probabilities of all classes"
    )


def run(arguments: argparse.Namespace) -> int:
    console = Console(json=arguments.json)
    file = _checkpoints.find(arguments.checkpoint, console)
    _checkpoints.require(file)
    checkpoint = Checkpoint.load(file)
    flag_options = flags(arguments)
    with console.warnings_as_notes():
        model = _checkpoints.model_of(checkpoint, flag_options)
    network = classifier(checkpoint, model)
    black, white = black_and_white(network.images)
    entries = list[dict[str, Any]]()
    code = 0
    for name in arguments.images:
        try:
            with console.warnings_as_notes():
                prediction = network.predict(_sources.file_or_input(name))
        except PictureError as error:
            write(sys.stderr, f"parallel-lenet: {printable(str(error))}")
            entries.append({"image": name, "error": str(error)})
            code = max(code, 1 if name == "-" or os.path.lexists(name) else 2)
            continue
        entries.append({"image": name, **_result(prediction)})
        if not arguments.json:
            console.line(_sentence(name, prediction))
            for line in image_lines(((prediction.seen - black) / (white - black)).clip(0, 1).mean(axis=0), sys.stdout):
                console.line(line)
    if arguments.json:
        kernel = getattr(model, "kernel", None)
        console.result({"checkpoint": file, "kernel": kernel, "model": flag_options.get("model"), "images": entries})
    return code


def _result(prediction: Prediction) -> dict[str, Any]:
    return {
        **_class_entry(prediction, prediction.label),
        "probability": prediction.probability,
        "top": [
            {**_class_entry(prediction, label), "probability": probability}
            for label, probability in prediction.top(TOP)
        ],
        "probabilities": np.asarray(prediction.probabilities, float).tolist(),
    }


def _class_entry(prediction: Prediction, label: int) -> dict[str, Any]:
    """The class, and its name if that is known."""
    return {"class": label} if prediction.class_names is None else {"class": label, "name": prediction.name_of(label)}


def _sentence(name: str, prediction: Prediction) -> str:
    if not len(prediction.probabilities):
        return f"{printable(name)}: {printable(prediction.name)}"
    (first, probability), *others = prediction.top(TOP)
    rest = ", ".join(f"{printable(prediction.name_of(label))} {probability:.1%}" for label, probability in others)
    return f"{printable(name)}: {printable(prediction.name_of(first))} ({probability:.1%}; {rest})"
