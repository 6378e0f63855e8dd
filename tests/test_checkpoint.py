"""The Checkpoint object: what a training saved, without its model."""

from pathlib import Path

import numpy as np
import pytest
from kits.models import Scripted, Softmax
from numpy.testing import assert_array_equal

from parallel_lenet import SGD, Adam, Checkpoint, CheckpointError, Coordinator, Dataset

DATA = Dataset(np.arange(7840, dtype=np.uint8).reshape(10, 28, 28), np.arange(10) % 10)


def test_it_tells_how_far_a_training_got_and_holds_its_parameters_by_name(tmp_path: Path) -> None:
    with Coordinator(Softmax(), Adam(0.01), engine="serial", batch_size=4) as coordinator:
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
    coordinator = Coordinator(Softmax(), Adam(), engine="serial", batch_size=3)
    coordinator.fit(DATA)
    coordinator.save(tmp_path / "a.npz", {"note": 1})
    Checkpoint.load(tmp_path / "a.npz").save(tmp_path / "b.npz")
    again = Coordinator(Softmax(), Adam(), engine="serial", batch_size=3)
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
