"""Layers: forward and backward as PyTorch has them, output sizes, and what is said to arguments that don't fit."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kits.oracle import pytorch
from numpy.typing import NDArray

from parallel_lenet import kernels
from parallel_lenet.network.images import Images
from parallel_lenet.network.layers import (
    Activation,
    AvgPool2d,
    Conv2d,
    Dense,
    Flatten,
    Layer,
    MaxPool2d,
    ReLU,
    Shape,
    Tanh,
)

Array = NDArray[Any]

KERNEL = kernels.load("im2col")
examples = settings(deadline=None, max_examples=30)


def run(layer: Layer, x: Array, parameters: dict[str, Array], dy: Array | None = None) -> dict[str, Array]:
    """The layer's output ``y`` and, for the error ``dy``, all its gradients, in new arrays that held NaN before."""
    y = np.full((*layer.output_shape(x.shape[:-1]), x.shape[-1]), np.nan)
    layer.forward(KERNEL, parameters, x, y)
    if dy is None:
        return {"y": y}
    dx = np.full_like(x, np.nan)
    gradients = {name: np.full_like(array, np.nan) for name, array in parameters.items()}
    layer.parameter_gradient(KERNEL, x, dy, gradients)
    layer.input_gradient(KERNEL, parameters, x, y, dy, dx)
    return {"y": y, "x": dx, **gradients}


def random_parameters(layer: Layer, shape: Shape, rng: np.random.Generator) -> dict[str, Array]:
    return {name: rng.standard_normal(size) for name, size in layer.parameter_shapes(shape).items()}


def check_against_torch(layer: Layer, shape: Shape, n: int, seed: int, function: Callable[..., Any]) -> None:
    """``function(x, **parameters)`` is PyTorch's, with the batch first. All results are compared in float64."""
    torch = pytorch()
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*shape, n))
    parameters = random_parameters(layer, shape, rng)
    dy = rng.standard_normal((*layer.output_shape(shape), n))

    def batch_first(array: Array) -> Any:
        return torch.tensor(np.moveaxis(array, -1, 0).copy())

    theirs = {"x": batch_first(x), **{name: torch.tensor(array) for name, array in parameters.items()}}
    for tensor in theirs.values():
        tensor.requires_grad_()
    y = function(**theirs)
    y.backward(batch_first(dy))
    wanted = {"y": y.detach(), **{name: tensor.grad for name, tensor in theirs.items()}}

    found = run(layer, x, parameters, dy)
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        ours = np.moveaxis(array, -1, 0) if name in ("x", "y") else array
        np.testing.assert_allclose(ours, wanted[name].numpy(), rtol=1e-10, atol=1e-10, err_msg=name)


sizes = st.integers(5, 10)
channels = st.integers(1, 3)
batches = st.integers(1, 3)
seeds = st.integers(0, 2**16)


@pytest.mark.slow
@given(
    shape=st.tuples(channels, sizes, sizes),
    filters=channels,
    k=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    n=batches,
    seed=seeds,
)
@examples
def test_conv2d_is_torchs(shape: Shape, filters: int, k: int, stride: int, padding: int, n: int, seed: int) -> None:
    torch = pytorch()

    def function(x: Any, weight: Any, bias: Any) -> Any:
        return torch.nn.functional.conv2d(x, weight, bias, stride=stride, padding=padding)

    check_against_torch(Conv2d(filters, k, stride, padding), shape, n, seed, function)


@pytest.mark.slow
@given(
    shape=st.tuples(channels, sizes, sizes),
    k=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    n=batches,
    seed=seeds,
)
@examples
def test_flipped_conv2d_is_torchs_with_the_filters_turned(
    shape: Shape, k: int, stride: int, padding: int, n: int, seed: int
) -> None:
    torch = pytorch()

    def function(x: Any, weight: Any, bias: Any) -> Any:
        return torch.nn.functional.conv2d(x, weight.flip((2, 3)), bias, stride=stride, padding=padding)

    check_against_torch(Conv2d(2, k, stride, padding, flip=True), shape, n, seed, function)


