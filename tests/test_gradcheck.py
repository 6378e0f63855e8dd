"""Every backward pass agrees with finite differences of its forward pass, and one that is wrong would not."""

import math
from typing import Any

import numpy as np
import pytest

from parallel_lenet import kernels
from parallel_lenet.kernels import im2col
from parallel_lenet.network.gradcheck import (
    IMAGES,
    LAYERS,
    TOLERANCE,
    Check,
    check_gradients,
    layer_errors,
    model_errors,
)
from parallel_lenet.network.images import Images
from parallel_lenet.network.layers import Conv2d, Dense, Flatten, Layer, ReLU, Tanh
from parallel_lenet.network.sequential import Sequential


def errors(kernel: str = "im2col") -> dict[str, float]:
    """The largest error of each layer, the loss and the network."""
    largest: dict[str, float] = {}
    for check in check_gradients(kernel):
        largest[check.what] = max(largest.get(check.what, 0), check.error)
    return largest


@pytest.mark.parametrize("kernel", [pytest.param("naive", marks=pytest.mark.slow), *kernels.NAMES[1:]])
def test_every_gradient_agrees_with_finite_differences(kernel: str) -> None:
    if kernel == "compiled":
        pytest.importorskip("numba")
    checks = list(check_gradients(kernel))
    assert {check.kernel for check in checks} == {kernel}
    losses = {"softmax cross-entropy", "softmax cross-entropy, smoothed"}
    assert {check.what for check in checks} == {*(what for what, _, _ in LAYERS), *losses, "LeNet-5"}
    assert len({(check.what, check.of) for check in checks}) == len(checks) == 31
    for check in checks:
        assert check.error < TOLERANCE / 100, check


def test_the_seed_decides_the_numbers() -> None:
    first, again, other = (list(check_gradients("im2col", seed)) for seed in (1, 1, 2))
    assert first == again
    assert [check.error for check in first] != [check.error for check in other]


def test_results_come_one_at_a_time() -> None:
    assert next(check_gradients("im2col")) == Check("im2col", "Conv2d", "input", pytest.approx(0, abs=TOLERANCE))


def test_unknown_kernel() -> None:
    with pytest.raises(ValueError, match="unknown kernel 'cuda'"):
        next(check_gradients("cuda"))


# Mistakes in a kernel, each beside the checks that have to find it. The first is in the tutorial's published code.


def tanh_gradient_without_amplitude(y: Any, dy: Any, amplitude: float, out: Any) -> None:
    out[:] = dy * (1 - (y / amplitude) ** 2)


def avg_pool2d_gradient_undivided(dy: Any, size: int, stride: int, out: Any) -> None:
    im2col_avg_pool2d_gradient(dy * size * size, size, stride, out)


def relu_gradient_passing_all(y: Any, dy: Any, out: Any) -> None:
    np.copyto(out, dy)


def conv2d_weight_gradient_of_the_mean(x: Any, dy: Any, stride: int, padding: int, dw: Any, db: Any) -> None:
    im2col_conv2d_weight_gradient(x, dy, stride, padding, dw, db)
    dw /= x.shape[-1]


def conv2d_input_gradient_flipped(dy: Any, weight: Any, stride: int, padding: int, out: Any) -> None:
    im2col_conv2d_input_gradient(dy, np.ascontiguousarray(weight[:, :, ::-1, ::-1]), stride, padding, out)


def dense_weight_gradient_with_one_wrong_entry(x: Any, dy: Any, dw: Any, db: Any) -> None:
    im2col_dense_weight_gradient(x, dy, dw, db)
    dw[-1, -1] *= 1.1


def dense_weight_gradient_without_bias(x: Any, dy: Any, dw: Any, db: Any) -> None:
    np.matmul(dy, x.T, out=dw)


