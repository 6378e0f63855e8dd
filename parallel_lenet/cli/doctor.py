"""Look for what is broken or slow here, and say what to do about it.

Checks the interpreter, the libraries, cores, processor, BLAS, Numba and its cache, memory, the extras, what dead runs
left, and the speed. The output can be pasted into a report of a problem: it has no names of users, machines or home
folders. The exit code is 1 if something is broken.
"""

import argparse
from dataclasses import asdict
from typing import Any

import parallel_lenet
from parallel_lenet.cli._console import Console, printable
from parallel_lenet.display import count

HELP = "find what is broken or slow here, and what to do about it"
EXAMPLES = (
    ("everything", "doctor"),
    ("some of the checks, for a program", "doctor cores blas memory --json"),
    ("remove what dead runs left", "doctor leftovers --clean"),
)
# Repeated here because the package's import takes longer than all other help. A test compares the two.
CHECKS = (
    *("python", "packages", "cores", "processor", "blas", "numba", "memory", "extras", "leftovers", "speed"),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checks", metavar="CHECK", nargs="*", choices=CHECKS, help=f"only these: {', '.join(CHECKS)} (default: all)"
    )
    parser.add_argument(
        "--clean", action="store_true", help="also remove what dead runs left in the folder runs and elsewhere"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with all findings")


def run(arguments: argparse.Namespace) -> int:
    """Print each finding as soon as it is there."""
    from parallel_lenet.doctor import diagnose, leftovers
    from parallel_lenet.doctor.finding import Finding, System
    from parallel_lenet.doctor.redaction import redact

    console = Console(json=arguments.json)
    removal_notes = []
    if arguments.clean:
        for sentence in leftovers.clean(System()):
            removal_notes.append(printable(redact(sentence)))
            console.note(removal_notes[-1])
    findings: list[dict[str, Any]] = []
    console.line(f"parallel-lenet {parallel_lenet.__version__}")

    def redact_all(value: Any) -> Any:
        """The finding as JSON, without names of users and machines."""
        if isinstance(value, str):
            return printable(redact(value))
        if isinstance(value, dict):
            return {key: redact_all(each) for key, each in value.items()}
        return [redact_all(each) for each in value] if isinstance(value, list) else value

    def show(finding: Finding) -> None:
        findings.append(redact_all(asdict(finding)))
        console.line(f"{finding.state:6}  {finding.check:9}  {findings[-1]['text']}")
        if finding.remedy:
            console.line(f"{'':17}  -> {findings[-1]['remedy']}")

    with console.warnings_as_notes():
        for finding in diagnose(arguments.checks):
            show(finding)
    states = [each["state"] for each in findings]
    broken_count = states.count("broken")
    slow_count = states.count("slow")
    if arguments.json:
        version = parallel_lenet.__version__
        console.result(
            {
                "version": version,
                "broken": broken_count,
                "slow": slow_count,
                "findings": findings,
                "removed": removal_notes,
            }
        )
    else:
        verdict = (
            "nothing is broken or slow"
            if not broken_count + slow_count
            else f"{broken_count} broken, {slow_count} slow"
        )
        console.line(f"{verdict}; {count(len(findings), 'finding')}")
    return 1 if broken_count else 0