@given(k=st.integers(1, 4), seed=seeds)
@examples
def test_flipped_conv2d_is_the_textbooks_convolution(k: int, seed: int) -> None:
    """(w * x)[r, c] = sum over i, j of w[i, j] x[r - i, c - j], where every x exists."""
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((6, 5)), rng.standard_normal((k, k))
    wanted = np.zeros((6 - k + 1, 5 - k + 1))
    for r, c, i, j in np.ndindex(*wanted.shape, k, k):
        wanted[r, c] += weight[i, j] * x[r + k - 1 - i, c + k - 1 - j]
    parameters = {"weight": weight[None, None], "bias": np.zeros(1)}
    found = run(Conv2d(1, k, flip=True), x[None, :, :, None], parameters)["y"]
    np.testing.assert_allclose(found[0, :, :, 0], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@given(
    shape=st.tuples(channels, sizes, sizes),
    size=st.integers(1, 5),
    stride=st.none() | st.integers(1, 4),
    n=batches,
    seed=seeds,
    kind=st.sampled_from(["avg", "max"]),
)
@examples
def test_pools_are_torchs(shape: Shape, size: int, stride: int | None, n: int, seed: int, kind: str) -> None:
    """Windows side by side (no stride: the size), overlapping (less than the size) and with gaps (more)."""
    torch = pytorch()
    layer, name = {"avg": (AvgPool2d, "avg_pool2d"), "max": (MaxPool2d, "max_pool2d")}[kind]

    def function(x: Any) -> Any:
        return getattr(torch.nn.functional, name)(x, size, stride)

    check_against_torch(layer(size, stride), shape, n, seed, function)


@pytest.mark.slow
@given(shape=st.tuples(channels, sizes, sizes), amplitude=st.floats(0.1, 3), n=batches, seed=seeds)
@examples
def test_activations_are_torchs(shape: Shape, amplitude: float, n: int, seed: int) -> None:
    torch = pytorch()
    check_against_torch(Tanh(amplitude), shape, n, seed, lambda x: amplitude * torch.tanh(x))
    check_against_torch(ReLU(), shape, n, seed, torch.relu)


@pytest.mark.slow
@given(features=st.integers(1, 20), units=st.integers(1, 20), n=batches, seed=seeds)
@examples
def test_dense_is_torchs(features: int, units: int, n: int, seed: int) -> None:
    torch = pytorch()

    def function(x: Any, weight: Any, bias: Any) -> Any:
        return torch.nn.functional.linear(x, weight, bias)

    check_against_torch(Dense(units), (features,), n, seed, function)


@pytest.mark.slow
def test_torch_sends_the_error_of_equal_maxima_to_the_first_as_well() -> None:
    torch = pytorch()
    x = torch.ones((1, 1, 4, 4), dtype=torch.float64, requires_grad=True)
    torch.nn.functional.max_pool2d(x, 3, 1).sum().backward()
    ours = run(MaxPool2d(3, 1), np.ones((1, 4, 4, 1)), {}, np.ones((1, 2, 2, 1)))["x"]
    np.testing.assert_array_equal(ours[0, :, :, 0], x.grad[0, 0].numpy())


def test_activations_in_place() -> None:
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 3, 4, 5))
    for layer in (Tanh(), ReLU()):
        wanted = run(layer, x, {}, dy)
        y = x.copy()
        dx = dy.copy()
        layer.forward(KERNEL, {}, y, y)
        layer.input_gradient(KERNEL, {}, y, y, dx, dx)
        assert isinstance(layer, Activation)
        np.testing.assert_array_equal(y, wanted["y"])
        np.testing.assert_array_equal(dx, wanted["x"])


@given(size=st.integers(1, 40), k=st.integers(1, 7), stride=st.integers(1, 5), padding=st.integers(0, 4))
@examples
def test_output_sizes(size: int, k: int, stride: int, padding: int) -> None:
    """As many windows as fit: the last one ends inside, and another one wouldn't."""
    if size + 2 * padding < k:
        return
    _, rows, columns = Conv2d(1, k, stride, padding).output_shape((3, size, size))
    assert rows == columns == math.floor((size + 2 * padding - k) / stride) + 1
    assert (rows - 1) * stride + k <= size + 2 * padding < rows * stride + k
    if padding == 0:
        for pool in (AvgPool2d, MaxPool2d):
            assert pool(k, stride).output_shape((3, size, size)) == (3, rows, columns)


