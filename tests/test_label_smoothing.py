"""Label smoothing: in training and nowhere else, the same bits for any workers. (test_losses compares with PyTorch.)"""

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.programs import write_idx

from parallel_lenet import (
    SGD,
    Adam,
    CheckpointError,
    Coordinator,
    Dataset,
    Dense,
    Flatten,
    Images,
    InvalidValue,
    SampleKeys,
    Sequential,
    Tanh,
    kernels,
    lenet5,
)
from parallel_lenet.checking.kernels import check_function
from parallel_lenet.checkpoint import Checkpoint
from parallel_lenet.cli import main
from parallel_lenet.kernels import im2col
from parallel_lenet.network.gradcheck import TOLERANCE, model_errors

SMOOTHING = 0.2
FOUR_PARAMETERS = """
from parallel_lenet.kernels.im2col import *
from parallel_lenet.kernels import im2col as products


def softmax_cross_entropy(logits, targets, weights, d_logits):
    return products.softmax_cross_entropy(logits, targets, weights, d_logits)
"""


def network(kernel: str = "im2col", label_smoothing: float = SMOOTHING, **changes: Any) -> Sequential:
    layers = (Flatten(), Dense(6), Tanh(), Dense(4))
    return Sequential(Images(5, size=5), layers, kernel=kernel, label_smoothing=label_smoothing, **changes)


