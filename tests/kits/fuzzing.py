"""Hostile files: valid ones mutated at random, from a seed. ``attack("idx", 20_000, seed=1)`` tries 20,000.

A mutated file may be refused with one sentence, or read. Anything else is a fault: another exception, or a file written
outside of the folder. Run it in a process whose memory is limited, as test_fuzzing.py does.
"""

import contextlib
import copy
import gzip
import hashlib
import io
import json
import os
import random
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from parallel_lenet import SGD, CheckpointError, Coordinator, DatasetError, lenet5, load_model
from parallel_lenet.cli import _config, main
from parallel_lenet.cli._options import UsageError
from parallel_lenet.datasets.folder import NAMES, read_folder

NUMBERS = ("0", "-1", "1", "1e400", "-1e400", "NaN", "1e308", "2147483648", "18446744073709551616", "9" * 5000, "0.5")
VALUES = (
    *(
        "null",
        "true",
        '""',
        "[]",
        "{}",
        '"\\u0000"',
        '"\\ud800"',
        '"float32"',
        '"../../x"',
        '"/dev/zero"',
        '"processes"',
    ),
    *("[" * 500 + "]" * 500, "[" * 100_000 + "]" * 100_000, '{"a":' * 300 + "1" + "}" * 300, f'"{"x" * 10_000}"'),
    *("[[]]", "[1,2,3,4,5]", "1" + "0" * 400, '{"class": "Images"}', '[["weight", [1]]]', '"dask"', '"tcp://h:1"'),
)
Mutation = Callable[[bytes, random.Random], bytes]


class Raw(str):
    """A JSON text that stands for a value, which `json` itself could not write."""


def damage(content: bytes, rng: random.Random) -> bytes:
    """Bits flipped, a part cut out, doubled, moved or overwritten."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        a, b = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        if rng.random() < 0.5:  # Near the beginning or the end, where the headers are.
            a = rng.choice((0, max(0, len(data) - 300))) + rng.randrange(200)
            b = a + rng.choice((1, 2, 4, 8))
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[min(a, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[a:]
        elif kind == 2:
            del data[a:b]
        elif kind == 3:
            data[a:a] = data[a:b][:5000]
        elif kind == 4:
            data[a:b] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * min(b - a, 8)
        else:
            data[a : a + 4] = struct.pack(rng.choice("<>") + "I", rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 1000)))
    return bytes(data)


def sign(content: bytes) -> bytes:
    """A checkpoint with its checksum made anew, as an attacker would."""
    return content[:-64] + hashlib.sha256(content[:-64]).hexdigest().encode()


def dumps(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{dumps(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumps, value)) + "]"
    return json.dumps(value)


def _place(node: Any, rng: random.Random) -> tuple[Any, Any]:
    """A part of a JSON value: each part of the whole is as likely as the others, however large they are."""
    while True:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.2:
            return node, key
        node = node[key]


def edit(value: Any, rng: random.Random) -> Any:
    """A JSON value with one part of it replaced, removed, doubled or added."""
    value = copy.deepcopy(value)
    node, key = _place(value, rng)
    kind = rng.randrange(8)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, list):
        node.extend(node * rng.choice((1, 100)))
    elif kind == 1:
        node[rng.choice(("extra", "class", "", "__class__"))] = Raw(rng.choice(VALUES))
    elif kind == 2:
        other, place = _place(value, rng)
        node[key] = copy.deepcopy(other[place])
    else:
        node[key] = Raw(rng.choice(VALUES if rng.random() < 0.5 else NUMBERS))
    return value


def npy(array: np.ndarray[Any, Any], rng: random.Random) -> bytes:
    """An array's file, sometimes with a header that lies."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    content = buffer.getvalue()
    if rng.random() < 0.3:
        shape = str(array.shape)
        dtype = repr(array.dtype.str)
        shapes = ("(-1,)", "(99999999999,)", "()", "(2, 3)", f"({'9' * 4000},)", "(1.5,)", "None")
        dtypes = ("'|O'", "'>f4'", "'<f2'", "'<U4'", "[('a', '<f4')]", "'<f8'", "None", "'|V100000000'")
        header = content[10:].split(b"\n")[0].decode()
        header = header.replace(shape, rng.choice((shape, *shapes))).replace(dtype, rng.choice((dtype, *dtypes)))
        body = content[10:].split(b"\n", 1)[1]
        text = header.encode() + b"\n"
        content = content[:8] + struct.pack("<H", len(text) % 65536) + text + body
    return damage(content, rng) if rng.random() < 0.1 else content


def hostile_checkpoint(content: bytes, rng: random.Random) -> bytes:
    """A checkpoint that was damaged, or crafted with a right checksum."""
    kind = rng.randrange(10)
    if kind == 0:
        return damage(content, rng)
    if kind == 1:
        return sign(damage(content, rng))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    arrays = {name.removesuffix(".npy"): np.load(io.BytesIO(data)) for name, data in members.items()}
    metadata = json.loads(arrays.pop("metadata").tobytes())
    for _ in range(rng.choice((1, 1, 1, 3))):
        if kind < 7:
            metadata = edit(metadata, rng)
    if kind >= 6:
        name = rng.choice(sorted(arrays))
        array = arrays.pop(name)
        changed: list[Any] = [array[:-1], array.astype("<f8"), np.full_like(array, np.nan), array[:0], array.view("u1")]
        if rng.random() < 0.8:
            arrays[rng.choice((name, name, "../x", "metadata"))] = rng.choice((array, *changed))
    text = dumps(metadata) if not isinstance(metadata, Raw) else str(metadata)
    arrays["metadata"] = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    buffer = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if rng.random() < 0.03 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", npy(array, rng))
        if rng.random() < 0.05:  # Many members that share their bytes.
            info = archive.infolist()[0]
            for i in range(1000):
                twin = copy.copy(info)
                twin.filename = f"{i}.npy"
                archive.filelist.append(twin)
        archive.comment = b"0" * 64
    return sign(buffer.getvalue())


