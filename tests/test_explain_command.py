"""``parallel-lenet explain``: which checkpoint, which image, which files, and what is said about mistakes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from kits.models import Softmax

from parallel_lenet import SGD, Coordinator, Sequential, load_dataset, load_model, read_digit
from parallel_lenet.cli import main
from parallel_lenet.explain import slides
from parallel_lenet.network.images import Images
from parallel_lenet.network.layers import AvgPool2d, Conv2d, Dense, Flatten, Tanh

pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, whose network is small."""
    folder = tmp_path_factory.mktemp("explained")
    network = Sequential(
        Images(28, size=28), (Conv2d(2, 5, stride=5), Tanh(), AvgPool2d(2, 2), Flatten(), Dense(10)), "naive"
    )
    coordinator = Coordinator(network, SGD(), engine="serial")
    for number, name in enumerate(("older", "newer")):
        (folder / "runs" / name).mkdir(parents=True)
        file = folder / "runs" / name / "checkpoint.npz"
        coordinator.save(file, {"dataset": "mnist-5k"})
        os.utime(file, (1_000_000 + number, 1_000_000 + number))
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["explain", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.slow
def test_the_command_explains_the_newest_run_beside_its_checkpoint(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(saved)
    code, out, _ = call(capsys)
    assert code == 0
    assert "wrote runs/newer/explain.html" in out
    written = (saved / "runs" / "newer" / "explain.html").read_text("utf-8")
    same = set(saved.rglob("*")) - {saved / "runs" / "newer" / "explain.html"}
    assert not [path for path in same if path.suffix not in ("", ".npz")], "nothing else is left behind"
    assert "parallel-lenet explain runs/newer/checkpoint.npz" in written
    code, out, _ = call(capsys, "runs/older", "--json", "--index", "5", "--out", "other.html")
    assert code == 0
    result = json.loads(out)
    _, test = load_dataset()
    assert (result["label"], result["label_known"], result["page"]) == (int(test.targets[5]), True, "other.html")
    assert result["checkpoint"] == "runs/older/checkpoint.npz"
    code, out, _ = call(capsys, "runs/older", "--json", "--digit", "7", "--out", "seven.html")
    assert (code, json.loads(out)["label"]) == (0, 7)


def test_the_most_instructive_image_is_chosen(saved: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trained = load_model(saved / "runs" / "newer" / "checkpoint.npz")
    _, test = load_dataset()
    right = trained.predict_proba(test.inputs)[np.arange(1000), test.targets]
    code, out, _ = call(capsys, str(saved / "runs" / "newer"), "--out", str(tmp_path / "page.html"))
    assert code == 0
    assert f"image {np.abs(right - 0.75).argmin()} of" in out


@pytest.mark.slow
def test_a_picture_of_ones_own_is_explained_as_the_class_that_the_network_says_or_the_user(
    saved: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image")
    ink = np.full((90, 70, 3), 240, np.uint8)
    ink[20:70, 30:38] = 20  # A dark stroke on light paper.
    file = tmp_path / "my <i>one.png"
    image.fromarray(ink).save(file)
    options = (str(saved / "runs" / "newer"), "--image", str(file), "--out", str(tmp_path / "page.html"), "--json")
    code, out, _ = call(capsys, *options)
    result = json.loads(out)
    assert (code, result["image"], result["label_known"]) == (0, "my <i>one.png", False)
    assert result["label"] == result["predicted"]
    html = (tmp_path / "page.html").read_text("utf-8")
    assert "my &lt;i&gt;one.png" in html
    assert "<i>one" not in html
    assert "Nobody said what the image shows" in html
    code, out, _ = call(capsys, *options, "--label", "1")
    result = json.loads(out)
    assert (code, result["label"], result["label_known"]) == (0, 1, True)
    network = load_model(saved / "runs" / "newer" / "checkpoint.npz", "naive")
    digit = read_digit(file)
    assert result["predicted"] == network.predict(digit[np.newaxis])[0]
    expected = network.model.loss_and_gradient(network.parameters, digit[np.newaxis], np.array([1]), None).loss_sum
    assert result["loss"] == expected


@pytest.mark.slow
def test_pictures_for_slides_are_1600_pixels_wide(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    every = slides.figures
    monkeypatch.setattr(slides, "figures", lambda lesson: every(lesson)[2:4])
    folder = tmp_path / "deep" / "slides"
    code, out, _ = call(
        capsys, str(saved / "runs" / "newer"), "--out", str(tmp_path / "page.html"), "--png", str(folder)
    )
    assert code == 0
    assert f"wrote 2 pictures to {folder}" in out
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["01-convolution.png", "02-output-shape.png"]
    for name in names:
        with image.open(folder / name) as picture:
            assert picture.width == 1600
            assert 300 < picture.height < 2000
            assert len(picture.convert("RGB").resize((160, 90)).getcolors(100_000)) > 20


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["missing.npz"], 2, "missing.npz does not exist"),
        (["."], 2, ". is a folder: name a checkpoint"),
        (["runs/newer", "--index", "1000"], 2, "--index must be from 0 to 999, got 1,000"),
        (["runs/newer", "--digit", "-1"], 2, "--digit must be from 0 to 9, got -1"),
        (["runs/newer", "--digit", "1", "--index", "1"], 2, "not allowed with argument"),
        (["runs/newer", "--label", "3"], 2, "--label is for --image"),
        (["runs/newer", "--image", "missing.png"], 2, "--image missing.png does not exist"),
        (["runs/newer", "--image", "empty.npz"], 1, "empty.npz: can't be read: it is empty"),
        (["runs/newer", "--image", "runs", "--index", "3"], 2, "not allowed with argument"),
        (["runs/newer", "--out", "runs"], 2, "--out must name a file, got runs, a folder"),
        (["runs/newer", "--out", "nowhere/page.html"], 2, "the folder nowhere does not exist"),
        (["runs/newer", "--png", "runs/newer/checkpoint.npz"], 2, "--png must name a folder"),
        (["own.npz"], 1, "own.npz: can't be explained: its model is not made of this package's layers"),
        (["nan.npz", "--index", "3"], 1, "nan.npz: can't be explained: the network's scores are not finite"),
        (["empty.npz"], 1, "empty.npz: is damaged"),
    ],
)
def test_mistakes_get_one_sentence_and_leave_nothing(
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(saved)
    (saved / "empty.npz").write_bytes(b"")
    if arguments[0] == "own.npz":
        Coordinator(Softmax(), SGD(), engine="serial").save("own.npz")
    if arguments[0] == "nan.npz":
        model = load_model("runs/newer/checkpoint.npz").model
        bad = np.full(model.layout.size, np.nan, np.float32)
        Coordinator(model, SGD(), engine="serial", parameters=bad).save("nan.npz", {"dataset": "mnist-5k"})
    before = set(saved.rglob("*"))
    found, out, err = call(capsys, *arguments)
    assert (found, out) == (code, "")
    lines = [line for line in err.splitlines() if line.startswith("parallel-lenet:")]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert set(saved.rglob("*")) == before


def test_without_a_run_the_command_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys)
    assert code == 2
    assert "there is no run in the folder runs: train a network with parallel-lenet train, or name a checkpoint" in err
