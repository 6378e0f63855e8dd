"""Measure every speed that the README states: ``python scripts/benchmark.py COMMAND``."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import cluster, engines, epoch, kernels, large, many_cores, peers, picture, scaling, start
from benchmarks.common import Report, machine

from parallel_lenet.cli._console import Console

Measure = Callable[[argparse.Namespace], Report]


class Command(NamedTuple):
    """A measurement."""

    measure: Measure
    rounds: int
    """The default number of rounds: enough for a median to trust, in a few minutes."""
    help: str


COMMANDS = {
    "kernels": Command(kernels.measure, 30, "the time of an image, per kernel and per layer function"),
    "engines": Command(engines.measure, 30, "the time that each engine adds to a step"),
    "epoch": Command(epoch.measure, 3, "an epoch of 60,000 images, per kernel and number of workers"),
    "peers": Command(peers.measure, 3, "an epoch of 60,000 images beside PyTorch"),
    "scaling": Command(scaling.measure, 3, "the speed-up of more workers, and the parts of a step's time"),
    "large": Command(large.measure, 3, "a network with ten million parameters"),
    "many-cores": Command(many_cores.measure, 1, "everything about a machine with many cores, hashes first"),
    "start": Command(start.measure, 5, "the time until the first step, and memory"),
    "cluster": Command(cluster.measure, 3, "a step of every engine, Dask and Ray included"),
}


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text) if text.lstrip("-").isdecimal() else least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text}")
        return value

    return number


def _file(*suffixes: str) -> Callable[[str], str]:
    """The check of a file to write: its folder exists, and its name ends with one of the suffixes, if there are any."""

    def file(text: str) -> str:
        if suffixes and Path(text).suffix not in suffixes:
            raise argparse.ArgumentTypeError(f"must end in {' or '.join(suffixes)}, got {text}")
        if not Path(text).absolute().parent.is_dir():
            raise argparse.ArgumentTypeError(f"{text}: there is no such folder")
        return text

    return file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=f"Measure {command.help}.")
        sub.add_argument(
            "--rounds",
            type=_at_least(1),
            metavar="N",
            default=command.rounds,
            help="measurements of each thing (default: %(default)s)",
        )
        sub.add_argument("--json", action="store_true", help="print one JSON object on standard output")
        if name == "peers":
            sub.add_argument(
                "--batch-size", type=_at_least(2), metavar="N", default=128, help="images per step (default: 128)"
            )
        if name in picture.DRAWN:
            sub.add_argument("--picture", metavar="FILE", type=_file(".png", ".svg"), help="draw the results")
        if name == "many-cores":
            sub.add_argument("--out", metavar="FILE", type=_file(), help="write the results, as JSON, after each part")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a table or JSON."""
    arguments = _parser().parse_args(argv)
    file = getattr(arguments, "picture", None)
    if file:
        picture.library()  # A missing library is an error before minutes of measuring.
    report = COMMANDS[arguments.command].measure(arguments)
    if file:
        picture.DRAWN[arguments.command](report.results, machine(), file)
    if arguments.json:
        print(json.dumps({"machine": machine(), **report.results}))
        return 0
    Console().table(report.title, report.header, report.rows)
    for note in report.notes:
        print(note)
    print("; ".join(f"{name} {value}" for name, value in machine().items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