def hostile_idx(content: bytes, rng: random.Random) -> bytes:
    """An IDX file that was damaged, gzipped or not, or whose header lies."""
    if rng.random() < 0.3:
        rank = content[3]
        sizes = [
            rng.choice((0, 1, 2, 28, 2**16, 2**31, 2**32 - 1, 100_000_000)) for _ in range(rng.choice((rank, rank, 5)))
        ]
        body = content[4 + 4 * rank :]
        content = bytes([0, 0, rng.choice((8, 9, 11, 12, 13, 14, 7)), len(sizes)])
        content += struct.pack(f">{len(sizes)}I", *sizes) + body
    elif rng.random() < 0.6:
        content = damage(content, rng)
    if rng.random() < 0.1:
        content += bytes(rng.choice((10_000, 2_000_000)))
    if rng.random() < 0.5:
        content = gzip.compress(content, 1, mtime=0)
        if rng.random() < 0.5:
            content = damage(content, rng)
    return content


def hostile_config(content: bytes, rng: random.Random) -> bytes:
    """A configuration with other values, keys or bytes."""
    if rng.random() < 0.3:
        return damage(content, rng)
    lines = content.decode().splitlines()
    place = rng.randrange(len(lines))
    key = lines[place].split("=")[0]
    value = rng.choice((*NUMBERS, *VALUES, "inf", "nan", "1979-05-27", "[[a]]", "'''", "0x" + "f" * 4000, "''", "-0"))
    lines[place] = rng.choice((f"{key} = {value}", f"{value} = 1", f"[{key}]", f"{key}.a.b = {value}", ""))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


class Target:
    """What is attacked: good files in a folder, and what reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = lenet5(kernel="im2col", classes=3)
        folder.joinpath("data").mkdir()
        for name in NAMES:
            array = np.arange(6 * 28 * 28, dtype=np.uint8).reshape(6, 28, 28) if "images" in name else np.arange(6) % 3
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / "data" / name).write_bytes(
                bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()
            )

    def files(self, kind: str) -> list[Path]:
        """The files that are mutated."""
        if kind == "idx":
            return [self.folder / "data" / name for name in NAMES]
        run = self.folder / "run"
        command = ["train", "--data-dir", str(self.folder / "data"), "--max-steps", "3", "--batch-size", "4"]
        command += ["--kernel", "im2col", "--engine", "serial", "--optimizer", "sgd", "--quiet", "--out", str(run)]
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(command) == 0
        names = {"config": "config.toml", "metrics": "metrics.jsonl", "checkpoint": "checkpoint.npz"}
        return [run / names[kind]]

    def read(self, kind: str, file: Path, rng: random.Random) -> None:
        """Read the file in one of the library's ways. Raises the library's errors."""
        if kind == "idx":
            read_folder(file.parent)
        elif kind == "config":
            _config.read(str(file))
        elif kind == "checkpoint" and rng.random() < 0.5:
            with Coordinator(self.model, SGD(), engine="serial", batch_size=4) as coordinator:
                coordinator.load(file)
        elif kind == "checkpoint" and rng.random() < 0.5:
            load_model(file, kernel="im2col")
        else:
            evaluate = ["evaluate", str(file), "--engine", "serial", "--kernel", "im2col"]
            resume = ["train", "--resume", str(file.parent), "--max-steps", "3", "--quiet"]
            said = io.StringIO()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
                code = main(rng.choice((evaluate, resume)) if kind == "checkpoint" else resume)
            assert code in (0, 1, 2), code
            assert "Traceback" not in said.getvalue(), said.getvalue()


HOSTILE: dict[str, Mutation] = {
    "idx": hostile_idx,
    "checkpoint": hostile_checkpoint,
    "config": hostile_config,
    "metrics": damage,
}


def attack(kind: str, number: int, seed: int) -> list[str]:
    """Try this number of mutated files. Returns the faults, each with the number that makes it again."""
    faults: list[str] = []
    outside: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name).resolve()
        target = Target(folder)
        files = target.files(kind)
        good = {file: file.read_bytes() for file in files}

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if (
                event == "open"
                and watching
                and isinstance(arguments[0], str)
                and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            ):
                path = os.path.abspath(arguments[0])
                if not path.startswith((str(folder), os.devnull)) and "__pycache__" not in path:
                    outside.append(path)

        watching = True
        sys.addaudithook(watch)
        for i in range(number):
            rng = random.Random(f"{seed} {i}")
            file = rng.choice(files)
            file.write_bytes(HOSTILE[kind](good[file], rng))
            try:
                target.read(kind, file, rng)
            except (DatasetError, CheckpointError, UsageError) as error:
                text = str(error)
                if "\n" in text or len(text) > 2000:
                    faults.append(f"{i}: not a sentence: {text[:300]!r}")
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                at = error.__traceback__
                while at is not None and at.tb_next is not None:
                    at = at.tb_next
                where = "" if at is None else f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
                faults.append(f"{i}: {type(error).__name__}: {str(error)[:200]} ({where})")
            for each, content in good.items():
                each.write_bytes(content)
        watching = False
    return faults + [f"wrote {path}" for path in sorted(set(outside))]
