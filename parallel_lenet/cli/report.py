"""Write a page about a run: its learning curves, its mistakes, its filters, and the time of its steps.

It is one HTML file that needs no network connection. It has a pad: the trained network recognises what is drawn on it.
Several runs are compared side by side. Training writes the page of its run itself: report.html in the run's folder.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from parallel_lenet.cli._console import Console
from parallel_lenet.cli._options import UsageError
from parallel_lenet.cli._resume import fingerprint, local_path
from parallel_lenet.cli._sources import load
from parallel_lenet.runs import REPORT, RunError, predictions
from parallel_lenet.runs.run import Run

BUNDLED_DATASET = "mnist-5k"
PREDICTING = 5.0  # Seconds in which test images are predicted.
HELP = "write a page about a run, or compare several"
EXAMPLES = (
    ("the page of a run", "report runs/mine"),
    ("two runs side by side", "report runs/mine runs/other --out both.html"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run's folder")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help=f"the file to write (default: {REPORT} in the run's folder, or in the folder that holds all of several "
        "runs, or else in the current folder)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, which names the file")


def run(arguments: argparse.Namespace) -> int:
    console = Console(json=arguments.json)
    folders = [Path(folder) for folder in arguments.runs]
    file = _default(folders) if arguments.out is None else Path(arguments.out)
    if arguments.out == "" or file.is_dir():
        raise UsageError(f"--out must name a file, got {'a folder: ' if arguments.out else ''}{arguments.out!r}")
    from parallel_lenet import report  # Imported lazily: an extra.

    with console.warnings_as_notes():
        try:
            runs = [Run(folder) for folder in folders]
            for each in runs:
                _predict_if_missing(each, console)
            report.write(runs, file)
        except RunError as error:
            raise UsageError(str(error)) from error
    if arguments.json:
        console.result({"runs": arguments.runs, "file": str(file), "bytes": os.path.getsize(file)})
    else:
        console.line(str(file))
    return 0


def _default(folders: Sequence[Path]) -> Path:
    """The file to write unless --out names one."""
    if len(folders) == 1:
        return folders[0] / REPORT
    parents = {folder.resolve().parent for folder in folders}
    return folders[0].parent / REPORT if len(parents) == 1 and folders[0].name else Path(REPORT)


def _predict_if_missing(run: Run, console: Console) -> None:
    """Predict the test images now if the run did not do so after its last step. Downloads nothing."""
    checkpoint = run.checkpoint
    known = run.predictions is not None and checkpoint is not None and run.predictions.step == checkpoint.state.step
    if known or checkpoint is None or run.model is None or not np.isfinite(checkpoint.state.parameters).all():
        return
    if run.options.get("evaluate_on") == 0:  # The run did not use them.
        return
    dataset = checkpoint.metadata.get("dataset")
    data_dir = checkpoint.metadata.get("data_dir")
    try:
        if isinstance(data_dir, str):
            data_dir = local_path(checkpoint.path, data_dir)
        elif data_dir is not None or dataset != BUNDLED_DATASET:
            return
        resizes = run.options.get("image_size") is not None
        images = load(BUNDLED_DATASET, data_dir, False, run.model.images.height_and_width if resizes else None)
        test = images.test
        if fingerprint(images) != run.data:
            raise ValueError(f"{test.name}: these are not the images of the run")
        step = checkpoint.state.step
        run.predictions = predictions.predict(run.model, checkpoint.state.parameters, step, test, PREDICTING)
    except (ValueError, OSError) as error:
        console.note(f"note: no mistakes of {run.folder} are shown: {error}")
