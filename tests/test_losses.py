"""Losses: PyTorch's numbers, no overflow, and what is said to targets that don't fit."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kits.oracle import pytorch
from numpy.typing import NDArray

from parallel_lenet import SGD, Conv2d, Coordinator, Dense, Flatten, Images, Sequential, Tanh, kernels, load_model
from parallel_lenet.kernels import Kernels
from parallel_lenet.network import losses
from parallel_lenet.network.gradcheck import TOLERANCE, model_errors

Array = NDArray[Any]

examples = settings(deadline=None, max_examples=30)
classes = st.integers(1, 12)
images = st.integers(1, 8)
seeds = st.integers(0, 2**16)


@pytest.fixture(params=kernels.available(), scope="module")
def kernel(request: pytest.FixtureRequest) -> Kernels:
    return kernels.load(request.param)


def draw(k: int, n: int, seed: int, scale: float = 1.0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((k, n)) * scale, rng.integers(0, k, n)


def with_gradient(kernel: Kernels, logits: Array, targets: Array) -> tuple[float, int, Array]:
    """What it returns, and the gradient, from read-only arguments and a buffer of NaN."""
    logits.setflags(write=False)
    targets.setflags(write=False)
    gradient = np.full_like(logits, np.nan)
    return *losses.softmax_cross_entropy(kernel, logits, targets, gradient), gradient


@pytest.mark.slow
@given(
    k=classes,
    n=images,
    seed=seeds,
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 1e-9, 0.1, 0.5, 0.999]),
)
@examples
def test_it_is_torchs(
    kernel: Kernels, k: int, n: int, seed: int, scale: float, weighted: bool, smoothing: float
) -> None:
    torch = pytorch()
    logits, targets = draw(k, n, seed, scale)
    weights = np.random.default_rng(seed).uniform(0, 2, n) if weighted else None
    gradient = np.full_like(logits, np.nan)
    loss_sum, correct = losses.softmax_cross_entropy(kernel, logits, targets, gradient, weights, smoothing)
    theirs = torch.tensor(logits.T.copy(), requires_grad=True)
    each = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="none")(theirs, torch.tensor(targets))
    loss = (each if weights is None else each * torch.tensor(weights)).sum()
    loss.backward()
    assert loss_sum == pytest.approx(loss.item(), rel=1e-10, abs=1e-10)
    assert correct == int((theirs.argmax(1).numpy() == targets).sum())
    np.testing.assert_allclose(gradient.T, theirs.grad.numpy(), rtol=1e-10, atol=1e-10)


@given(k=classes, n=images, seed=seeds, dtype=st.sampled_from(["float32", "float64"]))
@examples
def test_the_gradient_sums_to_zero_for_each_image(kernel: Kernels, k: int, n: int, seed: int, dtype: str) -> None:
    logits, targets = draw(k, n, seed)
    _, _, gradient = with_gradient(kernel, logits.astype(dtype), targets)
    np.testing.assert_allclose(gradient.sum(axis=0), 0, atol=4 * k * np.finfo(dtype).eps)
    assert (gradient[targets, np.arange(n)] <= 0).all()


@given(k=classes, n=images, seed=seeds)
@examples
def test_loss_and_gradient_are_sums_over_the_images(kernel: Kernels, k: int, n: int, seed: int) -> None:
    logits, targets = draw(k, n, seed)
    loss_sum, correct, gradient = with_gradient(kernel, logits, targets)
    each = [with_gradient(kernel, logits[:, i : i + 1].copy(), targets[i : i + 1].copy()) for i in range(n)]
    assert loss_sum == pytest.approx(sum(loss for loss, _, _ in each), rel=1e-12)
    assert correct == sum(right for _, right, _ in each)
    np.testing.assert_allclose(gradient, np.hstack([column for _, _, column in each]), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_large_logits_do_not_overflow(kernel: Kernels, dtype: str, size: float) -> None:
    logits = np.array([[size, -size], [0, 0], [-size, size]], dtype)
    loss_sum, correct, gradient = with_gradient(kernel, logits, np.array([0, 0]))
    assert loss_sum == pytest.approx(2 * size, rel=1e-6)
    assert correct == 1
    np.testing.assert_array_equal(gradient, [[0, -1], [0, 0], [0, 1]])


def test_equal_logits_by_hand(kernel: Kernels) -> None:
    loss_sum, correct, gradient = with_gradient(kernel, np.zeros((4, 2)), np.array([0, 3]))
    assert loss_sum == pytest.approx(2 * math.log(4))
    assert correct == 1  # The first of equal logits is the prediction.
    np.testing.assert_allclose(gradient, [[-0.75, 0.25], [0.25, 0.25], [0.25, 0.25], [0.25, -0.75]])


def test_nan_is_not_hidden(kernel: Kernels) -> None:
    loss_sum, _, gradient = with_gradient(kernel, np.array([[np.nan, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    assert math.isnan(loss_sum)
    assert np.isnan(gradient[:, 0]).all()
    np.testing.assert_array_equal(gradient[:, 1], [0.5, -0.5])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "uint64"])
def test_any_integers_are_labels(kernel: Kernels, dtype: str) -> None:
    logits, targets = draw(10, 8, 0)
    ours = with_gradient(kernel, logits, targets.astype(dtype))
    wanted = with_gradient(kernel, logits, targets)
    assert ours[:2] == wanted[:2]
    np.testing.assert_array_equal(ours[2], wanted[2])


@pytest.mark.parametrize(("bad", "dtype"), [(-1, "int64"), (3, "int64"), (255, "uint8")])
def test_labels_out_of_range(kernel: Kernels, bad: int, dtype: str) -> None:
    sentence = f"^label {bad} is out of range: this network has 3 classes, 0 to 2$"
    with pytest.raises(ValueError, match=sentence):
        losses.softmax_cross_entropy(kernel, np.zeros((3, 2)), np.array([0, bad], dtype), np.empty((3, 2)))


@pytest.mark.parametrize("dtype", ["float64", "bool"])
def test_labels_that_are_not_integers(kernel: Kernels, dtype: str) -> None:
    with pytest.raises(ValueError, match=f"^class labels must be integers, got {dtype}$"):
        losses.softmax_cross_entropy(kernel, np.zeros((3, 2)), np.array([0, 1], dtype), np.empty((3, 2)))


@pytest.mark.parametrize("shape", [(2, 1), (1, 2), (1,), (3,), ()])
def test_labels_of_another_shape(kernel: Kernels, shape: tuple[int, ...]) -> None:
    """Without a check NumPy would stretch some of them over the images, and the loss be another one."""
    with pytest.raises(ValueError, match=r"^targets must have shape \(2,\), one label per image, got \("):
        losses.softmax_cross_entropy(kernel, np.zeros((3, 2)), np.zeros(shape, np.int64), np.empty((3, 2)))


def test_weights_multiply_the_loss_and_the_gradient_of_each_image(kernel: Kernels) -> None:
    """Against the images one by one, and torch if it is here."""
    logits, targets = draw(4, 5, 1)
    weights = np.array([1.0, 0.0, 2.5, 0.125, 3.0])
    gradient = np.full_like(logits, np.nan)
    loss, correct = losses.softmax_cross_entropy(kernel, logits, targets, gradient, weights)
    alone = [with_gradient(kernel, logits[:, [i]].copy(), targets[[i]]) for i in range(5)]
    assert loss == pytest.approx(sum(weight * each[0] for weight, each in zip(weights, alone, strict=True)), rel=1e-13)
    np.testing.assert_allclose(gradient, np.hstack([each[2] for each in alone]) * weights, rtol=1e-13)
    assert correct == sum(each[1] for each in alone)


def regression(outputs: int, kernel: str = "naive", dtype: str = "float64") -> Sequential:
    layers = (Conv2d(2, 3), Tanh(), Flatten(), Dense(outputs))
    return Sequential(Images(5, size=5), layers, kernel=kernel, dtype=dtype, loss="squared_error")


@pytest.mark.slow
@given(k=st.integers(1, 40), n=images, seed=seeds)
@examples
def test_the_squared_error_is_torchs(kernel: Kernels, k: int, n: int, seed: int) -> None:
    torch = pytorch()
    rng = np.random.default_rng(seed)
    outputs = rng.standard_normal((k, n))
    targets = rng.standard_normal((n, k))
    weights = rng.uniform(0, 2, n)
    gradient = np.full_like(outputs, np.nan)
    loss, correct = losses.LOSSES["squared_error"].compute(kernel, outputs, targets, weights, gradient)
    theirs = torch.tensor(outputs.T.copy(), requires_grad=True)
    each = torch.nn.functional.mse_loss(theirs, torch.tensor(targets), reduction="none").mean(dim=1)
    total = (each * torch.tensor(weights)).sum()
    total.backward()
    assert correct == 0
    assert loss == pytest.approx(total.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, theirs.grad.numpy().T, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_regression(outputs: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (48, 5, 5), np.uint8)
    targets = inputs.reshape(48, -1)[:, :outputs] / 255.0
    for _, error in model_errors(regression(outputs), inputs[:4], targets[:4], rng):
        assert error < TOLERANCE
    hashes = set()
    for engine in ("serial", "processes"):
        network = regression(outputs, "im2col", "float32")
        with Coordinator(
            network, SGD(0.02, momentum=0.9), engine=engine, n_workers=2, batch_size=12, shard_size=6
        ) as coordinator:
            history = coordinator.fit((inputs, targets), epochs=60)
            hashes.add(coordinator.parameters_sha256())
            coordinator.save(tmp_path / "c.npz")
    assert len(hashes) == 1
    assert history[-1].train_loss < history[0].train_loss / 10
    assert history[-1].train_accuracy == 0
    trained = load_model(tmp_path / "c.npz", "im2col")
    assert trained.model.loss == "squared_error"
    predicted = trained.predict(inputs)
    assert predicted.shape == (targets.shape if outputs > 1 else (48,))
    assert np.square(predicted.reshape(48, -1) - targets).mean() == pytest.approx(history[-1].train_loss, rel=0.5)
    with pytest.raises(TypeError, match="a network with the loss 'squared_error' has no probabilities"):
        trained.predict_proba(inputs)


def test_the_squared_error_of_samples_does_not_depend_on_those_beside_them() -> None:
    network = regression(5, dtype="float32")
    rng = np.random.default_rng(1)
    inputs = rng.integers(0, 256, (8, 5, 5), np.uint8)
    targets = rng.standard_normal((8, 5))
    parameters = network.initial_parameters(rng)
    results = []
    for part in (slice(8), slice(4), slice(4, 8)):
        gradient = np.empty_like(parameters)
        metrics = network.loss_and_gradient(parameters, inputs[part], targets[part], gradient)
        results.append((metrics.loss_sum, gradient))
    assert results[0][0] == results[1][0] + results[2][0]
    assert results[0][1].tobytes() == (results[1][1] + results[2][1]).tobytes()


def test_targets_of_a_squared_error() -> None:
    inputs = np.zeros((4, 5, 5), np.uint8)
    regression(1).check(inputs, np.zeros(4))
    regression(3).check(inputs, np.zeros((4, 3), np.int64))
    with pytest.raises(
        ValueError, match=r"shape \(4, 3\), the outputs of each sample, got \(4,\): for class labels, pass"
    ):
        regression(3).check(inputs, np.zeros(4, np.int64))
    with pytest.raises(ValueError, match=r"shape \(4, 1\) or \(4,\), the outputs of each sample, got \(4, 2\)"):
        regression(1).check(inputs, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="loss must be one of softmax_cross_entropy, squared_error, got 'hinge'"):
        Sequential(Images(5, size=5), (Flatten(), Dense(2)), loss="hinge")
