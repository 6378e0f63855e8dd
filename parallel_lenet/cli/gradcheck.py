"""Check every layer and the whole network against finite differences in float64."""

import argparse
from dataclasses import asdict

from parallel_lenet import kernels
from parallel_lenet.checks import LEAST
from parallel_lenet.cli._console import Console
from parallel_lenet.cli._options import require_count
from parallel_lenet.network.gradcheck import TOLERANCE, Check, check_gradients

HELP = "check all gradients against finite differences"
EXAMPLES = (
    ("all kernels that work here", "gradcheck"),
    ("one kernel, with other random inputs", "gradcheck --kernel naive --seed 3"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernel", choices=kernels.NAMES, help="the kernel to check (default: all)")
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="seed of the random inputs (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, the results, on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Print a table. The exit code is 1 if a relative error is above the tolerance."""
    require_count("seed", arguments.seed, LEAST["seed"])
    console = Console(json=arguments.json)
    checks: list[Check] = []
    with console.warnings_as_notes():
        for kernel in [arguments.kernel] if arguments.kernel else kernels.available():
            console.note(f"checking kernel {kernel}")
            checks += check_gradients(kernel, arguments.seed)
    failed = [check for check in checks if not check.error <= TOLERANCE]
    if arguments.json:
        results = [asdict(check) | {"passed": check not in failed} for check in checks]
        console.result({"tolerance": TOLERANCE, "passed": not failed, "seed": arguments.seed, "checks": results})
    else:
        rows = [
            (check.what, check.of, check.kernel, f"{check.error:.1e}", "FAILED" if check in failed else "ok")
            for check in checks
        ]
        title = "Relative errors of the gradients against finite differences, float64"
        console.table(title, ("layer", "gradient of", "kernel", "error", f"under {TOLERANCE:g}"), rows)
    console.note(f"{len(checks) - len(failed)} of {len(checks)} gradients agree")
    return 1 if failed else 0
