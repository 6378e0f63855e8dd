"""Image files, opened with Pillow.

Files are untrusted: only common formats are tried, and the pixels are counted before any is decoded.
"""

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from parallel_lenet import optional

# Formats of Pillow that neither start a program nor need another library of Python.
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM")
MOST_PIXELS = 50_000_000  # Of a file, which takes 0.4 GB while it is read. Photographs of 48 million pixels fit.
MOST_SIDE = 100_000  # Pixels of a side. A longer and thinner image takes seconds to decode and shows nothing.
PURPOSE = "reading images"


class PictureError(ValueError):
    """An image that can't be used. The message says what is wrong with it and names the file."""


@contextmanager
def open_image(source: str | os.PathLike[str] | bytes, name: str) -> Iterator[Any]:
    """The first image of a file, or of a file's bytes, as Pillow's object. ``name`` is its name in errors.

    Raises PictureError if it can't be read, also within the block, and ExtraError if Pillow is missing.
    """
    image_module = optional.load("pictures", "PIL", PURPOSE, "PIL.Image")
    image_module.init()
    formats = [each for each in FORMATS if each in image_module.OPEN]  # Pillow may be built without some.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # About oddities of files that can be read.
            # A stream, not a path: mapped into memory, TIFF files on their side come out wrong (Pillow 13.0).
            with _stream(source, name) as stream, image_module.open(stream, formats=formats) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise PictureError(
                        f"{name}: is too large: it has {width:,} x {height:,} pixels, and at most {MOST_PIXELS:,} "
                        "are read"
                    )
                if max(width, height) > MOST_SIDE:
                    raise PictureError(
                        f"{name}: is too large: it has {width:,} x {height:,} pixels, and sides of at most "
                        f"{MOST_SIDE:,} pixels are read"
                    )
                yield image
    except (PictureError, MemoryError, optional.ExtraError):
        raise
    except image_module.DecompressionBombError:
        raise PictureError(f"{name}: is too large: at most {MOST_PIXELS:,} pixels are read") from None
    except image_module.UnidentifiedImageError:
        known = ", ".join(each for each in formats if each not in ("MPO", "DIB"))
        raise PictureError(f"{name}: is not an image of a known format ({known})") from None
    except OSError as error:
        problem = f"can't be read: {error.strerror}" if error.strerror else f"is damaged: {error}"
        raise PictureError(f"{name}: {problem}") from error
    except Exception as error:  # The decoders raise anything for a damaged file: SyntaxError, struct.error, ...
        raise PictureError(f"{name}: is damaged: {optional.reason(error)}") from error


def _stream(source: str | os.PathLike[str] | bytes, name: str) -> BinaryIO:
    if isinstance(source, bytes):
        if not source:
            raise PictureError(f"{name}: can't be read: it is empty")
        return io.BytesIO(source)
    try:
        # Checked before opening: opening a pipe waits for its writer.
        status = os.stat(source)
    except (OSError, ValueError) as error:
        raise PictureError(f"{name}: can't be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise PictureError(f"{name}: can't be read: it is {kind}")
    if status.st_size == 0:
        raise PictureError(f"{name}: can't be read: it is empty")
    return open(source, "rb")
