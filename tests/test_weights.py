"""Weights from other programs: matched by name, or by shapes and order, or refused, and hostile files."""

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits import programs

from parallel_lenet import (
    Conv2d,
    Dense,
    Flatten,
    Images,
    ReLU,
    Sequential,
    WeightsError,
    lenet5,
    load_dataset,
    load_weights,
)
from parallel_lenet.cli import main
from parallel_lenet.export import export

Array = Any

MODEL = lenet5(kernel="im2col")
SHAPES = dict(MODEL.layout.entries)
PARAMETERS = MODEL.initial_parameters(np.random.default_rng(0))
ARRAYS = MODEL.layout.views(PARAMETERS)
TWINS = Sequential(
    Images(4, size=4), (Flatten(), Dense(16), ReLU(), Dense(16), ReLU(), Dense(16), ReLU(), Dense(2)), kernel="im2col"
)


def safetensors(entries: dict[str, tuple[str, list[int]]], data: int | None = None, header: int | None = None) -> bytes:
    """A safetensors file made by hand: types and shapes by name, zeros for data. Sizes may be false."""
    sizes = {"F64": 8, "F32": 4, "BF16": 2, "I64": 8, "F16": 2}
    described = {}
    start = 0
    for name, (dtype, shape) in entries.items():
        end = start + sizes[dtype] * int(np.prod(shape, dtype=object))
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(described).encode()
    return struct.pack("<Q", len(text) if header is None else header) + text + bytes(start if data is None else data)


def npz(*ordered: Array, **arrays: Array) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, *ordered, **arrays)
    return buffer.getvalue()


