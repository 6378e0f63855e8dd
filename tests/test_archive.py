"""Checkpoint files: whole or not at all, and never trusted."""

import hashlib
import io
import json
import os
import pickle
import re
import signal
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits.models import Scripted
from kits.programs import Run, environment
from numpy.testing import assert_array_equal

from parallel_lenet import Adam, CheckpointError, Coordinator
from parallel_lenet.archive import load, save

ARRAYS = {"parameters": np.arange(5, dtype=np.float32), "optimizer.m": np.array([1e-300, -0.0, np.nan])}
METADATA = {"format": 1, "note": "ü", "nested": [1, 2.5, None, {"a": True}]}
on_posix = pytest.mark.skipif(os.name != "posix", reason="as on POSIX")


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_with_header(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


GOOD = {"parameters.npy": npy(ARRAYS["parameters"]), "metadata.npy": npy(np.frombuffer(b'{"format": 1}', np.uint8))}


def seal(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file as someone with ill intent would write it: with any content, and a right checksum."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = b"0" * 64
    return sign(buffer.getvalue()[:-64])


def sign(content: bytes) -> bytes:
    return content + hashlib.sha256(content).hexdigest().encode()


# What is saved is what is loaded.


def test_arrays_and_metadata_come_back_bit_for_bit(tmp_path: Path) -> None:
    save(tmp_path / "c.npz", ARRAYS, METADATA)
    arrays, metadata = load(str(tmp_path / "c.npz"))
    assert metadata == METADATA
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].tobytes() == array.tobytes()
        assert not arrays[name].flags.writeable


def test_numpy_opens_the_file_without_this_package(tmp_path: Path) -> None:
    save(tmp_path / "c.npz", ARRAYS, METADATA)
    with np.load(tmp_path / "c.npz", allow_pickle=False) as file:
        assert_array_equal(file["parameters"], ARRAYS["parameters"])
        assert json.loads(file["metadata"].tobytes()) == METADATA


def test_a_sealed_file_of_the_right_form_is_accepted(tmp_path: Path) -> None:
    # So that what is refused below is refused for what is wrong with it.
    (tmp_path / "c.npz").write_bytes(seal(GOOD))
    assert load(tmp_path / "c.npz")[1] == {"format": 1}


# Damage.


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    save(path, {"parameters": ARRAYS["parameters"]}, {"format": 1})
    content = path.read_bytes()
    bits = [(position, 1 << position % 8) for position in range(len(content))]
    case = [(position, 0x20) for position in range(len(content) - 64, len(content))]  # Of the checksum's letters.
    for position, flip in bits + case:
        damaged = bytearray(content)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is damaged, or not a checkpoint"):
            load(path)


def test_every_truncation_and_every_addition_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    save(path, {"parameters": ARRAYS["parameters"]}, {"format": 1})
    content = path.read_bytes()
    for wrong in [*(content[:length] for length in range(len(content))), content + b"\0", content[1:], content * 2]:
        path.write_bytes(wrong)
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            load(path)


@pytest.mark.parametrize("what", ["nothing", "folder", "pipe"])
def test_what_cannot_be_read_is_named(tmp_path: Path, what: str) -> None:
    path = tmp_path / "c.npz"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        if os.name != "posix":
            pytest.skip("pipes as POSIX has them")
        os.mkfifo(path)  # Nobody writes to it: to open it would wait for ever.
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: can't be read: ")):
        load(path)


# Malice: files whose checksum is right.


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


def _header(descr: str, shape: str) -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


def _lying_sizes() -> bytes:
    """A directory that promises 4 GB where there are a few bytes."""
    content = bytearray(seal(GOOD)[:-64])
    entry = content.index(b"PK\x01\x02")
    struct.pack_into("<II", content, entry + 20, 2**32 - 2, 2**32 - 2)
    return sign(bytes(content))


def _overlapping() -> bytes:
    """300 members that are one and the same 256 KB: the extra field of each header hides the headers after it."""
    data = npy(np.zeros(2**16, np.float32))
    names = [b"x%03d.npy" % i for i in range(300)]
    length = 30 + len(names[0])
    fields = (0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(names[0]))
    headers, directory = b"", b""
    for i, name in enumerate(names):
        extra = length * (len(names) - 1 - i)
        headers += b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, *fields, extra) + name
        directory += b"PK\x01\x02" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, *fields, 0, 0, 0, 0, 0, length * i) + name
    end = struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(directory), len(headers + data), 64)
    return sign(headers + data + directory + b"PK\x05\x06" + end)


