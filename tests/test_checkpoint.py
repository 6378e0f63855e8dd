"""The Checkpoint object: what a training saved, without its model."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.models import Scripted, Softmax
from numpy.testing import assert_array_equal

from parallel_lenet import SGD, Adam, Checkpoint, CheckpointError, Coordinator, Dataset, Layout, archive, lenet5
from parallel_lenet.optimizers import OptimizerState

DAMAGED = "optimizer state is damaged: the shape or dtype of first_moment is wrong"
DATA = Dataset(np.arange(7840, dtype=np.uint8).reshape(10, 28, 28), np.arange(10) % 10)


def test_it_tells_how_far_a_training_got_and_holds_its_parameters_by_name(tmp_path: Path) -> None:
    with Coordinator(Softmax(), Adam(0.01, fused=False), engine="serial", batch_size=4) as coordinator:
        coordinator.fit(DATA, 2)
        coordinator.save(tmp_path / "c.npz", {"note": "mine"})
        checkpoint = Checkpoint.load(tmp_path / "c.npz")
        assert (checkpoint.state.step, checkpoint.state.epoch, checkpoint.metadata) == (6, 2, {"note": "mine"})
        assert [report.epoch for report in checkpoint.state.history] == [1, 2]
        assert checkpoint.settings["batch_size"] == 4
        assert repr(checkpoint).endswith("c.npz', epoch=2, step=6, 7,850 parameters)")
        assert checkpoint.path == str(tmp_path / "c.npz")
        views = checkpoint.layout.views(checkpoint.state.parameters)
        wanted = coordinator.model.layout.views(coordinator.parameters)
    assert views.keys() == wanted.keys()
    for name, view in wanted.items():
        assert_array_equal(views[name], view)


def test_what_is_loaded_and_saved_again_is_the_same_file(tmp_path: Path) -> None:
    coordinator = Coordinator(Softmax(), Adam(fused=False), engine="serial", batch_size=3)
    coordinator.fit(DATA)
    coordinator.save(tmp_path / "a.npz", {"note": 1})
    Checkpoint.load(tmp_path / "a.npz").save(tmp_path / "b.npz")
    again = Coordinator(Softmax(), Adam(fused=False), engine="serial", batch_size=3)
    assert again.load(tmp_path / "b.npz") == {"note": 1}
    for each in (coordinator, again):
        each.fit(DATA)
    assert again.parameters_sha256() == coordinator.parameters_sha256()


def test_another_model_or_optimizer_is_refused_by_name(tmp_path: Path) -> None:
    Coordinator(Softmax(), Adam(), engine="serial").save(tmp_path / "c.npz")
    checkpoint = Checkpoint.load(tmp_path / "c.npz")
    with pytest.raises(CheckpointError, match="belongs to another network"):
        checkpoint.require_model(Scripted())
    with pytest.raises(CheckpointError, match="belongs to another optimizer"):
        checkpoint.require_slots(SGD().init(checkpoint.state.parameters))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of LeNet-5, unfinished in its second epoch, with weights and a report."""
    path = tmp_path_factory.mktemp("saved") / "c.npz"
    coordinator = Coordinator(lenet5(kernel="im2col"), Adam(fused=False), engine="serial", batch_size=4)
    reports = coordinator.iterate((DATA.inputs, DATA.targets), 2, validation=DATA)
    for _ in range(5):
        next(reports)
    coordinator.save(path)
    return path


@pytest.fixture
def saved(file: Path, tmp_path: Path) -> Checkpoint:
    """The checkpoint, in a file of the test's own."""
    return Checkpoint.load(shutil.copy(file, tmp_path))


def test_a_model_is_compared_by_its_description_and_by_its_layout(saved: Checkpoint) -> None:
    saved.require_model(lenet5(kernel="im2col"))
    with pytest.raises(CheckpointError) as caught:
        saved.require_model(lenet5(kernel="im2col", classes=3))
    assert str(caught.value) == (
        f"{saved.path}: belongs to another network: layer 12 is Dense(units=10) in the checkpoint, Dense(units=3) in "
        "the model. If it has this package's layers, load_model(path).model is the right one"
    )
    saved.require_model(WithoutDescription(saved.layout))  # A model without one is compared by its layout alone.
    for shapes, sentence in (
        ({"bias": (3,)}, "'bias' is 'missing' in the checkpoint, (3,) in the model"),
        ({"conv1.weight": (3,)}, "'conv1.weight' is (6, 1, 5, 5) in the checkpoint, (3,) in the model"),
        ({}, "'conv1.weight' is (6, 1, 5, 5) in the checkpoint, missing in the model"),
    ):
        with pytest.raises(CheckpointError) as caught:
            saved.require_model(WithoutDescription(Layout.of(shapes)))
        assert str(caught.value) == f"{saved.path}: belongs to another network: {sentence}"


