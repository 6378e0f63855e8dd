"""Units of pixels: recognised, checked before any worker starts, and no false alarm for images as they are stored."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kits.models import Softmax

from parallel_lenet import SGD, Adam, Coordinator, Dataset, DatasetError, Dense, Flatten, Images, Sequential, lenet5
from parallel_lenet.network.pixels import Unit, check, recognise

Array = Any


def stored() -> Array:
    """20 8-bit images that reach from black to white, all but one dim."""
    images = np.random.default_rng(0).integers(0, 200, (20, 6, 6), dtype=np.uint8)
    images[0, 0, :2] = (0, 255)
    return images


def standardised(images: Array) -> Array:
    return ((images - images.mean()) / images.std()).astype(np.float32)


IN_UNITS: dict[str, tuple[Callable[[Array], Array], Unit]] = {
    "8 bits": (lambda x: x, Unit()),
    "8 bits as floats": (lambda x: x.astype(np.float64), Unit()),
    "8 bits as big-endian int": (lambda x: x.astype(">i4"), Unit()),
    "0 to 1": (lambda x: x / np.float32(255), Unit(0, 1)),
    "0 to 1 as float16": (lambda x: (x / 255).astype(np.float16), Unit(0, 1)),
    "booleans": (lambda x: x > 100, Unit(0, 1)),
    "0 and 1 as uint8": (lambda x: (x > 100).astype(np.uint8), Unit(0, 1)),
    "0 to 16": (lambda x: np.round(x / 255 * 16), Unit(0, 16)),
    "0 to 16 as uint8": (lambda x: np.round(x / 255 * 16).astype(np.uint8), Unit(0, 16)),
    "12 bits": (lambda x: x.astype(np.uint16) * 16, Unit(0, 4095)),
    "16 bits": (lambda x: x.astype(np.uint16) * 257, Unit(0, 65535)),
    "-1 to 1": (lambda x: x / np.float32(127.5) - 1, Unit(-1, 1)),
    "standardised": (standardised, Unit(float(standardised(stored()).min()), None)),
}


@pytest.mark.parametrize("name", IN_UNITS)
def test_a_unit_is_recognised_and_every_other_refused(name: str) -> None:
    convert, unit = IN_UNITS[name]
    images = convert(stored())
    assert recognise(images) == pytest.approx(unit)
    check(images, unit, 0.0, 1.0)
    for other in {other for _, other in IN_UNITS.values()} - {unit}:
        if name == "-1 to 1" and other.white is None:
            continue  # These might be standardised.
        with pytest.raises(ValueError, match=r"this network takes .*: if they are .*, build it with lenet5\(pixel_m"):
            check(images, other, 0.0, 1.0)


@pytest.mark.parametrize("name", ["0 to 1", "booleans", "0 and 1 as uint8", "0 to 16", "12 bits", "standardised"])
def test_one_image_in_another_unit_is_refused_too(name: str) -> None:
    with pytest.raises(ValueError, match="this network takes 0 to 255"):
        check(IN_UNITS[name][0](stored())[:1], Unit(), 0.0, 1.0)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 6, 6), np.uint8),
        np.zeros((100, 6, 6), np.uint8),
        np.zeros((1, 6, 6), np.float32),
        np.full((1, 6, 6), 255, np.uint8),
        np.full((1, 6, 6), 7, np.uint8),
        np.full((15, 6, 6), 2, np.uint16),
        np.full((100, 6, 6), 20, np.uint8),
        np.full((1, 6, 6), 255.0001, np.float32),
        np.zeros((0, 6, 6), np.uint8),
        stored()[1:2],
    ],
    ids=lambda images: f"{images.shape[0]} {images.dtype} up to {images.max(initial=0):g}",
)
def test_dark_blank_and_few_images_of_the_right_unit_raise_no_alarm(images: Array) -> None:
    check(images, Unit(), 0.1307, 0.3081)


def test_pixels_that_leave_the_range_a_little_are_to_be_clipped() -> None:
    images = stored().astype(np.float32)
    images[0, 0, 0] = -3
    with pytest.raises(ValueError, match=r"float32 pixels from -3 to 255, but .* 0 to 255: clip them to that range$"):
        check(images, Unit(), 0.0, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="images hold NaN or infinity"):
        check(np.full((2, 6, 6), bad), Unit(), 0.0, 1.0)


# In use.


@pytest.mark.parametrize("engine", ["serial", "processes"])
@pytest.mark.parametrize("name", ["0 to 1", "standardised", "booleans", "0 to 16"])
def test_every_call_refuses_another_unit_before_any_worker_starts(name: str, engine: str) -> None:
    images = IN_UNITS[name][0](stored())
    data = Dataset(images, np.zeros(20, np.int64), "mine")
    with Coordinator(lenet5(image_size=6, kernel="im2col"), SGD(), engine=engine, n_workers=1) as coordinator:
        for call in (coordinator.fit, coordinator.iterate, coordinator.evaluate):
            with pytest.raises(
                DatasetError, match=r"^mine: images hold .* takes 0 to 255: if they are .*, build it with lenet5\("
            ):
                call(data)
        with pytest.raises(DatasetError, match=r"^mine: "):
            coordinator.fit(Dataset(stored(), data.targets), validation=data)
        with pytest.raises(ValueError, match=r"^images hold "):
            coordinator.predict(images[:1])
        assert coordinator.worker_pids() == []


def test_labels_and_sizes_are_refused_before_any_worker_starts() -> None:
    with Coordinator(lenet5(image_size=6, kernel="im2col"), SGD(), n_workers=1) as coordinator:
        for inputs, targets, words in (
            (stored(), np.full(20, 10), "label 10 is out of range: this network has 10 classes"),
            (stored(), np.full(20, -1), "label -1 is out of range"),
            (stored(), np.zeros(20), "class labels must be integers, got float64"),
            (stored(), np.zeros((20, 1), int), r"targets must have shape \(20,\)"),
            (stored()[:, :5], np.zeros(20, int), r"takes images of shape \(n, 6, 6\)"),
        ):
            with pytest.raises(DatasetError, match=f"^data: .*{words}"):
                coordinator.evaluate((inputs, targets))
        assert coordinator.worker_pids() == []


def test_the_same_images_in_any_unit_give_the_same_network() -> None:
    targets = np.arange(20) % 10
    losses = {}
    for name, pixel_min, pixel_max, offset, span in (
        ("8 bits", 0, 255, 0, 1),
        ("0 to 1", 0, 1, 0, 1),
        ("12 bits", 0, 4080, 0, 1),
        ("-1 to 1", -1, 1, 0, 1),
        ("standardised", float(standardised(stored()).min()), None, standardised(stored()).min(), 255 / stored().std()),
    ):
        images = IN_UNITS[name][0](stored())
        model = lenet5(
            image_size=6,
            kernel="im2col",
            dtype="float64",
            mean=0.3 * span + offset,
            std=0.2 * span,
            pixel_min=pixel_min,
            pixel_max=pixel_max,
        )
        coordinator = Coordinator(model, Adam(0.01), engine="serial", batch_size=10)
        losses[name] = coordinator.fit((images, targets), 2)[-1].train_loss
    assert list(losses.values()) == pytest.approx([losses["8 bits"]] * 5, rel=1e-5)


def test_a_model_of_ones_own_takes_any_unit_unless_it_has_a_check_of_its_own() -> None:
    images = np.zeros((4, 28, 28), np.float32)
    images[:, 0] = -0.5
    data = Dataset(images, np.arange(4), "mine")

    class Checking(Softmax):
        def check(self, inputs: Array, targets: Array) -> None:
            if inputs.min() < 0:
                raise ValueError(f"pixels of {len(targets)} images are negative")

    Coordinator(Softmax(), SGD(), engine="serial").fit(data)
    with pytest.raises(DatasetError, match="mine: pixels of 4 images are negative"):
        Coordinator(Checking(), SGD(), engine="serial").fit(data)


# Number types and memory layouts.


def layouts(images: Array) -> dict[str, Array]:
    read_only = images.copy()
    read_only.flags.writeable = False
    wide = np.zeros((*images.shape[:-1], 12), images.dtype)
    wide[..., ::2] = images
    return {
        **{dtype: images.astype(dtype) for dtype in ("i8", "u4", ">u2", ">i4", "f2", ">f4", "f8", ">f8", "g")},
        "Fortran": np.asfortranarray(images),
        "every other": wide[..., ::2],
        "backwards": images[:, ::-1].copy()[:, ::-1],
        "read-only": read_only,
    }


@pytest.mark.parametrize("kernel", ["naive", "im2col", "compiled"])
def test_any_number_type_and_memory_layout_gives_the_same(kernel: str) -> None:
    if kernel == "compiled":
        pytest.importorskip("numba")
    images = stored()[:3]
    targets = np.arange(3)
    model = Sequential(Images(6, size=8), (Flatten(), Dense(4)), kernel=kernel)
    coordinator = Coordinator(model, SGD(), engine="serial", batch_size=3)
    loss = coordinator.evaluate((images, targets)).loss
    parameters = coordinator.parameters
    scores = model.scores(parameters, images)
    gradient = np.empty_like(parameters)
    model.loss_and_gradient(parameters, images, targets, gradient)
    for name, same in layouts(images).items():
        assert coordinator.evaluate((same, targets)).loss == pytest.approx(loss, rel=1e-6), name
        np.testing.assert_allclose(model.scores(parameters, same), scores, rtol=1e-5, atol=1e-6, err_msg=name)
        again = np.empty_like(parameters)
        model.loss_and_gradient(parameters, same, targets, again)
        np.testing.assert_allclose(again, gradient, rtol=1e-4, atol=1e-5, err_msg=name)