def _encrypted() -> bytes:
    content = bytearray(seal(GOOD)[:-64])
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    return sign(bytes(content))


MALICE = {
    "compressed bomb": lambda: seal({**GOOD, "bomb.npy": npy(np.zeros(2**24, np.uint8))}, zipfile.ZIP_DEFLATED),
    "object array": lambda: seal({**GOOD, "x.npy": npy(np.array([Trap()], object))}),
    "pickle": lambda: seal({**GOOD, "x.npy": pickle.dumps(Trap())}),
    "pickle for a header": lambda: seal({**GOOD, "x.npy": npy_with_header("__import__('os').mkdir('sprung')")}),
    "header promises more": lambda: seal({**GOOD, "x.npy": npy_with_header(_header("'<f4'", "(10**11,)"), b"1234")}),
    "header promises much more": lambda: seal(
        {**GOOD, "x.npy": npy_with_header(_header("'<f4'", "(1000000000000,)"), b"1234")}
    ),
    "header promises less": lambda: seal({**GOOD, "x.npy": npy_with_header(_header("'<f4'", "(1,)"), b"12345678")}),
    "negative shape": lambda: seal({**GOOD, "x.npy": npy_with_header(_header("'<f4'", "(-1,)"), b"1234")}),
    "no shape": lambda: seal({**GOOD, "x.npy": npy_with_header(_header("'<f4'", "()"), b"1234")}),
    "matrix": lambda: seal({**GOOD, "x.npy": npy(np.zeros((2, 2), np.float32))}),
    "text": lambda: seal({**GOOD, "x.npy": npy(np.array(["abc"]))}),
    "record": lambda: seal({**GOOD, "x.npy": npy(np.zeros(2, [("a", "<f4"), ("b", "O")]))}),
    "no such type": lambda: seal({**GOOD, "x.npy": npy_with_header(_header("'<q9'", "(1,)"))}),
    "nested header": lambda: seal({**GOOD, "x.npy": npy_with_header("(" * 9000)}),
    "other version": lambda: seal({**GOOD, "x.npy": npy_with_header(_header("'<f4'", "(0,)"), version=b"\x03\x00")}),
    "no header": lambda: seal({**GOOD, "x.npy": b""}),
    "no metadata": lambda: seal({"parameters.npy": GOOD["parameters.npy"]}),
    "metadata no JSON": lambda: seal({**GOOD, "metadata.npy": npy(np.frombuffer(b"{", np.uint8))}),
    "metadata no text": lambda: seal({**GOOD, "metadata.npy": npy(np.frombuffer(b"\xff\xfe", np.uint8))}),
    "metadata no object": lambda: seal({**GOOD, "metadata.npy": npy(np.frombuffer(b"[]", np.uint8))}),
    "deep metadata": lambda: seal({**GOOD, "metadata.npy": npy(np.frombuffer(b"[" * 10**6, np.uint8))}),
    "metadata with NaN": lambda: seal({**GOOD, "metadata.npy": npy(np.frombuffer(b'{"a": NaN}', np.uint8))}),
    "long number": lambda: seal({**GOOD, "metadata.npy": npy(np.frombuffer(b'{"a": ' + b"9" * 5000 + b"}", np.uint8))}),
    "nested metadata": lambda: seal(
        {**GOOD, "metadata.npy": npy(np.frombuffer(b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}", np.uint8))}
    ),
    "overlapping members": _overlapping,
    "sizes that lie": _lying_sizes,
    "encrypted": _encrypted,
    "no archive": lambda: sign(b"not an archive at all"),
    "nothing at all": lambda: sign(b""),
}


@pytest.mark.parametrize("make", MALICE.values(), ids=MALICE.keys())
def test_a_crafted_file_is_refused_runs_nothing_and_takes_little_memory(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.npz"
    path.write_bytes(make())
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not Path("sprung").exists()
    assert peak < 4 * path.stat().st_size + 2**22


METADATA_CHANGES: dict[str, Any] = {
    "format": 3,
    "layout": [["weight", 50]],
    "settings": [],
    "step": -1,
    "epoch": "1",
    "cursor": 1.5,
    "sums": [1, 2, 3, 4, 5],
    "seconds": "long",
    "history": [{"epoch": 1}],
    "user": 5,
    "seconds ": 10**400,
    "epoch ": 10**30,
    "history ": [{"epoch": 1, "step": 1, "train_loss": [], "train_accuracy": 1, "seconds": 1, "images_per_second": 1}],
    "sums ": [1.0, 10**400, True],
}


@pytest.mark.parametrize("missing", [False, True], ids=["wrong", "missing"])
@pytest.mark.parametrize("key", METADATA_CHANGES)
def test_a_coordinator_refuses_wrong_or_missing_metadata_and_stays_as_it_was(
    tmp_path: Path, key: str, missing: bool
) -> None:
    path = tmp_path / "c.npz"
    coordinator = Coordinator(Scripted(), Adam(), engine="serial")
    coordinator.save(path)
    arrays, metadata = load(path)
    metadata[key.strip()] = METADATA_CHANGES[key]
    if missing:
        del metadata[key.strip()]
    save(path, arrays, metadata)
    before = coordinator._state
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        coordinator.load(path)
    assert coordinator._state is before


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": None},
        {"parameters": np.zeros(49, np.float32)},
        {"parameters": np.zeros(50, np.float64)},
        {"parameters": np.zeros(50, np.uint8)},
        {"optimizer.SLOT": None},
        {"optimizer.SLOT": np.zeros(49, np.float32)},
        {"optimizer.SLOT": np.zeros(50, np.uint8)},
    ],
    ids=lambda change: "-".join(f"{k} {'missing' if v is None else (v.dtype, v.size)}" for k, v in change.items()),
)
def test_a_coordinator_refuses_wrong_or_missing_vectors(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "c.npz"
    coordinator = Coordinator(Scripted(), Adam(), engine="serial")
    coordinator.save(path)
    arrays, metadata = load(path)
    slot = next(name for name in arrays if name.startswith("optimizer."))
    changed = arrays | {name.replace("optimizer.SLOT", slot): value for name, value in change.items()}
    save(path, {name: value for name, value in changed.items() if value is not None}, metadata)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        coordinator.load(path)


# Whole or not at all.


def test_a_new_checkpoint_replaces_the_old_one_and_leaves_no_other_file(tmp_path: Path) -> None:
    for note in ("old", "new"):
        save(tmp_path / "c.npz", ARRAYS, {"note": note})
    assert load(tmp_path / "c.npz")[1] == {"note": "new"}
    assert os.listdir(tmp_path) == ["c.npz"]


def test_metadata_that_json_does_not_know_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    save(tmp_path / "c.npz", ARRAYS, {"note": "old"})
    with pytest.raises(TypeError, match="JSON"):
        save(tmp_path / "c.npz", ARRAYS, {"note": object()})
    assert load(tmp_path / "c.npz")[1] == {"note": "old"}


@on_posix
def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_other(run: Run, tmp_path: Path) -> None:
    save(tmp_path / "c.npz", ARRAYS, {"note": "old"})
    program = """
import resource
import numpy as np
from parallel_lenet.archive import save
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    save("c.npz", {"parameters": np.zeros(100_000)}, {})
except OSError as error:
    print(error.strerror)
"""
    assert run("-c", program).stdout == os.strerror(27) + "\n"
    assert load(tmp_path / "c.npz")[1] == {"note": "old"}
    assert os.listdir(tmp_path) == ["c.npz"]


def test_a_folder_that_does_not_exist_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none"):
        save(tmp_path / "none" / "c.npz", ARRAYS, {})


@pytest.mark.slow
@on_posix
def test_a_program_killed_while_saving_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    save(path, ARRAYS, {"number": -1})
    program = """
import itertools, sys
import numpy as np
from parallel_lenet.archive import save
for number in itertools.count():
    save(sys.argv[1], {"parameters": np.full(300_000, number, np.float32)}, {"number": number})
    print(number, flush=True)
"""
    for delay in (0.0, 0.013, 0.029):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], env=environment(), stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        arrays, metadata = load(path)
        assert set(arrays["parameters"].tolist()) == {metadata["number"]}


@on_posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_files_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        save(tmp_path / "c.npz", ARRAYS, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "c.npz").stat().st_mode) == mode


@on_posix
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    for mode in (0o600, 0o640, 0o444):
        save(path, ARRAYS, {})
        path.chmod(mode)
        save(path, ARRAYS, {})
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.name == "nt", reason="files without their blocks")
def test_a_large_file_that_is_not_a_checkpoint_is_not_read(tmp_path: Path) -> None:
    for start in (b"", b"PK\x03\x04"):
        (tmp_path / "large.npz").write_bytes(start)
        os.truncate(tmp_path / "large.npz", 10**11)
        with pytest.raises(CheckpointError, match="is damaged, or not a checkpoint: its content doesn't match its"):
            load(tmp_path / "large.npz")
