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
SHOWN = 3  # Classes.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="PNG, JPEG, GIF, BMP, WebP, TIFF, AVIF, PPM, ...; -: standard input"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="CHECKPOINT",
        help="a run's checkpoint.npz or its folder (default: that of the newest run in the folder runs)",
    )
    add_train_options(parser, only=("kernel", "model"))
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, with the probabilities of all classes"
    )


def run(arguments: argparse.Namespace) -> int:
    console = Console(json=arguments.json)
    file = _checkpoints.find(arguments.checkpoint, console)
    _checkpoints.require(file)
    checkpoint = Checkpoint.load(file)
    asked = flags(arguments)
    with console.warnings_as_notes():
        model = _checkpoints.model_of(checkpoint, asked)
    network = classifier(checkpoint, model)
    black, white = black_and_white(network.images)
    answers = list[dict[str, Any]]()
    code = 0
    for name in arguments.images:
        try:
            with console.warnings_as_notes():
                answer = network.predict(_sources.file_or_input(name))
        except PictureError as error:
            write(sys.stderr, f"parallel-lenet: {printable(str(error))}")
            answers.append({"image": name, "error": str(error)})
            code = max(code, 1 if name == "-" or os.path.lexists(name) else 2)
            continue
        answers.append({"image": name, **_result(answer)})
        if not arguments.json:
            console.line(_sentence(name, answer))
            for line in image_lines(((answer.seen - black) / (white - black)).clip(0, 1).mean(axis=0), sys.stdout):
                console.line(line)
    if arguments.json:
        kernel = getattr(model, "kernel", None)
        console.result({"checkpoint": file, "kernel": kernel, "model": asked.get("model"), "images": answers})
    return code


def _result(answer: Prediction) -> dict[str, Any]:
    return {
        **_named(answer, answer.label),
        "probability": answer.probability,
        "top": [{**_named(answer, label), "probability": probability} for label, probability in answer.top(SHOWN)],
        "probabilities": np.asarray(answer.probabilities, float).tolist(),
    }


def _named(answer: Prediction, label: int) -> dict[str, Any]:
    """The class, and what it is called if that is known."""
    return {"class": label} if answer.class_names is None else {"class": label, "name": answer.name_of(label)}


def _sentence(name: str, answer: Prediction) -> str:
    if not len(answer.probabilities):
        return f"{printable(name)}: {printable(answer.name)}"
    (first, probability), *others = answer.top(SHOWN)
    rest = ", ".join(f"{printable(answer.name_of(label))} {probability:.1%}" for label, probability in others)
    return f"{printable(name)}: {printable(answer.name_of(first))} ({probability:.1%}; {rest})"
