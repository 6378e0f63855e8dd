"""Images of one's own: arrays in any order, files in any known form, and files that are not what they seem."""

import io
import json
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kits.programs import Run, run_here

from parallel_lenet import Dataset, DatasetError, Images, lenet5_for, load_dataset, load_folder
from parallel_lenet.datasets import npy
from parallel_lenet.datasets.array_files import Role, role_of
from parallel_lenet.datasets.local import read_local
from parallel_lenet.datasets.npy import read_npy
from parallel_lenet.resizing import resize

Array = Any

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (6, 8, 9), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (6, 3, 8, 9), dtype=np.uint8)
Y = np.arange(6) % 2
NAMES = np.array(["cat", "dog"])


# Arrays.


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
@pytest.mark.parametrize("layout", ["first", "last", "rows first", "rows last"])
def test_either_order_and_rows_are_the_same_images(layout: str, dtype: Any) -> None:
    images = (COLOURS if "first" in layout else np.moveaxis(COLOURS, 1, 3)).astype(dtype)
    shape = images.shape[1:] if "rows" in layout else None
    data = Dataset.from_arrays(images.reshape(6, -1) if shape else images, Y, image_shape=shape)
    assert np.array_equal(data.inputs, COLOURS)
    assert lenet5_for(data, kernel="im2col").images.channels == 3
    if shape is None:
        assert np.shares_memory(data.inputs, images)


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 7), st.integers(1, 7)),
    channels=st.sampled_from([None, "first", "last"]),
)
def test_an_order_is_recognised_or_asked_for(shape: tuple[int, ...], channels: str | None) -> None:
    images = np.arange(np.prod(shape)).reshape(shape)
    first, last = (axis <= 4 for axis in (shape[1], shape[3]))
    if channels is None and first == last:
        with pytest.raises(DatasetError, match="channels='first' or channels='last' decides"):
            Dataset.from_arrays(images, np.zeros(shape[0], int))
        return
    is_last = channels == "last" or (channels is None and last)
    wanted = np.moveaxis(images, 3, 1) if is_last else images
    found = Dataset.from_arrays(images, np.zeros(shape[0], int), channels=channels).inputs
    assert np.array_equal(found.reshape(wanted.shape), wanted)
    assert found.ndim == (3 if wanted.shape[1] == 1 else 4)


def test_labels_of_any_kind() -> None:
    for labels in (Y, Y.astype(float), Y.astype(bool), Y[:, None], Y.tolist(), Y.astype(np.uint16)):
        data = Dataset.from_arrays(X, labels)
        assert (data.targets.tolist(), data.targets.dtype, data.class_names) == (Y.tolist(), np.int64, None)
    for labels in (NAMES[Y], NAMES[Y].astype("S"), NAMES[Y].tolist()):
        data = Dataset.from_arrays(X, labels)
        assert (data.targets.tolist(), data.class_names) == (Y.tolist(), ("cat", "dog"))
    turned = Dataset.from_arrays(X, NAMES[Y], class_names=["owl", "dog", "cat"])
    assert turned.targets.tolist() == (2 - Y).tolist()
    assert lenet5_for(turned, kernel="im2col").classes == 3
    numbers = Dataset.from_arrays(X, ["10", "9", "10", "9", "2", "2"])
    assert numbers.class_names == ("2", "9", "10")


def test_what_was_understood_is_said() -> None:
    data = Dataset.from_arrays(np.moveaxis(COLOURS, 1, 3) / 255, NAMES[Y])
    assert data.description == (
        f"6 images, 8 high and 9 wide, 3 channels; float64 pixels from {COLOURS.min() / 255:g} to 1, taken as 0 to 1; "
        "classes cat to dog"
    )
    assert Dataset(np.zeros((4, 2)), np.zeros(4)).description == "4 samples of shape (2,)"


