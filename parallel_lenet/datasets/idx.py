"""IDX files, the format of MNIST: four bytes of type and dimensions, the sizes, then the values, all big-endian.

The format: http://yann.lecun.com/exdb/mnist/. Files may be anyone's and are believed in nothing: a header's sizes are
compared with the file before memory is set aside for them, and a gzip stream is never unpacked further than one byte
beyond what its header announces.
"""

import math
import os
import stat
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.datasets.dataset import Dataset, DatasetError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
ROLES = ("train-images", "train-labels", "t10k-images", "t10k-labels")
MAX_DIMENSIONS = 4
# Deflate packs at most 1032 bytes in one (258 in two bits), so a header that asks for more than that is a lie.
MAX_RATIO = 1100
# Each class costs a row of the model. Beyond this they are most likely 32-bit labels stored little-endian: 1 is 2**24.
MAX_CLASSES = 1_000_000
CHUNK = 1 << 16


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Return the array an IDX file holds, gzipped or not (told by its content), in native byte order.

    Values are of any IDX type, in one to four dimensions, none of them zero. Raises DatasetError when the file can't be
    read, isn't IDX, or holds another number of bytes than its header says.
    """
    try:
        # Asked before opening: to open a pipe waits for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DatasetError(f"{path}: not a regular file")
        with open(path, "rb") as file:
            return _read_array(file, path)
    except OSError as error:
        raise DatasetError(f"{path}: can't be read: {error.strerror or error}") from error
    except zlib.error as error:
        raise DatasetError(f"{path}: corrupt gzip data ({error})") from error


def read_folder(directory: str | os.PathLike[str]) -> tuple[Dataset, Dataset]:
    """Return the training and the test part of a folder that holds four IDX files.

    They are named as MNIST's: ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
    ``t10k-labels-idx1-ubyte``, with or without ``.gz`` (where both exist, the one without is read); ``.idx3`` for
    ``-idx3`` and ``idx4`` for colour images are understood too. What they may hold: see `read_files`.
    """
    try:
        present = set(os.listdir(directory))
    except OSError as error:
        raise DatasetError(f"{directory}: can't be read as a folder: {error.strerror or error}") from error
    paths = []
    for role in ROLES:
        ranks = (3, 4) if role.endswith("images") else (1,)
        names = [f"{role}{dot}idx{rank}-ubyte{gz}" for gz in ("", ".gz") for rank in ranks for dot in "-."]
        found = next((name for name in names if name in present), None)
        if found is None:
            raise DatasetError(f"{directory}: holds no {names[0]} or {names[0]}.gz")
        paths.append(Path(directory, found))
    return read_files(paths, str(directory))


def read_files(paths: list[Path], name: str) -> tuple[Dataset, Dataset]:
    """Return the training and the test part held by four IDX files, given in the order of ``ROLES``.

    Images are uint8, or float32 or float64 and finite: ``(n, h, w)``, ``(n, h, w, 1)``, which becomes ``(n, h, w)``, or
    ``(n, h, w, 3)``, which becomes ``(n, 3, h, w)``. Labels are integers of any IDX type from 0 on, and become int64.
    Raises DatasetError when one isn't so, when images and labels differ in number, training and test images in size or
    type, or when a test label is of a class that no training label reaches.
    """
    train_images, test_images = _read_images(paths[0]), _read_images(paths[2])
    train_labels, test_labels = _read_labels(paths[1]), _read_labels(paths[3])
    for images, labels, where in ((train_images, train_labels, 0), (test_images, test_labels, 2)):
        if len(images) != len(labels):
            raise DatasetError(
                f"{paths[where + 1]}: {len(labels)} labels for the {len(images)} images of {paths[where]}"
            )
    if (train_images.shape[1:], train_images.dtype) != (test_images.shape[1:], test_images.dtype):
        raise DatasetError(
            f"{paths[2]}: images are {test_images.shape[1:]} {test_images.dtype}, "
            f"those of {paths[0]} {train_images.shape[1:]} {train_images.dtype}; both must be the same"
        )
    if test_labels.max() > train_labels.max():
        raise DatasetError(
            f"{paths[3]}: label {test_labels.max()} is out of range; {paths[1]} names classes 0 to {train_labels.max()}"
        )
    return Dataset(train_images, train_labels, f"{name} train"), Dataset(test_images, test_labels, f"{name} test")


def _read_images(path: Path) -> NDArray[Any]:
    images = read_idx(path)
    if images.dtype not in (np.uint8, np.float32, np.float64):
        raise DatasetError(f"{path}: pixels are {images.dtype}; allowed are uint8, float32 and float64")
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise DatasetError(f"{path}: pixels hold NaN or infinity; all must be finite")
    if images.ndim == 4 and images.shape[3] == 1:
        return images[..., 0]
    if images.ndim == 4 and images.shape[3] == 3:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.ndim != 3:
        raise DatasetError(f"{path}: images are {images.shape}; allowed are (n, h, w), (n, h, w, 1) and (n, h, w, 3)")
    return images


def _read_labels(path: Path) -> NDArray[np.int64]:
    labels = read_idx(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DatasetError(f"{path}: labels are {labels.shape} {labels.dtype}; allowed are integers in one dimension")
    for label in (labels.min(), labels.max()):
        if not 0 <= label < MAX_CLASSES:
            raise DatasetError(f"{path}: label {label} is out of range; allowed are 0 to {MAX_CLASSES - 1}")
    return labels.astype(np.int64)


def _read_array(file: BinaryIO, path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read header and values; ``file`` stands at its start."""
    stored = os.fstat(file.fileno()).st_size
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream = _Gunzip(file) if zipped else file

    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= MAX_DIMENSIONS:
        types = ", ".join(f"{code:02x}" for code in TYPES)
        raise DatasetError(
            f"{path}: not an IDX file; it starts with the bytes {magic.hex(' ') or '(none)'}, "
            f"not with 00 00, a type ({types}) and a number of dimensions (1 to {MAX_DIMENSIONS})"
        )
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DatasetError(f"{path}: truncated inside its header")
    # Python's integers: a product of dimensions can't overflow.
    shape = tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4))
    if 0 in shape:
        raise DatasetError(f"{path}: holds no values; its header says {shape}")
    dtype = np.dtype(TYPES[magic[2]])
    wanted = math.prod(shape) * dtype.itemsize
    says = f"its header says {shape} {dtype.newbyteorder('=')}, {wanted} bytes of values"

    if zipped and wanted > MAX_RATIO * stored:
        raise DatasetError(f"{path}: {says}, more than {stored} bytes of gzip can hold")
    if not zipped and wanted != stored - 4 - len(sizes):
        raise DatasetError(f"{path}: {says}, but {stored - 4 - len(sizes)} follow")
    values = stream.read(wanted)
    if len(values) < wanted:
        raise DatasetError(f"{path}: truncated; {says}, but {len(values)} follow")
    if stream.read(1):
        raise DatasetError(f"{path}: {says}, but more follow")
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="))


class _Gunzip:
    """Unpacks a gzip file to the byte asked for, holding no more of it than a chunk.

    Unlike ``gzip.GzipFile`` it doesn't let bytes pass that follow the stream, not even zeros. Further gzip members,
    which the format allows, are unpacked as part of the stream. zlib checks each member's checksum where it ends.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._packed = b""
        self._member = zlib.decompressobj(wbits=31)

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, fewer only at the end of the stream or where the file is cut."""
        # Grows with what really comes out, whatever size a header made the caller ask for.
        values = bytearray()
        while len(values) < size:
            self._packed = self._packed or self._file.read(CHUNK)
            if not self._packed and self._member.eof:
                break
            if not self._packed:
                raise zlib.error("it is cut off")
            if self._member.eof:
                self._member = zlib.decompressobj(wbits=31)
            values += self._member.decompress(self._packed, size - len(values))
            self._packed = self._member.unconsumed_tail or self._member.unused_data
        return bytes(values)