class WithoutDescription(Scripted):
    def __init__(self, layout: Layout) -> None:
        object.__setattr__(self, "of_the_test", layout)

    @property
    def layout(self) -> Layout:
        return self.of_the_test  # type: ignore[no-any-return, attr-defined]


def test_another_dtype_and_other_vectors_of_an_optimizer_are_named(saved: Checkpoint) -> None:
    saved.require_dtype(np.dtype(np.float32))
    with pytest.raises(CheckpointError) as caught:
        saved.require_dtype(np.dtype(np.float64))
    assert str(caught.value) == f"{saved.path}: holds float32 parameters; this model's are float64"
    saved.require_slots(Adam().init(saved.state.parameters))
    first = min(saved.state.optimizer.slots)
    with pytest.raises(CheckpointError, match=rf"incomplete: {first} belongs to another optimizer$"):
        saved.require_slots(SGD().init(saved.state.parameters))
    with pytest.raises(CheckpointError, match=r": optimizer state is incomplete: velocity is missing$"):
        saved.require_slots(
            OptimizerState(0, {**saved.state.optimizer.slots, "velocity": np.zeros(1)})  # Besides all the others.
        )


def test_every_field_of_the_state_comes_back(saved: Checkpoint, tmp_path: Path) -> None:
    state = saved.state
    assert (state.step, state.epoch, state.cursor, state.sums.count, state.sums.weight) == (4, 1, 4, 4, 4.0)
    assert state.data is not None
    saved.save(tmp_path / "again.npz")
    again = Checkpoint.load(tmp_path / "again.npz").state
    assert (again.step, again.epoch, again.cursor, again.sums) == (4, 1, 4, state.sums)
    assert (again.seconds, again.history) == (state.seconds, state.history)
    assert again.history[0].validation_loss is not None
    assert again.data is not None
    assert again.data.fingerprint() == state.data.fingerprint()
    for name, slot in state.optimizer.slots.items():
        assert_array_equal(again.optimizer.slots[name], slot)


