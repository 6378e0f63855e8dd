"""The network that the command line makes for its data: their unit, their mean and deviation, in little memory."""

import json
import shutil
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parallel_lenet import Dataset, archive
from parallel_lenet.cli import main
from parallel_lenet.network.fitted import settings_for

Array = Any


def data(images: Array) -> Dataset:
    return Dataset(images, np.zeros(len(images), np.int64))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.bool_, np.float32])
def test_mean_and_deviation_take_less_than_half_of_the_images(dtype: Any) -> None:
    images = np.ones((1200, 28, 28), dtype)
    tracemalloc.start()
    settings_for(data(images))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * images.nbytes


@pytest.mark.parametrize("shape", [(3000, 28, 28), (2, 300, 301), (1, 1, 1), (40, 3, 33, 32)])
def test_whole_numbers_have_their_exact_mean_and_deviation_however_they_lie_in_memory(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images.ravel()[0] = 255
    means, stds = [], []
    for channel in [images] if images.ndim == 3 else images.transpose(1, 0, 2, 3):
        exact = channel.astype(np.int64)
        mean = float(exact.sum() / exact.size)
        variance = float((exact * exact).sum() / exact.size) - mean * mean
        means.append(mean / 255)
        stds.append(max(variance, 1.0) ** 0.5 / 255)
    for same in (images, np.asfortranarray(images), images.astype(">i4")):
        described = settings_for(data(same))
        assert np.array_equal(np.ravel(described["mean"]), means)
        assert np.array_equal(np.ravel(described["std"]), stds)


def test_the_floor_of_the_deviation_follows_the_unit() -> None:
    for blank, mean, std in (
        (np.zeros((2, 4, 4), np.uint8), 0, 1 / 255),
        (np.ones((2, 4, 4), np.float32), 1, 1 / 255),
        (np.full((2, 4, 4), -0.5), -0.5, 1),
    ):
        described = settings_for(data(blank))
        assert (described["mean"], described["std"]) == (mean, std)
    images = np.random.default_rng(0).random((50, 8, 8), np.float32)
    assert settings_for(data(images))["std"] == pytest.approx(images.std())
    assert settings_for(data(images * 10000))["std"] == pytest.approx(images.std() * 10000 / 16383)


# The command.


def write(folder: Path, images: Array) -> None:
    """30 training and 20 test images as IDX files of uint8 or float32."""
    folder.mkdir()
    labels = (np.arange(50) % 4).astype(np.uint8)
    for part, rows in (("train", slice(30)), ("t10k", slice(30, 50))):
        for kind, array in (("images-idx3", images[rows]), ("labels-idx1", labels[rows])):
            code = 8 if array.dtype == np.uint8 else 0x0D
            sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
            stored = array.astype(np.uint8 if code == 8 else ">f4").tobytes()
            (folder / f"{part}-{kind}-ubyte").write_bytes(bytes([0, 0, code, array.ndim]) + sizes + stored)


def command(*arguments: str) -> int:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return main(arguments)
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.mark.slow
def test_a_run_recognises_the_unit_records_it_and_refuses_data_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (50, 12, 12), dtype=np.uint8)
    images[:, 0, :2] = (0, 255)
    floats = images.astype(np.float32)
    units = {
        "8": (images, ""),
        "f8": (floats, ""),
        "1": (floats / 255, "float32 from 0 to 1, taken as 0 to 1 (pixel_max=1)"),
        "16": ((images // 16 + (images == 255)).astype(np.uint8), "taken as 0 to 16 (pixel_max=16)"),
        "s": ((floats - floats.mean()) / floats.std(), "taken as standardised pixels"),
        "-1": (floats / np.float32(127.5) - 1, "taken as -1 to 1 (pixel_min=-1, pixel_max=1)"),
    }
    losses = {}
    for name, (pixels, note) in units.items():
        write(tmp_path / name, pixels)
        run = ("--data-dir", name, "--out", f"run{name}", "--epochs", "2", "--batch-size", "10")
        assert command("train", *run, "--engine", "serial", "--kernel", "im2col", "--json") == 0
        out, err = capsys.readouterr()
        losses[name] = json.loads(out)["test_loss"]
        assert note in err if note else "Test images must be in the same unit" not in err
    assert [losses[name] for name in ("f8", "1", "s", "-1")] == pytest.approx([losses["8"]] * 4, rel=1e-3)
    for name in units:
        for other in ("8", "1", "16", "s"):
            code = command("evaluate", f"run{name}/checkpoint.npz", "--data-dir", other, "--engine", "serial")
            assert code == (0 if name.removeprefix("f") == other else 1), (name, other)
            err = capsys.readouterr().err
            assert "takes" in err or not err
            assert "lenet5" not in err or not code, "a remedy that the command does not have"
    shutil.copytree("run1", "copy")
    assert command("train", "--resume", "copy", "--epochs", "3") == 0
    assert archive.load(tmp_path / "copy" / "checkpoint.npz")[1]["epoch"] == 3
