"""Measures images per second: on one core beside the processor's peak, and with all workers beside one."""

import re
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from parallel_lenet import kernels
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.datasets import load
from parallel_lenet.display import count
from parallel_lenet.doctor import compiler, cores, processor
from parallel_lenet.doctor.finding import Finding, System
from parallel_lenet.engines import WorkerError
from parallel_lenet.engines.serial import one_blas_thread
from parallel_lenet.network.lenet5 import lenet5
from parallel_lenet.optimizers import Adam
from parallel_lenet.random import generator
from parallel_lenet.reports import StepReport

CHECK = "speed"
FLOP = 2 * 1_132_000  # Multiplications and additions for an image in LeNet-5, forward and backward.
IMAGES = 32  # Per call.
SECONDS = 0.3  # For each figure.
# GFLOP/s of a kernel over those of NumPy's matrix product, by scripts/benchmark.py kernels: 98, 26 and 0.06 over 108.
USUAL_RATIO = {"compiled": 0.9, "im2col": 0.24, "naive": 0.0005}
LOW = 0.5  # Figures below this part of the usual one are findings.
# float32 operations per clock with the widest vectors: two multiply-adds, of 8 or 4 numbers. Processors with AVX-512
# do at least as many.
PER_CLOCK = {"avx2": 32, "asimd": 16}
SHARE = 0.8  # With a smaller share of a core, a finding says that other programs use the rest.


def check(system: System) -> list[Finding]:
    """The speed of one core, and of all workers."""
    kernel, reason = _kernel()
    product, share = _product()
    rate = _images(kernel)
    gflops = rate * FLOP / 1e9
    peak = _peak(system)
    limit = f"{product:.0f}" + (f"; {peak:.0f} at the processor's nominal clock" if peak else "")
    text = (
        f"{rate:,.0f} images/s on one core with kernel {kernel}{reason}: {gflops:.1f} GFLOP/s, "
        f"where NumPy's matrix product reaches {limit}"
    )
    facts = {"kernel": kernel, "images_per_second": round(rate), "gflops": gflops, "matrix_product_gflops": product}
    facts |= {"peak_gflops": peak, "share_of_a_core": share}
    found = [Finding(CHECK, "ok", text, facts=facts)]
    if share < SHARE:
        text = f"other programs use this core: the measurement got {share:.0%} of it"
        found.append(Finding(CHECK, "slow", text, "wait for them to end, or look for them with top"))
    elif peak and product < LOW * peak:
        text = f"NumPy's matrix product reaches {product:.0f} GFLOP/s, of {peak:.0f} that the processor should reach"
        remedy = "look for other programs, a low clock (power saving, heat), or a NumPy built without OpenBLAS"
        found.append(Finding(CHECK, "slow", text, remedy))
    if gflops < LOW * USUAL_RATIO[kernel] * product:
        text = f"kernel {kernel} reaches {gflops / product:.2f} of the matrix product; {USUAL_RATIO[kernel]:g} is usual"
        remedy = (
            "see what the checks numba, blas and processor say; scripts/benchmark.py kernels measures each function"
        )
        found.append(Finding(CHECK, "slow", text, remedy))
    return [*found, *_workers(system, kernel, rate, share)]


def _kernel() -> tuple[str, str]:
    """The kernel to measure, and why it is not the one that trains by default: that would be compiled each time."""
    found = compiler.check(System())
    facts = found[0].facts
    if found[0].state != "ok" or facts.get("disabled"):
        return "im2col", ""
    if not facts.get("compiled") and len(found) > 1:  # Its code cannot be kept.
        return "im2col", " (compiled would have to be compiled first)"
    return kernels.resolve("auto"), ""


def _product() -> tuple[float, float]:
    """GFLOP/s of a matrix product on one thread, and the share of a core that this process got."""
    x = np.ones((512, 512), np.float32)
    out = np.empty_like(x)
    with one_blas_thread():
        np.matmul(x, x, out)
        start = time.perf_counter()
        processor_start = time.process_time()
        seconds = _least_seconds(lambda: np.matmul(x, x, out))
        share = (time.process_time() - processor_start) / (time.perf_counter() - start)
    return 2 * 512**3 / seconds / 1e9, min(share, 1.0)


def _images(kernel: str) -> float:
    """Images per second, forward and backward, on one thread."""
    train, _ = load()
    model = lenet5(kernel=kernel)
    parameters = model.initial_parameters(generator(0))
    gradient = np.empty_like(parameters)
    inputs = train.inputs[:IMAGES]
    targets = train.targets[:IMAGES]
    with one_blas_thread():
        model.loss_and_gradient(parameters, inputs, targets, gradient)  # Compiles.
        return IMAGES / _least_seconds(lambda: model.loss_and_gradient(parameters, inputs, targets, gradient))


def _least_seconds(function: Callable[[], object]) -> float:
    """The time of the fastest of several calls, since other programs only slow calls down."""
    function()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def _peak(system: System) -> float | None:
    """GFLOP/s of one core by its clock and its vectors, or None if they are not known."""
    width = max((PER_CLOCK.get(name, 0) for name in processor.features(system)), default=0)
    gigahertz = 0.0
    with suppress(OSError, ValueError):
        file = system.root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"
        gigahertz = int(file.read_text()) / 1e6
    if not gigahertz:
        with suppress(OSError):
            text = (system.root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
            gigahertz = max(map(float, re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE)), default=0.0) / 1e3
    return width * gigahertz or None


def _workers(system: System, kernel: str, rate: float, share: float) -> list[Finding]:
    """The speed of training with one worker per core."""
    workers = cores.worker_cores(system)
    train, _ = load()
    batch = 64 * workers
    try:
        # Importing numba here could hang.
        optimizer = Adam(fused=kernel == "compiled")
        with Coordinator(lenet5(kernel=kernel), optimizer, n_workers=workers, batch_size=batch) as coordinator:
            times: list[float] = []
            for report in coordinator.iterate(train, epochs=1000):
                if isinstance(report, StepReport):
                    times.append(time.perf_counter())
                # All workers have computed by the end of the second step.
                if len(times) > 2 and times[-1] - times[1] > 2 * SECONDS:
                    break
    except (WorkerError, OSError) as error:
        text = f"training with {count(workers, 'worker')} fails: {error}"
        return [Finding(CHECK, "broken", text, "train with --engine serial, and report this")]
    rate_of_all = (len(times) - 2) * batch / (times[-1] - times[1])
    speed = f"{rate_of_all:,.0f} images/s with {count(workers, 'worker')}"
    text = f"{speed}, everything included: {rate_of_all / rate:.2f} times one core"
    facts = {"workers": workers, "images_per_second": round(rate_of_all)}
    is_slow = rate_of_all < LOW * workers * rate
    if is_slow and share < SHARE:
        text += ", while other programs use the cores: measure again when they have ended"
        return [Finding(CHECK, "note", text, facts=facts)]
    found = [Finding(CHECK, "ok", text, facts=facts)]
    if is_slow:
        text = f"{workers} workers are only {rate_of_all / rate:.2f} times as fast as one core"
        remedy = "look for other programs with top; virtual cores that share a core count as one"
        found.append(Finding(CHECK, "slow", text, remedy))
    return found
