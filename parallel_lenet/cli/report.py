"""Write a page about a run: its learning curves, its mistakes, its filters, and the time of its steps.

One HTML file that needs no network, with a pad to draw on that asks the trained network. Several runs are compared side
by side. Training writes the page of its run by itself, report.html in the run's folder.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from parallel_lenet.cli._console import Console
from parallel_lenet.cli._options import UsageError
from parallel_lenet.cli._resume import fingerprint, local_path
from parallel_lenet.cli._sources import load
from parallel_lenet.runs import REPORT, RunError, predictions
from parallel_lenet.runs.run import Run

BUNDLED = "mnist-5k"
PATIENCE = 5.0  # Seconds to look at test images.
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
        help=f"the file to write (default: {REPORT} in the run's folder; of several runs, in the current one)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, which names the file")


def run(arguments: argparse.Namespace) -> int:
    console = Console(json=arguments.json)
    folders = [Path(folder) for folder in arguments.runs]
    default = folders[0] / REPORT if len(folders) == 1 else Path(REPORT)
    file = default if arguments.out is None else Path(arguments.out)
    if arguments.out == "" or file.is_dir():
        raise UsageError(f"--out must name a file, got {'a folder: ' if arguments.out else ''}{arguments.out!r}")
    from parallel_lenet import report  # Lazily: an extra.

    with console.warnings_as_notes():
        try:
            runs = [Run(folder) for folder in folders]
            for each in runs:
                _complete(each, console)
            report.write(runs, file)
        except RunError as error:
            raise UsageError(str(error)) from error
    if arguments.json:
        console.result({"runs": arguments.runs, "file": str(file), "bytes": os.path.getsize(file)})
    else:
        console.line(str(file))
    return 0


def _complete(run: Run, console: Console) -> None:
    """Look at the test images now if the run did not do so at its end, or was continued after it. Downloads nothing."""
    checkpoint = run.checkpoint
    known = run.predictions is not None and checkpoint is not None and run.predictions.step == checkpoint.state.step
    if known or checkpoint is None or run.model is None or not np.isfinite(checkpoint.state.parameters).all():
        return
    if run.options.get("evaluate_on") == 0:  # The run was not to see them.
        return
    dataset, data_dir = checkpoint.metadata.get("dataset"), checkpoint.metadata.get("data_dir")
    try:
        if isinstance(data_dir, str):
            data_dir = local_path(checkpoint.path, data_dir)
        elif dataset != BUNDLED:
            return
        resizes = run.options.get("image_size") is not None
        images = load(BUNDLED, data_dir, False, run.model.images.height_and_width if resizes else None)
        test = images.test
        if fingerprint(images) != run.data:
            raise ValueError(f"{test.name}: these are not the images of the run")
        step = checkpoint.state.step
        run.predictions = predictions.predict(run.model, checkpoint.state.parameters, step, test, PATIENCE)
    except (ValueError, OSError) as error:
        console.note(f"note: no mistakes of {run.folder} are shown: {error}")