def data(**changes: Any) -> dict[str, Any]:
    """The fingerprint of data, as in a file."""
    return {"samples": 1, "shape": [28, 28], "sha256": "0", **changes}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"format": 1},
            "was written by an older version, which did not describe the model: its parameters are "
            "numpy.load(path)['parameters'], for Coordinator(model, optimizer, parameters=...)",
        ),
        ({"format": None}, "has format None; this version reads 2"),
        ({"format": 3}, "has format 3; this version reads 2"),
        ({"layout": [["weight", [3]]]}, "holds 61,706 parameters of float32; its network has 3"),
        ({"step": 2**63}, "its metadata is incomplete: step must be below 2**63"),
        ({"epoch": 2**63}, "its metadata is incomplete: epoch must be below 2**63"),
        ({"cursor": 2**63}, "its metadata is incomplete: cursor must be below 2**63"),
        ({"step": -1}, "its metadata is incomplete: step must be a whole number of at least 0, got -1"),
        ({"seconds": "many"}, "its metadata is incomplete: 'many' is not a number"),
        ({"seconds": True}, "its metadata is incomplete: True is not a number"),
        ({"sums": [1.0, 2, 3, -1.0]}, "its metadata is incomplete: the weight of the sums is -1.0"),
        ({"sums": [1.0, 2, 3, "inf"]}, "its metadata is incomplete: the weight of the sums is 'inf'"),
        ({"sums": [1.0, -2, 3, 4.0]}, "its metadata is incomplete: sums must be a whole number of at least 0, got -2"),
        ({"sums": [1.0, 2, 2**63, 4.0]}, "its metadata is incomplete: sums must be below 2**63"),
        ({"history": [3]}, "its metadata is incomplete: history holds 3"),
        (
            {"history": [{"epoch": -1}]},
            "its metadata is incomplete: epoch must be a whole number of at least 0, got -1",
        ),
        ({"history": [{"epoch": 1}]}, "its metadata is incomplete: 'step'"),
        ({"history": [{"epoch": 1, "step": 2, "train_loss": []}]}, "its metadata is incomplete: [] is not a number"),
        ({"data": 3}, "its metadata is incomplete: data is 3"),
        ({"data": None}, "its metadata is incomplete: data is None"),
        ({"data": data(samples=-1)}, "its metadata is incomplete: data must be a whole number of at least 0, got -1"),
        ({"data": data(samples=2**63)}, "its metadata is incomplete: data must be below 2**63"),
        (
            {"data": data(shape=[28, 2.5])},
            "its metadata is incomplete: data must be a whole number of at least 0, got 2.5",
        ),
        ({"data": data(shape=[1] * 65)}, "its metadata is incomplete: data is {'samples': 1, 'shape': [1, 1, 1"),
        ({"data": data(sha256=7)}, "its metadata is incomplete: data is {'samples': 1, 'shape': [28, 28], 'sha256': 7"),
        ({"settings": []}, "its metadata is incomplete: settings is []"),
        ({"user": None}, "its metadata is incomplete: user is None"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_wrong_metadata_is_named(saved: Checkpoint, change: dict[str, Any], sentence: str) -> None:
    arrays, metadata = archive.load(saved.path)
    archive.save(saved.path, arrays, {**metadata, **change})
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.load(saved.path)
    assert str(caught.value).startswith(f"{saved.path}: {sentence}")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"parameters": None}, "holds 0 parameters of uint8; its network has 61,706"),
        ({"parameters": np.zeros(61706, np.uint8)}, "holds 61,706 parameters of uint8; its network has 61,706"),
        ({"optimizer.first_moment": np.zeros(3, np.float32)}, DAMAGED),
        ({"optimizer.first_moment": np.zeros(61706)}, DAMAGED),
    ],
    ids=["missing", "not floats", "length of a slot", "dtype of a slot"],
)
def test_wrong_vectors_are_named(saved: Checkpoint, change: dict[str, Any], sentence: str) -> None:
    arrays, metadata = archive.load(saved.path)
    changed = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    archive.save(saved.path, changed, metadata)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.load(saved.path)
    assert str(caught.value) == f"{saved.path}: {sentence}"


@pytest.mark.parametrize(
    "key", ["layout", "settings", "step", "epoch", "cursor", "sums", "seconds", "history", "data", "user"]
)
def test_missing_metadata_are_named(saved: Checkpoint, key: str) -> None:
    arrays, metadata = archive.load(saved.path)
    archive.save(saved.path, arrays, {name: value for name, value in metadata.items() if name != key})
    with pytest.raises(CheckpointError, match=rf": its metadata is incomplete: ('{key}'|{key} is None)$"):
        Checkpoint.load(saved.path)


def test_the_largest_figures_and_files_without_a_description_are_read(saved: Checkpoint) -> None:
    arrays, metadata = archive.load(saved.path)
    del metadata["model"]
    figures = {"step": 2**63 - 1, "sums": ["-inf", 0, 0, 0.0], "data": data(shape=[1] * 64, samples=0), "seconds": 0}
    archive.save(saved.path, arrays, {**metadata, **figures})
    checkpoint = Checkpoint.load(saved.path)
    state = checkpoint.state
    assert checkpoint.description is None
    assert (state.step, state.sums.loss_sum, state.sums.weight, state.seconds) == (2**63 - 1, -np.inf, 0.0, 0.0)
    assert state.data is not None
    assert state.data.fingerprint() == figures["data"]
    saved.require_model(WithoutDescription(saved.layout))
    archive.save(saved.path, arrays, {**metadata, "cursor": 0, "data": None})
    assert Checkpoint.load(saved.path).state.data is None


def test_sums_of_older_files_without_weights_and_what_json_does_not_have_are_read(saved: Checkpoint) -> None:
    arrays, metadata = archive.load(saved.path)
    archive.save(saved.path, arrays, {**metadata, "sums": ["nan", 2, 3], "seconds": 7})
    state = Checkpoint.load(saved.path).state
    assert np.isnan(state.sums.loss_sum)
    assert (state.sums.correct, state.sums.count, state.sums.weight, state.seconds) == (2, 3, 3.0, 7.0)