@pytest.mark.parametrize(
    ("images", "labels", "settings", "sentence"),
    [
        (X.reshape(6, -1), Y, {}, r"rows of 72 pixels need image_shape=\(h, w\) .* reshape\(-1, h, w\)"),
        (np.zeros((6, 64)), Y, {}, r"need image_shape=\(8, 8\) .* reshape\(-1, 8, 8\)"),
        (
            X.reshape(6, -1),
            Y,
            {"image_shape": (9, 9)},
            "must have the shape \\(n, 9, 9\\) or \\(n, 81\\), got \\(6, 72\\)",
        ),
        (np.moveaxis(X, 0, -1), Y, {}, "the images must be along the first axis, as np.moveaxis"),
        (X[:0], Y[:0], {}, "there are no images, the array has the shape \\(0, 8, 9\\)"),
        (X, Y - 1, {}, "label -1 is out of range; allowed are 0 to 999999: np.unique"),
        (X, Y + 0.5, {}, "labels must be whole numbers, got 0.5"),
        (X, np.where(Y, np.nan, 0), {}, "labels must be whole numbers, got nan"),
        (X, np.eye(2)[Y], {}, "pass labels.argmax\\(axis=1\\)"),
        (X, NAMES[Y], {"class_names": ["cat"]}, "label 'dog' is not one of the classes, \\['cat'\\]"),
        (X, Y, {"class_names": ["cat"]}, "label 1 is out of range; allowed are 0 to 0"),
        (X, Y[:5], {}, "6 inputs but 5 targets"),
        (X.astype(object), Y, {}, "images must be numbers, got object"),
        (np.where(X > 250, np.nan, 1.0), Y, {}, "hold NaN or infinity"),
    ],
)
def test_arrays_that_are_no_images_or_labels(images: Array, labels: Array, settings: Any, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        Dataset.from_arrays(images, labels, **settings)


@given(size=st.tuples(st.integers(1, 12), st.integers(1, 12)), to=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_resizing_keeps_the_mean_and_means_areas(size: tuple[int, int], to: tuple[int, int]) -> None:
    images = np.random.default_rng(1).random((3, 2, *size))
    found = resize(images, *to)
    assert found.shape == (3, 2, *to)
    np.testing.assert_allclose(found.mean(axis=(2, 3)), images.mean(axis=(2, 3)))
    blocks = np.kron(images, np.ones((2, 3)))  # Twice as high, three times as wide: each mean is one of the pixels.
    np.testing.assert_allclose(resize(blocks, *size), images)


# Files.


def pictures(folder: Path, images: Array, labels: Array, names: Array = NAMES, suffix: str = "png") -> None:
    from PIL import Image  # An extra.

    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image if image.ndim == 2 else image.transpose(1, 2, 0)).save(place / f"{i}.{suffix}")


def test_the_names_of_arrays_say_what_they_are() -> None:
    for name in ("x_train", "X_train", "trainX", "train-images", "Train_Imgs", "xtrain", "mnist.train.images"):
        assert role_of(name) == Role("train", "images"), name
    for name in ("y_test", "yTest", "t10k-labels", "test_target"):
        assert role_of(name) == Role("test", "labels"), name
    assert role_of("val_images") == Role("validation", "images")
    assert role_of("y") == Role(None, "labels")
    assert role_of("arr_0") == role_of("notes") == Role(None, None)


def as_npz(folder: Path, images: Array) -> Path:
    np.savez_compressed(folder / "d.npz", x_train=images, y_train=Y[:, None], x_test=images[:2], y_test=Y[:2, None])
    return folder / "d.npz"


def as_npy(folder: Path, images: Array) -> Path:
    for part, rows in (("train", slice(None)), ("test", slice(2))):
        (folder / part).mkdir()
        np.save(folder / part / "images.npy", np.asfortranarray(images[rows].astype(">i2")).astype(">u2"))
        np.save(folder / part / "labels.npy", Y[rows].astype(">i4"))
    return folder


def as_kmnist(folder: Path, images: Array) -> Path:
    for part, rows in (("train", slice(None)), ("test", slice(2))):
        np.savez(folder / f"kmnist-{part}-imgs.npz", images[rows])
        np.savez(folder / f"kmnist-{part}-labels.npz", Y[rows])
    return folder


def as_parquet(folder: Path, images: Array) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (folder / "data").mkdir()
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES.tolist(), "_type": "ClassLabel"}}
    for part, rows in (("train", slice(None)), ("test", slice(2))):
        pictures(folder / "p" / part, images[rows], Y[rows])
        files = sorted((folder / "p" / part).glob("*/*"), key=lambda file: int(file.stem))
        table = arrow.table({"image": [{"bytes": file.read_bytes(), "path": None} for file in files], "label": Y[rows]})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        parquet.write_table(table, folder / "data" / f"{part}-00000-of-00001.parquet")
    return folder / "data"


