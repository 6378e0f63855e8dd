"""Check a kernel of your own: a Python file with the functions of a kernel, as in parallel_lenet/kernels/naive.py.

Each function is compared with the loops of naive, and a mistake is named if it is a known one. Gradients are compared
with finite differences, and the speed with im2col. The file runs in another process: it may crash or never end.
`train --kernel FILE` trains with it.
"""

import argparse
import os

from parallel_lenet.checking import isolated
from parallel_lenet.checks import POSITIVE, InvalidValue, real_number
from parallel_lenet.cli._console import Console
from parallel_lenet.cli._options import UsageError, no_file
from parallel_lenet.display import count
from parallel_lenet.kernels.files import FUNCTIONS

HELP = "check a kernel of your own, and name its mistakes"
EXAMPLES = (
    ("all functions of a kernel", "check my_kernel.py"),
    ("for a program that reads the result", "check my_kernel.py --json"),
)
TIME_LIMIT = 30.0  # Seconds.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a Python file with the functions of a kernel")
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        default=TIME_LIMIT,
        help=f"seconds for each function (default: {TIME_LIMIT:g})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, the results, on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Print a table of the functions. The exit code is 1 if there is a problem."""
    try:
        limit = real_number("--time-limit", arguments.time_limit, POSITIVE)
    except InvalidValue as error:
        raise UsageError(str(error)) from None
    if "\0" in arguments.file or not os.path.isfile(arguments.file):
        raise UsageError(no_file(arguments.file))
    console = Console(json=arguments.json)
    console.note(f"checking {arguments.file}")
    found = isolated.check_file(arguments.file, limit)
    problems = found.sentences
    if arguments.json:
        keys = ("function", "microseconds_per_image", "im2col_microseconds_per_image")
        console.result(
            {
                "file": found.file,
                "sha256_begins": found.sha256,
                "ok": not problems,
                "problems": problems,
                "functions": {name: found.problems.get(name, []) for name in FUNCTIONS},
                "finite_differences": found.errors,
                "speed": [dict(zip(keys, row, strict=True)) for row in found.speed],
            }
        )
    else:
        rows = [(name, f"{len(found.problems[name])} wrong" if name in found.problems else "ok") for name in FUNCTIONS]
        console.table("Functions", ("function", "result"), rows, texts=2)
        for sentence in problems:
            console.line(sentence)
        if found.errors:
            console.line(f"largest difference of a gradient from finite differences: {max(found.errors.values()):.1e}")
        if found.speed:
            total = ("all", sum(row[1] for row in found.speed), sum(row[2] for row in found.speed))
            times = [
                (name, f"{time:.1f}", f"{im2col_time:.1f}", f"{time / im2col_time:.2f}")
                for name, time, im2col_time in (*found.speed, total)
            ]
            title = "Microseconds per image, forward and backward: LeNet-5, and what ReLU and max pooling take instead"
            console.table(title, ("function", "here", "im2col", "ratio"), times)
    console.note(f"{count(len(problems), 'problem')} found" if problems else "no problem found")
    return 1 if problems else 0