def test_the_other_output_shapes() -> None:
    assert Conv2d(6, 5).output_shape((1, 32, 30)) == (6, 28, 26)
    assert AvgPool2d().output_shape((6, 28, 27)) == (6, 14, 13)
    assert Tanh().output_shape((6, 4, 5)) == ReLU().output_shape((6, 4, 5)) == (6, 4, 5)
    assert Flatten().output_shape((16, 5, 5)) == (400,)
    assert Dense(120).output_shape((400,)) == (120,)


def test_layers_are_values() -> None:
    assert Conv2d(6, 5) == Conv2d(6, 5, stride=1, padding=0, flip=False)
    assert AvgPool2d(2) == AvgPool2d(2, None) == AvgPool2d(2, 2) != MaxPool2d(2, 2)
    assert (MaxPool2d(3).stride, MaxPool2d().size, MaxPool2d(3, stride=2).stride) == (3, 2, 2)
    assert len({Tanh(), Tanh(1.7159), Tanh(1.0), ReLU(), Flatten(), Dense(3)}) == 5


def test_fresh_parameters_keep_the_variance() -> None:
    rng = np.random.default_rng(0)
    for layer, shape in ((Conv2d(300, 5), (6, 9, 9)), (Dense(300), (150,))):
        parameters = layer.initial(shape, rng)
        assert {name: array.shape for name, array in parameters.items()} == layer.parameter_shapes(shape)
        assert parameters["weight"].std() == pytest.approx(1 / math.sqrt(150), rel=0.02)
        assert not parameters["bias"].any()
    assert AvgPool2d().initial((6, 4, 4), rng) == Tanh().initial((6,), rng) == {}


# Each mistake beside the sentence that has to name it.
BAD_ARGUMENTS: list[tuple[Callable[[], object], str]] = [
    (lambda: Conv2d(0, 5), "Conv2d: filters must be a whole number of at least 1, got 0"),
    (lambda: Conv2d(6, -5), "Conv2d: kernel_size must be a whole number of at least 1, got -5"),
    (lambda: Conv2d(6, 2.5), "Conv2d: kernel_size must be a whole number of at least 1, got 2.5"),  # type: ignore[arg-type]
    (lambda: Conv2d(6, (5, 5)), r"Conv2d: kernel_size must be a whole number of at least 1, got \(5, 5\)"),  # type: ignore[arg-type]
    (lambda: Conv2d(6, 5, stride=0), "Conv2d: stride must be a whole number of at least 1, got 0"),
    (lambda: Conv2d(6, 5, padding=-1), "Conv2d: padding must be a whole number of at least 0, got -1"),
    (lambda: Conv2d(6, 5, padding="same"), "Conv2d: padding must be a whole number of at least 0, got 'same'"),  # type: ignore[arg-type]
    (lambda: AvgPool2d(0), "AvgPool2d: size must be a whole number of at least 1, got 0"),
    (lambda: MaxPool2d(2, -1), "MaxPool2d: stride must be a whole number of at least 1, got -1"),
    (lambda: AvgPool2d(2, stride=0), "AvgPool2d: stride must be a whole number of at least 1, got 0"),
    (lambda: Tanh(0), "Tanh: amplitude must be a finite number above 0, got 0"),
    (lambda: Tanh(math.inf), "Tanh: amplitude must be a finite number above 0, got inf"),
    (lambda: Tanh(math.nan), "Tanh: amplitude must be a finite number above 0, got nan"),
    (lambda: Dense(0), "Dense: units must be a whole number of at least 1, got 0"),
    (lambda: Images((0, 28)), "Images: height of image_size must be a whole number of at least 1, got 0"),
    (lambda: Images((28, 2.0)), "Images: width of image_size must be a whole number of at least 1, got 2.0"),  # type: ignore[arg-type]
    (lambda: Images(channels=0), "Images: channels must be a whole number of at least 1, got 0"),
    (lambda: Images(size=-1), "Images: size must be a whole number of at least 1, got -1"),
    (lambda: Images(std=0), "Images: std must be a finite number above 0, got 0"),
    (lambda: Images((28, 28, 1)), r"Images: image_size must be \(height, width\) or one number, got \(28, 28, 1\)"),  # type: ignore[arg-type]
    (
        lambda: Images(mean=(0.1, 0.2)),
        "Images: mean must be a number, or one number for each channel, 1, got 2 numbers",
    ),
    (lambda: Images(8, 3, std=(1, 0, 1)), "Images: std must be a finite number above 0, got 0"),
    (lambda: Images(mean=10**400), "Images: mean must be a finite number, got 1" + 96 * "0" + "..."),
    (lambda: Images(std=10**5000), "Images: std must be a finite number above 0, got a value of type int"),
    (lambda: Images(pixel_max=True), "Images: pixel_max must be a finite number, got True"),
    (lambda: Images(pixel_min=1, pixel_max=1), "Images: pixel_max must be above pixel_min, 1.0, got 1.0"),
    (lambda: Dense(True), "Dense: units must be a whole number of at least 1, got True"),
    (
        lambda: Conv2d(6, np.array([5, 5])),
        "Conv2d: kernel_size must be a whole number of at least 1, got array.*",
    ),  # type: ignore[arg-type]
    (lambda: Conv2d(6, 5, flip=1), "Conv2d: flip must be True or False, got 1"),  # type: ignore[arg-type]
    (lambda: Images(mean=math.nan), "Images: mean must be a finite number, got nan"),
]