def data(n: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(n)
    return rng.integers(0, 256, (n, 5, 5), np.uint8), rng.integers(0, 4, n)


def keys(n: int) -> SampleKeys:
    return SampleKeys(0, 0, np.arange(n))


class InTraining:
    """A model whose every pass is one of training."""

    def __init__(self, model: Sequential) -> None:
        self.model = model
        self.layout = model.layout
        self.initial_parameters = model.initial_parameters
        self.predict = model.predict

    def loss_and_gradient(self, parameters: Any, inputs: Any, targets: Any, gradient: Any) -> Any:
        return self.model.loss_and_gradient(parameters, inputs, targets, gradient, keys=keys(len(inputs)))


@pytest.mark.parametrize("name", ["naive", "im2col"])
def test_the_gradient_of_training_agrees_with_differences_of_its_loss(name: str) -> None:
    rng = np.random.default_rng(0)
    model = network(name, dtype="float64")
    for passes in (InTraining(model), model):
        for _, error in model_errors(passes, *data(5), rng):
            assert error < TOLERANCE


@pytest.mark.parametrize("name", kernels.available())
def test_only_a_pass_of_training_is_smoothed(name: str) -> None:
    """Each twice: the second pass over arrays of some shapes may be the record of the first."""
    smooth, plain = network(name), network(name, 0.0)
    parameters = plain.initial_parameters(np.random.default_rng(0))
    images, labels = data(8)

    def loss(model: Sequential, gradient: Any, training: bool) -> float:
        more = {"keys": keys(8)} if training else {}
        found = {model.loss_and_gradient(parameters, images, labels, gradient, **more).loss_sum for _ in range(2)}
        assert len(found) == 1
        return found.pop()

    ours, theirs = np.empty_like(parameters), np.empty_like(parameters)
    logits = smooth.scores(parameters, images).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = -((1 - SMOOTHING) * log_p[np.arange(8), labels] + SMOOTHING * log_p.mean(axis=1)).sum()
    for buffer in (None, ours):
        assert loss(smooth, buffer, True) == pytest.approx(wanted, rel=1e-5)
    for buffers in ((None, None), (ours, theirs)):
        assert loss(smooth, buffers[0], False) == loss(plain, buffers[1], False) == loss(plain, buffers[1], True)
    assert ours.tobytes() == theirs.tobytes()
    assert smooth.predict_proba(parameters, images).tobytes() == plain.predict_proba(parameters, images).tobytes()


@pytest.mark.parametrize("name", [name for name in kernels.available() if name != "im2col"])
def test_a_block_is_the_sum_of_its_halves_bit_by_bit(name: str) -> None:
    model = network(name)
    parameters = model.initial_parameters(np.random.default_rng(0))
    images, labels = data(16)
    results = []
    for part in (slice(16), slice(8), slice(8, 16)):
        gradient = np.empty_like(parameters)
        metrics = model.loss_and_gradient(parameters, images[part], labels[part], gradient, keys=keys(8))
        results.append((metrics.loss_sum, gradient))
    assert results[0][0] == results[1][0] + results[2][0]
    assert results[0][1].tobytes() == (results[1][1] + results[2][1]).tobytes()


def test_a_training_has_the_same_bits_for_any_workers_and_shards() -> None:
    found = set()
    train = Dataset(*data(40))
    whole: dict[str, Any] = {"engine": "serial", "shard_size": 16}
    for arguments in (whole, {**whole, "shard_size": 8}, {"n_workers": 2, "shard_size": 8}):
        with Coordinator(network("naive"), Adam(), batch_size=16, **arguments) as coordinator:
            (report,) = coordinator.fit(train, 1)
            found.add((coordinator.parameters_sha256(), report.train_loss))
    assert len(found) == 1


def test_validation_and_evaluation_report_the_plain_loss() -> None:
    train, held_out = Dataset(*data(40)), Dataset(*data(20))
    with Coordinator(network(), Adam(), engine="serial", batch_size=20) as coordinator:
        (report,) = coordinator.fit(train, 1, validation=held_out)
        parameters = coordinator.parameters.copy()
        evaluated = coordinator.evaluate(held_out)
    plain = Coordinator(network(label_smoothing=0.0), Adam(), engine="serial", parameters=parameters)
    assert report.validation_loss == evaluated.loss == plain.evaluate(held_out).loss
    first = Coordinator(network(label_smoothing=0.0), Adam(), engine="serial", batch_size=20).fit(train, 1)[0]
    assert report.train_loss != first.train_loss


def test_training_continues_only_with_the_same_smoothing(tmp_path: Path) -> None:
    train = Dataset(*data(20))

    def coordinator(smoothing: float) -> Coordinator:
        return Coordinator(network(label_smoothing=smoothing), Adam(), engine="serial", batch_size=10)

    first = coordinator(0.1)
    first.fit(train, 1)
    first.save(tmp_path / "c")
    first.fit(train, 1)
    for smoothing in (0.0, 0.3):
        other = coordinator(smoothing)
        other.load(tmp_path / "c")
        other.evaluate(train)
        with pytest.raises(CheckpointError, match=r"label_smoothing is 0\.1.*may_differ=\[\"label_smoothing\"\]"):
            other.fit(train, 1)
        other.load(tmp_path / "c", may_differ=["label_smoothing"])
        other.fit(train, 1)
        assert other.parameters_sha256() != first.parameters_sha256()
    same = coordinator(0.1)
    same.load(tmp_path / "c")
    same.fit(train, 1)
    assert same.parameters_sha256() == first.parameters_sha256()


def test_a_checkpoint_from_before_there_was_smoothing_continues_without_it(tmp_path: Path) -> None:
    train = Dataset(*data(20))
    file = tmp_path / "c.npz"
    coordinator = Coordinator(network(label_smoothing=0.0), Adam(), engine="serial", batch_size=10)
    coordinator.fit(train, 1)
    coordinator.save(file)
    checkpoint = Checkpoint.load(file)
    del checkpoint.settings["label_smoothing"]
    checkpoint.save(file)
    coordinator.load(file)
    coordinator.fit(train, 1)
    smoothed = Coordinator(network(), Adam(), engine="serial", batch_size=10)
    smoothed.load(file)
    with pytest.raises(CheckpointError, match="label_smoothing"):
        smoothed.fit(train, 1)


@pytest.mark.parametrize("wrong", [1, 1.5, -0.1, float("nan"), float("inf"), "0.1", None, True, np.array([0.1])])
def test_a_smoothing_out_of_range(wrong: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^label_smoothing must be a number of at least 0 and below 1, got "):
        lenet5(kernel="im2col", label_smoothing=wrong)


def test_settings_that_do_not_fit() -> None:
    for number in (0, np.float32(0.5), np.int64(0), np.array(0.25)):
        assert type(network(label_smoothing=number).label_smoothing) is float  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match=r"^label_smoothing must be 0 with the loss 'squared_error', got 0\.2$"):
        network(loss="squared_error")
    assert network(label_smoothing=0.0, loss="squared_error").label_smoothing == 0
    with pytest.raises(TypeError, match=r"give it to the model, such as lenet5\(label_smoothing=...\)"):
        Coordinator(network(), SGD(), label_smoothing=0.1)  # type: ignore[call-arg]
    for model in (pickle.loads(pickle.dumps(network())), copy.deepcopy(network()), replace(network(), kernel="naive")):
        assert model.label_smoothing == SMOOTHING
    assert "label_smoothing=0.2)" in str(network())
    assert "smoothing" not in str(network(label_smoothing=0))


def test_a_kernel_without_the_parameter_works_without_smoothing(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(FOUR_PARAMETERS)
    plain = network(str(file), 0.0)
    parameters = plain.initial_parameters(np.random.default_rng(0))
    gradient, wanted = np.empty_like(parameters), np.empty_like(parameters)
    metrics = plain.loss_and_gradient(parameters, *data(6), gradient, keys=keys(6))
    assert metrics == network(label_smoothing=0.0).loss_and_gradient(parameters, *data(6), wanted)
    assert gradient.tobytes() == wanted.tobytes()
    assert check_function(kernels.load(plain.kernel), "softmax_cross_entropy") == []
    with pytest.raises(InvalidValue) as caught:
        network(str(file))
    assert str(caught.value) == (
        f"label_smoothing must be 0 with the kernel {file}, whose softmax_cross_entropy has no parameter smoothing, "
        "got 0.2"
    )


def test_the_check_of_kernels_covers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    right = im2col.softmax_cross_entropy

    def half(*arguments: Any, smoothing: float = 0.0) -> Any:
        return right(*arguments, smoothing / 2)

    assert check_function(im2col, "softmax_cross_entropy") == []
    monkeypatch.setattr(im2col, "softmax_cross_entropy", half)
    (first, *_) = check_function(im2col, "softmax_cross_entropy")
    assert first.startswith("softmax_cross_entropy: the gradient d_logits is wrong")
    assert "with a smoothing of 0.2" in first


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["train", "--json", "--engine", "serial", "--no-report", *arguments]) == 0
        return dict(json.loads(capsys.readouterr().out))

    def refused(*arguments: str) -> str:
        assert main(["train", "--engine", "serial", *arguments]) == 2
        return capsys.readouterr().err

    write_idx(tmp_path / "data", 40, 10)
    monkeypatch.chdir(tmp_path)
    few = ("--data-dir", "data", "--kernel", "im2col", "--batch-size", "20", "--epochs", "2")
    whole = call(*few, "--label-smoothing", "0.25", "--out", "whole")
    assert whole["label_smoothing"] == 0.25
    assert "label-smoothing = 0.25\n" in Path("whole/config.toml").read_text()
    assert call("--config", "whole/config.toml")["parameters_sha256"] == whole["parameters_sha256"]
    call(*few, "--label-smoothing", "0.25", "--out", "half", "--max-steps", "3")
    message = "--label-smoothing 0.1 disagrees with the run in half, which has 0.25"
    assert message in refused("--resume", "half", "--label-smoothing", "0.1")
    resumed = call("--resume", "half", "--max-steps", "4", "--label-smoothing", "0.25")
    assert resumed["parameters_sha256"] == whole["parameters_sha256"]
    for wrong in ("1", "-0.1", "nan"):
        message = "--label-smoothing must be a number of at least 0 and below 1, got "
        assert message in refused(*few, f"--label-smoothing={wrong}")
    Path("own.py").write_text(FOUR_PARAMETERS)
    message = f"--label-smoothing must be 0 with the kernel {tmp_path}/own.py, whose softmax_cross_entropy has no"
    assert message in refused(*few, "--kernel", "own.py", "--label-smoothing", "0.1")
    recipe = refused(*few, "--kernel", "own.py", "--recipe", "quick")
    assert message in recipe
    assert recipe.endswith("got 0.1 by --recipe quick: give --label-smoothing 0 beside it\n")


def test_a_model_of_ones_own_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_idx(tmp_path / "data", 20, 10)
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "from dataclasses import replace\n"
        "from kits.models import Softmax\n"
        "from parallel_lenet import Dense, Flatten, Images, Sequential\n"
        "layers = Sequential(Images((12, 12), size=12), (Flatten(), Dense(4)), kernel='im2col')\n"
        "other = Softmax()\n"
        "numbers = Sequential(Images((12, 12), size=12), (Flatten(), Dense(1)), 'im2col', loss='squared_error')\n"
        "smooth = replace(layers, label_smoothing=0.3)\n"
    )
    few = ("train", "--data-dir", "data", "--engine", "serial", "--batch-size", "10", "--epochs", "1", "--no-report")

    def trained(*words: str) -> tuple[float, str]:
        capsys.readouterr()
        assert main([*words, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        return result["label_smoothing"], result["parameters_sha256"]

    plain, smooth = (trained(*few, "--model", "own.py:layers", "--label-smoothing", value) for value in ("0", "0.3"))
    assert (plain[0], smooth[0], plain[1] == smooth[1]) == (0, 0.3, False)
    assert trained(*few, "--model", "own.py:smooth") == smooth
    assert trained(*few, "--model", "own.py:smooth", "--label-smoothing", "0", "--max-steps", "1", "--out", "r")[0] == 0
    assert trained("train", "--resume", "r", "--model", "own.py:smooth", "--max-steps", "2") == plain
    for name, message in (
        ("other", "--label-smoothing is for networks made of layers: "),
        ("numbers", "--label-smoothing must be 0 with the loss 'squared_error', got 0.3"),
    ):
        assert main([*few, "--model", f"own.py:{name}", "--label-smoothing", "0.3"]) == 2
        assert message in capsys.readouterr().err
