"""``train --model FILE.py:NAME`` and the other options of the network: a model of one's own from the command line."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.programs import write_idx

from parallel_lenet import load_model
from parallel_lenet.checkpoint import Checkpoint
from parallel_lenet.cli import main

pytestmark = pytest.mark.slow

MODELS = """
import numpy as np

from helper import SCALE
from parallel_lenet import Conv2d, Dense, Dropout, Flatten, Images, Layout, Metrics, ReLU, Sequential


class Softmax:
    layout = Layout.of({"weight": (784, 10), "bias": (10,)})

    def initial_parameters(self, rng):
        return np.zeros(self.layout.size, np.float32)

    def loss_and_gradient(self, parameters, inputs, targets, gradient):
        p, x = self.layout.views(parameters), inputs.reshape(-1, 784) / np.float32(SCALE)
        q = np.exp(x @ p["weight"] + p["bias"])
        q /= q.sum(axis=1, keepdims=True)
        chosen = q[np.arange(len(x)), targets]
        metrics = Metrics(-np.log(chosen).sum(), (q.argmax(axis=1) == targets).sum(), len(x))
        if gradient is not None:
            q[np.arange(len(x)), targets] -= 1
            g = self.layout.views(gradient)
            g["weight"][:], g["bias"][:] = x.T @ q, q.sum(axis=0)
        return metrics

    def predict(self, parameters, inputs):
        return np.zeros(len(inputs), np.int64)


class Failing(Softmax):
    def loss_and_gradient(self, parameters, inputs, targets, gradient):
        raise KeyError("oops")


class Sure(Softmax):
    def predict(self, parameters, inputs):
        assert (inputs.shape[1:], inputs.dtype) == ((28, 28), np.uint8)
        return np.full(len(inputs), 7)

    def predict_proba(self, parameters, inputs):
        return np.tile(np.where(np.arange(10) == 7, 0.75, 0.25 * (np.arange(10) == 2)), (len(inputs), 1))


ready = Softmax()
number = 3


def network():
    return Sequential(Images(), (Conv2d(4, 5, stride=2), ReLU(), Flatten(), Dropout(0.2), Dense(10)))


def regression():
    return Sequential(Images(), (Flatten(), Dense(1)), loss="squared_error")


def broken():
    return 1 / 0