def max_pool2d_gradient_overwriting(x: Any, dy: Any, size: int, stride: int, out: Any) -> None:
    """Where windows overlap, the last error wins instead of being added."""
    out[:] = 0
    for r, c in np.ndindex(dy.shape[1:3]):
        window = x[:, r * stride : r * stride + size, c * stride : c * stride + size]
        place = window == window.max(axis=(1, 2), keepdims=True)
        target = out[:, r * stride : r * stride + size, c * stride : c * stride + size]
        np.copyto(target, np.broadcast_to(dy[:, r : r + 1, c : c + 1], target.shape), where=place)


im2col_avg_pool2d_gradient = im2col.avg_pool2d_gradient
im2col_conv2d_input_gradient = im2col.conv2d_input_gradient
im2col_conv2d_weight_gradient = im2col.conv2d_weight_gradient
im2col_dense_weight_gradient = im2col.dense_weight_gradient

CONVOLUTIONS = {what for what, layer, _ in LAYERS if isinstance(layer, Conv2d)}
MISTAKES: list[tuple[str, Any, set[str]]] = [
    ("tanh_gradient", tanh_gradient_without_amplitude, {"Tanh", "LeNet-5"}),
    ("avg_pool2d_gradient", avg_pool2d_gradient_undivided, {"AvgPool2d", "AvgPool2d, overlapping", "LeNet-5"}),
    ("max_pool2d_gradient", max_pool2d_gradient_overwriting, {"MaxPool2d, overlapping"}),
    ("relu_gradient", relu_gradient_passing_all, {"ReLU"}),
    ("conv2d_weight_gradient", conv2d_weight_gradient_of_the_mean, CONVOLUTIONS | {"LeNet-5"}),
    ("conv2d_input_gradient", conv2d_input_gradient_flipped, CONVOLUTIONS | {"LeNet-5"}),
    ("dense_weight_gradient", dense_weight_gradient_with_one_wrong_entry, {"Dense", "LeNet-5"}),
    ("dense_weight_gradient", dense_weight_gradient_without_bias, {"Dense", "LeNet-5"}),
]


@pytest.mark.parametrize(("function", "mistake", "found_by"), MISTAKES, ids=[m[1].__name__ for m in MISTAKES])
def test_a_mistake_is_found_where_it_is(
    function: str, mistake: Any, found_by: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(im2col, function, mistake)
    assert {what for what, error in errors().items() if error > TOLERANCE} == found_by


def test_the_published_tanh_gradient_is_far_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(im2col, "tanh_gradient", tanh_gradient_without_amplitude)
    # Without the factor of 1.7159 every gradient is 1 - 1 / 1.7159 too small.
    assert errors()["Tanh"] == pytest.approx(1 - 1 / 1.7159, rel=1e-6)


@pytest.mark.parametrize(
    ("layer", "shape"), [(Conv2d(2, 2, stride=3, padding=2, flip=True), (1, 4, 4)), (ReLU(), (5,)), (Flatten(), (2, 3))]
)
def test_a_layer_of_ones_own(layer: Layer, shape: tuple[int, ...]) -> None:
    for of, error in layer_errors(kernels.load("im2col"), layer, shape, np.random.default_rng(0)):
        assert error < TOLERANCE, of


def test_a_model_of_ones_own() -> None:
    rng = np.random.default_rng(0)
    layers = (Flatten(), Dense(3), Tanh(), Dense(2))
    model = Sequential(Images((4, 4), size=4), layers, dtype="float64")
    images = rng.integers(0, 256, (IMAGES, 4, 4), np.uint8)
    found = dict(model_errors(model, images, np.array([0, 1]), rng))
    assert list(found) == [name for name, _ in model.layout.entries]
    assert max(found.values()) < TOLERANCE


def test_gradients_that_are_not_finite_never_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwritten(*_: Any) -> None:
        """Leave the gradient as it was: NaN."""

    monkeypatch.setattr(im2col, "dense_weight_gradient", unwritten)
    found = {(check.what, check.of): check.error for check in check_gradients("im2col")}
    assert found["Dense", "weight"] == found["LeNet-5", "dense1.bias"] == math.inf
    assert found["Dense", "input"] < TOLERANCE
