"""Images as PNG files, without any library."""

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode(pixels: NDArray[Any]) -> bytes:
    """A PNG file of uint8 pixels ``(h, w)``, ``(h, w, 1)`` or ``(h, w, 3)``; ValueError for any other array."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in (1, 3) or not pixels.size:
        raise ValueError(f"an image must be uint8 of shape (h, w) or (h, w, 3), not {pixels.dtype} of {pixels.shape}")
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # Filter 0: as they are.
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
