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
from parallel_lenet.datasets.idx import TYPES, read_idx

CODES = {np.dtype(name).newbyteorder("="): code for code, name in TYPES.items()}
IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([0, 1], np.uint8)


def header(code: int, shape: tuple[int, ...]) -> bytes:
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def idx(array: NDArray[Any]) -> bytes:
    return header(CODES[array.dtype], array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def read(content: bytes) -> NDArray[Any]:
    """Read the bytes as a file. Hypothesis calls a test often, so it can't use pytest's folder."""
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
        (
            packed(header(0x08, (2**32 - 1,))),
            "but [0-9]+ bytes of gzip may unpack to 100000000 at most; unpack it with gunzip",
        ),
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
    with pytest.raises(DatasetError, match="missing: cannot be read: No such file"):
        read_idx(tmp_path / "missing")
    with pytest.raises(DatasetError, match="not a regular file"):
        read_idx(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DatasetError, match="pipe: not a regular file"):
        read_idx(tmp_path / "pipe")
