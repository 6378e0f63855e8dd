"""The file format of a checkpoint: vectors and metadata. It is written completely or not at all, and not trusted.

The file is an uncompressed ``.npz``, which `numpy.load` opens. It has vectors, and ``metadata``, a JSON text as bytes.
The archive's comment, the last 64 bytes of the file, is the SHA-256 of all bytes before it, so that `load` notices
every changed or missing byte. Nothing is unpickled. No header decides how much memory is allocated, since each array is
a view of the bytes that were read. `checkpoint` defines the content.
"""

import hashlib
import io
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.checks import quoted
from parallel_lenet.files import write_atomically
from parallel_lenet.jsonable import json_value

Array = NDArray[Any]
Arrays = dict[str, Array]

_DIGEST = 64  # Hexadecimal digits of a SHA-256.
_DTYPES = ("<f4", "<f8", "|u1")


class CheckpointError(ValueError):
    """A checkpoint that can't be used. The message names the file and says what is wrong."""


def path_string(path: object) -> str:
    """The path as a string. Raises TypeError for anything else: the system takes a number for an open file."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a string or a path object, such as 'lenet.npz', got {quoted(path)}")
    return os.fsdecode(path)


def save(path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Write flat float vectors and JSON metadata.

    Raises TypeError or ValueError if JSON can't hold the metadata (see `json_value`), and OSError if the file can't be
    written. After an error, a file that was there before is unchanged.
    """
    target = Path(path_string(path))
    text = json.dumps(json_value("metadata", metadata), allow_nan=False)
    members = dict(arrays, metadata=np.frombuffer(text.encode(), np.uint8))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **members)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"0" * _DIGEST
    content = buffer.getvalue()[:-_DIGEST]
    write_atomically(target, content + hashlib.sha256(content).hexdigest().encode())


def load(path: str | os.PathLike[str]) -> tuple[Arrays, dict[str, Any]]:
    """The vectors (read-only) and the metadata.

    Raises CheckpointError if the file is missing, damaged or not a checkpoint.
    """
    path = path_string(path)
    try:
        # Checked before opening, since opening a pipe waits for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CheckpointError(f"{path}: can't be read: it is not a regular file")
        with open(path, "rb") as file:
            content = file.read() if _looks_like_checkpoint(file) else b""
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from error
    if hashlib.sha256(memoryview(content)[:-_DIGEST]).hexdigest().encode() != content[-_DIGEST:]:
        raise CheckpointError(f"{path}: is damaged, or not a checkpoint: its content doesn't match its checksum")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > len(content):
                raise ValueError("its members overlap")
            arrays = {info.filename.removesuffix(".npy"): _member(archive, info) for info in infos}
        metadata = json.loads(
            arrays.pop("metadata").tobytes(), parse_constant=_refuse_constant, parse_float=_finite_number
        )
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is not a JSON object")
        json_value("metadata", metadata)  # Refuses nesting and integers that `save` would refuse too.
    except Exception as error:  # The parsers raise anything for a crafted file: TokenError, RecursionError, ...
        raise CheckpointError(f"{path}: is not a checkpoint: {' '.join(str(error).split())[:200]}") from error
    return arrays, metadata


def _looks_like_checkpoint(file: BinaryIO) -> bool:
    """Whether the file has a checkpoint's first and last bytes. Others, which may have gigabytes, are not read."""
    if file.seek(0, os.SEEK_END) < _DIGEST:
        return False
    file.seek(-_DIGEST, os.SEEK_END)
    last = file.read()
    file.seek(0)
    first = file.read(4)
    file.seek(0)
    return first == b"PK\x03\x04" and re.fullmatch(b"[0-9a-f]{64}", last) is not None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"its metadata holds {name}, which is not JSON")


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"its metadata holds {text[:20]}, which is too large")
    return value


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    """An array of the archive. Raises ValueError unless it is a plain vector exactly as long as its header says."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{info.filename} is compressed")
    stream = io.BytesIO(archive.read(info))
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{info.filename} has a header of another version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.str not in _DTYPES or len(shape) != 1:
        raise ValueError(f"{info.filename} has shape {shape} and type {dtype.str}")
    data = stream.read()
    if shape[0] * dtype.itemsize != len(data):
        raise ValueError(f"{info.filename} holds {len(data)} bytes, its header says {shape[0] * dtype.itemsize}")
    return np.frombuffer(data, dtype)