@pytest.mark.parametrize("write", [as_npz, as_npy, as_kmnist, as_parquet])
@pytest.mark.parametrize("images", [X, COLOURS], ids=["grey", "colours"])
def test_every_form_gives_the_same_images(tmp_path: Path, write: Callable[..., Path], images: Array) -> None:
    train, test, validation = load_folder(write(tmp_path, images))
    assert test is not None
    assert np.array_equal(train.inputs, images)
    assert np.array_equal(test.inputs, images[:2])
    assert (train.targets.tolist(), test.targets.tolist(), validation) == (Y.tolist(), Y[:2].tolist(), None)
    assert train.class_names == (tuple(NAMES) if write is as_parquet else None)


def test_folders_of_pictures(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    numbers = np.array(["10", "9"])
    pictures(tmp_path / "train", X, Y, numbers)
    pictures(tmp_path / "test", COLOURS[:1], Y[:1], numbers, "bmp")
    pictures(tmp_path / "valid", X[1:3], Y[1:3], numbers)
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "9" / "notes.txt").write_text("no image")
    (train, test, validation), pictures_found = read_local(tmp_path)
    assert pictures_found
    assert train.class_names == ("9", "10")
    grey = np.concatenate([X[1::2], X[::2]])
    assert np.array_equal(train.inputs, np.repeat(grey[:, None], 3, axis=1)), "all in colour if one is"
    assert test is not None
    assert validation is not None
    assert np.array_equal(test.inputs, COLOURS[:1])
    assert (test.targets.tolist(), validation.targets.tolist()) == ([1], [0, 1])
    small = load_folder(tmp_path, image_size=(4, 3)).train
    np.testing.assert_allclose(small.inputs.astype(float), resize(train.inputs, 4, 3), atol=1)
    flat = load_folder(tmp_path / "train")
    assert np.array_equal(flat.train.inputs, grey)
    assert flat.test is None
    with pytest.raises(DatasetError, match="has no test images"):
        load_dataset(data_dir=tmp_path / "train")


