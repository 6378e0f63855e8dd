"""The processor: its instructions, its clock, and its load by other programs."""

import os
import re
from contextlib import suppress

from parallel_lenet.display import count
from parallel_lenet.doctor.finding import Finding, Here
from parallel_lenet.runs import environment

CHECK = "processor"
SHOWN = ("fma", "avx2", "avx512f", "asimd", "sve")
# What drivers with a governor of their own call the usual setting, which raises the clock under load.
OWN_GOVERNORS = ("intel_pstate", "amd-pstate-epp")
CROWDED = 1.25  # Runnable programs per core above which each becomes noticeably slower.


def check(here: Here) -> list[Finding]:
    """The processor's model, the kernels that suit it, and what makes it slow."""
    flags = features(here)
    shown = [name for name in SHOWN if name in flags]
    name = environment.processor()
    fused_here = has_fused_multiply_add(here)
    suited = "compiled, im2col and naive" if fused_here is not False else "im2col and naive; compiled works, but slowly"
    known = ", ".join(shown) or "features unknown"
    facts = {"name": name, "features": shown, "fused_multiply_add": fused_here}
    found = [Finding(CHECK, "ok", f"{name} ({known}); kernels that suit it: {suited}", facts=facts)]
    if fused_here is False:
        text = (
            "the processor has no fused multiply-add: kernel compiled computes it in the C library, many times slower"
        )
        found.append(Finding(CHECK, "slow", text, "train with --kernel im2col, or on a processor made after 2015"))
    for variable in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        if os.environ.get(variable):
            text = f"{variable} is set: kernels are compiled for another processor than this one"
            found.append(Finding(CHECK, "slow", text, f"unset {variable}"))
    return [*found, *_governor(here), *_load(here)]


def features(here: Here) -> set[str]:
    """The processor's features as Linux names them; none if they are not known."""
    with suppress(OSError):
        text = (here.root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")[:65536]
        found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
        if found:
            return set(found[1].split())
    return set()


def has_fused_multiply_add(here: Here) -> bool | None:
    """Whether it has fused multiply-adds; None if that is not known."""
    flags = features(here)
    return bool(flags & {"fma", "fma4", "asimd"}) if flags else None


def _governor(here: Here) -> list[Finding]:
    folder = here.root / "sys/devices/system/cpu"
    slow = 0
    governors = sorted(folder.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    for file in governors:
        with suppress(OSError):
            driver = file.with_name("scaling_driver")
            own = driver.exists() and driver.read_text().strip() in OWN_GOVERNORS
            slow += file.read_text().strip() == "powersave" and not own
    if not slow:
        return []
    text = f"{slow} of {len(governors)} cores keep their lowest clock (governor powersave)"
    remedy = "powerprofilesctl set performance, or sudo cpupower frequency-set -g performance"
    return [Finding(CHECK, "slow", text, remedy)]


def _load(here: Here) -> list[Finding]:
    try:
        load = float((here.root / "proc/loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return []
    cores = os.cpu_count() or 1
    if load <= CROWDED * cores:
        return []
    text = (
        f"the machine is busy: {load:.1f} programs are ready to run on {count(cores, 'core')}, averaged over a minute"
    )
    return [Finding(CHECK, "slow", text, "wait for them to end, or look for them with top", {"load": load})]
