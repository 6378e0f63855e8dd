"""A recorded pass gives the bits of the calls that it stands for."""

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("numba")

from parallel_lenet import kernels
from parallel_lenet.kernels import compiled
from parallel_lenet.metrics import Metrics
from parallel_lenet.network.images import Images
from parallel_lenet.network.layers import AvgPool2d, Conv2d, Dense, Flatten, Layer, MaxPool2d, ReLU, Tanh
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.random import generator

Array = NDArray[Any]

LAYERS: tuple[Layer, ...] = (Conv2d(3, 3), Tanh(), AvgPool2d(), Conv2d(4, 3), ReLU(), MaxPool2d(), Flatten(), Dense(10))


class Doubled(Tanh):
    """A user's own layer, which works on arrays itself."""

    def forward(self, kernel: Any, parameters: Any, x: Array, y: Array) -> None:
        super().forward(kernel, parameters, x, y)
        y *= 2


def network(*layers: Layer, dtype: str = "float32") -> Sequential:
    return Sequential(Images(12, size=14), layers or LAYERS, kernel="compiled", dtype=dtype)


def passes(model: Sequential, n: int, stored: str = "uint8", with_gradient: bool = True) -> Iterator[list[Any]]:
    """Several passes with other parameters, images and labels, some read-only, each in an array of its own."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        parameters = model.initial_parameters(generator(seed))
        parameters.setflags(write=seed == 0)
        images = rng.integers(0, 256, (n, 12, 12)).astype(stored)
        gradient = np.full_like(parameters, np.nan) if with_gradient else None
        metrics = model.loss_and_gradient(parameters, images, rng.integers(0, 10, n), gradient)
        yield [metrics, b"" if gradient is None else gradient.tobytes()]


def recorded(model: Sequential) -> list[bool]:
    """For each kind of pass that the model has made in this thread, whether it was recorded."""
    held = model._local.__dict__.values()
    return [program is not None for buffers in held for program in buffers.programs.values()]


def one_by_one(monkeypatch: pytest.MonkeyPatch, model: Sequential, *arguments: Any) -> list[list[Any]]:
    """The passes with a call for each layer."""
    with monkeypatch.context() as patch:
        patch.delattr(compiled, "record")
        fresh = Sequential(model.images, model.layers, model.kernel, model.dtype)
        results = list(passes(fresh, *arguments))
        assert recorded(fresh) == [False]
    return results


@pytest.mark.parametrize(
    ("dtype", "n", "stored", "with_gradient"),
    [
        ("float32", 8, "uint8", True),
        ("float32", 24, "float32", True),  # Three vectors of AVX2, one and a half of AVX-512.
        ("float32", 11, "uint8", True),
        ("float64", 8, "uint8", True),
        ("float32", 32, "uint8", False),
    ],
)
def test_a_recorded_pass_gives_the_same_bits(
    dtype: str, n: int, stored: str, with_gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(dtype=dtype)
    found = list(passes(model, n, stored, with_gradient))
    assert recorded(model) == [True]
    assert found == one_by_one(monkeypatch, model, n, stored, with_gradient)
    assert len({str(result) for result in found}) == 3


@pytest.mark.parametrize(
    ("n", "layers"),
    [
        (3, LAYERS),  # No whole vector of images.
        (8, (Conv2d(3, 3, padding=1), Flatten(), Dense(10))),
        (8, (Conv2d(3, 3, flip=True), Flatten(), Dense(10))),
        (8, (Tanh(), Tanh(), Flatten(), Dense(10))),  # The second is not in place.
        (8, (Doubled(), Flatten(), Dense(10))),
    ],
    ids=str,
)
def test_what_needs_more_than_the_loops_is_not_recorded(
    n: int, layers: tuple[Layer, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(*layers)
    found = list(passes(model, n))
    assert recorded(model) == [False]
    assert found == one_by_one(monkeypatch, model, n)


def test_a_layer_of_ones_own_counts_after_a_pass_without_it() -> None:
    plain = network(Tanh(), Flatten(), Dense(10))
    own = network(Doubled(), Flatten(), Dense(10))
    assert list(passes(plain, 8)) != list(passes(own, 8))


def test_arrays_that_are_not_contiguous() -> None:
    model = network()
    rng = np.random.default_rng(0)
    parameters = model.initial_parameters(generator(0))
    images, targets = rng.integers(0, 256, (8, 12, 12), np.uint8), rng.integers(0, 10, 8)
    results: list[tuple[Metrics, bytes]] = []
    for stored, labels, vector, step in (
        (images, targets, parameters, 1),
        (np.asfortranarray(images), np.repeat(targets, 2)[::2], parameters, 2),
        (images, targets.astype("int8"), np.repeat(parameters, 2)[::2], 1),
    ):
        gradient = np.empty(step * len(parameters), np.float32)[::step]
        results.append((model.loss_and_gradient(vector, stored, labels, gradient), gradient.tobytes()))
    assert results[1:] == results[:1] * 2
    assert (model.scores(np.repeat(parameters, 2)[::2], images) == model.scores(parameters, images)).all()


def test_a_record_does_not_keep_the_arrays_from_outside() -> None:
    """They may lie in shared memory, which cannot be closed while arrays of it are left."""
    model = network()
    arrays = [np.zeros(model.layout.size, np.float32), np.zeros((8, 12, 12), np.uint8), np.zeros(8, int)]
    arrays.append(np.empty_like(arrays[0]))
    left = [weakref.ref(array) for array in arrays]
    model.loss_and_gradient(*arrays)
    assert recorded(model) == [True]
    del arrays
    assert [reference() for reference in left] == [None] * 4


@pytest.mark.parametrize("wrong", ["parameters", "gradient", "labels", "images", "dtype"])
def test_wrong_arrays_are_refused_before_and_after_a_record(wrong: str) -> None:
    model = network()
    parameters = model.initial_parameters(generator(0))
    right = {
        "parameters": parameters,
        "images": np.zeros((8, 12, 12), np.uint8),
        "labels": np.zeros(8, int),
        "gradient": np.empty_like(parameters),
    }
    bad = {
        "parameters": parameters[1:],
        "images": np.zeros((8, 11, 12), np.uint8),
        "labels": np.full(8, 10),
        "gradient": np.empty(len(parameters) + 1, np.float32),
        "dtype": np.empty(len(parameters)),
    }
    for _ in range(2):
        with pytest.raises(ValueError, match=r"shape|range|dtype"):
            model.loss_and_gradient(*(right | {wrong.replace("dtype", "gradient"): bad[wrong]}).values())
        model.loss_and_gradient(*right.values())


def test_kernels_without_a_recorder_run_layer_by_layer() -> None:
    assert not hasattr(kernels.load("naive"), "record")
    model = Sequential(Images(12, size=14), LAYERS, kernel="im2col")
    list(passes(model, 8))
    assert recorded(model) == [False]
