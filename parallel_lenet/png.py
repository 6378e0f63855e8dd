"""Writes images as PNG files, without any library."""

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # The format's numbers, by the number of channels.


def encode(pixels: NDArray[Any]) -> bytes:
    """A PNG file of uint8 pixels ``(h, w)`` or ``(h, w, c)``. Raises ValueError for any other array.

    ``c`` is 1 for grey, 3 for colours, and 4 for colours and opacity.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in COLOUR_TYPES or not pixels.size:
        raise ValueError(
            f"an image must be uint8 of shape (h, w), (h, w, 3) or (h, w, 4), got {pixels.dtype} of {pixels.shape}"
        )
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # Filter 0: unchanged.
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
