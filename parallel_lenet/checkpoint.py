"""Checkpoints: one file, written whole or not at all, read without trusting it.

The file is an uncompressed ``.npz``: `numpy.load` opens it. It holds vectors, and ``metadata``, a JSON text as bytes.
The archive's comment, the last 64 bytes of the file, is the SHA-256 of all bytes before it. So any flipped or missing
byte is noticed, wherever it is. Nothing is unpickled, and nothing is allocated on the word of a header: every array is
a view of the bytes that were read.
"""

import hashlib
import io
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_DIGEST = 64  # Hexadecimal digits of a SHA-256.
_DTYPES = ("<f4", "<f8", "|u1")


class CheckpointError(ValueError):
    """A checkpoint that can't be used: the message names the file and what is wrong with it."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file, or leave it as it was: a temporary file beside it, flushed to the disk, then renamed.

    A new file's permissions follow the umask, as with `open`; a replaced one keeps its own. OSError, which names the
    file, where it can't be written.
    """
    try:
        _write(path, content)
    except OSError as error:  # Which names the temporary file, or none at all where the disk is full.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _write(path: Path, content: bytes) -> None:
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            if path.exists():
                shutil.copymode(path, temporary)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # The rename itself is on the disk once the folder is; Windows can't open folders.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def save(path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Write flat float vectors and JSON metadata; OSError where the file can't be written, which leaves the old one."""
    members = dict(arrays, metadata=np.frombuffer(json.dumps(metadata).encode(), np.uint8))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **members)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"0" * _DIGEST
    content = buffer.getvalue()[:-_DIGEST]
    write_atomically(Path(path), content + hashlib.sha256(content).hexdigest().encode())


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """The vectors (read-only) and the metadata; CheckpointError where the file is missing, damaged or no checkpoint."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from error
    if hashlib.sha256(content[:-_DIGEST]).hexdigest().encode() != content[-_DIGEST:]:
        raise CheckpointError(f"{path}: is damaged, or no checkpoint: its content doesn't match its checksum")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays = {info.filename.removesuffix(".npy"): _member(archive, info) for info in archive.infolist()}
        metadata = json.loads(arrays.pop("metadata").tobytes())
    except (
        Exception
    ) as error:  # Of a crafted file the parsers raise anything: TokenError, struct.error, RecursionError.
        raise CheckpointError(f"{path}: is no checkpoint: {error}") from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: is no checkpoint: its metadata is no JSON object")
    return arrays, metadata


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    """An array of the archive; ValueError unless it is a plain vector exactly as long as its header says."""
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
