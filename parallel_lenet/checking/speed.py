"""Measures how fast a kernel is: the time of each function in LeNet-5, beside that of `im2col`."""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from parallel_lenet.engines.serial import one_blas_thread
from parallel_lenet.kernels import im2col
from parallel_lenet.network.buffers import Buffers
from parallel_lenet.network.layers import Flatten
from parallel_lenet.network.lenet5 import lenet5
from parallel_lenet.network.sequential import Sequential

IMAGES = 8
SECONDS = 0.15  # For the passes of each network and kernel. There is at least one pass.


class Speed(NamedTuple):
    """The time of a function in a forward and backward pass of LeNet-5 over one image, in microseconds."""

    function: str
    microseconds: float
    im2col_microseconds: float


class _TimedKernel:
    """A kernel that measures the time of each call of its functions."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, name)

    def _call(self, name: str, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = getattr(self._kernel, name)(*arguments)
        self.seconds[name] += time.perf_counter() - start
        return result


def speeds(module: Any) -> list[Speed]:
    """The times for LeNet-5 with tanh and average pooling, then for what only ReLU and max pooling use."""
    found: dict[str, Speed] = {}
    networks = lenet5(kernel="im2col"), lenet5(activation="relu", pooling="max", kernel="im2col")
    for network in networks:
        times, im2col_times = (_shortest_times(network, kernel) for kernel in (module, im2col))
        for name in times:
            found.setdefault(name, Speed(name, times[name], im2col_times[name]))
    return list(found.values())


def _shortest_times(network: Sequential, kernel: Any) -> dict[str, float]:
    """The shortest time of each function in several passes, per image."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 28, 28), np.uint8)
    targets = rng.integers(0, network.classes, IMAGES)
    parameters = network.initial_parameters(rng)
    buffers = Buffers(network.layers, network.shapes, IMAGES, parameters.dtype)
    shortest_times: dict[str, float] = {}
    end = time.perf_counter() + SECONDS
    with one_blas_thread(), np.errstate(all="ignore"):
        while True:
            timed_kernel = _TimedKernel(kernel)
            _pass(network, timed_kernel, buffers, parameters, images, targets)
            for name, seconds in timed_kernel.seconds.items():
                shortest_times[name] = min(seconds / IMAGES * 1e6, shortest_times.get(name, np.inf))
            if time.perf_counter() > end:
                return shortest_times


def _pass(network: Sequential, kernel: Any, buffers: Buffers, parameters: Any, images: Any, targets: Any) -> None:
    """Forward and backward, as a step of training does it."""
    views, gradients = (
        [
            {part: vectors[f"{name}.{part}"] for part in layer.parameter_shapes(shape)}
            for layer, name, shape in zip(network.layers, network.layer_names, network.shapes, strict=False)
        ]
        for vectors in (network.layout.views(parameters), network.layout.views(np.empty_like(parameters)))
    )
    outputs = buffers.outputs
    errors = buffers.errors
    network.images.prepare(kernel, network.images.pixels(images, parameters.dtype), outputs[0])
    for i, layer in enumerate(network.layers):
        layer.forward(kernel, views[i], outputs[i], outputs[i + 1])
    kernel.softmax_cross_entropy(outputs[-1], targets, buffers.ones, errors[-1])
    for i in reversed(range(len(network.layers))):
        layer = network.layers[i]
        x = outputs[i]
        dy = errors[i + 1]
        layer.parameter_gradient(kernel, x, dy, gradients[i])
        if i > 0 and not isinstance(layer, Flatten):
            layer.input_gradient(kernel, views[i], x, outputs[i + 1], dy, errors[i])
