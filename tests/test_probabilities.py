"""Probabilities: rows that sum to 1 and agree with the predicted class, in blocks, with the errors of `predict`."""

import logging
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kits.models import Softmax

from parallel_lenet import (
    SGD,
    Adam,
    Coordinator,
    Dataset,
    Dense,
    Flatten,
    Images,
    NonFiniteError,
    Sequential,
    kernels,
    lenet5,
    load_model,
)
from parallel_lenet.kernels import naive
from parallel_lenet.network.sequential import PREDICTED_AT_ONCE


def linear(classes: int, kernel: str = "im2col") -> Sequential:
    """A network whose scores are its biases, for any image."""
    return Sequential(Images(1, size=1, pixel_max=None), (Flatten(), Dense(classes)), kernel=kernel)


def with_scores(model: Sequential, *scores: float) -> np.ndarray[Any, Any]:
    parameters = np.zeros(model.layout.size, np.float32)
    parameters[-len(scores) :] = scores
    return parameters


@pytest.mark.parametrize("kernel", kernels.NAMES)
def test_they_are_the_softmax_of_the_scores(kernel: str, digits: Dataset) -> None:
    if kernel == "compiled":
        pytest.importorskip("numba")
    coordinator = Coordinator(lenet5(kernel=kernel), Adam(), engine="serial", parameters=None)
    images = digits.inputs[:3] if kernel == "naive" else digits.inputs
    probabilities = coordinator.predict_proba(images)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (len(images), 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert np.array_equal(probabilities.argmax(axis=1), coordinator.predict(images))
    scores = coordinator.model.scores(coordinator.parameters, images).astype(np.float64)  # type: ignore[attr-defined]
    exact = np.exp(scores)
    np.testing.assert_allclose(probabilities, exact / exact.sum(axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=60, deadline=None)
@given(scores=st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=10), near=st.integers(0, 3))
def test_the_largest_is_at_the_predicted_class_even_if_scores_are_neighbours(
    dtype: str, scores: list[float], near: int
) -> None:
    """In float32 two classes may round to one probability."""
    value: Any = np.dtype(dtype).type(scores[0])
    for _ in range(near):
        value = np.nextafter(value, np.inf)
    scores.append(value)
    model = Sequential(Images(1, size=1, pixel_max=None), (Flatten(), Dense(len(scores))), kernel="im2col", dtype=dtype)
    parameters = np.zeros(model.layout.size, dtype)
    parameters[-len(scores) :] = scores
    inputs = np.zeros((2, 1, 1))
    probabilities = model.predict_proba(parameters, inputs)
    assert probabilities.dtype == np.float32
    assert np.array_equal(probabilities.argmax(axis=1), model.predict(parameters, inputs))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


def test_large_inputs_take_memory_for_a_block_only(digits: Dataset) -> None:
    model = lenet5(kernel="im2col")
    coordinator = Coordinator(model, SGD(), engine="serial")
    few = coordinator.predict_proba(digits.inputs[:PREDICTED_AT_ONCE])
    many = np.broadcast_to(digits.inputs[0], (20 * PREDICTED_AT_ONCE + 1, 28, 28))
    tracemalloc.start()
    try:
        probabilities = coordinator.predict_proba(many)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6  # Its images alone are 21 MB as float32, the activations of all 650 MB.
    np.testing.assert_allclose(probabilities, np.repeat(few[:1], len(many), axis=0), rtol=1e-4)
    assert coordinator.predict_proba(digits.inputs[:0]).shape == (0, 10)


def test_errors_are_those_of_predict(digits: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    coordinator = Coordinator(lenet5(kernel="im2col"), Adam(), engine="serial")
    coordinator.save(tmp_path / "c.npz")
    trained = load_model(tmp_path / "c.npz", kernel="im2col")
    wrong: list[tuple[Any, type[Exception], str]] = [
        (digits.inputs[0].tolist(), TypeError, r"must be a NumPy array of numbers, got list: np.asarray"),
        (np.array(["a"]), TypeError, "must be a NumPy array of numbers, got an array of <U1"),
        (digits.inputs[:, :5], ValueError, "this network takes images of shape"),
        (digits.inputs / 255, ValueError, "takes 0 to 255"),
    ]
    for inputs, error, words in wrong:
        for method in (coordinator.predict, coordinator.predict_proba, trained.predict, trained.predict_proba):
            with pytest.raises(error, match=words):
                method(inputs)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "parallel_lenet"):
        Coordinator(lenet5(kernel="im2col"), Adam(), engine="serial").predict_proba(digits.inputs[:1])
    assert caplog.messages == ["predict_proba before any training: the parameters are the random initial ones"]


def test_a_model_without_them_is_named() -> None:
    coordinator = Coordinator(Softmax(), SGD(), engine="serial")
    with pytest.raises(TypeError, match=r"^Softmax has no probabilities: it lacks the method predict_proba\("):
        coordinator.predict_proba(np.zeros((2, 3)))


def test_a_model_of_ones_own_tells_them() -> None:
    class Coin(Softmax):
        def predict_proba(self, parameters: Any, inputs: Any) -> Any:
            return np.full((len(inputs), 2), 0.5)

    assert Coordinator(Coin(), SGD(), engine="serial").predict_proba(np.zeros((3, 1))).tolist() == [[0.5, 0.5]] * 3


def test_numbers_that_are_not_finite_are_no_probabilities(tmp_path: Path) -> None:
    model = linear(2)
    images = np.array([[[-1.0]], [[1.0]]])
    for scores, words in (
        ((np.nan, 1), "the parameters hold NaN or infinity in dense1.bias: no prediction is possible"),
        ((3e38, 1), "the scores of input 1 overflow: they give no probabilities"),
    ):
        parameters = with_scores(model, *scores)
        parameters[0] = 3e38  # The weight of the first class: the first image's score is 0, the second's overflows.
        coordinator = Coordinator(model, SGD(), parameters=parameters, engine="serial")
        with pytest.raises(NonFiniteError, match=words):
            coordinator.predict_proba(images)
        coordinator.save(tmp_path / "c.npz")
        with pytest.raises(NonFiniteError, match=words):
            load_model(tmp_path / "c.npz", kernel="im2col").predict_proba(images)


def test_compiled_gives_the_same_bits_however_many_images_there_are(digits: Dataset) -> None:
    pytest.importorskip("numba")
    model = lenet5(kernel="compiled")
    coordinator = Coordinator(model, Adam(), engine="serial")
    together = coordinator.predict_proba(digits.inputs[:40])
    alone = np.concatenate([coordinator.predict_proba(digits.inputs[i : i + 1]) for i in range(40)])
    assert together.tobytes() == alone.tobytes()
    scores = np.ascontiguousarray(model.scores(coordinator.parameters, digits.inputs[:40]).T)
    specified = np.empty_like(scores)
    naive.softmax(scores, specified)
    np.testing.assert_allclose(together, specified.T, rtol=1e-6)
