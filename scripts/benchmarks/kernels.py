"""``benchmark.py kernels``: the time of an image, per kernel and per layer function."""

import argparse
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.common import Report, Row, alternate, sgemm_flops
from parallel_lenet import kernels, lenet5, load_dataset
from parallel_lenet.engines.serial import blas
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector
from parallel_lenet.random import generator

FLOP_AN_IMAGE = 2 * 1_132_000  # LeNet-5, forward and backward, a multiplication and an addition each.
TUTORIAL_US = 85_000  # An image through the tutorial's own published loops, on the machine of the README's table.
SIZES = (8, 16, 32)
PRODUCTS = {  # The array of a function with the weight's shape, and the one with the output's shape.
    "conv2d": (1, 3),
    "conv2d_input_gradient": (1, 0),
    "conv2d_weight_gradient": (2, 1),
    "dense": (1, 3),
    "dense_input_gradient": (1, 0),
    "dense_weight_gradient": (2, 1),
}
REPEATED = 50  # Calls of each layer function. The fastest counts.


def measure(arguments: argparse.Namespace) -> Report:
    """Microseconds per image, LeNet-5 forward and backward, float32, one core."""
    train, _ = load_dataset()
    work: dict[str, Callable[[], object]] = {}
    images: dict[str, int] = {}
    for name in kernels.available():
        for n in (1, 2) if name == "naive" else SIZES:
            model = lenet5(kernel=name)
            parameters = model.initial_parameters(generator(0))
            shard = (parameters, train.inputs[:n], train.targets[:n], np.empty_like(parameters))
            work[f"{name}, shards of {n}"] = partial(model.loss_and_gradient, *shard)
            images[f"{name}, shards of {n}"] = n
    with blas().limit(limits=1):
        slow = {name: function for name, function in work.items() if name.startswith("naive")}
        fast = {name: function for name, function in work.items() if name not in slow}
        seconds = alternate(slow, 5) | alternate(fast, arguments.rounds, repeat=20, choose=min)
    us = {name: seconds[name] / images[name] * 1e6 for name in work}
    peak = sgemm_flops()
    rows: list[Row] = [("the tutorial's loops (its published code)", f"{TUTORIAL_US:,}", "", "")]
    for name, value in us.items():
        flops = FLOP_AN_IMAGE / value * 1e6
        rows.append((name, f"{value:,.1f}", f"{flops / 1e9:,.2f}", f"{TUTORIAL_US / value:,.1f}"))
    layers: dict[str, dict[str, float]] = {}
    limits = {"sgemm_gflops": peak / 1e9}
    if "compiled" in kernels.available():
        limits["fma_gflops"] = fma_flops() / 1e9
        for n in SIZES:
            for name, (value, flop) in layer_functions(n).items():
                layers.setdefault(name, {})[str(n)] = value
                rate = f"{flop / value / 1e3:,.1f}" if flop else ""
                rows.append((f"  compiled, {n} images: {name}", f"{value:,.2f}", rate, ""))
        rows.append(("fused multiply-adds in registers", "", f"{limits['fma_gflops']:,.2f}", ""))
    rows.append(("sgemm of NumPy", f"{FLOP_AN_IMAGE / peak * 1e6:,.1f}", f"{peak / 1e9:,.2f}", ""))
    return Report(
        title="LeNet-5, one image forward and backward, one core",
        header=("kernel", "us per image", "GFLOP/s", "x tutorial"),
        rows=rows,
        results={"us_an_image": us, "us_an_image_by_layer_function": layers, **limits},
        notes=("The fastest of many calls; layer functions find their arrays in the cache.",),
    )


def layer_functions(n: int) -> dict[str, tuple[float, int]]:
    """For each call of a pass over ``n`` images: microseconds per image, and FLOP per image if it multiplies matrices.

    The pass runs with kernels that call each function many times. A function that works in place then works on other
    numbers.
    """
    train, _ = load_dataset()
    model = lenet5(kernel="compiled")
    found: dict[str, tuple[float, int]] = {}

    def time_call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        fastest = float("inf")
        for _ in range(REPEATED):
            start = time.perf_counter()
            result = function(*arguments)
            fastest = min(fastest, time.perf_counter() - start)
        arrays = [argument for argument in arguments if isinstance(argument, np.ndarray)]
        shapes = " ".join("x".join(map(str, array.shape)) for array in (arrays[0], arrays[-1]))
        found[f"{name} {shapes}"] = (fastest / n * 1e6, _flop(name, arrays))
        return result

    module = kernels.load("compiled")
    functions = {name: getattr(module, name) for name in vars(kernels.Kernels) if callable(getattr(module, name, None))}
    watched = SimpleNamespace(**{name: partial(time_call, name, function) for name, function in functions.items()})
    parameters = model.initial_parameters(generator(0))
    gradient: Vector = np.empty_like(parameters)
    lenet5(kernel="compiled").loss_and_gradient(parameters, train.inputs[:n], train.targets[:n], gradient)
    _pass(model, watched, parameters, (train.inputs[:n], train.targets[:n]), gradient)
    return found


def _pass(model: Sequential, kernel: Any, parameters: Vector, data: tuple[Any, Any], gradient: Vector) -> None:
    """A pass with ``kernel`` in place of the kernel that the model names."""
    loaded = kernels.load
    kernels.load = lambda name: kernel
    try:
        model.loss_and_gradient(parameters, *data, gradient)
    finally:
        kernels.load = loaded


def _flop(name: str, arrays: list[Any]) -> int:
    """FLOP per image (a multiplication and an addition count 2), or 0 if the function is not a product of matrices."""
    if name not in PRODUCTS:
        return 0
    weight, out = (arrays[i] for i in PRODUCTS[name])
    return int(2 * weight.size * np.prod(out.shape[1:-1]))


def fma_flops() -> float:
    """FLOP/s of fused multiply-adds on numbers that stay in registers: the peak of one core."""
    from parallel_lenet.kernels.compiled import tiles
    from parallel_lenet.kernels.compiled.jit import compiled_for
    from parallel_lenet.kernels.compiled.vectors import add_products, store, zeros

    lanes = tiles.lanes(1000, 4)

    @compiled_for(lanes)
    def loop(x: Any, out: Any, times: int) -> None:
        sums = zeros(x, 2, 5, lanes)
        for _ in range(times):
            sums = add_products(sums, x, 0, 0, x, 0, 0)
        store(sums, out, 0, 5 * lanes, lanes)

    x = np.ones(lanes, np.float32)
    out = np.empty(10 * lanes, np.float32)
    times = 20_000
    loop(x, out, times)
    fastest = float("inf")
    for _ in range(50):
        start = time.perf_counter()
        loop(x, out, times)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * 10 * lanes * times / fastest
