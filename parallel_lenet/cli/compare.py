"""Name what differs between two runs: settings, versions, machine, data, and the first step with another result.

The losses of single steps are compared with all their digits. The parameters are compared by their hash after each 50th
step and at the end of each epoch. Settings that only decide where a run is written are left out.
"""

import argparse
from pathlib import Path
from typing import Any

from parallel_lenet.cli._console import Console, printable
from parallel_lenet.cli._options import UsageError
from parallel_lenet.runs import RunError
from parallel_lenet.runs.differences import compare
from parallel_lenet.runs.run import Run

HELP = "name what differs between two runs"
EXAMPLES = (("what differs between two runs", "compare runs/mine runs/other"),)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("left", metavar="RUN", help="a run's folder")
    parser.add_argument("right", metavar="RUN", help="another run's folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all options of both")


def run(arguments: argparse.Namespace) -> int:
    console = Console(json=arguments.json)
    try:
        runs = [Run(Path(name)) for name in (arguments.left, arguments.right)]
    except RunError as error:
        raise UsageError(str(error)) from error
    comparison = compare(*runs)
    found = comparison.differences
    equal_steps = comparison.equal_steps
    for each in runs:
        for note in each.notes:
            console.note(f"note: {note}")
    if arguments.json:
        parts: dict[str, list[dict[str, Any]]] = {}
        for difference in found:
            part = {"name": difference.name, "left": difference.left, "right": difference.right}
            parts.setdefault(difference.part, []).append(part)
        summaries = [{"run": str(each.folder), "options": each.options, "epochs": each.epochs[-1:]} for each in runs]
        console.result(
            {
                "left": summaries[0],
                "right": summaries[1],
                "same": not found,
                "differences": parts,
                "equal_steps": equal_steps,
            }
        )
    elif found:
        rows = [(each.part, each.name.replace("_", " "), _text(each.left), _text(each.right)) for each in found]
        console.table("What differs", ("", "", arguments.left, arguments.right), rows, texts=4)
        if equal_steps:
            first = "first step has" if equal_steps == 1 else f"first {equal_steps:,} steps have"
            console.line(f"the {first} the same losses, bit by bit")
    elif equal_steps:
        console.line("nothing differs: settings, versions, machine, data, every step and the result are the same")
    else:
        console.line("settings, versions, machine, data and the result are the same, but the steps were not recorded")
    return 0


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(", ".join(map(str, value)) if isinstance(value, list) else str(value))
