"""Augmentation: what distortions do to images, and bits that nothing but seed, epoch and sample decides."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kits.programs import run_here, train_here, write_idx
from numpy.testing import assert_allclose, assert_array_equal

from parallel_lenet import Adam, Augment, CheckpointError, Coordinator, Dataset, SampleKeys, lenet5
from parallel_lenet.arithmetic import exponential
from parallel_lenet.augmentation import compiled
from parallel_lenet.augmentation.warp import sine_and_cosine

STRONG = Augment(shift=2, rotation=15, scale=0.2, shear=0.2, elastic=34)
SETTINGS = st.builds(
    Augment,
    shift=st.floats(0, 20),
    rotation=st.floats(0, 180),
    scale=st.floats(0, 0.9),
    shear=st.floats(0, 2),
    elastic=st.sampled_from([0, 10, 1000]),
    smoothness=st.floats(0.5, 8),
)


def keys(n: int, first: int = 0, seed: int = 7, epoch: int = 3) -> SampleKeys:
    return SampleKeys(seed, epoch, np.arange(first, first + n))


def random_images(*shape: int, dtype: Any = np.uint8) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


@pytest.mark.slow
@given(
    SETTINGS,
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([np.uint8, np.float32]),
    st.integers(0, 2**64 - 1),
)
@settings(max_examples=25)
def test_compiled_and_numpy_give_the_same_bits(
    augment: Augment, n: int, channels: int, height: int, width: int, dtype: Any, seed: int
) -> None:
    images = random_images(n, channels, height, width, dtype=dtype)
    some = keys(n, seed=seed)
    reference = augment(images, some, background=3.0)
    assert reference.dtype == dtype
    assert_array_equal(augment(images, some, background=3.0, compiled=True), reference)


@pytest.mark.parametrize("fast", [False, True])
def test_an_image_depends_on_no_neighbour_and_on_seed_epoch_and_position(fast: bool) -> None:
    images = random_images(6, 1, 12, 12)
    whole = STRONG(images, keys(6), compiled=fast)
    for i in range(6):
        assert_array_equal(STRONG(images[i : i + 1], keys(1, i), compiled=fast)[0], whole[i])
    for other in (keys(6, 1), keys(6, seed=8), keys(6, epoch=4)):
        assert not (STRONG(images, other, compiled=fast) == whole).all(axis=(1, 2, 3)).any()


def test_no_distortion_changes_no_pixel() -> None:
    for dtype in (np.uint8, np.uint16, np.float32, np.float64):
        images = random_images(3, 2, 9, 7, dtype=dtype)
        assert_array_equal(Augment()(images, keys(3)), images)


def test_distances_are_those_that_were_asked_for() -> None:
    """The centre of a blob moves by up to ``shift``. The spread is that of uniform numbers."""
    n, size = 400, 41
    y, x = np.mgrid[:size, :size] - size // 2
    blob = np.exp(-(y**2 + x**2) / 18).astype(np.float32)
    images = np.broadcast_to(blob, (n, 1, size, size))
    moved = Augment(shift=5)(images, keys(n))[:, 0].astype(np.float64)
    mass = moved.sum(axis=(1, 2))
    for axis in (y, x):
        shifts = (moved * axis).sum(axis=(1, 2)) / mass
        assert 4.5 < abs(shifts).max() <= 5.01
        assert_allclose(shifts.std(), 5 / math.sqrt(3), rtol=0.1)
    larger = Augment(scale=0.3)(images, keys(n))[:, 0].sum(axis=(1, 2)) / blob.sum()
    assert 0.45 < larger.min() < 0.55
    assert 1.6 < larger.max() < 1.75


def test_a_bar_turns_by_up_to_the_angle() -> None:
    size = 41
    images = np.zeros((300, 1, size, size), np.float32)
    images[:, :, size // 2 - 1 : size // 2 + 2, 8:-8] = 1
    turned = Augment(rotation=30)(images, keys(300))[:, 0].astype(np.float64)
    y, x = np.mgrid[:size, :size] - size // 2
    moments = [(turned * product).sum(axis=(1, 2)) for product in (x * y, x * x - y * y)]
    angles = np.degrees(np.arctan2(2 * moments[0], moments[1]) / 2)
    assert 28 < abs(angles).max() < 30.5
    assert_allclose(angles.std(), 30 / math.sqrt(3), rtol=0.1)


def test_elastic_displacements_are_as_smooth_and_as_large_as_those_of_simard() -> None:
    """Smoothing numbers of variance 1/3 by a Gaussian of deviation s leaves a variance of 1 / (12 pi s^2)."""
    n = 60
    size = 64
    alpha = 34
    smoothness = 4.0
    ramp = np.broadcast_to(np.arange(size, dtype=np.float64) * 10, (n, 1, size, size))
    moved = Augment(elastic=alpha, smoothness=smoothness)(ramp, keys(n))
    shifts = (moved - ramp)[:, 0, 16:-16, 16:-16] / 10
    assert_allclose(shifts.std(), alpha / math.sqrt(12 * math.pi) / smoothness, rtol=0.1)
    lag = 4
    correlation = (shifts[:, :, lag:] * shifts[:, :, :-lag]).mean() / (shifts**2).mean()
    assert_allclose(correlation, math.exp(-(lag**2) / (4 * smoothness**2)), atol=0.06)


def test_background_comes_in_from_outside() -> None:
    images = np.full((20, 1, 8, 8), 200, np.uint8)
    assert (Augment(shift=1000)(images, keys(20), background=9) == 9).mean() > 0.9


def test_functions_of_this_package_are_right() -> None:
    angles = np.linspace(-math.pi, math.pi, 999)
    sine, cosine = sine_and_cosine(angles)
    assert_allclose(sine, np.sin(angles), atol=1e-10)
    assert_allclose(cosine, np.cos(angles), atol=1e-10)
    assert_allclose([exponential(x) for x in (0.0, -0.3, -4.5, -100.0)], np.exp([0, -0.3, -4.5, -100]), rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift": -1}, "shift must be from 0 to 1000, got -1"),
        ({"rotation": 181}, "rotation must be from 0 to 180, got 181"),
        ({"scale": 1}, "scale must be from 0 to below 1, got 1"),
        ({"elastic": math.nan}, "elastic must be from 0 to 1000, got nan"),
        ({"smoothness": 0}, "smoothness must be from 0.5 to 100, got 0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augment(**settings)


def history(digits: Dataset, n_workers: int, **changes: Any) -> tuple[str, list[float]]:
    settings: dict[str, Any] = {"batch_size": 32, "engine": "processes" if n_workers > 1 else "serial", **changes}
    model = lenet5(augment=STRONG)
    with Coordinator(model, Adam(), n_workers=n_workers if n_workers > 1 else None, **settings) as coordinator:
        reports = coordinator.fit(digits, 2)
        return coordinator.parameters_sha256(), [report.train_loss for report in reports]


@pytest.mark.slow
def test_a_training_has_the_same_bits_for_any_workers_and_shards(digits: Dataset) -> None:
    reference = history(digits, 1)
    assert history(digits, 3) == reference
    assert history(digits, 1, shard_size=8) == reference
    assert history(digits, 1, seed=1) != reference


def test_evaluation_sees_images_as_they_are() -> None:
    plain = lenet5(image_size=12, classes=4, kernel="im2col")
    augmented = None
    augmented = lenet5(image_size=12, classes=4, kernel="im2col", augment=STRONG)
    parameters = plain.initial_parameters(np.random.default_rng(0))
    images = random_images(5, 12, 12)
    labels = np.arange(5) % 4
    assert plain.loss_and_gradient(parameters, images, labels, None) == augmented.loss_and_gradient(
        parameters, images, labels, None
    )
    assert_array_equal(plain.scores(parameters, images), augmented.scores(parameters, images))


def test_training_continues_only_with_the_same_augmentation(tmp_path: Path) -> None:
    data = Dataset(random_images(20, 12, 12), np.arange(20) % 4)

    def coordinator(augment: Augment | None) -> Coordinator:
        model = lenet5(image_size=12, classes=4, kernel="im2col", augment=augment)
        return Coordinator(model, Adam(), engine="serial", batch_size=10)

    first = coordinator(STRONG)
    first.fit(data, 1)
    first.save(tmp_path / "checkpoint")
    other = coordinator(None)
    other.load(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="augment is Augment"):
        other.fit(data, 1)
    same = coordinator(STRONG)
    same.load(tmp_path / "checkpoint")
    same.fit(data, 1)
    first.fit(data, 1)
    assert same.parameters_sha256() == first.parameters_sha256()


def test_code_is_known_to_be_compiled() -> None:
    STRONG(random_images(1, 1, 5, 5), keys(1), compiled=True)
    assert compiled.is_kept()


@pytest.mark.slow
def test_the_command_line_trains_on_distorted_images_and_resumes(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", 60, 20)
    options = ("--data-dir", "data", "--kernel", "im2col", "--engine", "serial", "--batch-size", "20", "--epochs", "2")
    options = (*options, "--augment", "shift=1,rotation=10,elastic=20")
    whole = train_here(tmp_path, *options, "--out", "whole")
    train_here(tmp_path, *options, "--out", "half", "--max-steps", "4")
    resumed = train_here(tmp_path, "--resume", "half", "--max-steps", "100")
    assert resumed["parameters_sha256"] == whole["parameters_sha256"]
    configured = train_here(tmp_path, "--config", "whole/config.toml", "--out", "configured", "--engine", "serial")
    assert configured["parameters_sha256"] == whole["parameters_sha256"]
    environment = json.loads((tmp_path / "whole" / "environment.json").read_text())
    assert "--augment shift=1,rotation=10,elastic=20" in json.dumps(environment)


@pytest.mark.parametrize("wrong", ["shft=2", "shift=2,shift=3", "shift", "shift=x", "", "rotation=181"])
def test_a_wrong_text_is_one_sentence(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^(augment must be default, or as in|rotation of augment must be from 0)"):
        Augment.parse(wrong)
    if wrong in ("shft=2", "rotation=181"):
        assert run_here(tmp_path, "train", "--augment", wrong, code=2).stderr.startswith("parallel-lenet: --augment")


@pytest.mark.parametrize("wrong", ["default", {"shift": 1}, 3, Augment])
def test_a_network_takes_an_augment_only(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^augment must be an Augment, or None for no distortions, got "):
        lenet5(kernel="im2col", augment=wrong)
