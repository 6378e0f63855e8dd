"""``benchmark.py kernels``: what an image costs."""

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.common import Report, Row, alternate, sgemm_flops
from parallel_lenet import kernels, lenet5, load_dataset
from parallel_lenet.engines.serial import blas

FLOP_AN_IMAGE = 2 * 1_132_000  # LeNet-5, forward and backward, a multiplication and an addition each.
TUTORIAL_US = 85_000  # An image through the tutorial's own published loops, on the machine of the README's table.


def measure(arguments: argparse.Namespace) -> Report:
    """Microseconds an image, LeNet-5 forward and backward, float32, one core."""
    train, _ = load_dataset()
    work: dict[str, Callable[[], object]] = {}
    images: dict[str, int] = {}
    for name in kernels.available():
        for n in (1, 2) if name == "naive" else (16, 32, 64):
            model = lenet5(kernel=name)
            parameters = model.initial_parameters(np.random.default_rng(0))
            shard = (parameters, train.inputs[:n], train.targets[:n], np.empty_like(parameters))
            work[f"{name}, shards of {n}"] = partial(model.loss_and_gradient, *shard)
            images[f"{name}, shards of {n}"] = n
    with blas().limit(limits=1):
        slow = {name: function for name, function in work.items() if name.startswith("naive")}
        fast = {name: function for name, function in work.items() if name not in slow}
        seconds = alternate(slow, 5) | alternate(fast, arguments.rounds, repeat=20)
    us = {name: seconds[name] / images[name] * 1e6 for name in work}
    peak = sgemm_flops()
    rows: list[Row] = [("the tutorial's loops (its published code)", f"{TUTORIAL_US:,}", "", "")]
    for name, value in us.items():
        flops = FLOP_AN_IMAGE / value * 1e6
        rows.append((name, f"{value:,.1f}", f"{flops / 1e9:,.2f}", f"{TUTORIAL_US / value:,.1f}"))
    rows.append(("sgemm of NumPy", f"{FLOP_AN_IMAGE / peak * 1e6:,.1f}", f"{peak / 1e9:,.2f}", ""))
    return Report(
        title="LeNet-5, one image forward and backward, one core",
        header=("kernel", "us an image", "GFLOP/s", "x tutorial"),
        rows=rows,
        results={"us_an_image": us, "sgemm_gflops": peak / 1e9},
    )
