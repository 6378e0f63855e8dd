"""Finds what is broken or slow in this installation and on this machine, and says what to do about it.

There is one module per subject, each with ``check(system)``, which returns findings. Checks change nothing: only
`leftovers.clean` removes anything. Code that might crash or hang runs in a separate process: see `probe`.
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
from parallel_lenet.doctor.finding import Finding, System
from parallel_lenet.optional import reason

CHECKS: dict[str, Callable[[System], list[Finding]]] = {
    module.CHECK: module.check
    for module in (python, packages, cores, processor, threads, compiler, memory, extras, leftovers, speed)
}


def diagnose(names: Sequence[str] = (), system: System | None = None) -> Iterator[Finding]:
    """The findings of all checks, or of the named ones. A check that raises an exception is a finding too."""
    for name, check in CHECKS.items():
        if not names or name in names:
            try:
                yield from check(system or System())
            except Exception as error:
                text = f"the check itself failed ({reason(error)})"
                yield Finding(name, "broken", text, "report it, unless another finding explains it")
