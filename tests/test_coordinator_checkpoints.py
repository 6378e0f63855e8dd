"""A coordinator's checkpoints: training continues with the same bits, or an error says what differs."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.coordinators import UNEVEN, serial
from kits.models import Scripted, Softmax
from numpy.testing import assert_allclose, assert_array_equal

from parallel_lenet import (
    SGD,
    Adam,
    CheckpointError,
    Coordinator,
    Cosine,
    Dataset,
    lenet5,
    load_model,
)
from parallel_lenet.engines.processes.engine import ProcessesEngine


@pytest.mark.parametrize("steps", [0, 2, 3, 4, 5], ids=lambda steps: f"after {steps} reports")
def test_training_goes_on_from_a_checkpoint_with_the_same_bits_and_other_workers(
    digits: Dataset, tmp_path: Path, steps: int, processes: ProcessesEngine
) -> None:
    path = tmp_path / "checkpoint.npz"
    whole, first = serial(), serial()
    whole.fit(digits, 3)
    for _ in itertools.islice(first.iterate(digits, 3), steps):
        pass
    first.save(path, {"note": "mine", "numbers": [1, 2.5, None]})
    with Coordinator(Softmax(), Adam(), engine=processes, **UNEVEN) as second:
        assert second.load(path) == {"note": "mine", "numbers": [1, 2.5, None]}
        assert second.parameters_sha256() == first.parameters_sha256()
        assert (second.epoch, second.step, second.history) == (first.epoch, first.step, first.history)
        second.fit(digits, 3 - second.epoch)
        assert second.parameters_sha256() == whole.parameters_sha256()
        curves = [[epoch.train_loss for epoch in c.history] for c in (whole, second)]
        assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lenet5(), "belongs to another network: the checkpoint does not describe its model"),
        (Scripted(7850), "belongs to another network: 'weight' is (10, 784) in the checkpoint, (7850,) in the model"),
        (Scripted(7850, dtype="float64"), "belongs to another network: 'weight' is (10, 784) in the checkpoint"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(tmp_path: Path, model: Any, message: str) -> None:
    path = tmp_path / "checkpoint.npz"
    serial().save(path)
    coordinator = serial(model)
    before = coordinator.parameters_sha256()
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: {message}")):
        coordinator.load(path)
    assert coordinator.parameters_sha256() == before


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "optimizer": ({"optimizer": SGD()}, "optimizer is Adam(learning_rate=0.001, beta1=0.9, beta2=0.999"),
    "learning rate": ({"optimizer": Adam(0.1)}, "Adam(learning_rate=0.1, beta1=0.9, beta2=0.999"),
    "schedule": ({"optimizer": Adam(Cosine(0.001, 9))}, "Adam(learning_rate=Cosine(learning_rate=0.001, total_steps=9"),
    "seed": ({"seed": 4}, "seed is 3 in the checkpoint, 4 in this coordinator"),
    "batch size": ({"batch_size": 57}, "batch_size is 56 in the checkpoint, 57 in this coordinator"),
    "shard size": ({"shard_size": 9}, "shard_size is 10 in the checkpoint, 9 in this coordinator"),
    "clip norm": ({"clip_norm": 1}, "clip_norm is None in the checkpoint, 1.0 in this coordinator"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_predict_evaluate_and_save_but_do_not_continue(
    tmp_path: Path, digits: Dataset, change: str
) -> None:
    arguments, sentence = CHANGES[change]
    trained, same = serial(), serial()
    trained.fit(digits)
    trained.save(tmp_path / "c.npz")
    other = serial(**arguments)
    other.load(tmp_path / "c.npz")
    assert_allclose(other.evaluate(digits).loss, trained.evaluate(digits).loss, rtol=1e-6)
    assert_array_equal(other.predict(digits.inputs), trained.predict(digits.inputs))
    for _ in range(2):  # It does not wear off.
        with pytest.raises(CheckpointError, match="training can't continue: ") as caught:
            other.fit(digits)
        assert sentence in str(caught.value)
        advised = re.findall(r"load\(path, may_differ=(\[.*?\])\)", str(caught.value))
        assert bool(advised) == (change != "optimizer")
        assert "Coordinator(model, optimizer, parameters=coordinator.parameters)" in str(caught.value)
    with serial(parameters=other.parameters, **arguments) as anew:  # The advice works, here and below.
        anew.fit(digits)
    other.save(tmp_path / "copy.npz")  # Of the training that was loaded, not of a mixture.
    same.load(tmp_path / "copy.npz")
    same.fit(digits)
    for names in advised:
        other.load(tmp_path / "c.npz", may_differ=json.loads(names))
        other.fit(digits)
    trained.fit(digits)
    assert same.parameters_sha256() == trained.parameters_sha256()


def test_all_settings_that_differ_are_named_at_once(tmp_path: Path, digits: Dataset) -> None:
    serial().save(tmp_path / "c.npz")
    other = serial(optimizer=SGD(), seed=4, clip_norm=2)
    other.load(tmp_path / "c.npz")
    with pytest.raises(CheckpointError, match=r"optimizer is .*; seed is .*; clip_norm is .*"):
        other.iterate(digits)


def test_settings_that_may_differ_continue_with_the_optimizers_memory(tmp_path: Path, digits: Dataset) -> None:
    trained = serial()
    trained.fit(digits)
    trained.save(tmp_path / "c.npz")
    other = serial(optimizer=Adam(1e-9), seed=4)
    other.load(tmp_path / "c.npz", may_differ=["optimizer", "seed"])
    other.fit(digits)
    assert other.step == 2 * trained.step
    assert_allclose(other.parameters, trained.parameters, atol=1e-6)
    other.save(tmp_path / "d.npz")  # Now with its own settings.
    again = serial(optimizer=Adam(1e-9))
    again.load(tmp_path / "d.npz")
    with pytest.raises(CheckpointError, match="seed is 4 in the checkpoint, 3 in"):
        again.fit(digits)
    other = serial(optimizer=SGD())
    other.load(tmp_path / "c.npz", may_differ=["optimizer"])
    sentence = (
        r"training can't continue: optimizer is Adam\(.*\) in the checkpoint, SGD\(.*\) in this coordinator\. This "
        r"coordinator's optimizer keeps nothing, the checkpoint's first_moment, second_moment: it can't continue from "
    )
    with pytest.raises(CheckpointError, match=sentence):
        other.fit(digits)
    for wrong, example in ((["metadata"], "optimizer"), ("seed", "seed"), (b"seed", "optimizer"), (3, "optimizer")):
        sentence = (
            rf'may_differ must be a list of settings, such as \["{example}"\], got {re.escape(repr(wrong))}; the '
        )
        with pytest.raises(ValueError, match=sentence):
            other.load(tmp_path / "c.npz", may_differ=wrong)  # type: ignore[arg-type]
    again = serial(optimizer=Adam(1e-9), seed=4)
    again.load(tmp_path / "c.npz", may_differ=["data", "seed"])
    with pytest.raises(CheckpointError, match=r'may_differ=\["optimizer", "seed", "data"\]'):
        again.fit(digits)


@pytest.mark.parametrize("path", [None, 3, b"c.npz", ["c.npz"]])
def test_what_is_not_a_path_is_named(path: Any) -> None:
    coordinator = serial()
    for call in (coordinator.load, coordinator.save, load_model):
        with pytest.raises(
            TypeError, match=f"^path must be a string or a path object, .* got {re.escape(repr(path))}$"
        ):
            call(path)


def test_a_loaded_training_continues_with_its_own_data_or_says_so(tmp_path: Path, digits: Dataset) -> None:
    trained, other, free = serial(), serial(), serial()
    trained.fit(digits)
    trained.save(tmp_path / "c.npz")
    fewer = Dataset(digits.inputs[:90], digits.targets[:90])
    other.load(tmp_path / "c.npz")
    other.evaluate(fewer)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"it was trained on 150 samples .*, not on 90 samples .*may_differ="):
            other.fit(fewer)
    assert other.step == trained.step
    other.fit((digits.inputs.copy(), digits.targets))
    other.fit(fewer)  # It is this program's own decision now.
    free.load(tmp_path / "c.npz", may_differ=["data"])
    free.fit(fewer)
    trained.fit(fewer)
    assert free.parameters_sha256() == trained.parameters_sha256()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"activation": "relu"}, "layer 2 is Tanh(amplitude=1.7159) in the checkpoint, ReLU() in the model"),
        ({"mean": 0.5, "std": 0.25}, "mean of the images is 0.1307 in the checkpoint, 0.5 in the model; std of"),
        ({"dtype": "float64"}, "dtype is 'float32' in the checkpoint, 'float64' in the model"),
    ],
)
def test_another_network_is_refused_by_the_difference(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    serial(lenet5(kernel="im2col")).save(tmp_path / "c.npz")
    with pytest.raises(CheckpointError, match=re.escape(f"belongs to another network: {sentence}")):
        serial(lenet5(**{"kernel": "im2col", **change})).load(tmp_path / "c.npz")
    serial(lenet5(kernel="naive")).load(tmp_path / "c.npz")


def test_the_description_of_a_model_of_ones_own_is_compared_if_it_has_one(tmp_path: Path) -> None:
    class Described(Softmax):
        def __init__(self, temperature: Any) -> None:
            self.description = {"temperature": temperature}

    serial(Described(np.float32(0.5))).save(tmp_path / "c.npz")
    serial(Described(0.5)).load(tmp_path / "c.npz")
    serial().load(tmp_path / "c.npz")  # It says nothing of itself.
    with pytest.raises(CheckpointError, match=r"temperature is 0.5 in the checkpoint, 2 in the model"):
        serial(Described(2)).load(tmp_path / "c.npz")


def test_metadata_that_json_does_not_have_is_refused_before_the_file_is_touched(tmp_path: Path) -> None:
    coordinator = serial()
    coordinator.save(tmp_path / "c.npz", {"loss": np.float32("nan"), "best": np.array(3)})
    before = (tmp_path / "c.npz").read_bytes()
    for wrong, sentence in (
        ({"curve": np.zeros(3)}, r"metadata['curve'] is an array of shape (3,)"),
        ([1], "metadata must be a dict, got list"),
    ):
        with pytest.raises(TypeError, match=re.escape(sentence)):
            coordinator.save(tmp_path / "c.npz", wrong)  # type: ignore[arg-type]
    assert (tmp_path / "c.npz").read_bytes() == before
    assert coordinator.load(tmp_path / "c.npz") == {"loss": "nan", "best": 3}


def test_predictions_of_random_parameters_are_said_once(
    digits: Dataset, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    coordinator, trained = serial(), serial()
    coordinator.predict(digits.inputs)
    coordinator.predict(digits.inputs)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "predict before any training: the parameters are the random initial ones"
    ]
    caplog.clear()
    trained.fit(digits)
    trained.predict(digits.inputs)
    serial(parameters=trained.parameters).predict(digits.inputs)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_a_checkpoint_of_another_precision_is_refused(tmp_path: Path) -> None:
    serial(Scripted()).save(tmp_path / "c.npz")
    with pytest.raises(CheckpointError, match="holds float32 parameters; this model's are float64"):
        serial(Scripted(dtype="float64")).load(tmp_path / "c.npz")
