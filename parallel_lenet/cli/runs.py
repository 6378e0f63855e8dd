"""List the runs in a folder: their results, and the settings in which they differ.

The newest come last. --json has all options and the results of each.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parallel_lenet.cli._console import Console, printable
from parallel_lenet.cli._options import UsageError
from parallel_lenet.display import count, percent
from parallel_lenet.runs import RunError
from parallel_lenet.runs.differences import INCIDENTAL
from parallel_lenet.runs.run import Run

HELP = "list runs with their results"
EXAMPLES = (
    ("the runs in the folder runs", "runs"),
    ("all that is known of them, for a program", "runs runs --json"),
)
FOLDER = "runs"
RESULTS = ("train_loss", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
LONGEST = 28  # Characters of a name or a setting in the table.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        default=FOLDER,
        help=f"the folder that holds the runs (default: {FOLDER})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all options of each run")


def run(arguments: argparse.Namespace) -> int:
    console = Console(json=arguments.json)
    folder = Path(arguments.folder)
    found = find(folder)
    if not found:
        problem = "" if folder.is_dir() else " does not exist:" if not folder.exists() else " is not a folder:"
        raise UsageError(f"{folder}{problem or ' holds no runs:'} name a folder of runs, or a run's own")
    descriptions = [describe(each) for each in found]
    for each in found:
        for note in each.notes:
            console.note(f"note: {note}")
    if arguments.json:
        console.result({"folder": str(folder), "runs": descriptions})
        return 0
    header, rows, left_out = table(descriptions, console.width)
    console.table(f"{count(len(found), 'run')} in {folder}", header, rows)
    if left_out:
        console.note(f"note: no room for {', '.join(left_out)}: --json has them")
    return 0


def find(folder: Path) -> list[Run]:
    """The runs in a folder, and the folder itself if it is a run, in the order of their starts."""
    if not folder.is_dir():
        return []
    found = []
    for each in [folder, *sorted(folder.iterdir())]:
        try:
            found.append(Run(each))
        except (RunError, OSError):
            continue
    return sorted(found, key=lambda run: (_start_time(run), run.folder))


def _start_time(run: Run) -> str:
    return str(run.sessions[0]["started"]) if run.sessions else ""


def describe(run: Run) -> dict[str, Any]:
    """The run's state, its last results and all its options, as JSON."""
    last = run.epochs[-1] if run.epochs else {}
    seconds = math.fsum(line.get("seconds", 0.0) for line in run.epochs)
    images = math.fsum(line.get("seconds", 0.0) * line.get("images_per_second", 0.0) for line in run.epochs)
    checkpoint = run.checkpoint
    return {
        "run": str(run.folder),
        "started": _start_time(run) or None,
        "state": run.state,
        "epochs": checkpoint.state.epoch if checkpoint is not None else last.get("epoch"),
        "steps": checkpoint.state.step if checkpoint is not None else last.get("step"),
        **{name: last.get(name) for name in RESULTS},
        "images_per_second": images / seconds if seconds > 0 else None,
        "parameters_sha256": run.sha256 or None,
        "options": run.options,
    }


def table(runs: Sequence[dict[str, Any]], width: int | None) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows, and the names of the columns for which a terminal of that width has no room."""
    options = dict.fromkeys(name for run in runs for name in run["options"] if name not in (*INCIDENTAL, "epochs"))
    differing_options = [name for name in options if len({repr(run["options"].get(name)) for run in runs}) > 1]
    columns: dict[str, list[str]] = {"run": [_cell(Path(run["run"]).name or run["run"]) for run in runs]}
    for name in ("test_accuracy", "validation_accuracy"):
        columns[name] = [percent(run[name]) for run in runs]
    for name in differing_options:
        columns[name] = [_cell(_setting_text(run["options"].get(name))) for run in runs]
    columns["epochs"] = [_epochs(run) for run in runs]
    columns["state"] = [run["state"] for run in runs]
    columns["train_loss"] = [_number(run["train_loss"], ".4f") for run in runs]
    columns["validation_loss"] = [_number(run["validation_loss"], ".4f") for run in runs]
    columns["images_per_second"] = [_number(run["images_per_second"], ",.0f") for run in runs]
    columns["steps"] = [_number(run["steps"], ",.0f") for run in runs]
    columns["parameters_sha256"] = [(run["parameters_sha256"] or "")[:8] for run in runs]
    columns["started"] = [(run["started"] or "")[:16].replace("T", " ") for run in runs]
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    names = list[str]()
    left_out = list[str]()
    total = 1
    for name, cells in columns.items():
        cell_width = max(map(len, [_title(name), *cells])) + 3
        if width is not None and total + cell_width > width and names:
            left_out.append(_title(name))
        else:
            names.append(name)
            total += cell_width
    rows = [[columns[name][i] for name in names] for i in range(len(runs))]
    return [_title(name) for name in names], rows, left_out


def _title(name: str) -> str:
    titles = {"train_loss": "training loss", "images_per_second": "images/s", "parameters_sha256": "hash"}
    return titles.get(name, name.replace("_", " ").replace("validation", "valid.").replace("accuracy", "acc."))


def _epochs(run: dict[str, Any]) -> str:
    done = run["epochs"]
    of = run["options"].get("epochs")
    return "" if done is None else f"{done}/{of}" if isinstance(of, int) else str(done)


def _number(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def _setting_text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
