"""Checks that the libraries of the core are new enough, and that there is one copy of each."""

from importlib.metadata import PackageNotFoundError, version

from parallel_lenet.doctor.finding import Finding, System
from parallel_lenet.doctor.probe import outcome_of
from parallel_lenet.doctor.requirements import is_older, requirements

CHECK = "packages"

_PROGRAM = """
from importlib import import_module
for name in sys.argv[2:]:
    print(f"{name}\\t{getattr(import_module(name), '__version__', 'without a version')}", flush=True)
"""


def check(system: System) -> list[Finding]:
    """A finding for each fault, or one that says that there is none."""
    core = [each for each in requirements() if not each.extra]
    if not core:
        return [Finding(CHECK, "note", "parallel-lenet is not installed: it runs from a folder", "pip install -e .")]
    found = list[Finding]()
    versions = dict[str, str]()
    names = [each.name for each in core]
    outcome = outcome_of(_PROGRAM, *names, seconds=60)
    imported_versions = dict(line.split("\t", 1) for line in outcome.output.splitlines() if "\t" in line)
    for each in core:
        upgrade = f"pip install --upgrade {each.line}"
        try:
            pip_version = version(each.name)
        except PackageNotFoundError:
            found.append(Finding(CHECK, "broken", f"{each.name} is not installed", f"pip install {each.line}"))
            continue
        versions[each.name] = pip_version
        if is_older(pip_version, each.least):
            text = f"{each.name} {pip_version} is too old: at least {each.least} is needed"
            found.append(Finding(CHECK, "broken", text, upgrade))
        used_version = imported_versions.get(each.name, pip_version)
        if used_version != pip_version:
            text = (
                f"{each.name} {used_version} is imported, but {pip_version} is what pip installed: there are two copies"
            )
            remedy = "look at PYTHONPATH and at the current folder, or make a new virtual environment"
            found.append(Finding(CHECK, "broken", text, remedy))
    if outcome.failure:
        lines = " ".join(each.line for each in core)
        found.append(
            Finding(
                CHECK, "broken", f"the core's libraries: {outcome.failure}", f"pip install --force-reinstall {lines}"
            )
        )
    text = ", ".join(f"{name} {number}" for name, number in versions.items())
    return found or [Finding(CHECK, "ok", text, facts=versions)]
