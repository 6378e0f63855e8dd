"""IDX files: what is written comes back, and nothing hostile gets further than a DatasetError."""

import gzip
import os
import struct
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from parallel_lenet.datasets import DatasetError
from parallel_lenet.datasets.idx import MAX_CLASSES, TYPES, read_folder, read_idx

CODES = {np.dtype(name).newbyteorder("="): code for code, name in TYPES.items()}
IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([0, 1], np.uint8)


def header(code: int, shape: tuple[int, ...]) -> bytes:
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def idx(array: NDArray[Any]) -> bytes:
    return header(CODES[array.dtype], array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def read(content: bytes) -> NDArray[Any]:
    """Read the bytes as a file; Hypothesis calls a test often, so it can't use pytest's folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(content)
        return read_idx(path)


arrays = hnp.arrays(
    st.sampled_from(list(CODES)),
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5),
    elements=None,
)


def packed(content: bytes) -> bytes:
    """Compressed to the same bytes at any time of day: they name tests."""
    return gzip.compress(content, mtime=0)


packings = st.sampled_from([bytes, gzip.compress])


@given(arrays, packings)
def test_round_trip(array: NDArray[Any], pack: Callable[[bytes], bytes]) -> None:
    result = read(pack(idx(array)))
    assert result.dtype == array.dtype
    assert result.dtype.isnative
    assert result.flags.c_contiguous
    assert result.shape == array.shape
    # Bytes, since NaN comes back as NaN too.
    assert result.tobytes() == array.tobytes()


@given(arrays, packings, st.data())
def test_any_cut_is_refused(array: NDArray[Any], pack: Callable[[bytes], bytes], data: st.DataObject) -> None:
    content = pack(idx(array))
    with pytest.raises(DatasetError):
        read(content[: data.draw(st.integers(0, len(content) - 1))])


@given(arrays, packings, st.binary(min_size=1, max_size=3))
def test_anything_appended_is_refused(array: NDArray[Any], pack: Callable[[bytes], bytes], rubbish: bytes) -> None:
    for content in (pack(idx(array)) + rubbish, pack(idx(array) + rubbish)):
        with pytest.raises(DatasetError):
            read(content)


@given(arrays, packings, st.data())
def test_any_byte_changed_is_refused_or_harmless(
    array: NDArray[Any], pack: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    content = bytearray(pack(idx(array)))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        result = read(bytes(content))
    except DatasetError:
        return
    assert result.size * result.itemsize <= array.nbytes + 16


@given(st.binary(max_size=40), packings)
def test_rubbish_is_refused_or_a_small_array(content: bytes, pack: Callable[[bytes], bytes]) -> None:
    try:
        result = read(pack(content))
    except DatasetError:
        return
    assert result.nbytes < len(content)


@given(
    st.sampled_from(list(TYPES)),
    st.lists(st.sampled_from([1, 2, 255, 2**16, 2**31, 2**32 - 1]), min_size=1, max_size=4).filter(
        lambda shape: np.prod(shape, dtype=object) > 10_000
    ),
    packings,
)
def test_a_lying_header_allocates_nothing(code: int, shape: list[int], pack: Callable[[bytes], bytes]) -> None:
    content = pack(header(code, tuple(shape)) + b"abc")
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError):
            read(content)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_header_that_gzip_could_just_hold_allocates_only_what_is_there() -> None:
    # Bytes that don't compress: a claim of a thousand times as much is within the ratio, and still a lie.
    noise = np.random.default_rng(0).bytes(100_000)
    content = gzip.compress(header(0x08, (100_000_000,)) + noise)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match=r"it is cut off|truncated"):
            read(content)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_bomb_is_unpacked_no_further_than_its_header_says() -> None:
    content = gzip.compress(header(0x08, (1000,)) + bytes(100_000_000), compresslevel=1)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match="but more follow"):
            read(content)
        # The file itself is 440 kB.
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_the_best_compressed_file_is_within_the_ratio() -> None:
    array = np.zeros((3000, 1000), np.uint8)
    assert np.array_equal(read(gzip.compress(idx(array), compresslevel=9)), array)


def test_several_gzip_members_are_one_stream() -> None:
    content = idx(IMAGES)
    assert np.array_equal(read(gzip.compress(content[:9]) + gzip.compress(b"") + gzip.compress(content[9:])), IMAGES)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"not an IDX file; it starts with the bytes \(none\)"),
        (b"\x89PNG\r\n", "not an IDX file; it starts with the bytes 89 50 4e 47"),
        (header(0x0A, (1,)) + b"a", "not an IDX file"),
        (header(0x08, ()) + b"a", "not an IDX file"),
        (header(0x08, (1,) * 5) + b"a", "not an IDX file"),
        (header(0x08, (2, 3))[:-1], "truncated inside its header"),
        (header(0x08, (2, 0, 3)), r"holds no values; its header says \(2, 0, 3\)"),
        (header(0x08, (2, 3)) + b"abcde", r"its header says \(2, 3\) uint8, 6 bytes of values, but 5 follow"),
        (header(0x08, (2, 3)) + b"abcdefg", r"its header says \(2, 3\) uint8, 6 bytes of values, but 7 follow"),
        (header(0x08, (2**16,) * 4) + b"a", r"18446744073709551616 bytes of values, but 1 follow"),
        (packed(header(0x08, (2**32 - 1,))), "more than [0-9]+ bytes of gzip can hold"),
        (packed(header(0x08, (2, 3)) + b"abcde"), "truncated; .* but 5 follow"),
        (packed(header(0x08, (2, 3)) + b"abcdefg"), "but more follow"),
        (packed(idx(IMAGES))[:-1], r"corrupt gzip data \(it is cut off\)"),
        (packed(idx(IMAGES))[:2], r"corrupt gzip data \(it is cut off\)"),
        (packed(idx(IMAGES))[:-8] + b"12345678", "corrupt gzip data .*incorrect data check"),
        (packed(idx(IMAGES)) + b"\0", "corrupt gzip data"),
        (packed(idx(IMAGES)) + b"rubbish", "corrupt gzip data .*incorrect header check"),
        (zlib.compress(idx(IMAGES)), "not an IDX file"),
    ],
)
def test_what_is_wrong_is_said(content: bytes, reason: str) -> None:
    with pytest.raises(DatasetError, match=rf"^\S+/file: .*{reason}") as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="missing: can't be read: No such file"):
        read_idx(tmp_path / "missing")
    with pytest.raises(DatasetError, match="not a regular file"):
        read_idx(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DatasetError, match="pipe: not a regular file"):
        read_idx(tmp_path / "pipe")


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may read everything")
def test_permission_denied(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").chmod(0)
    with pytest.raises(DatasetError, match="t10k-labels-idx1-ubyte: can't be read: Permission denied"):
        read_folder(tmp_path)
    tmp_path.chmod(0)
    try:
        with pytest.raises(DatasetError, match="can't be read as a folder: Permission denied"):
            read_folder(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def write_folder(folder: Path, **changed: NDArray[Any]) -> None:
    """Write four good files, or others for those named."""
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_images(tmp_path: Path, dtype: type) -> None:
    write_folder(tmp_path, train_images=IMAGES.astype(dtype), t10k_images=IMAGES.astype(dtype))
    train, _ = read_folder(tmp_path)
    assert train.inputs.dtype == dtype
    assert np.array_equal(train.inputs, IMAGES)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"train_labels": LABELS[:1]}, "train-labels-idx1-ubyte: 1 labels for the 2 images of .*train-images"),
        ({"t10k_images": IMAGES[:1]}, "t10k-labels-idx1-ubyte: 2 labels for the 1 images of .*t10k-images"),
        ({"t10k_images": IMAGES[:, 1:]}, r"t10k-images-idx3-ubyte: images are \(2, 4\) uint8, those of .* \(3, 4\)"),
        ({"t10k_images": IMAGES / 255}, "t10k-images-idx3-ubyte: images are .* float64, those of .* uint8"),
        ({"t10k_labels": LABELS + 1}, "t10k-labels-idx1-ubyte: label 2 is out of range; .* names classes 0 to 1"),
        ({"t10k_labels": np.array([0, -1], np.int8)}, "t10k-labels-idx1-ubyte: label -1 is out of range"),
        ({"train_labels": np.array([0, MAX_CLASSES], np.int32)}, "train-labels.*: label 1000000 is out of range"),
        ({"train_labels": LABELS.astype(np.float32)}, "train-labels.*: labels are .* float32; allowed are integers"),
        ({"train_labels": LABELS[:, None]}, r"train-labels.*: labels are \(2, 1\) uint8; allowed are integers in one"),
        ({"train_images": IMAGES.astype(np.int16)}, "train-images.*: pixels are int16; allowed are uint8"),
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
    with pytest.raises(DatasetError, match="missing: can't be read as a folder: No such file"):
        read_folder(tmp_path / "missing")
    write_folder(tmp_path)
    with pytest.raises(DatasetError, match="ubyte: can't be read as a folder: Not a directory"):
        read_folder(tmp_path / "train-images-idx3-ubyte")
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match=r"holds no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz"):
        read_folder(tmp_path)
