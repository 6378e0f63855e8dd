"""A folder of four IDX files: under all names that they come with, and in what is not a good folder."""

import gzip
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_idx import IMAGES, idx

from parallel_lenet.datasets import DatasetError
from parallel_lenet.datasets import idx as idx_module
from parallel_lenet.datasets.arrays import MAX_CLASSES
from parallel_lenet.datasets.folder import read_folder

LABELS = np.array([0, 1], np.uint8)


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may read everything")
def test_permission_denied(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").chmod(0)
    with pytest.raises(DatasetError, match="t10k-labels-idx1-ubyte: cannot be read: Permission denied"):
        read_folder(tmp_path)
    tmp_path.chmod(0)
    try:
        with pytest.raises(DatasetError, match="cannot be read as a folder: Permission denied"):
            read_folder(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def write_folder(folder: Path, **changed: NDArray[Any]) -> None:
    """Write four good files, or others for those named."""
    folder.mkdir(exist_ok=True)
    parts = {"train_images": IMAGES, "train_labels": LABELS, "t10k_images": IMAGES, "t10k_labels": LABELS} | changed
    for part, array in parts.items():
        (folder / f"{part.replace('_', '-')}-idx{3 if 'images' in part else 1}-ubyte").write_bytes(idx(array))


def test_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, t10k_images=IMAGES[:1] + 100, t10k_labels=LABELS[1:])
    train, test = read_folder(str(tmp_path))
    assert np.array_equal(train.inputs, IMAGES)
    assert np.array_equal(test.inputs, IMAGES[:1] + 100)
    assert train.targets.tolist() == [0, 1]
    assert test.targets.tolist() == [1]
    assert test.targets.dtype == np.int64


@pytest.mark.parametrize("spelling", ["-idx{}-ubyte", ".idx{}-ubyte"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("rank", [3, 4])
def test_spellings(tmp_path: Path, spelling: str, suffix: str, zipped: bool, rank: int) -> None:
    write_folder(tmp_path)
    for path in list(tmp_path.iterdir()):
        role = path.name.split("-idx")[0]
        content = path.read_bytes()
        name = role + spelling.format(rank if role.endswith("images") else 1) + suffix
        path.unlink()
        (tmp_path / name).write_bytes(gzip.compress(content) if zipped else content)
    assert np.array_equal(read_folder(tmp_path)[1].inputs, IMAGES)


def test_plain_is_preferred_over_gz(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"never read")
    assert np.array_equal(read_folder(tmp_path)[0].inputs, IMAGES)


def test_colour_and_single_channel_images(tmp_path: Path) -> None:
    colour = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    write_folder(tmp_path, train_images=colour, t10k_images=colour)
    inputs = read_folder(tmp_path)[0].inputs
    assert inputs.shape == (2, 3, 4, 5)
    assert inputs.flags.c_contiguous
    assert np.array_equal(inputs[:, 2], colour[..., 2])
    write_folder(tmp_path, train_images=IMAGES[..., None], t10k_images=IMAGES)
    inputs = read_folder(tmp_path)[0].inputs
    assert np.array_equal(inputs, IMAGES)
    assert inputs.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32])
def test_labels_of_any_integer_type(tmp_path: Path, dtype: type) -> None:
    write_folder(tmp_path, train_labels=np.array([100, 3]).astype(dtype))
    train, _ = read_folder(tmp_path)
    assert train.targets.tolist() == [100, 3]
    assert train.targets.dtype == np.int64


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "f4", "f8"])
def test_images_of_any_type(tmp_path: Path, dtype: str) -> None:
    write_folder(tmp_path, train_images=IMAGES.astype(dtype), t10k_images=IMAGES.astype(dtype))
    train, _ = read_folder(tmp_path)
    assert train.inputs.dtype == dtype
    assert train.inputs.dtype.isnative
    assert np.array_equal(train.inputs, IMAGES)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"train_labels": LABELS[:1]}, "train-labels-idx1-ubyte: 1 label for the 2 images of .*train-images"),
        ({"t10k_images": IMAGES[:1]}, "t10k-labels-idx1-ubyte: 2 labels for the 1 image of .*t10k-images"),
        ({"t10k_images": IMAGES[:, 1:]}, r"t10k-images-idx3-ubyte: images are \(2, 4\) uint8, those of .* \(3, 4\)"),
        ({"t10k_images": IMAGES / 255}, "t10k-images-idx3-ubyte: images are .* float64, those of .* uint8"),
        ({"t10k_labels": LABELS + 1}, "t10k-labels-idx1-ubyte: label 2 is out of range; .* names classes 0 to 1"),
        ({"t10k_labels": np.array([0, -1], np.int8)}, "t10k-labels-idx1-ubyte: label -1 is out of range"),
        ({"train_labels": np.array([0, MAX_CLASSES], np.int32)}, "train-labels.*: label 1000000 is out of range"),
        ({"train_labels": LABELS.astype(np.float32)}, "train-labels.*: labels are .* float32; allowed are integers"),
        ({"train_labels": LABELS[:, None]}, r"train-labels.*: labels are \(2, 1\) uint8; allowed are integers in one"),
        ({"train_images": IMAGES[0]}, r"train-images.*: images are \(3, 4\); allowed are \(n, h, w\)"),
        ({"train_images": IMAGES[..., None].repeat(2, 3)}, r"train-images.*: images are \(2, 3, 4, 2\); allowed"),
        ({"t10k_images": IMAGES * np.float32(np.nan)}, "t10k-images.*: pixels hold NaN or infinity"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, changed: dict[str, NDArray[Any]], reason: str) -> None:
    write_folder(tmp_path, **changed)
    with pytest.raises(DatasetError, match=reason) as caught:
        read_folder(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


def test_folders_that_are_no_folders(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="missing: cannot be read as a folder: No such file"):
        read_folder(tmp_path / "missing")
    with pytest.raises(DatasetError, match="cannot be read as a folder"):
        read_folder(f"{tmp_path}/a\0b")
    write_folder(tmp_path)
    with pytest.raises(DatasetError, match="ubyte: cannot be read as a folder: Not a directory"):
        read_folder(tmp_path / "train-images-idx3-ubyte")
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match="t10k-labels-idx1-ubyte is missing; a folder of images needs four files"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "spelling",
    [
        "{part}-images-idx3-ubyte {part}-labels-idx1-ubyte",
        "{part}-images.idx3-ubyte.gz {part}-labels.idx1-ubyte.gz",
        "emnist-balanced-{test}-images-idx3-ubyte emnist-balanced-{test}-labels-idx1-ubyte",
        "emnist-byclass-{test}-images-idx3-ubyte.gz emnist-byclass-{test}-labels-idx1-ubyte.gz",
        "EMNIST-MNIST-{test}-IMAGES-IDX3-UBYTE.GZ emnist-mnist-{test}-labels-idx1-ubyte",
        "{test}-images-idx3-ubyte {test}-labels-idx1-ubyte",
        "{part}-images-idx3-ubyte-gz {part}-labels.gz-idx1-ubyte",
        "{part}-images.idx3-ubyte/{part}-images-idx3-ubyte {part}-labels.idx1-ubyte/{part}-labels.idx1-ubyte",
        "{part}-images-idx3-ubyte.gz/{part}-images-idx3-ubyte {part}-labels-idx1-ubyte/data",
    ],
)
def test_names_as_sites_and_unpackers_leave_them(tmp_path: Path, spelling: str) -> None:
    write_folder(tmp_path / "mnist")
    images, labels = spelling.split()
    for part, test in (("train", "train"), ("t10k", "test")):
        for name, source in ((images, f"{part}-images-idx3-ubyte"), (labels, f"{part}-labels-idx1-ubyte")):
            path = tmp_path / "other" / name.format(part=part, test=test)
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes((tmp_path / "mnist" / source).read_bytes())
    turned = "emnist" in spelling.lower()
    train, test_data = read_folder(tmp_path / "other")
    assert np.array_equal(train.inputs, IMAGES.swapaxes(1, 2) if turned else IMAGES)
    assert train.inputs.flags.c_contiguous
    assert test_data.targets.tolist() == [0, 1]
    assert ("turned upright" in train.name) == turned


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_not_a_file_is_passed_over(tmp_path: Path) -> None:
    """A folder shadowed the file of the other spelling, and a pipe would have been waited for."""
    write_folder(tmp_path)
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
        if number == 0:
            path.symlink_to(path)
        elif number == 1:
            path.symlink_to("/dev/zero")
        else:
            os.mkfifo(path)
    assert np.array_equal(read_folder(tmp_path)[0].inputs, IMAGES)


