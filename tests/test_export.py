"""Exported networks, run and read by the programs they are for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits import programs
from kits.models import Softmax

from parallel_lenet import (
    SGD,
    AvgPool2d,
    Conv2d,
    Coordinator,
    Dense,
    Dropout,
    Flatten,
    Images,
    MaxPool2d,
    ReLU,
    Sequential,
    Tanh,
    lenet5,
    load_dataset,
    load_model,
    load_weights,
)
from parallel_lenet.export import export, to_npz, to_onnx, to_safetensors
from parallel_lenet.network.layers import Layer
from parallel_lenet.parameters import Vector

Array = Any

NETWORKS = {
    "relu, max": lenet5(activation="relu", pooling="max", kernel="im2col"),
    "colours, other sizes": lenet5(
        channels=3, image_size=(20, 41), classes=4, mean=(0.4, 0.5, 0.6), std=0.2, kernel="im2col"
    ),
    "-1 to 1": lenet5(pixel_min=-1, pixel_max=1, kernel="im2col"),
    "standardised": lenet5(pixel_max=None, mean=0.5, std=2, pixel_min=-0.5, kernel="im2col"),
    "strides, padding, flips": Sequential(
        Images((11, 12), 2, size=12),
        (
            *(Conv2d(3, 3, 2, 2, flip=True), Tanh(1.0), MaxPool2d(3, 1), Conv2d(4, 2, padding=1), AvgPool2d(2, 3)),
            *(ReLU(), Flatten(), Dense(7), Tanh(0.5), Tanh(), Dense(3)),
        ),
        kernel="im2col",
    ),
    "dropout, squared error": Sequential(
        Images(6, size=6), (Dropout(0.3), Flatten(), Dropout(0.9), Dense(4)), kernel="im2col", loss="squared_error"
    ),
    "float64, no field": Sequential(Images(5, size=1), (Flatten(), Dense(2)), kernel="im2col", dtype="float64"),
}


def random_parameters(model: Sequential) -> Vector:
    rng = np.random.default_rng(3)
    return model.initial_parameters(rng) + rng.normal(0, 0.05, model.layout.size).astype(model.dtype)


def ran(content: bytes, images: Array) -> list[Array]:
    """What ONNX Runtime computes: scores and, if there are any, probabilities."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, {"images": images})
    assert [each.name for each in session.get_outputs()] == ["scores", "probabilities"][: len(outputs)]
    return outputs


@pytest.mark.slow
def test_an_onnx_model_gives_a_trained_networks_scores_on_1000_digits(tmp_path: Path) -> None:
    _, test = load_dataset()
    images, labels = test.inputs[:1000], test.targets[:1000]
    training = ("--epochs", "1", "--engine", "serial", "--kernel", "im2col", "--no-report", "--quiet", "--out", "run")
    programs.run_here(tmp_path, "train", *training)
    done = programs.run(tmp_path, "export", "run", "--json", "--out", "net.ONNX")
    result = json.loads(done.stdout)
    assert (result["format"], result["file"], result["parameters"]) == ("onnx", "net.ONNX", 61706)
    trained = load_model(tmp_path / "run" / "checkpoint.npz", "im2col")
    content = (tmp_path / "net.ONNX").read_bytes()
    assert result["bytes"] == len(content)

    scores, probabilities = ran(content, images[:, np.newaxis].astype(np.float32))
    assert np.abs(scores - trained.scores(images)).max() < 1e-5
    assert np.abs(probabilities - trained.predict_proba(images)).max() < 1e-5
    assert (scores.argmax(axis=1) == labels).mean() > 0.7

    import onnx

    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert [name for name in names if name.startswith(("conv", "dense"))] == [
        *("conv1", "conv2"),
        *("dense1", "dense2", "dense3"),
    ]
    assert {each.name for each in model.graph.initializer} >= {name for name, _ in lenet5().layout.entries}
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    properties = {each.key: each.value for each in model.metadata_props}
    assert properties["parameters_sha256"] == result["parameters_sha256"]
    assert (properties["epoch"], properties["dataset"], model.producer_name) == ("1", "mnist-5k", "parallel_lenet")
    assert json.loads(properties["network"])["images"]["pixel_max"] == 255


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_becomes_the_same_function_and_the_same_weights(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name]
    parameters = random_parameters(model)
    black, white = model.images.unit
    images = np.random.default_rng(0).uniform(
        black, white or 4, (37, *model.images.shape[:1], *model.images.height_and_width)
    )
    scores, *probabilities = ran(to_onnx(model, parameters), images.astype(np.float32))
    np.testing.assert_allclose(scores, model.scores(parameters, images), rtol=1e-5, atol=1e-5)
    assert len(probabilities) == (model.loss == "softmax_cross_entropy")
    for each in probabilities:
        np.testing.assert_allclose(each, model.predict_proba(parameters, images), atol=1e-5)
    assert ran(to_onnx(model, parameters), images[:1].astype(np.float32))[0].shape == (1, model.classes)

    for format in ("safetensors", "npz", "NPZ"):
        export(tmp_path / f"x.{format}", model, parameters)
        assert np.array_equal(load_weights(model, tmp_path / f"x.{format}"), parameters)
    Coordinator(model, SGD(), engine="serial", parameters=parameters).save(tmp_path / "c.npz")
    assert np.array_equal(load_weights(model, tmp_path / "c.npz"), parameters)