def test_kinds_of_pictures(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "train"
    pictures(folder, X[:2], Y[:2])
    clear = np.zeros((8, 9, 4), np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    image.fromarray(clear).save(folder / "cat" / "9.png")
    image.fromarray(X[0]).convert("1").save(folder / "cat" / "8.png")
    turned = image.fromarray(X[0])
    exif = turned.getexif()
    exif[0x0112] = 6  # Turned to the right when it is shown.
    image.fromarray(np.rot90(X[2])).save(folder / "dog" / "7.png", exif=exif)
    images = load_folder(tmp_path).train.inputs
    assert images.shape == (5, 3, 8, 9)
    assert images[2, :, 0, :2].T.tolist() == [[10, 20, 30], [255, 255, 255]], "clear pixels are white"
    assert set(np.unique(images[1])) == {0, 255}
    assert np.array_equal(images[4, 0], X[2])
    deep = tmp_path / "deep" / "train"
    pictures(deep, X.astype(np.uint16) * 257, Y)
    assert np.array_equal(load_folder(deep.parent).train.inputs, np.concatenate([X[::2], X[1::2]]).astype(int) * 257)


# Mapped.


@pytest.mark.parametrize("layout", ["grey", "first", "last", "fortran"])
def test_a_large_file_is_mapped_and_has_the_same_bits(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {"grey": X, "first": COLOURS, "last": np.moveaxis(COLOURS, 1, 3), "fortran": np.asfortranarray(X)}[layout]
    np.save(tmp_path / "x_train.npy", np.ascontiguousarray(images) if layout != "fortran" else images)
    np.save(tmp_path / "y_train.npy", Y)
    read = load_folder(tmp_path).train
    monkeypatch.setattr(npy, "MAPPED_FROM", 0)
    mapped = load_folder(tmp_path).train
    assert isinstance(read_npy(tmp_path / "x_train.npy"), np.memmap)
    assert not mapped.inputs.flags.writeable
    assert np.array_equal(mapped.inputs, read.inputs)
    assert mapped.inputs.shape == (COLOURS if "st" in layout else X).shape
    assert lenet5_for(mapped, kernel="im2col") == lenet5_for(read, kernel="im2col")


MAPPED = """
import os, resource, sys
from pathlib import Path
import numpy as np
from parallel_lenet import SGD, Coordinator, lenet5_for, load_folder
from parallel_lenet.datasets import npy

def data_kilobytes(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmData:")[2].split()[0])

def anonymous_kilobytes(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0])

if __name__ == "__main__":
    if sys.argv[1] == "mapped":
        npy.MAPPED_FROM = 1 << 20
        limit = (data_kilobytes("self") << 10) + (60 << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    train = load_folder(sys.argv[2]).train
    with Coordinator(lenet5_for(train, kernel="im2col"), SGD(0.01), n_workers=2, batch_size=64) as coordinator:
        reports = coordinator.iterate(train)
        for _ in range(2):
            next(reports)
        print(max(map(anonymous_kilobytes, [os.getpid(), *coordinator.worker_pids()])))
        print(coordinator.parameters_sha256())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_data_larger_than_the_memory_a_program_may_have(run: Run, tmp_path: Path) -> None:
    program = tmp_path / "mapped.py"
    program.write_text(MAPPED)
    folder = tmp_path / "data"
    folder.mkdir()
    rows = 120 * 2**20 // (32 * 32 * 3)
    block = np.random.default_rng(0).integers(0, 256, (rows // 8, 32, 32, 3), dtype=np.uint8)
    file = np.lib.format.open_memmap(folder / "x_train.npy", "w+", np.uint8, (8 * len(block), 32, 32, 3))
    for i in range(8):
        file[i * len(block) : (i + 1) * len(block)] = block
    file.flush()
    np.save(folder / "y_train.npy", np.arange(len(file)) % 10)
    found = {how: run(str(program), how, str(folder)).stdout.split() for how in ("mapped", "read")}
    assert found["mapped"][1] == found["read"][1]
    assert int(found["mapped"][0]) < 100 * 1024 < int(found["read"][0])


# Files that are not what they seem.


def header(shape: object, text: bytes = b"") -> bytes:
    content = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode() or text
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content)) + content


def npz_bomb() -> bytes:
    packed, values = io.BytesIO(), io.BytesIO()
    np.save(values, np.zeros((1, 1, 1), np.uint8))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x_train.npy", "w") as member:
        member.write(header((2200, 10**5)))
        for _ in range(22):
            member.write(bytes(10**7))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("y_train.npy", values.getvalue())
    return packed.getvalue()


HOSTILE_ARRAYS: dict[str, tuple[bytes | Array, str]] = {
    "objects": (np.array([{}, 1], object), "holds Python objects, which are not read; allowed are numbers and text"),
    "records": (np.zeros(6, [("a", "i4")]), "allowed are numbers and text"),
    "complex": (X * 1j, "holds complex128; allowed are numbers and text"),
    "huge": (header((2**60, 2**60)), "bytes of values, but 0 follow"),
    "too long": (header((2, 2)) + b"12345", "4 bytes of values, but 5 follow"),
    "negative": (header((-1, 8)), "holds no values, its header says \\(-1, 8\\)"),
    "empty": (header((0, 8, 8)), "holds no values"),
    "code": (b"\x93NUMPY\x01\x00\x1e\x00" + b"__import__('os').abort()".ljust(30), "its header is damaged"),
    "long header": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"x" * 99, "is cut off or has more than 10,000"),
    "version 3": (b"\x93NUMPY\x03\x00" + b"x" * 99, "is not a .npy file of version 1 or 2"),
    "nothing": (b"", "it starts with nothing"),
    "NaN": (np.where(X > 250, np.nan, 1.0), "hold NaN or infinity"),
}


@pytest.mark.parametrize("name", HOSTILE_ARRAYS)
def test_hostile_arrays_get_a_sentence_that_names_the_file(name: str, tmp_path: Path) -> None:
    content, sentence = HOSTILE_ARRAYS[name]
    if isinstance(content, bytes):
        (tmp_path / "x_train.npy").write_bytes(content)
    else:
        np.save(tmp_path / "x_train.npy", content, allow_pickle=True)
    np.save(tmp_path / "y_train.npy", Y)
    with pytest.raises(DatasetError, match=f"x_train.npy.*{sentence}"):
        load_folder(tmp_path)


def lying(folder: Path) -> None:
    np.savez(folder / "d.npz", x_train=X, y_train=Y)
    content = (folder / "d.npz").read_bytes()
    (folder / "d.npz").write_bytes(content.replace(struct.pack("<I", X.nbytes + 128), struct.pack("<I", 2**31 - 1)))


def fifo(folder: Path) -> None:
    np.save(folder / "y_train.npy", Y)
    os.mkfifo(folder / "x_train.npy")


def big_png(folder: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    (folder / "train" / "dog" / "9.png").write_bytes(content)


def other_size(folder: Path) -> None:
    pictures(folder / "x", X[:, :7], Y)
    (folder / "x" / "dog" / "1.png").rename(folder / "train" / "dog" / "9.png")
    (folder / "x" / "cat").rename(folder / ".x")


DOG = "train/dog/9.png"
HOSTILE_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "one class": (
        lambda f: [each.unlink() for each in (f / "train/dog").iterdir()] and (f / "train/dog").rmdir(),
        "one",
    ),
    "empty class": (lambda f: (f / "train/owl").mkdir(), "train/owl: holds no images"),
    "another class": (lambda f: pictures(f / "test", X[:1], [0], np.array(["owl"])), "test/owl: is not one of the"),
    "folder": (lambda f: (f / DOG).mkdir(), f"{DOG}: is a folder; the images of a class lie directly in"),
    "loop": (lambda f: (f / "train/dog/x").symlink_to(f), "train/dog/x: is a folder; the images"),
    "text": (lambda f: (f / DOG).write_text("hello"), f"{DOG}: is not an image of a known format"),
    "nothing": (lambda f: (f / DOG).write_text(""), f"{DOG}: can't be read: it is empty"),
    "dangling": (lambda f: (f / DOG).symlink_to("nowhere"), f"{DOG}: can't be read: No such file"),
    "device": (lambda f: (f / DOG).symlink_to("/dev/zero"), f"{DOG}: can't be read: it is not a regular file"),
    "pipe": (lambda f: os.mkfifo(f / DOG), f"{DOG}: can't be read: it is not a regular file"),
    "cut": (lambda f: (f / DOG).write_bytes((f / "train/dog/1.png").read_bytes()[:60]), f"{DOG}: is damaged"),
    "bomb": (big_png, f"{DOG}: is too large: at most 50,000,000 pixels are read"),
    "size": (other_size, f"{DOG}: is 7 high and 9 wide, .*0.png 8 high and 9 wide; all images must have the same size"),
    "depth": (lambda f: pictures(f / "train", X[:1].astype(np.uint16), [1], suffix="tif"), "has 16 bits per pixel and"),
    "no train": (lambda f: (f / "train").rename(f / "test"), "has a folder test, but no folder train"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="links and devices")
@pytest.mark.parametrize("name", HOSTILE_FOLDERS)
def test_hostile_folders_get_a_sentence_that_names_the_file(name: str, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    spoil, sentence = HOSTILE_FOLDERS[name]
    pictures(tmp_path / "train", X, Y)
    spoil(tmp_path)
    with pytest.raises(DatasetError, match=sentence):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: (f / "d.npz").write_bytes(npz_bomb()), "compressed bytes may unpack to 100,000,000 at most"),
        (lying, "d.npz.*384 bytes of values|432 bytes of values|damaged"),
        (lambda f: (f / "d.npz").write_bytes(b"PK\x03\x04" + b"x" * 99), "d.npz: is damaged, or not a .npz file"),
        (
            lambda f: np.savez(f / "d.npz", x_train=X),
            "d.npz: x_train: its labels are missing, an array such as train_la",
        ),
        (lambda f: np.savez(f / "d.npz", a=X, b=Y), "no array's name says that it holds images or labels: found"),
        (
            lambda f: np.savez(f / "d.npz", x_train=X, X=X, y=Y),
            "both hold images of the part train; name each part once",
        ),
        (lambda f: np.savez(f / "d.npz", x=X, y=Y[:5]), "d.npz: y: 5 labels for the 6 images of"),
        (lambda f: np.savez(f / "d.npz", x=X, y=Y, x_test=X, y_test=Y + 1), "test: label 2 is out of range"),
        (
            lambda f: np.savez(f / "d.npz", x=X, y=Y, x_test=X[:, 1:], y_test=Y),
            "test: images are \\(7, 9\\) uint8, those",
        ),
        (lambda f: np.savez(f / "d.npz", x_test=X, y_test=Y), "has no part to train on, only test; it is called train"),
        (fifo, "x_train.npy: not a regular file"),
        (lambda f: (f / "train.parquet").write_bytes(b"PAR1xxxxPAR1"), "train.parquet: is damaged, or not a Parquet"),
        (lambda f: None, "holds no data set that is known: four IDX files"),
        (
            lambda f: (f / "train.CSV").write_text("1,0,0"),
            ": 'train.CSV' is a table of text, .*numpy.savez",
        ),
    ],
)
def test_other_files_that_are_refused(spoil: Callable[[Path], object], sentence: str, tmp_path: Path) -> None:
    if "Parquet" in sentence:
        pytest.importorskip("pyarrow")
    spoil(tmp_path)
    with pytest.raises(DatasetError, match=sentence):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"foo": [1], "label": [1]}, "has no column of images"),
        ({"image": [b"abc"], "label": [0]}, "row 0: is not an image of a known format"),
        ({"image": [None], "label": [0]}, "row 0: image is None, not the bytes|row 0: the column image holds None"),
        ({"image": X.tolist(), "label": Y - 1}, "row 0: label -1 is out of range; allowed are 0 to 999999"),
        ({"image": X.tolist(), "label": Y / 2}, "row 0: the label is 0.0; allowed are whole numbers and text"),
        ({"image": [[[1, 2], [3]]], "label": [0]}, "row 0: is not a rectangle of numbers"),
        ({"image": X.tolist()[:0], "label": Y[:0]}, "holds no rows"),
    ],
)
def test_tables_that_are_refused(columns: Any, sentence: str, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("PIL")
    parquet.write_table(arrow.table(columns), tmp_path / "train.parquet")
    with pytest.raises(DatasetError, match=sentence):
        load_folder(tmp_path)


# The command.


@pytest.mark.slow
def test_the_command_trains_on_pictures_of_any_size_and_answers_with_names(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    names = np.array(["\x1b[1m", "a\nb"])  # These would speak to a terminal.
    for i in range(24):  # Bright on the left or on the right, no two of one size.
        label = i % 2
        image = np.zeros((20 + i, 30), np.uint8)
        image[:, label * 15 : label * 15 + 15] = 200 + i
        pictures(tmp_path / "data" / ("train" if i < 20 else "test"), [image], [label], names, f"{i}.png")
    train = ["train", "--data-dir", "data", "--out", "r", "--epochs", "6", "--batch-size", "5", "--no-report"]
    where = ["--engine", "serial", "--kernel", "im2col"]
    refused = run_here(tmp_path, *train, *where, code=1)
    assert re.search(
        r"is \d\d high and 30 wide, .* \d\d high and 30 wide; all images must have the same", refused.stderr
    )
    done = run_here(tmp_path, *train, *where, "--image-size", "16x12", "--json")
    assert json.loads(done.stdout)["test_accuracy"] == 1
    assert "20 images, 16 high and 12 wide, 1 channel; uint8 pixels from 0 to 219, taken as 0 to 255" in done.stderr
    assert "classes \\x1b[1m to a\\nb" in done.stderr
    assert "\x1b" not in refused.stderr + done.stderr
    measured = json.loads(run_here(tmp_path, "evaluate", "r", "--engine", "serial", "--json").stdout)
    assert (measured["test_accuracy"], measured["images"]) == (1, 4)
    files = sorted(str(file.relative_to(tmp_path)) for file in (tmp_path / "data" / "test").glob("*/*"))
    answers = json.loads(run_here(tmp_path, "predict", *files, "--checkpoint", "r", "--json").stdout)["images"]
    assert [answer["name"] for answer in answers] == [Path(answer["image"]).parent.name for answer in answers]
    assert ": a\\nb (" in run_here(tmp_path, "predict", *files, "--checkpoint", "r").stdout
    resumed = run_here(tmp_path, "train", "--resume", "r", "--epochs", "7", "--engine", "serial", "--json")
    assert json.loads(resumed.stdout)["finished_epochs"] == 7
    usage = run_here(tmp_path, *train, "--image-size", "0x9", code=2)
    assert "argument --image-size: must be H or HxW, each from 1 to 10,000 pixels, got '0x9'" in usage.stderr


def test_the_network_of_colours_is_normalised_for_each_channel() -> None:
    network = lenet5_for(Dataset(COLOURS, Y), kernel="im2col")
    assert lenet5_for(Dataset(np.moveaxis(COLOURS, 1, 3), Y), kernel="im2col") == network
    with pytest.raises(DatasetError, match="arranges rows of pixels"):
        lenet5_for(Dataset(X.reshape(6, -1), Y))
    means, stds = COLOURS.mean(axis=(0, 2, 3)) / 255, COLOURS.std(axis=(0, 2, 3)) / 255
    np.testing.assert_allclose(network.images.mean, means)
    np.testing.assert_allclose(network.images.std, stds)
    assert Images(8, 3, mean=network.images.mean, std=network.images.std).mean == network.images.mean