def test_several_data_sets_in_a_folder(tmp_path: Path) -> None:
    for name, first in (("digits", 10), ("letters", 20)):
        write_folder(tmp_path / "one", train_images=IMAGES + np.uint8(first))
        for path in list((tmp_path / "one").iterdir()):
            path.rename(tmp_path / f"emnist-{name}-{path.name.replace('t10k', 'test')}")
    with pytest.raises(
        DatasetError, match=r"holds several data sets, emnist-digits, emnist-letters; choose one, such as"
    ):
        read_folder(tmp_path)
    assert read_folder(tmp_path / "emnist-letters")[0].inputs[0, 0, 0] == 20
    assert read_folder(tmp_path / "emnist-digits")[0].inputs[0, 0, 0] == 10
    with pytest.raises(DatasetError, match="emnist-byclass: cannot be read as a folder: No such file or directory"):
        read_folder(tmp_path / "emnist-byclass")
    write_folder(tmp_path)
    assert read_folder(tmp_path)[0].inputs[0, 0, 0] == 0


def test_an_error_names_the_four_files_and_what_is_there(tmp_path: Path) -> None:
    for name in ("train-pictures-idx3-ubyte", "labels.IDX", "notes.txt", "._train-images-idx3-ubyte"):
        (tmp_path / name).touch()
    with pytest.raises(DatasetError) as caught:
        read_folder(tmp_path)
    names = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"
    assert str(caught.value) == (
        f"{tmp_path}: train-images-idx3-ubyte is missing; a folder of images needs four files, {names}, each with or "
        "without .gz; found ._train-images-idx3-ubyte, labels.IDX, train-pictures-idx3-ubyte"
    )


