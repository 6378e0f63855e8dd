"""Trained networks from checkpoints: ready to predict, from any program that saved them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.models import Softmax

from parallel_lenet import (
    SGD,
    Adam,
    CheckpointError,
    Coordinator,
    Dataset,
    Dense,
    Flatten,
    Images,
    MaxPool2d,
    Sequential,
    archive,
    lenet5,
    load_model,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 3, 12, 12), dtype=np.uint8)
IMAGES[:, 0, 0, :2] = (0, 255)
DATA = Dataset(IMAGES, np.arange(30) % 4)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Coordinator, Path]:
    """A trained network for colour images, with its own mean and deviation, and its checkpoint."""
    model = lenet5(channels=3, classes=4, image_size=12, mean=0.4, std=0.2, activation="relu", kernel="im2col")
    coordinator = Coordinator(model, Adam(0.01), engine="serial", batch_size=10)
    coordinator.fit(DATA, 2)
    coordinator.save(tmp_path / "c.npz", {"note": "mine"})
    return coordinator, tmp_path / "c.npz"


def test_a_trained_model_predicts_as_the_coordinator_that_saved_it(saved: tuple[Coordinator, Path]) -> None:
    coordinator, path = saved
    trained = load_model(path, kernel="im2col")
    assert trained.metadata == {"note": "mine"}
    assert trained.model == coordinator.model
    assert np.array_equal(trained.predict(IMAGES), coordinator.predict(IMAGES))
    probabilities = trained.predict_proba(IMAGES[:5])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert np.array_equal(probabilities.argmax(axis=1), trained.predict(IMAGES[:5]))
    assert trained.scores(IMAGES[:0]).shape == (0, 4)
    assert trained.predict_proba(IMAGES[:0]).shape == (0, 4)
    with pytest.raises(ValueError, match="takes 0 to 255"):
        trained.predict(IMAGES / 255)


def test_its_parameters_begin_another_training_with_any_settings(saved: tuple[Coordinator, Path]) -> None:
    coordinator, path = saved
    trained = load_model(path, kernel="im2col")
    again = Coordinator(trained.model, SGD(0.01), parameters=trained.parameters, engine="serial", batch_size=7, seed=5)
    assert again.parameters_sha256() == coordinator.parameters_sha256()
    assert (again.step, again.epoch) == (0, 0)
    again.fit(DATA)
    assert again.step == 5


def test_a_model_of_ones_own_is_left_to_its_program(tmp_path: Path) -> None:
    Coordinator(Softmax(), SGD(momentum=0.9), engine="serial").save(tmp_path / "c.npz")
    with pytest.raises(CheckpointError, match=r"c.npz: can't make its model: .* and use Coordinator.load"):
        load_model(tmp_path / "c.npz")


def test_an_older_checkpoint_and_other_files_are_refused_in_a_sentence(
    saved: tuple[Coordinator, Path], tmp_path: Path
) -> None:
    arrays, metadata = archive.load(saved[1])
    for changes, words in (
        ({"format": 1}, "was written by an older version, which did not describe the model"),
        ({"format": [2]}, r"has format \[2\]; this version reads 2"),
        ({"user": 3}, "user is 3"),
    ):
        archive.save(tmp_path / "other.npz", arrays, {**metadata, **changes})
        with pytest.raises(CheckpointError, match=f"other.npz: .*{words}"):
            load_model(tmp_path / "other.npz")
    with pytest.raises(CheckpointError, match=r"none.npz: can't be read"):
        load_model(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="unknown kernel"):
        load_model(saved[1], kernel="fast")


def test_a_description_that_is_larger_than_its_file_allocates_nothing(
    saved: tuple[Coordinator, Path], tmp_path: Path
) -> None:
    arrays, metadata = archive.load(saved[1])
    metadata["model"]["layers"][-1]["units"] = 10**8
    archive.save(tmp_path / "large.npz", arrays, metadata)
    with pytest.raises(CheckpointError, match=r"large.npz: belongs to another network"):
        load_model(tmp_path / "large.npz")
    metadata["layout"][-2:] = [["dense3.weight", [10**8, 84]], ["dense3.bias", [10**8]]]
    archive.save(tmp_path / "large.npz", arrays, metadata)
    with pytest.raises(CheckpointError, match=r"large.npz: holds 61,496 parameters of float32; its network has 8,500,"):
        load_model(tmp_path / "large.npz")


def test_images_of_another_size_are_refused_before_anything_is_made_for_them(tmp_path: Path) -> None:
    model: Any = Sequential(Images(3000, size=1), (MaxPool2d(1000), Flatten(), Dense(2)), kernel="im2col")
    Coordinator(model, SGD(), engine="serial").save(tmp_path / "c.npz")
    trained = load_model(tmp_path / "c.npz", kernel="im2col")
    with pytest.raises(ValueError, match="takes images of shape"):
        trained.predict(np.zeros((10_000, 2, 2), np.uint8))
