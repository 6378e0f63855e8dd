"""The contract of kernels as tests: what `naive`, the specification, computes, every kernel module computes.

A test file runs it over its kernels with ``from kits.kernel_contract import *`` and a fixture ``kernel``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from parallel_lenet import kernels
from parallel_lenet.kernels import naive

Array = NDArray[Any]

examples = settings(deadline=None, max_examples=20)  # A compiled function takes seconds at its first call.


@dataclass
class Case:
    """Shapes of one call, and the numbers to fill them with."""

    channels: int
    filters: int
    height: int
    width: int
    n: int
    k: int
    stride: int
    padding: int
    dtype: str
    seed: int

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.channels, self.height, self.width, self.n)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.filters, self.channels, self.k, self.k)

    def y_shape(self, channels: int, padding: int) -> tuple[int, ...]:
        sizes = ((size + 2 * padding - self.k) // self.stride + 1 for size in (self.height, self.width))
        return (channels, *sizes, self.n)

    @property
    def conv_shape(self) -> tuple[int, ...]:
        return self.y_shape(self.filters, self.padding)

    @property
    def pool_shape(self) -> tuple[int, ...]:
        return self.y_shape(self.channels, 0)

    def numbers(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape).astype(self.dtype)

    def few_values(self, *shape: int) -> Array:
        """Small integers, so that ties are everywhere."""
        return self.rng.integers(-1, 2, shape).astype(self.dtype)

    def with_specials(self, *shape: int) -> Array:
        """Numbers, and here and there NaN or an infinity."""
        array = self.numbers(*shape)
        places = self.rng.random(shape) < 0.1
        array[places] = self.rng.choice([np.nan, np.inf, -np.inf], int(places.sum()))
        return array


@st.composite
def cases(draw: st.DrawFn, padded: bool = True) -> Case:
    # Each constant of a loop is compiled anew, so there are few sizes of windows, and float64 with one of them.
    of_convolutions = [(1, "float32"), (3, "float32"), (2, "float64")]
    k, dtype = draw(st.sampled_from(of_convolutions if padded else [(1, "float32"), (3, "float64")]))
    padding = draw(st.integers(0, 2)) if padded else 0
    sizes = st.integers(max(1, k - 2 * padding), 6)
    small = st.integers(1, 4)
    return Case(
        channels=draw(small),
        filters=draw(small),
        height=draw(sizes),
        width=draw(sizes),
        n=draw(st.integers(1, 5)),
        k=k,
        stride=draw(st.integers(1, 2)),
        padding=padding,
        dtype=dtype,
        seed=draw(st.integers(0, 2**16)),
    )


def call(module: Any, function: str, arguments: tuple[Any, ...], *outs: tuple[int, ...], dtype: str) -> list[Array]:
    """Call with read-only inputs, and results that hold NaN, on arrays of their own."""
    inputs = [argument.copy() if isinstance(argument, np.ndarray) else argument for argument in arguments]
    for array in inputs:
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    results = [np.full(shape, np.nan, dtype) for shape in outs]
    with np.errstate(all="ignore"):  # Infinity minus infinity is meant.
        assert getattr(module, function)(*inputs, *results) is None
    return results


def check(kernel: Any, function: str, case: Case, arguments: tuple[Any, ...], *outs: tuple[int, ...]) -> None:
    """The kernel's results are the specification's, but for the order in which products are added."""
    found = call(kernel, function, arguments, *outs, dtype=case.dtype)
    wanted = call(naive, function, arguments, *outs, dtype=case.dtype)
    # Up to some 200 products of about 1 are added here: a rounding error each, at worst.
    tolerance = 200 * np.finfo(case.dtype).eps
    for ours, specified in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, specified, rtol=tolerance, atol=tolerance)
    again = call(kernel, function, arguments, *outs, dtype=case.dtype)
    for ours, repeated in zip(found, again, strict=True):
        assert ours.tobytes() == repeated.tobytes()


@given(
    case=cases(),
    margins=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    stored=st.sampled_from(["uint8", "float64"]),
    each=st.booleans(),
)
@examples
def test_prepare_images(kernel: Any, case: Case, margins: tuple[int, int], stored: str, each: bool) -> None:
    images = case.rng.integers(0, 256, (case.n, case.channels, case.height, case.width)).astype(stored)
    out = (case.channels, case.height + margins[0], case.width + margins[1], case.n)
    per_channel = 1 + np.arange(case.channels) / 10 if each else 1.0
    check(kernel, "prepare_images", case, (images, 0.0127 * per_channel, -0.42 * per_channel), out)


@given(case=cases())
@examples
def test_conv2d(kernel: Any, case: Case) -> None:
    x = case.numbers(*case.x_shape)
    weight = case.numbers(*case.weight_shape)
    bias = case.numbers(case.filters)
    check(kernel, "conv2d", case, (x, weight, bias, case.stride, case.padding), case.conv_shape)


@given(case=cases())
@examples
def test_conv2d_input_gradient(kernel: Any, case: Case) -> None:
    dy, weight = case.numbers(*case.conv_shape), case.numbers(*case.weight_shape)
    check(kernel, "conv2d_input_gradient", case, (dy, weight, case.stride, case.padding), case.x_shape)


@given(case=cases())
@examples
def test_conv2d_weight_gradient(kernel: Any, case: Case) -> None:
    x, dy = case.numbers(*case.x_shape), case.numbers(*case.conv_shape)
    arguments = (x, dy, case.stride, case.padding)
    check(kernel, "conv2d_weight_gradient", case, arguments, case.weight_shape, (case.filters,))


@given(case=cases(padded=False))
@examples
def test_pools(kernel: Any, case: Case) -> None:
    x, dy = case.numbers(*case.x_shape), case.numbers(*case.pool_shape)
    for pool in ("avg_pool2d", "max_pool2d"):
        check(kernel, pool, case, (x, case.k, case.stride), case.pool_shape)
    check(kernel, "avg_pool2d_gradient", case, (dy, case.k, case.stride), case.x_shape)
    check(kernel, "max_pool2d_gradient", case, (x, dy, case.k, case.stride), case.x_shape)


@given(case=cases(padded=False))
@examples
def test_the_first_of_equal_maxima_gets_the_error(kernel: Any, case: Case) -> None:
    x = case.few_values(*case.x_shape)
    dy = case.numbers(*case.pool_shape)
    check(kernel, "max_pool2d", case, (x, case.k, case.stride), case.pool_shape)
    check(kernel, "max_pool2d_gradient", case, (x, dy, case.k, case.stride), case.x_shape)


@given(case=cases(), amplitude=st.sampled_from([1.0, 1.7159, 0.3]))
@examples
def test_activations(kernel: Any, case: Case, amplitude: float) -> None:
    for shape in (case.x_shape, (case.filters, case.n)):
        # Up to 30, beyond the point where tanh is 1 to the last bit.
        x = case.numbers(*shape) * case.rng.choice(np.array([1e-6, 0.1, 1, 10], case.dtype), shape)
        x[case.rng.random(shape) < 0.1] = 0
        dy = case.numbers(*shape)
        check(kernel, "tanh", case, (x, amplitude), shape)
        check(kernel, "relu", case, (x,), shape)
        y = case.rng.uniform(-amplitude, amplitude, shape).astype(case.dtype)
        check(kernel, "tanh_gradient", case, (y, dy, amplitude), shape)
        check(kernel, "relu_gradient", case, (np.maximum(x, 0), dy), shape)


@given(case=cases(), units=st.integers(1, 9))
@examples
def test_dense(kernel: Any, case: Case, units: int) -> None:
    features = case.channels * case.height
    n = case.n
    x, dy = case.numbers(features, n), case.numbers(units, n)
    weight, bias = case.numbers(units, features), case.numbers(units)
    check(kernel, "dense", case, (x, weight, bias), (units, n))
    check(kernel, "dense_input_gradient", case, (dy, weight), (features, n))
    check(kernel, "dense_weight_gradient", case, (x, dy), (units, features), (units,))


@given(case=cases(), classes=st.integers(1, 12), scale=st.sampled_from([1e-6, 1.0, 30.0, 3e4]))
@examples
def test_softmax(kernel: Any, case: Case, classes: int, scale: float) -> None:
    logits = (case.numbers(classes, case.n) * scale).astype(case.dtype)
    check(kernel, "softmax", case, (logits,), logits.shape)
    (probabilities,) = call(kernel, "softmax", (logits,), logits.shape, dtype=case.dtype)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=classes * np.finfo(case.dtype).eps)
    # The gradient of the loss is the same number, less 1 at the target.
    error = np.empty_like(logits)
    kernel.softmax_cross_entropy(logits, np.zeros(case.n, np.int64), np.ones(case.n, logits.dtype), error)
    assert error[1:].tobytes() == probabilities[1:].tobytes()


@given(case=cases(), classes=st.integers(1, 12), smoothing=st.sampled_from([0.0, 1e-6, 0.1, 0.9]))
@examples
def test_softmax_cross_entropy(kernel: Any, case: Case, classes: int, smoothing: float) -> None:
    logits = case.numbers(classes, case.n)
    targets = case.rng.integers(0, classes, case.n)
    weights = case.rng.uniform(0, 2, case.n).astype(case.dtype)
    results = []
    for module in (kernel, naive):
        error = np.full_like(logits, np.nan)
        loss, correct = module.softmax_cross_entropy(logits, targets, weights, error, smoothing=smoothing)
        results.append((error, loss, correct))
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=200 * np.finfo(case.dtype).eps)


@given(case=cases())
@examples
def test_activations_in_place(kernel: Any, case: Case) -> None:
    x, dy = case.numbers(*case.x_shape), case.numbers(*case.x_shape)
    runs: list[tuple[Callable[..., None], Callable[..., None]]] = [
        (lambda x, out: kernel.tanh(x, 1.7159, out), lambda y, dy, out: kernel.tanh_gradient(y, dy, 1.7159, out)),
        (kernel.relu, kernel.relu_gradient),
    ]
    for forward, backward in runs:
        y, dx = np.empty_like(x), np.empty_like(x)
        forward(x, y)
        backward(y, dy, dx)
        y_in_place = x.copy()
        dx_in_place = dy.copy()
        forward(y_in_place, y_in_place)
        backward(y, dx_in_place, dx_in_place)
        assert y.tobytes() == y_in_place.tobytes()
        assert dx.tobytes() == dx_in_place.tobytes()


@given(case=cases())
@examples
def test_nan_and_infinity_in_convolutions(kernel: Any, case: Case) -> None:
    x, dy = case.with_specials(*case.x_shape), case.with_specials(*case.conv_shape)
    weight = case.numbers(*case.weight_shape)
    bias = case.with_specials(case.filters)
    window = (case.stride, case.padding)
    check(kernel, "conv2d", case, (x, weight, bias, *window), case.conv_shape)
    check(kernel, "conv2d_input_gradient", case, (dy, weight, *window), case.x_shape)
    gradients = (case.weight_shape, (case.filters,))
    check(kernel, "conv2d_weight_gradient", case, (x, case.numbers(*case.conv_shape), *window), *gradients)
    check(kernel, "conv2d_weight_gradient", case, (case.numbers(*case.x_shape), dy, *window), *gradients)


@given(case=cases(padded=False))
@examples
def test_nan_and_infinity_in_pools(kernel: Any, case: Case) -> None:
    x, dy = case.with_specials(*case.x_shape), case.with_specials(*case.pool_shape)
    for pool in ("avg_pool2d", "max_pool2d"):
        check(kernel, pool, case, (x, case.k, case.stride), case.pool_shape)
    check(kernel, "avg_pool2d_gradient", case, (dy, case.k, case.stride), case.x_shape)
    check(kernel, "max_pool2d_gradient", case, (x, dy, case.k, case.stride), case.x_shape)


@given(case=cases())
@examples
def test_nan_and_infinity_in_activations_and_dense(kernel: Any, case: Case) -> None:
    x, dy = case.with_specials(*case.x_shape), case.with_specials(*case.x_shape)
    check(kernel, "tanh", case, (x, 1.7159), case.x_shape)
    check(kernel, "relu", case, (x,), case.x_shape)
    y = case.numbers(*case.x_shape)
    y[case.rng.random(y.shape) < 0.1] = np.nan
    check(kernel, "tanh_gradient", case, (y, dy, 1.7159), case.x_shape)
    check(kernel, "relu_gradient", case, (y, dy), case.x_shape)
    features = case.height
    units = case.filters
    n = case.n
    inputs = case.with_specials(features, n)
    weight = case.numbers(units, features)
    bias = case.with_specials(units)
    check(kernel, "dense", case, (inputs, weight, bias), (units, n))
    check(kernel, "dense_input_gradient", case, (case.with_specials(units, n), weight), (features, n))
    check(kernel, "dense_weight_gradient", case, (inputs, case.numbers(units, n)), (units, features), (units,))


def summed_over_images(kernel: Any, x: Array, dy: Array, case: Case, images: slice) -> list[Array]:
    """All results that are sums over images, of some of them."""
    x, dy = np.ascontiguousarray(x[..., images]), np.ascontiguousarray(dy[..., images])
    window = (case.stride, case.padding)
    weight = case.weight_shape
    results = call(kernel, "conv2d_weight_gradient", (x, dy, *window), weight, (case.filters,), dtype=case.dtype)
    inputs = x[0, 0].copy()
    errors = dy[:, 0, 0].copy()
    shapes = (case.filters, case.width), (case.filters,)
    results += call(kernel, "dense_weight_gradient", (inputs, errors), *shapes, dtype=case.dtype)
    targets = np.zeros(errors.shape[1], np.int64)
    weights = np.ones(errors.shape[1], errors.dtype)
    loss, _ = kernel.softmax_cross_entropy(errors, targets, weights, np.empty_like(errors))
    return [*results, np.float64(loss)]


@pytest.mark.parametrize("name", ["naive", pytest.param("compiled", marks=pytest.mark.slow)])
@given(case=cases(), n=st.integers(2, 40), specials=st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_block_is_the_sum_of_its_halves_bit_by_bit(name: str, case: Case, n: int, specials: bool) -> None:
    """From one image on. The first half is the largest power of two below n, the second is the rest."""
    if name == "compiled":
        pytest.importorskip("numba")
    kernel = kernels.load(name)
    case.n = n if name == "compiled" else 2 + n % 6
    x, dy = case.numbers(*case.x_shape), case.numbers(*case.conv_shape)
    if specials:
        x = case.few_values(*case.x_shape) * x.dtype.type(-0.0)
        dy = case.with_specials(*case.conv_shape)
    half = 1 << ((case.n - 1).bit_length() - 1)
    with np.errstate(all="ignore"):
        whole = summed_over_images(kernel, x, dy, case, slice(None))
        first = summed_over_images(kernel, x, dy, case, slice(half))
        second = summed_over_images(kernel, x, dy, case, slice(half, None))
        for found, one, other in zip(whole, first, second, strict=True):
            total = np.asarray(one + other)
            np.testing.assert_array_equal(found, total)  # NaN has many bit patterns, all other numbers have one.
            numbers = ~np.isnan(total)
            np.testing.assert_array_equal(np.signbit(found)[numbers], np.signbit(total)[numbers])


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_the_shapes_of_lenet5(kernel: Any, dtype: str) -> None:
    """Hypothesis keeps shapes small. These are the ones that count, with a shard that fills no vector evenly."""
    n = 9
    for channels, filters, size in ((1, 6, 32), (6, 16, 14)):
        case = Case(channels, filters, size, size, n, k=5, stride=1, padding=0, dtype=dtype, seed=0)
        x = case.numbers(*case.x_shape)
        weight = case.numbers(*case.weight_shape)
        bias = case.numbers(filters)
        dy = case.numbers(*case.conv_shape)
        check(kernel, "conv2d", case, (x, weight, bias, 1, 0), case.conv_shape)
        check(kernel, "conv2d_input_gradient", case, (dy, weight, 1, 0), case.x_shape)
        # Here 10,000 products are added: an error each, at worst, but they cancel like a random walk.
        found = call(kernel, "conv2d_weight_gradient", (x, dy, 1, 0), weight.shape, bias.shape, dtype=dtype)
        wanted = call(naive, "conv2d_weight_gradient", (x, dy, 1, 0), weight.shape, bias.shape, dtype=dtype)
        for ours, specified in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours, specified, rtol=0, atol=np.finfo(dtype).eps * 10_000)
        pool = replace(case, channels=filters, height=size - 4, width=size - 4, k=2, stride=2)
        x = pool.few_values(*pool.x_shape)
        dy = pool.numbers(*pool.pool_shape)
        for name in ("avg_pool2d", "max_pool2d"):
            check(kernel, name, pool, (x, 2, 2), pool.pool_shape)
        check(kernel, "avg_pool2d_gradient", pool, (dy, 2, 2), pool.x_shape)
        check(kernel, "max_pool2d_gradient", pool, (x, dy, 2, 2), pool.x_shape)


__all__ = [name for name in dir() if name.startswith("test_")]