"""
QUICK = ("--data-dir", "data", "--batch-size", "10", "--no-report")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few images, and models."""
    write_idx(tmp_path / "data", 40, 10, shape=(28, 28), classes=10)
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "helper.py").write_text("SCALE = 255\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    return tmp_path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str, code: int = 0) -> Any:
        capsys.readouterr()
        found = main([*arguments, *(["--json"] if code == 0 else [])])
        out, err = capsys.readouterr()
        assert found == code, err
        return json.loads(out) if code == 0 else err

    return run


def test_a_model_is_trained_resumed_evaluated_and_has_the_same_bits_for_any_workers(call: Any) -> None:
    own = ("--model", "models.py:Softmax")
    whole = call("train", *QUICK, *own, "--max-steps", "4", "--engine", "serial")
    made = call("train", *QUICK, "--model", "models.py:ready", "--max-steps", "4", "--engine", "serial")
    first = call("train", *QUICK, *own, "--max-steps", "2", "--workers", "2", "--out", "r")
    assert made["parameters_sha256"] == whole["parameters_sha256"]
    assert first["model"].startswith(f"{os.path.abspath('models.py')}@")
    assert first["model"].endswith(":Softmax")
    more = ("train", "--resume", "r", "--max-steps", "4", "--no-report", "--engine", "serial")
    assert "trains " in call(*more, code=2)
    assert "a checkpoint does not decide which code runs: give --model " in call(*more, code=2)
    assert "disagrees with the run in r, which trains " in call(*more, "--model", "models.py:ready", code=2)
    assert call(*more, *own)["parameters_sha256"] == whole["parameters_sha256"]
    assert "give --model " in call("evaluate", "r", code=2)
    evaluated = call("evaluate", "r", *own, "--engine", "serial")
    assert evaluated["test_loss"] == pytest.approx(whole["test_loss"], rel=1e-5)
    assert "model =" not in Path("r/config.toml").read_text()
    image = pytest.importorskip("PIL.Image").new("L", (28, 28), 0)
    image.paste(255, (12, 4, 15, 24))
    image.save("one.png")
    assert "give --model " in call("predict", "one.png", "--checkpoint", "r", code=2)
    found = call("predict", "one.png", "--checkpoint", "r", *own)["images"][0]
    assert (found["class"], found["probability"], found["probabilities"]) == (0, None, [])
    found = call("predict", "one.png", "--checkpoint", "r", "--model", "models.py:Sure")["images"][0]
    assert (found["class"], found["probability"], found["top"][1]["class"]) == (7, 0.75, 2)
    assert "--format safetensors" in call("export", "r", code=1)
    network = ("--model", "models.py:network", "--kernel", "im2col")
    call("train", *QUICK, *network, "--max-steps", "1", "--engine", "serial", "--out", "layers")
    same = [call("predict", "one.png", "--checkpoint", "layers", *how)["images"] for how in ((), network)]
    assert same[0] == same[1]


def test_a_changed_file_is_said_and_another_model_refused(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    own = ("--model", "models.py:network", "--kernel", "im2col", "--engine", "serial")
    first = call("train", *QUICK, *own, "--max-steps", "1", "--out", "r")
    assert first["kernel"] == "im2col"
    assert [type(layer).__name__ for layer in load_model("r/checkpoint.npz").model.layers][3] == "Dropout"
    Path("models.py").write_text(MODELS + "\n# Changed.\n")
    assert main(["train", "--resume", "r", "--max-steps", "2", "--no-report", *own]) == 0
    assert "models.py has changed since the run in r began" in capsys.readouterr().err
    Path("models.py").write_text(MODELS.replace("Dense(10)))", "Dense(11)))"))
    error = call("train", "--resume", "r", "--max-steps", "3", "--no-report", *own, code=1)
    assert (
        "belongs to another network: layer 5 is Dense(units=10) in the checkpoint, Dense(units=11) in the model"
        in error
    )


def test_a_report_of_a_model_of_ones_own_is_written(call: Any) -> None:
    short = ("--data-dir", "data", "--max-steps", "1", "--engine", "serial", "--report")
    found = call("train", *short, "--model", "models.py:Softmax")
    assert "A model of your own, with 7,850 parameters" in Path(found["report_file"]).read_text()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ("models.py:Failing", 1, "models.py, line 32: KeyError: 'oops' (on sample"),
        (
            "models.py:number",
            1,
            "models.py: number is not a model: 3 has no layout, initial_parameters,",
        ),
        ("models.py:broken", 1, "models.py, line 57: ZeroDivisionError: division by zero (from broken())"),
        ("models.py:Softmx", 1, "models.py defines no Softmx; did you mean Softmax?"),
        (
            "models.py",
            2,
            "--model must be FILE.py:NAME: a Python file, and the name in it of a model",
        ),
        ("none.py:x", 2, "--model: the file 'none.py' does not exist"),
        ("wrong.py:x", 1, "wrong.py, line 2: SyntaxError: invalid syntax"),
    ],
)
def test_mistakes_are_one_sentence(call: Any, words: str, code: int, sentence: str) -> None:
    workers = ("--workers", "1")  # Only Failing starts one.
    Path("wrong.py").write_text("x = 1\nif\n")
    error = call("train", *QUICK, *workers, "--max-steps", "1", "--quiet", "--model", words, code=code)
    assert error.startswith("parallel-lenet: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_options_that_a_model_of_ones_own_does_not_have(call: Any) -> None:
    Path("c.toml").write_text('model = "models.py:Softmax"\n')
    for arguments, sentence in (
        (("--model", "models.py:network", "--activation", "relu"), "--activation is for LeNet-5: leave it out"),
        (("--model", "models.py:network", "--pooling", "max"), "--pooling is for LeNet-5: leave it out"),
        (("--model", "models.py:Softmax", "--kernel", "naive"), "--kernel is for networks made of layers: "),
        (("--config", "c.toml"), "--config c.toml: model is not taken from a file: give --model on the command line"),
    ):
        assert sentence in call("train", *QUICK, *arguments, code=2)


def test_activation_pooling_and_lr(call: Any) -> None:
    few = (*QUICK, "--max-steps", "1", "--engine", "serial", "--kernel", "im2col")
    found = call("train", *few, "--activation", "relu", "--pooling", "max", "--lr", "0.01", "--out", "r")
    assert (found["activation"], found["pooling"], found["learning_rate"]) == ("relu", "max", 0.01)
    described = Checkpoint.load("r/checkpoint.npz").description["layers"]
    assert [layer["class"] for layer in described[:3]] == ["Conv2d", "ReLU", "MaxPool2d"]
    again = call("train", "--config", "r/config.toml", *few[2:], "--out", "again")
    assert again["parameters_sha256"] == found["parameters_sha256"]
    plain = call("train", *few, "--learning-rate", "0.01")
    assert (
        plain["parameters_sha256"] == call("train", *few, "--lr", "0.01", "--pooling", "average")["parameters_sha256"]
    )
    assert plain["parameters_sha256"] != found["parameters_sha256"]
    assert "--activation tanh disagrees with the run in r, which has relu" in call(
        "train", "--resume", "r", "--activation", "tanh", code=2
    )
    assert np.isfinite(found["train_loss"])


def test_the_configuration_of_a_model_of_ones_own_repeats_its_run(call: Any) -> None:
    own = ("--model", "models.py:network", "--engine", "serial")
    with Path("models.py").open("a") as file:
        file.write("print('not the result')\n")  # `call` reads standard output as one JSON object.
    first = call("train", *QUICK, *own, "--kernel", "im2col", "--max-steps", "1", "--out", "r")
    again = call("train", "--config", "r/config.toml", *own, "--no-report")
    assert again["parameters_sha256"] == first["parameters_sha256"]
    Path("c.toml").write_text('pooling = "max"\n')
    assert "--pooling is for LeNet-5" in call("train", *QUICK, *own, "--config", "c.toml", code=2)


def test_commands_about_classes_say_that_a_regression_has_none(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    train = ("train", "--data-dir", "data", "--model", "models.py:regression", "--engine", "serial")
    call(*train, "--kernel", "im2col", "--max-steps", "1", "--report", "--out", "r")
    assert Path("r/report.html").exists()
    Path("x.png").write_bytes(b"")
    assert "its loss is 'squared_error', and the lesson is about classes" in call(
        "explain", "r", "--out", "page.html", code=1
    )
    assert "it has no classes to predict" in call("predict", "x.png", "--checkpoint", "r", code=1)
    assert not Path("page.html").exists()
    Path("r/report.html").unlink()
    assert main(["report", "r"]) == 0
    assert "predicts numbers, not classes" in capsys.readouterr().err
    assert Path("r/report.html").exists()
