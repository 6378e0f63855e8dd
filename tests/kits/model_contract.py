"""The contract of models as tests: what training asks of any model, the package's or a user's own.

A test file runs it over its models with ``from kits.model_contract import *`` and a fixture ``case``: a `Case`.
"""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from kits.models import Array
from parallel_lenet import Metrics, Model
from parallel_lenet.engines.serial import one_blas_thread


@dataclass(frozen=True)
class Case:
    """A model with samples of its kind."""

    model: Model
    inputs: Array
    targets: Array

    def __post_init__(self) -> None:
        for array in (self.inputs, self.targets):
            array.setflags(write=False)

    def parameters(self) -> Array:
        """Read-only parameters, other than those that a model begins with, which may all be zero."""
        rng = np.random.default_rng(3)
        parameters = self.model.initial_parameters(rng)
        parameters = (parameters + 0.01 * rng.standard_normal(parameters.size)).astype(parameters.dtype)
        parameters.setflags(write=False)
        return parameters

    def computed(self, samples: slice = slice(None), model: Model | None = None) -> tuple[Metrics, Array]:
        """Metrics and gradient, the latter in a buffer that held NaN."""
        parameters = self.parameters()
        gradient = np.full_like(parameters, np.nan)
        with one_blas_thread():
            metrics = (model or self.model).loss_and_gradient(
                parameters, self.inputs[samples], self.targets[samples], gradient
            )
        return metrics, gradient


def test_initial_parameters_are_a_vector_of_the_layout_decided_by_the_generator_alone(case: Case) -> None:
    first, again = (case.model.initial_parameters(np.random.default_rng(7)) for _ in range(2))
    assert first.shape == (case.model.layout.size,)
    assert first.dtype in (np.float32, np.float64)
    assert first.flags.writeable
    assert first.tobytes() == again.tobytes()
    assert first is not again


def test_the_gradient_is_written_whole_and_the_metrics_are_those_without_one(case: Case) -> None:
    metrics, gradient = case.computed()
    assert np.isfinite(gradient).all()
    again, repeated = case.computed()
    assert (again, repeated.tobytes()) == (metrics, gradient.tobytes())
    with one_blas_thread():
        alone = case.model.loss_and_gradient(case.parameters(), case.inputs, case.targets, None)
    assert (alone.correct, alone.count) == (metrics.correct, len(case.inputs))
    assert float(alone.loss_sum) == float(metrics.loss_sum)


def test_metrics_and_gradients_are_sums_over_the_samples(case: Case) -> None:
    half = len(case.inputs) // 2
    (whole, gradient), (first, left), (second, right) = (
        case.computed(part) for part in (slice(None), slice(half), slice(half, None))
    )
    assert (whole.count, whole.correct) == (first.count + second.count, first.correct + second.correct)
    tolerance = 1e-4 if gradient.dtype == np.float32 else 1e-11
    np.testing.assert_allclose(float(whole.loss_sum), float(first.loss_sum + second.loss_sum), rtol=tolerance)
    np.testing.assert_allclose(gradient, left + right, rtol=tolerance, atol=tolerance * np.abs(gradient).max())


def test_blocks_of_whole_leaves_add_up_bit_by_bit(case: Case) -> None:
    """The law of the tree, if the model says what its leaf is. Any number of workers relies on it."""
    leaf = getattr(case.model, "leaf", None)
    if leaf is None:
        pytest.skip("a model without a leaf: a shard is the smallest unit")
    (whole, gradient), (first, left), (second, right) = (
        case.computed(part) for part in (slice(2 * leaf), slice(leaf), slice(leaf, 2 * leaf))
    )
    assert len(case.inputs) >= 2 * leaf
    assert float(whole.loss_sum) == float(first.loss_sum + second.loss_sum)
    assert gradient.tobytes() == (left + right).tobytes()


def test_the_gradient_is_the_slope_of_the_loss(case: Case) -> None:
    """Along five directions, by central differences. Only with float64, where they are exact enough.

    `gradcheck` looks at every parameter and layer. This is for whole models, also those without layers.
    """
    parameters = case.parameters()
    if parameters.dtype != np.float64:
        pytest.skip("differences of float32 sums are too coarse")
    _, gradient = case.computed()
    for seed in range(5):
        direction = np.random.default_rng(seed).standard_normal(parameters.size)
        step = 1e-6 * direction
        above, below = (
            float(case.model.loss_and_gradient(moved, case.inputs, case.targets, None).loss_sum)
            for moved in (parameters + step, parameters - step)
        )
        slope = float(gradient @ direction)
        assert (above - below) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-4 * np.abs(gradient).max())


def test_there_is_one_prediction_per_sample(case: Case) -> None:
    predictions = case.model.predict(case.parameters(), case.inputs)
    assert len(predictions) == len(case.inputs)
    np.testing.assert_array_equal(predictions[:2], case.model.predict(case.parameters(), case.inputs[:2]))


def test_a_copy_in_another_process_computes_the_same_bits(case: Case) -> None:
    copy = pickle.loads(pickle.dumps(case.model))
    metrics, gradient = case.computed()
    found, theirs = case.computed(model=copy)
    assert (found, theirs.tobytes()) == (metrics, gradient.tobytes())
    assert copy.layout == case.model.layout


__all__ = ["Case", *(name for name in dir() if name.startswith("test_"))]
