"""Every kind of model obeys the contract: LeNet-5 with each kernel, other networks of layers, and classes of users."""

from typing import Any

import numpy as np
import pytest
from kits.model_contract import *  # noqa: F403
from kits.model_contract import Case
from kits.models import ByImage, Softmax

from parallel_lenet import kernels, lenet5
from parallel_lenet.network.images import Images
from parallel_lenet.network.layers import AvgPool2d, Conv2d, Dense, Flatten, MaxPool2d, ReLU, Tanh
from parallel_lenet.network.sequential import Sequential


def network(kernel: str, dtype: str, *layers: Any) -> Sequential:
    return Sequential(Images(12, size=14), layers, kernel=kernel, dtype=dtype)


MODELS = {
    **{f"lenet5 {kernel}": (lenet5(kernel=kernel), 28) for kernel in kernels.available()},
    "lenet5, relu and max pooling": (lenet5(activation="relu", pooling="max", kernel="im2col"), 28),
    "lenet5, float64": (lenet5(kernel="im2col", dtype="float64"), 28),
    "stride and padding": (
        network("im2col", "float64", Conv2d(3, 3, stride=2, padding=1), Tanh(), Flatten(), Dense(10)),
        12,
    ),
    "pools of three": (
        network("naive", "float64", Conv2d(2, 3), ReLU(), AvgPool2d(3), MaxPool2d(), Flatten(), Dense(10)),
        12,
    ),
    "a user's own": (Softmax(), 28),
    "a user's own with a leaf": (ByImage(), 28),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def case(request: pytest.FixtureRequest) -> Case:
    model, size = request.param
    rng = np.random.default_rng(0)
    samples = 64 if getattr(model, "leaf", None) == 32 else 6
    return Case(model, rng.integers(0, 256, (samples, size, size), np.uint8), rng.integers(0, 10, samples))
