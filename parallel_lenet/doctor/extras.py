"""Checks which extras are installed, and whether their libraries can be imported."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from parallel_lenet.cores import usable_cores
from parallel_lenet.doctor.finding import Finding, System
from parallel_lenet.doctor.probe import outcome_of
from parallel_lenet.doctor.requirements import AGGREGATES, Requirement, modules, requirements

CHECK = "extras"
SECONDS = 30.0

_PROGRAM = """
from importlib import import_module
for name in sys.argv[2:]:
    try:
        import_module(name)
    except BaseException as error:
        first = next(iter(str(error).splitlines()), "")[:200]
        print(f"failed\\t{name}\\t{type(error).__name__}: {first}", flush=True)
    else:
        print(f"works\\t{name}\\t", flush=True)
import os
sys.stdout.flush()
os._exit(0)  # Threads that a library has started are not waited for.
"""


def check(system: System) -> list[Finding]:
    """One finding that lists extras that work or are missing, and one per library that does not work."""
    groups: dict[str, list[Requirement]] = {}
    for each in requirements():
        if each.extra and each.extra not in AGGREGATES:
            groups.setdefault(each.extra, []).append(each)
    found = list[Finding]()
    complete = list[str]()
    missing_requirements: dict[str, list[Requirement]] = {}
    module_names = {extra: [(each, modules(each.name)) for each in group] for extra, group in groups.items()}
    names_by_extra = {extra: [name for _, names in group for name in names] for extra, group in module_names.items()}
    with ThreadPoolExecutor(max(1, min(usable_cores(), 8))) as pool:
        failures = dict(zip(names_by_extra, pool.map(import_failures, names_by_extra.values()), strict=True))
    for extra, group in module_names.items():
        absent = [each for each, names in group if not names]
        failing = [(each, failures[extra][name]) for each, names in group for name in names if name in failures[extra]]
        for each, failure in failing:
            text = f"{each.name} of the extra {extra} is installed but does not work: {failure}"
            found.append(Finding(CHECK, "broken", text, f"pip install --upgrade {each.line}"))
        if absent and len(absent) < len(group):
            text = f"the extra {extra} is incomplete: {', '.join(each.name for each in absent)} missing"
            found.append(Finding(CHECK, "note", text, f"pip install {' '.join(each.line for each in absent)}"))
        elif absent:
            missing_requirements[extra] = absent
        elif not failing:
            complete.append(extra)
    facts = {"work": complete, "missing": sorted(missing_requirements)}
    text = f"work: {', '.join(complete) or 'none'}; not installed: {', '.join(missing_requirements) or 'none'}"
    remedy = (
        f"pip install 'parallel-lenet[{','.join(missing_requirements)}]', if you need them"
        if missing_requirements
        else ""
    )
    return [Finding(CHECK, "note" if missing_requirements else "ok", text, remedy, facts), *found]


def import_failures(names: Sequence[str]) -> dict[str, str]:
    """The modules that cannot be imported, with the reason. After a crash or a hang another process continues."""
    failures: dict[str, str] = {}
    remaining_names = list(names)
    while remaining_names:
        outcome = outcome_of(_PROGRAM, *remaining_names, seconds=SECONDS)
        for line in outcome.output.splitlines():
            verdict, _, rest = line.partition("\t")
            name, _, reason = rest.partition("\t")
            if name in remaining_names and verdict in ("works", "failed"):
                remaining_names.remove(name)
                if verdict == "failed":
                    failures[name] = reason
        if not outcome.failure:
            break
        if remaining_names:  # The module whose import crashed or hung.
            failures[remaining_names.pop(0)] = outcome.failure
    return failures
