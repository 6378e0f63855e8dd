"""Collects images from files in one array. All have one size, and are grey if all files are grey, else in colour."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import optional
from parallel_lenet.datasets.values import DatasetError, require_memory
from parallel_lenet.image_files import PURPOSE, PictureError, open_image

Array = NDArray[Any]

DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # Grey of 16 bits.
GREY = ("1", "L", "LA", "La", *DEEP_MODES)
BOX = 4  # Pillow's filter by which a pixel becomes the mean of the area that it covers.


class Stack:
    """The images of one part, ``count`` of them, resized to ``image_size`` (height, width) if that is given."""

    def __init__(self, count: int, image_size: tuple[int, int] | None, name: str) -> None:
        self._count = count
        self._image_size = image_size
        self._name = name
        self._first_name = ""
        self._length = 0
        self._array: Array | None = None

    def add(self, source: Any, name: str) -> None:
        """Read the next image, a file or its bytes. Raises DatasetError if it can't be read or has another size."""
        try:
            with open_image(source, name) as image:
                pixels = self._pixels(image)
        except PictureError as error:
            raise DatasetError(str(error)) from error
        self._append(pixels, name)

    def _pixels(self, image: Any) -> Array:
        """uint8 or uint16 ``(h, w)``, or uint8 ``(h, w, 3)``: upright, on white where it is transparent."""
        operations = optional.load("pictures", "PIL", PURPOSE, "PIL.ImageOps")
        image.load()
        image = operations.exif_transpose(image)
        if image.mode == "F":
            raise PictureError(f"{self._name}: holds images of floating-point numbers; allowed are 8 and 16 bits")
        if image.mode == "I":
            low, high = image.getextrema()
            if low < 0 or high > 65535:
                raise PictureError(f"{self._name}: holds images of more than 16 bits; allowed are 8 and 16 bits")
        if image.mode not in DEEP_MODES:
            transparent = image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info
            grey = image.mode in GREY
            if transparent:
                image = image.convert("RGBA")
                paper = image.copy()
                paper.paste((255, 255, 255, 255), (0, 0, *image.size))
                paper.alpha_composite(image)
                image = paper
            image = image.convert("L" if grey else "RGB")
        if self._image_size is not None and image.size != self._image_size[::-1]:
            if image.mode in DEEP_MODES:
                image = image.convert("I")
            image = image.resize(self._image_size[::-1], BOX)
        return np.asarray(image).astype(np.uint16 if image.mode in DEEP_MODES else np.uint8)

    def _append(self, pixels: Array, name: str) -> None:
        if self._array is None:
            shape = (self._count, *pixels.shape[2:], *pixels.shape[:2])
            require_memory(self._name, int(np.prod(shape, dtype=object)) * pixels.itemsize)
            self._array = np.empty(shape, pixels.dtype)
            self._first_name = name
        if pixels.dtype != self._array.dtype:
            raise DatasetError(
                f"{name}: has {8 * pixels.itemsize} bits per pixel and {self._first_name} {8 * self._array.itemsize}; "
                "all images must have the same"
            )
        size = pixels.shape[:2]
        first_size = self._array.shape[-2:]
        if size != first_size:
            raise DatasetError(
                f"{name}: is {size[0]} high and {size[1]} wide, {self._first_name} {first_size[0]} high and "
                f"{first_size[1]} wide; all images must have the same size, or be resized to one (--image-size HxW, "
                "image_size=(h, w))"
            )
        if pixels.ndim == 3 and self._array.ndim == 3:
            self._array = in_colour(self._array)
        self._array[self._length] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        self._length += 1

    def images(self) -> Array:
        """All images: ``(n, h, w)``, or ``(n, 3, h, w)`` if one is in colour."""
        assert self._array is not None
        assert self._length == self._count
        return self._array


def in_colour(images: Array) -> Array:
    """The images as ``(n, 3, h, w)``. Grey images get three equal channels."""
    if images.ndim == 4:
        return images
    require_memory("images in colour", 3 * images.nbytes)
    return np.repeat(images[:, np.newaxis], 3, axis=1)


def with_equal_channels(stacks: dict[str, Array]) -> dict[str, Array]:
    """The parts, all in colour if one is."""
    colour = any(images.ndim == 4 for images in stacks.values())
    return {part: in_colour(images) if colour else images for part, images in stacks.items()}
