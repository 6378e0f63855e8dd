"""Every speed that the README claims, measured.

kernels: an image; engines: a step's overhead; epoch: 60,000 images; peers: PyTorch beside them; scaling: what more
workers bring, and where a step's time goes; large: ten million parameters; many-cores: all of it on a machine with many
cores, hashes first; start: until the first step, and memory; cluster: a step of every engine, Dask and Ray included.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import cluster, engines, epoch, kernels, large, many_cores, peers, picture, scaling, start
from benchmarks.common import machine

from parallel_lenet.cli._console import Console

# What is measured, and how many rounds of it give a median to trust in a few minutes.
COMMANDS = {
    "kernels": (kernels.measure, 30),
    "engines": (engines.measure, 30),
    "epoch": (epoch.measure, 3),
    "peers": (peers.measure, 3),
    "scaling": (scaling.measure, 3),
    "large": (large.measure, 3),
    "many-cores": (many_cores.measure, 1),
    "start": (start.measure, 5),
    "cluster": (cluster.measure, 3),
}
DRAWN = ", ".join(picture.DRAWN)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--rounds", type=int, help="measurements of each thing (default: as many as it needs)")
    parser.add_argument("--batch-size", type=int, default=128, help="of peers (default: 128)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--picture", metavar="FILE", help=f"draw the results, as .png or .svg (of {DRAWN})")
    parser.add_argument("--out", metavar="FILE", help="of many-cores: write what is known, as JSON, after each part")
    arguments = parser.parse_args(argv)
    measure, rounds = COMMANDS[arguments.what]
    if arguments.rounds is None:
        arguments.rounds = rounds
    if arguments.rounds < 1 or arguments.batch_size < 2:
        parser.error("--rounds must be at least 1 and --batch-size at least 2")
    if arguments.picture and arguments.what not in picture.DRAWN:
        parser.error(f"--picture draws {DRAWN}, not {arguments.what}")
    if arguments.picture and Path(arguments.picture).suffix not in (".png", ".svg"):
        parser.error(f"--picture must end in .png or .svg, not {arguments.picture}")
    if arguments.picture and not Path(arguments.picture).absolute().parent.is_dir():
        parser.error(f"--picture {arguments.picture}: there is no such folder")
    if arguments.out and arguments.what != "many-cores":
        parser.error(f"--out is for many-cores, not for {arguments.what}")
    if arguments.out and not Path(arguments.out).absolute().parent.is_dir():
        parser.error(f"--out {arguments.out}: there is no such folder")
    if arguments.picture:
        picture.library()  # Before minutes of measuring.
    report = measure(arguments)
    if arguments.picture:
        picture.DRAWN[arguments.what](report.results, machine(), arguments.picture)
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
