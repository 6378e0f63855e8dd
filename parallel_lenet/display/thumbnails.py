"""The first images of a dataset as small pictures in a page, drawn without any library."""

import base64
import html
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import png
from parallel_lenet.display import Html

Array = NDArray[Any]

COUNT = 10  # Images.
LARGEST = 64  # Pixels per side: larger images are reduced by leaving out pixels.


def thumbnails(inputs: Array, targets: Array) -> Html:
    """The first images with their labels, black as the least and white as the largest of their values.

    ``inputs`` are ``(n, h, w)``, ``(n, c, h, w)`` or ``(n, h, w, c)`` with 1 or 3 channels. For others the result is
    "".
    """
    images = inputs[:COUNT]
    if images.ndim == 4 and images.shape[1] in (1, 3):
        images = np.moveaxis(images, 1, 3)
    elif images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape or max(images.shape[1:3]) > 100 * LARGEST:
        return Html("")
    step = -(-max(images.shape[1:3]) // LARGEST)
    images = images[:, ::step, ::step].astype(np.float64)
    low = images.min()
    high = images.max()
    with np.errstate(all="ignore"):  # Values near the largest float overflow.
        grey = np.round((images - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    figures = [
        f'<span style="display:inline-block;margin:0 .5em .3em 0;text-align:center">'
        f'<img alt="{label}" src="data:image/png;base64,{base64.b64encode(png.encode(image)).decode()}" '
        f'style="height:48px;image-rendering:pixelated;margin:0;display:block"/>{label}</span>'
        for image, label in zip(grey, (html.escape(f"{target}") for target in targets[:COUNT].tolist()), strict=True)
    ]
    return Html(f'<div style="margin:.4em 0">{"".join(figures)}</div>')
