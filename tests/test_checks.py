"""One check per kind of value, and NumPy's scalars wherever a number is taken."""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parallel_lenet import (
    SGD,
    Adam,
    AvgPool2d,
    Conv2d,
    Coordinator,
    Cosine,
    Dense,
    Layout,
    MaxPool2d,
    Warmup,
    lenet5,
)
from parallel_lenet.checks import FINITE, POSITIVE, InvalidValue, optional_number, real_number, whole_number

THREE = [3, np.int64(3), np.uint8(3), np.array(3), np.array([3, 1]).max()]


@pytest.mark.parametrize("value", THREE, ids=lambda value: type(value).__name__)
def test_a_whole_number_of_any_type_becomes_an_int(value: Any) -> None:
    assert type(whole_number("n", value, 0)) is int
    assert Dense(value) == Dense(3)
    assert AvgPool2d(value, value) == AvgPool2d(3)
    assert MaxPool2d(value) == MaxPool2d(3)
    assert (
        repr(Conv2d(value, value, value, value)) == "Conv2d(filters=3, kernel_size=3, stride=3, padding=3, flip=False)"
    )
    assert Layout.of({"w": (value, 2), "b": value}).entries == (("w", (3, 2)), ("b", (3,)))
    model = lenet5(classes=value, channels=value, image_size=(value, value), kernel="im2col")
    assert model.images.image_size == (3, 3)
    assert model.layout.entries[-1] == ("dense3.bias", (3,))
    assert all(type(n) is int for _, shape in model.layout.entries for n in shape)


@pytest.mark.parametrize("value", [True, np.True_, 2.0, np.float32(2), "2", None, [2], np.array([2]), 0, -1])
def test_what_is_no_whole_number_of_at_least_one_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^n must be a whole number of at least 1, got "):
        whole_number("n", value, 1)
    for make, words in (
        (Dense, "Dense: units"),
        (AvgPool2d, "AvgPool2d: size"),
        (lambda n: Conv2d(n, 5), "Conv2d: filters"),
        (lambda n: lenet5(classes=n), "classes"),
        (lambda n: lenet5(image_size=(28, n)), "Images: width of image_size"),
        (lambda n: Layout.of({"w": (n,)}), "a length of parameter 'w'"),
    ):
        with pytest.raises(ValueError, match=f"^{words} must be a whole number of at least"):
            make(value)


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.array(0.5), np.longdouble(0.5)])
def test_a_number_of_any_type_becomes_a_float(value: Any) -> None:
    assert type(real_number("rate", value, POSITIVE)) is float
    assert Adam(value, beta1=value) == Adam(0.5, beta1=0.5)
    assert Warmup(Cosine(value, np.int64(9)), np.int64(2)) == Warmup(Cosine(0.5, 9), 2)
    assert lenet5(mean=value, std=value).images == lenet5(mean=0.5, std=0.5).images
    assert lenet5(pixel_max=value).images.pixel_max == 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "1", None, 1j, [1.0], np.ones(1), 10**400])
def test_what_is_no_finite_number_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^rate must be a finite number, got "):
        real_number("rate", value, FINITE)


def test_an_error_about_a_value_has_its_parts_also_from_another_process() -> None:
    with pytest.raises(InvalidValue) as caught:
        optional_number("clip_norm", -2, POSITIVE)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (error.name, error.allowed, error.value) == ("clip_norm", "a finite number above 0", -2)
        assert str(error) == "clip_norm must be a finite number above 0, or None, got -2"
    assert optional_number("clip_norm", None, POSITIVE) is None
    assert whole_number("n", np.int64(5), 1, 5) == 5
    with pytest.raises(InvalidValue, match=r"^n must be at most 5, got 6$"):
        whole_number("n", 6, 1, 5)


def test_one_number_for_the_image_size_is_height_and_width() -> None:
    assert lenet5(image_size=64).images == lenet5(image_size=(64, 64)).images


def test_a_coordinator_of_numpy_numbers_trains_saves_and_loads(tmp_path: Path) -> None:
    def coordinator() -> Coordinator:
        return Coordinator(
            lenet5(classes=np.int64(3), image_size=np.array([6, 6])[0], kernel="im2col"),
            SGD(np.float32(0.1), momentum=0.9),
            engine="serial",
            batch_size=np.int64(2),  # type: ignore[arg-type]
            seed=np.uint8(3),  # type: ignore[arg-type]
            clip_norm=np.float32(1),  # type: ignore[arg-type]
        )

    data = (np.full((5, 6, 6), 255, np.uint8), np.arange(5) % 3)
    trained, loaded = coordinator(), coordinator()
    trained.fit(data, np.int64(1))  # type: ignore[arg-type]
    trained.save(tmp_path / "a.npz")
    loaded.load(tmp_path / "a.npz")
    assert loaded.parameters_sha256() == trained.parameters_sha256()
    assert isinstance(SGD(np.float32(0.5)).learning_rate, float)