@pytest.mark.parametrize(("make", "sentence"), BAD_ARGUMENTS, ids=[sentence for _, sentence in BAD_ARGUMENTS])
def test_bad_arguments(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        make()


BAD_SHAPES: list[tuple[Layer, Shape, str]] = [
    (Conv2d(6, 5), (400,), r"Conv2d takes images of shape \(c, h, w\), got \(400,\)"),
    (MaxPool2d(), (400,), r"MaxPool2d takes images of shape \(c, h, w\), got \(400,\)"),
    (AvgPool2d(), (28, 28), r"AvgPool2d takes images of shape \(c, h, w\), got \(28, 28\)"),
    (Conv2d(6, 5), (1, 9, 4), r"Conv2d: a window of 5 doesn't fit into 4 \+ 2 \* 0 pixels"),
    (Conv2d(6, 7, padding=1), (1, 4, 9), r"Conv2d: a window of 7 doesn't fit into 4 \+ 2 \* 1 pixels"),
    (AvgPool2d(3), (1, 2, 2), r"AvgPool2d: a window of 3 doesn't fit into 2 \+ 2 \* 0 pixels"),
    (
        Dense(10),
        (16, 5, 5),
        r"Dense takes features of shape \(features,\), got \(16, 5, 5\): put Flatten\(\) before it",
    ),
]


@pytest.mark.parametrize(("layer", "shape", "sentence"), BAD_SHAPES, ids=[sentence for *_, sentence in BAD_SHAPES])
def test_shapes_that_do_not_fit(layer: Layer, shape: Shape, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        layer.output_shape(shape)


def test_the_kernels_get_images_in_c_order_and_in_native_numbers() -> None:
    seen = []

    class Kernels:
        def prepare_images(self, images: Array, scale: float, shift: float, out: Array) -> None:
            seen.append((images.dtype, images.flags.c_contiguous))

    layer = Images(6, size=8)
    images = np.full((3, 6, 6), 255, np.uint8)
    y = np.empty((1, 8, 8, 3), np.float32)
    for stored in (images, np.asfortranarray(images), images[::-1], images[:, ::-1], images.astype(">f8"), images > 0):
        layer.prepare(Kernels(), layer.pixels(stored, y.dtype), y)  # type: ignore[arg-type]
    assert seen == [(np.dtype(np.uint8), True)] * 4 + [(np.dtype(np.float32), True)] * 2