def test_safetensors_and_npz_are_read_by_their_own_libraries() -> None:
    from safetensors.numpy import load

    model = NETWORKS["relu, max"]
    parameters = random_parameters(model)
    content = to_safetensors(model, parameters, {"note": ["mine"], "rate": np.float32(0.5)})
    arrays = load(content)
    assert all(np.array_equal(arrays[name], view) for name, view in model.layout.views(parameters).items())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    told = json.loads(header["__metadata__"]["parallel_lenet"])
    assert (told["note"], told["rate"], told["network"]) == (["mine"], 0.5, model.description)
    assert all(to(model, parameters) == to(model, parameters) for to in (to_onnx, to_safetensors, to_npz))


def test_what_cannot_be_exported_is_said_in_a_sentence(tmp_path: Path) -> None:
    class Mine(ReLU):
        pass

    model = NETWORKS["relu, max"]
    own = Sequential(model.images, (Flatten(), Mine(), Dense(2)), kernel="im2col")
    with pytest.raises(ValueError, match="mine1 is a Mine, which can't be exported to ONNX"):
        to_onnx(own, random_parameters(own))
    assert to_npz(own, random_parameters(own))
    with pytest.raises(TypeError, match=r"only a Sequential .* got Softmax"):
        to_onnx(Softmax(), np.zeros(1, np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has shape \(61706,\), got \(3,\)"):
        to_onnx(model, np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="format must be one of onnx, safetensors, npz, got 'txt'"):
        export(tmp_path / "x.txt", model, random_parameters(model))
    assert not list(tmp_path.iterdir())


def test_the_command_writes_each_format_and_refuses_what_it_cannot(tmp_path: Path, capsys: Any) -> None:
    from parallel_lenet.cli import main

    model = NETWORKS["relu, max"]
    checkpoint = tmp_path / "checkpoint.npz"
    Coordinator(model, SGD(), engine="serial").save(checkpoint)
    before = checkpoint.read_bytes()
    for words, code, told in (
        ([tmp_path], 0, "checkpoint.onnx"),
        ([checkpoint, "--format", "npz"], 0, "checkpoint.weights.npz"),
        ([checkpoint, "--format", "safetensors"], 0, "checkpoint.safetensors"),
        ([checkpoint, "--out", tmp_path / "x.foo"], 2, "x.foo doesn't end with a format: add --format, one of onnx"),
        ([checkpoint, "--format", "npz", "--out", checkpoint], 2, "checkpoint.npz is the checkpoint itself: name"),
        ([checkpoint, "--format", "npz", "--out", tmp_path], 2, "--out must name a file, got a folder: "),
        ([checkpoint, "--out", tmp_path / "no" / "x.onnx"], 1, "x.onnx: No such file or directory"),
        ([tmp_path / "none.npz"], 2, "none.npz does not exist"),
    ):  # fmt: skip
        assert main(["export", *map(str, words)]) == code, words
        captured = capsys.readouterr()
        assert told in (captured.err if code else captured.out), words
    assert checkpoint.read_bytes() == before
    names = {"checkpoint.npz", "checkpoint.onnx", "checkpoint.weights.npz", "checkpoint.safetensors"}
    assert {file.name for file in tmp_path.iterdir()} == names

    Coordinator(Softmax(), SGD(), engine="serial").save(checkpoint)
    assert main(["export", str(checkpoint)]) == 1
    assert "can't make its model" in capsys.readouterr().err
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "own.safetensors")]) == 0
    assert np.array_equal(
        load_weights(Softmax(), tmp_path / "own.safetensors"), Softmax().initial_parameters(np.random.default_rng(0))
    )


def test_layers_without_parameters_have_names_of_their_own() -> None:
    layers: tuple[Layer, ...] = NETWORKS["strides, padding, flips"].layers
    assert len(set(NETWORKS["strides, padding, flips"].layer_names)) == len(layers)
