"""What is broken or slow in this installation and on this machine, and what to do about it.

A module per subject, each with ``check(here)``, which returns findings. Checks read and try; only `leftovers.clean`
removes anything. Code that might crash or hang runs in a separate process: see `probe`.
"""

from collections.abc import Callable, Iterator, Sequence

from parallel_lenet.doctor import (
    compiler,
    cores,
    extras,
    leftovers,
    memory,
    packages,
    processor,
    python,
    speed,
    threads,
)
from parallel_lenet.doctor.finding import Finding, Here
from parallel_lenet.optional import reason

CHECKS: dict[str, Callable[[Here], list[Finding]]] = {
    module.CHECK: module.check
    for module in (python, packages, cores, processor, threads, compiler, memory, extras, leftovers, speed)
}


def diagnose(names: Sequence[str] = (), here: Here | None = None) -> Iterator[Finding]:
    """The findings of all checks, or of the named ones. A check that raises an exception is a finding too."""
    for name, check in CHECKS.items():
        if not names or name in names:
            try:
                yield from check(here or Here())
            except Exception as error:
                text = f"the check itself failed ({reason(error)})"
                yield Finding(name, "broken", text, "report it, unless another finding explains it")