def bomb(shape: str, dtype: str = "<f4", data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A compressed .npz whose array claims to be large."""
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conv1.weight.npy", b"\x93NUMPY" + version + struct.pack("<H", len(head)) + head + data)
    return buffer.getvalue()


@pytest.mark.slow
def test_a_pytorch_lenet_gives_the_same_scores_after_its_import(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    torch.manual_seed(0)

    class Scaled(torch.nn.Tanh):  # type: ignore[misc,name-defined]
        def forward(self, x: Any) -> Any:
            return 1.7159 * torch.tanh(x)

    nn = torch.nn
    theirs = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), Scaled(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), Scaled(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), Scaled(), nn.Linear(120, 84), Scaled(), nn.Linear(84, 10)),
    )
    _, test = load_dataset()
    images = test.inputs[:100]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images[:, None].astype(np.float32)) / 255).numpy()
    save_file(theirs.state_dict(), tmp_path / "torch.safetensors")  # Names 0.weight, 3.bias, ..., 11.weight.
    for flip in (False, True):
        model = Sequential(
            Images(28, size=28, mean=0.0, std=1.0),
            (
                *(Conv2d(6, 5, padding=2, flip=flip), *MODEL.layers[1:3]),
                *(Conv2d(16, 5, flip=flip), *MODEL.layers[4:]),
            ),
            kernel="im2col",
        )
        parameters = load_weights(model, tmp_path / "torch.safetensors")
        assert np.abs(model.scores(parameters, images) - expected).max() < 1e-5
        export(tmp_path / "back.safetensors", model, parameters)
        flipped_back = load_weights(MODEL, tmp_path / "back.safetensors")
        assert np.array_equal(flipped_back, load_weights(MODEL, tmp_path / "torch.safetensors"))

    twins = nn.Sequential(nn.Flatten(), *(nn.Linear(16, 16) for _ in range(3)), nn.Linear(16, 2))
    named = {
        f"net.{10 * i}.{part}": getattr(twins[i], part).detach() for i in (4, 3, 2, 1) for part in ("bias", "weight")
    }
    save_file(named, tmp_path / "twins.safetensors")
    views = TWINS.layout.views(load_weights(TWINS, tmp_path / "twins.safetensors"))
    for i in range(1, 5):
        assert np.array_equal(views[f"dense{i}.weight"], twins[i].weight.detach().numpy())
        assert np.array_equal(views[f"dense{i}.bias"], twins[i].bias.detach().numpy())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_arrays_of_any_float_by_name_or_in_order_with_or_without_compression(dtype: Any, tmp_path: Path) -> None:
    arrays = {name: np.asfortranarray(view.astype(dtype)) for name, view in ARRAYS.items()}
    file = tmp_path / "x.npz"
    expected = PARAMETERS.astype(dtype).astype(np.float32)
    reverse = dict(reversed(arrays.items()))
    for save in (np.savez, np.savez_compressed):
        save(file, **reverse)
        assert np.array_equal(load_weights(MODEL, file), expected)
    np.savez(file, *arrays.values())  # arr_0 to arr_9.
    assert np.array_equal(load_weights(MODEL, file), expected)
    wide = lenet5(kernel="im2col", dtype="float64")
    assert load_weights(wide, file).dtype == np.float64


def changed(**changes: Any) -> dict[str, Array]:
    arrays = {**ARRAYS, **{name.replace("_", "."): value for name, value in changes.items()}}
    return {name: array for name, array in arrays.items() if array is not None}


ZEROS = np.zeros((6, 3, 5, 5), np.float32)
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "another shape": (
        lambda: npz(**changed(conv1_weight=ZEROS)),
        r"'conv1.weight' has shape \(6, 3, 5, 5\), but this network's conv1.weight has \(6, 1, 5, 5\)",
    ),
    "an array is missing": (lambda: npz(**changed(dense2_bias=None)), r"'dense2.bias' of shape \(84,\) is missing"),
    "one too many": (
        lambda: npz(**changed(norm_running=np.zeros(3))),
        r"holds 'norm.running' of shape \(3,\), for which this network, with 10 arrays, has no place",
    ),
    "other names, another shape": (
        lambda: npz(*[*list(ARRAYS.values())[:-2], np.zeros((7, 84)), np.zeros(7)]),
        r"'arr_8' has shape \(7, 84\), but this network's dense3.weight has \(10, 84\)",
    ),
    "no order": (
        lambda: npz(**{f"{name}.{part}": np.zeros(shape) for name, out in (("a", 16), ("b", 16), ("c", 16), ("d", 2))
                       for part, shape in (("weight", (out, 16)), ("bias", (out,)))}),
        "'a.bias' and 'b.bias' have the same shape, and their names do not say which comes first",
    ),
    "NaN": (
        lambda: npz(**changed(conv2_bias=np.full(16, np.nan))),
        "'conv2.bias' holds NaN, infinity or a number too large for float32",
    ),
    "too large": (lambda: npz(**changed(conv2_bias=np.full(16, 1e300))), "'conv2.bias' holds NaN, infinity"),
    "whole numbers": (lambda: npz(**changed(conv2_bias=np.zeros(16, int))), "'conv2.bias' is int64: float16, float32"),
    "long double": (lambda: npz(**changed(conv2_bias=np.zeros(16, "g"))), "'conv2.bias' is float128: float16"),
    "pickles": (lambda: npz(**changed(conv2_bias=np.array([{}] * 16))), "'conv2.bias' is object: float16"),
    "empty": (lambda: b"", "is damaged, or neither a safetensors file nor an .npz file"),
    "text": (lambda: b"hello, this is not a file of weights", "is damaged, or neither"),
    "no arrays": (lambda: npz(), "no array fits conv1.weight|is damaged"),
    "a zip cut short": (lambda: npz(**ARRAYS)[:-30], "is damaged, or not an .npz file of arrays: BadZipFile"),
    "a header of 4 GiB": (lambda: bomb("(6, 1, 5, 5)", version=b"\x02\x00"), r"header of version \(2, 0\)"),
    "a claim of petabytes": (lambda: bomb(f"({2**40}, {2**20})"), r"no array fits|'conv1.weight' has shape \(1099511"),
    "too few bytes": (lambda: bomb("(239,)", data=bytes(8)), "'conv1.weight' has 8 bytes, its header says 956"),
    "too many bytes": (lambda: bomb("(239,)", data=bytes(2**24)), "'conv1.weight' has more bytes, its header says 956"),
    "safetensors: a header past the end": (
        lambda: safetensors({"a": ("F32", [3])}, header=10**6),
        "is damaged, or neither",
    ),
    "safetensors: data past the end": (
        lambda: safetensors({"a": ("F32", [10**12])}, data=9),
        "not a safetensors file: Safe",
    ),
    "safetensors: sizes that overflow": (
        lambda: safetensors({"a": ("F32", [2**62, 2**62])}, data=9),
        "not a safetensors file: Safe",
    ),
    "safetensors: another type": (lambda: safetensors({"a": ("BF16", [3])}), "'a' is BF16: float16, float32 and"),
    "safetensors: another network": (lambda: safetensors({"a": ("F32", [3])}), "no array fits|'a' has shape"),
    "safetensors: no JSON": (lambda: struct.pack("<Q", 4) + b"{{{{" + bytes(9), "not a safetensors file"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_does_not_fit_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    make, words = REFUSED[name]
    file = tmp_path / "x.bin"
    file.write_bytes(make())
    model = TWINS if name == "no order" else MODEL
    if "bytes" in name:
        model = Sequential(Images(1, size=1), (Flatten(), Dense(239)), kernel="im2col")
        model.layout.entries  # noqa: B018
        object.__setattr__(model, "layout", type(model.layout).of({"conv1.weight": (239,)}))
    with pytest.raises(WeightsError, match=f"^{re.escape(str(file))}: .*({words})") as caught:
        load_weights(model, file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_files_that_are_not_files_and_the_largest_header(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not a regular file"):
        load_weights(MODEL, tmp_path)
    with pytest.raises(WeightsError, match="No such file"):
        load_weights(MODEL, tmp_path / "none")
    with pytest.raises(TypeError, match="path must be a string"):
        load_weights(MODEL, 3)  # type: ignore[arg-type]
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.write(struct.pack("<Q", 2**30))
        file.truncate(2**31)
    with pytest.raises(WeightsError, match="has a header of 1,073,741,824 bytes, and at most 16,777,216 are read"):
        load_weights(MODEL, sparse)


def test_training_begins_with_the_weights_of_a_file_and_evaluate_measures_them(tmp_path: Path, capsys: Any) -> None:
    programs.write_idx(tmp_path / "data", 24, 8, classes=4)
    weights = tmp_path / "w.safetensors"
    small = lenet5(image_size=12, classes=4, kernel="im2col")
    start = small.initial_parameters(np.random.default_rng(7))
    export(weights, small, start)
    flags = ["--data-dir", str(tmp_path / "data"), "--engine", "serial", "--kernel", "im2col"]
    train = [
        "train",
        *flags,
        "--epochs",
        "1",
        "--json",
        "--quiet",
        "--no-report",
        "--learning-rate",
        "1e-30",
        "--weight-decay",
        "0",
    ]
    assert main([*train, "--initial-weights", str(weights), "--out", str(tmp_path / "run")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["initial_weights"] == str(weights)
    trained = load_weights(small, tmp_path / "run" / "checkpoint.npz")
    np.testing.assert_allclose(trained, start, atol=1e-20)
    assert f'initial-weights = "{weights}"' in (tmp_path / "run" / "config.toml").read_text()
    # A run that continues has its weights already.
    weights.rename(tmp_path / "moved.safetensors")
    assert main(["train", "--resume", str(tmp_path / "run"), "--epochs", "2", "--quiet", "--no-report"]) == 0
    assert main([*train, "--initial-weights", str(weights), "--out", str(tmp_path / "other")]) == 2
    assert "w.safetensors does not exist: name a safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()

    export(tmp_path / "zeros.npz", small, np.zeros_like(start))
    evaluate = ["evaluate", str(tmp_path / "run"), *flags, "--json", "--weights"]
    assert main([*evaluate, str(tmp_path / "zeros.npz")]) == 0
    assert json.loads(capsys.readouterr().out)["test_loss"] == pytest.approx(np.log(4), rel=1e-6)
    export(tmp_path / "other.npz", MODEL, PARAMETERS)
    assert main([*evaluate, str(tmp_path / "other.npz")]) == 1
    assert "'dense3.weight' has shape (10, 84), but this network's dense3.weight has (4, 84)" in capsys.readouterr().err


def test_an_onnx_file_is_refused_with_the_format_to_use(tmp_path: Path) -> None:
    (tmp_path / "lenet.onnx").write_bytes(b"\x08\x08\x12\x0eparallel_lenet" + bytes(40))
    with pytest.raises(WeightsError, match=r"lenet\.onnx: ONNX is only written, not read: .* --format safetensors"):
        load_weights(lenet5(), tmp_path / "lenet.onnx")
