"""Checks the processor: its instructions, its clock, and its load by other programs."""

import os
import re
from contextlib import suppress

from parallel_lenet.display import count
from parallel_lenet.doctor.finding import Finding, System
from parallel_lenet.runs import environment

CHECK = "processor"
FEATURES = ("fma", "avx2", "avx512f", "asimd", "sve")
# Drivers with their own governor. They call the usual setting, which raises the clock under load, powersave.
OWN_GOVERNORS = ("intel_pstate", "amd-pstate-epp")
MOST_PROGRAMS = 1.25  # Runnable programs per core. With more of them, each is noticeably slower.


def check(system: System) -> list[Finding]:
    """The processor's model, the kernels that suit it, and what makes it slow."""
    flags = features(system)
    known_features = [name for name in FEATURES if name in flags]
    name = environment.processor()
    has_fused = has_fused_multiply_add(system)
    suitable = (
        "compiled, im2col and naive" if has_fused is not False else "im2col and naive; compiled works, but slowly"
    )
    known = ", ".join(known_features) or "features unknown"
    facts = {"name": name, "features": known_features, "fused_multiply_add": has_fused}
    found = [Finding(CHECK, "ok", f"{name} ({known}); kernels that suit it: {suitable}", facts=facts)]
    if has_fused is False:
        text = (
            "the processor has no fused multiply-add: kernel compiled computes it in the C library, many times slower"
        )
        found.append(Finding(CHECK, "slow", text, "train with --kernel im2col, or on a processor made after 2015"))
    for variable in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        if os.environ.get(variable):
            text = f"{variable} is set: kernels are compiled for another processor than this one"
            found.append(Finding(CHECK, "slow", text, f"unset {variable}"))
    return [*found, *_governor(system), *_load(system)]


def features(system: System) -> set[str]:
    """The processor's features as Linux names them. Empty if they are not known."""
    with suppress(OSError):
        text = (system.root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")[:65536]
        found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
        if found:
            return set(found[1].split())
    return set()


def has_fused_multiply_add(system: System) -> bool | None:
    """Whether it has fused multiply-adds, or None if that is not known."""
    flags = features(system)
    return bool(flags & {"fma", "fma4", "asimd"}) if flags else None


def _governor(system: System) -> list[Finding]:
    folder = system.root / "sys/devices/system/cpu"
    slow = 0
    governors = sorted(folder.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    for file in governors:
        with suppress(OSError):
            driver = file.with_name("scaling_driver")
            has_own = driver.exists() and driver.read_text().strip() in OWN_GOVERNORS
            slow += file.read_text().strip() == "powersave" and not has_own
    if not slow:
        return []
    text = f"{slow} of {len(governors)} cores keep their lowest clock (governor powersave)"
    remedy = "powerprofilesctl set performance, or sudo cpupower frequency-set -g performance"
    return [Finding(CHECK, "slow", text, remedy)]


def _load(system: System) -> list[Finding]:
    try:
        load = float((system.root / "proc/loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return []
    cores = os.cpu_count() or 1
    if load <= MOST_PROGRAMS * cores:
        return []
    text = (
        f"the machine is busy: {load:.1f} programs are ready to run on {count(cores, 'core')}, averaged over a minute"
    )
    return [Finding(CHECK, "slow", text, "wait for them to end, or look for them with top", {"load": load})]
