"""Checks NumPy's BLAS, and the variables that set its threads."""

import os

from parallel_lenet.display import count
from parallel_lenet.doctor import cores, processor
from parallel_lenet.doctor.finding import Finding, System
from parallel_lenet.engines.serial import blas

CHECK = "blas"
VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)
# OpenBLAS's names for code without fused multiply-adds.
WITHOUT_FUSED = (
    "generic",
    "prescott",
    "core2",
    "penryn",
    "dunnington",
    "nehalem",
    "sandybridge",
    "barcelona",
    "bobcat",
    "katmai",
)
WORKERS = "workers have one thread each"


def check(system: System) -> list[Finding]:
    """A finding that names the BLAS, and one per variable that sets its threads or its code."""
    libraries = blas().lib_controllers
    texts = []
    for library in libraries:
        parts = (library.internal_api, library.version, getattr(library, "architecture", None))
        texts.append(" ".join(filter(None, parts)) + f", {count(library.num_threads, 'thread')} in this process")
    facts = {"libraries": texts}
    if libraries:
        found = [Finding(CHECK, "ok", f"{'; '.join(texts)}; {WORKERS}", facts=facts)]
    else:
        text = "NumPy has no BLAS that threadpoolctl knows: the kernel im2col may be slow, and its bits may vary"
        found = [Finding(CHECK, "slow", text, "pip install --force-reinstall numpy", facts)]
    for library in libraries:
        architecture = str(getattr(library, "architecture", "") or "")
        if architecture.lower() in WITHOUT_FUSED and processor.has_fused_multiply_add(system):
            text = f"{library.internal_api} uses its code for {architecture}, which has no fused multiply-adds"
            remedy = "unset OPENBLAS_CORETYPE" if "OPENBLAS_CORETYPE" in os.environ else "pip install --upgrade numpy"
            found.append(Finding(CHECK, "slow", text, remedy))
    return [*found, *_variables(cores.worker_cores(system))]


def _variables(usable: int) -> list[Finding]:
    found = []
    for name in VARIABLES:
        value = os.environ.get(name)
        if value is None:
            continue
        if not value.isdecimal() or int(value) < 1:
            text = f"{name} must be a positive whole number, got {value[:20]!r}"
            found.append(Finding(CHECK, "broken", text, f"unset {name}"))
        elif int(value) > usable:
            cores_text = count(usable, "usable core")
            text = f"{name}={int(value)}: NumPy outside of training starts more threads than the {cores_text}"
            found.append(Finding(CHECK, "slow", f"{text}; {WORKERS}", f"unset {name}"))
        elif int(value) < usable:
            text = f"{name}={int(value)}: NumPy outside of training uses {int(value)} of {usable} cores; {WORKERS}"
            found.append(Finding(CHECK, "note", text, f"unset {name}, if programs of your own are to use all cores"))
    return found