def test_labels_that_start_at_1_stay_and_are_mentioned(tmp_path: Path) -> None:
    write_folder(tmp_path, train_labels=LABELS + 1, t10k_labels=LABELS + 1)
    train, test = read_folder(tmp_path)
    assert train.targets.tolist() == [1, 2]
    assert train.name == f"{tmp_path} train (labels 1 to 2, class 0 is unused)"
    assert test.name.endswith("class 0 is unused)")


@pytest.mark.parametrize("shape", [(15000, 20, 20), (15000, 12, 12, 3)])
@pytest.mark.parametrize("prefix", ["", "emnist-x-"])
@pytest.mark.parametrize(
    ("dtype", "pack", "most"), [("u1", bytes, 0.4), ("f4", bytes, 0.4), ("u1", gzip.compress, 0.6)]
)
def test_loading_takes_little_more_memory_than_the_images(
    tmp_path: Path, shape: tuple[int, ...], prefix: str, dtype: str, pack: Callable[[bytes], bytes], most: float
) -> None:
    images = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    write_folder(
        tmp_path / "plain",
        train_images=images,
        train_labels=np.zeros(len(images), np.uint8),
        t10k_images=images[:2],
        t10k_labels=LABELS[[0, 0]],
    )
    for path in (tmp_path / "plain").iterdir():
        (tmp_path / f"{prefix}{path.name}").write_bytes(pack(path.read_bytes()))
    tracemalloc.start()
    try:
        train, _ = read_folder(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < (1 + most) * images.nbytes
    finally:
        tracemalloc.stop()
    axes = {(3, False): (0, 1, 2), (3, True): (0, 2, 1), (4, False): (0, 3, 1, 2), (4, True): (0, 3, 2, 1)}
    assert np.array_equal(train.inputs, images.transpose(axes[len(shape), bool(prefix)]))


def test_a_very_large_plain_file_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx_module, "MAPPED_FROM", IMAGES.nbytes)
    write_folder(tmp_path)
    train, _ = read_folder(tmp_path)
    assert isinstance(train.inputs, np.memmap)
    assert not train.inputs.flags.writeable
    assert np.array_equal(train.inputs, IMAGES)
