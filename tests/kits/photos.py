"""Pictures that look like drawings and photographs of digits, made from strokes of this file and from fonts.

``python tests/kits/photos.py FOLDER`` writes a hundred, with ``--count`` and ``--seed`` others. With
``--checkpoint FILE`` it says how many of them the network of that checkpoint recognises.
"""

import argparse
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from parallel_lenet import PictureError, load_model, predict_image

Array = NDArray[Any]
Point = tuple[float, float]

FORMATS = ("png", "jpeg", "jpeg", "jpeg", "webp", "gif", "bmp", "tiff")
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono"),
    *("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "cmr10", "cmss10", "cmtt10", "cmb10"),
)


class Photo(NamedTuple):
    """A picture as a file has it, the digit on it, and how it was made."""

    label: int
    content: bytes
    suffix: str
    how: str


def arc(x: float, y: float, width: float, height: float, first: float, last: float, slant: float = 0) -> list[Point]:
    """Points of an ellipse round ``(x, y)``. Degrees count from the right, clockwise as the picture's axes are."""
    angles = np.radians(np.linspace(first, last, 24))
    return [(x + width * math.cos(a) + slant * height * -math.sin(a), y + height * math.sin(a)) for a in angles]


def strokes(label: int, rng: np.random.Generator) -> list[list[Point]]:
    """The lines of a digit as a hand may draw it, in a box of width 0.7 and height 1, each drawing another."""
    either = bool(rng.integers(2))
    wide = float(rng.uniform(0.26, 0.38))
    match label:
        case 0:
            return [arc(0.35, 0.5, wide, 0.5, -100, 265, rng.uniform(0, 0.3))]
        case 1:
            flag = [(0.15, rng.uniform(0.2, 0.35)), (0.38, 0.0)] if either else [(0.36, 0.0)]
            return [[*flag, (rng.uniform(0.3, 0.4), 1.0)]]
        case 2:
            start = arc(0.35, 0.28, wide * 0.9, 0.28, -170, 30)
            if either:
                return [[*start, (0.05, 1.0), (0.68, rng.uniform(0.95, 1.02))]]
            return [[*start, (0.2, 0.85), *arc(0.13, 0.9, 0.08, 0.08, -30, -330), (0.4, 0.93), (0.68, 0.98)]]
        case 3:
            middle = rng.uniform(0.44, 0.5)
            if either:
                return [[*arc(0.3, middle / 2, wide * 0.8, middle / 2, -150, 90),
                         *arc(0.3, (1 + middle) / 2, wide, (1 - middle) / 2, -90, 150)]]  # fmt: skip
            return [[(0.08, 0.02), (0.6, 0.02), (0.3, 0.42), *arc(0.3, 0.71, wide, 0.29, -90, 150)]]
        case 4:
            if either:
                return [[(0.12, 0.05), (rng.uniform(0.02, 0.1), 0.6), (0.68, 0.58)], [(0.5, 0.05), (0.47, 1.0)]]
            return [[(0.68, 0.68), (0.0, 0.68), (0.48, 0.0), (0.48, 1.0)]]
        case 5:
            top = [(0.6, rng.uniform(-0.02, 0.05)), (0.15, 0.03)]
            rest = [(0.13, 0.42), *arc(0.3, 0.68, wide, 0.32, -110, 140)]
            return [[*top, *rest]] if either else [rest[:1] and [(0.15, 0.03), *rest], top]
        case 6:
            return [[(rng.uniform(0.45, 0.6), 0.0), (0.22, 0.3), *arc(0.35, 0.7, wide * 0.9, 0.3, -200, -540)]]
        case 7:
            lines = [[(0.05, 0.04), (0.64, rng.uniform(0.0, 0.06)), (rng.uniform(0.2, 0.35), 1.0)]]
            return [*lines, [(0.22, 0.52), (0.6, 0.5)]] if either else lines
        case 8:
            middle = rng.uniform(0.44, 0.5)
            upper = arc(0.35, middle / 2, wide * 0.8, middle / 2, 90, 450)
            return [[*upper, *arc(0.35, (1 + middle) / 2, wide, (1 - middle) / 2, -90, 270)]]
        case _:
            tail = [(rng.uniform(0.5, 0.62), 1.0)] if either else arc(0.3, 0.68, 0.34, 0.32, 0, 110)
            return [[*arc(0.35, 0.29, wide * 0.9, 0.29, -10, -370), *tail]]


def handwritten_digit(label: int, height: int, rng: np.random.Generator) -> tuple[Image.Image, str]:
    """A mask of a hand-drawn digit ``height`` pixels high, and what it is."""
    thickness = height * rng.uniform(0.05, 0.16)
    margin = math.ceil(thickness)
    mask = Image.new("L", (height + 2 * margin, height + 2 * margin))
    pencil = ImageDraw.Draw(mask)
    shake = float(rng.uniform(0, 0.012))
    for line in strokes(label, rng):
        points = [(margin + height * (x + rng.normal(0, shake)), margin + height * (y + rng.normal(0, shake)))
                  for x, y in line]  # fmt: skip
        pencil.line(points, 255, round(thickness), joint="curve")
        for x, y in points:
            pencil.ellipse([v + s * thickness / 2 for s in (-1, 1) for v in (x, y)], 255)
    return mask, f"stroke {thickness / height:.2f}"


def font_digit(label: int, height: int, rng: np.random.Generator) -> tuple[Image.Image, str]:
    """A mask of a font's digit, and the font's name."""
    import matplotlib

    name = str(rng.choice(FONTS))
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf"), round(1.3 * height))
    left, top, right, bottom = font.getbbox(str(label))
    mask = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(mask).text((2 - left, 2 - top), str(label), 255, font)
    return mask, name


def smooth(rng: np.random.Generator, size: tuple[int, int], cells: int) -> Array:
    """Noise of mean 0 and deviation 1 that changes over a ``cells``-th of the picture."""
    grid = rng.normal(0, 1, (cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC))


def light(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """How bright each place of the picture is: a gradient, and perhaps the soft edge of a shadow."""
    width, height = size
    angle = rng.uniform(0, 2 * math.pi)
    x = np.linspace(-0.5, 0.5, width)
    y = np.linspace(-0.5, 0.5, height)[:, np.newaxis]
    along = x * math.cos(angle) + y * math.sin(angle)
    result = 1 - rng.uniform(0, 0.5) * (along + 0.7) / 1.4
    if rng.random() < 0.4:
        edge = rng.uniform(-0.3, 0.3)
        result = result * (1 - rng.uniform(0.1, 0.4) / (1 + np.exp(-(along - edge) / rng.uniform(0.02, 0.1))))
    return result.astype(np.float32)


def photo(label: int, rng: np.random.Generator, largest: int = 3000) -> Photo:
    """One picture of a digit. Its sides are from 60 to ``largest`` pixels long."""
    width = round(60 * (largest / 60) ** rng.uniform(0, 1))
    height = min(max(round(width * rng.uniform(0.6, 1.6)), 60), largest)
    shorter = min(width, height)
    make = handwritten_digit if rng.random() < 0.6 else font_digit
    mask, how = make(label, round(shorter * rng.uniform(0.35, 0.75)), rng)
    angle = rng.uniform(-15, 15)
    mask = mask.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    mask.thumbnail((width, height))
    field = Image.new("L", (width, height))
    field.paste(mask, (int(rng.integers(width - mask.width + 1)), int(rng.integers(height - mask.height + 1))))
    ink = np.asarray(field, np.float32)[..., np.newaxis] / 255

    dark_on_light, photographed = rng.random() < 0.7, rng.random() < 0.7
    paper, pen = rng.uniform(190, 250, 3), rng.uniform(5, 110, 3)
    if not photographed:
        paper, pen = np.full(3, 255.0), np.full(3, rng.uniform(0, 60))
    if not dark_on_light:
        paper, pen = 255 - paper, 255 - pen
    picture = paper * (1 - ink) + pen * ink
    if photographed:
        picture *= light(rng, (width, height))[..., np.newaxis]
        grain = smooth(rng, (width, height), 40) + rng.normal(0, 1, (height, width))
        picture += (rng.uniform(0, 4) * grain)[..., np.newaxis]
        picture += rng.normal(0, rng.uniform(0, 8), picture.shape)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    if photographed:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, shorter / 200)))
    kind = str(rng.choice(FORMATS))
    mode = str(rng.choice(["RGB", "L"])) if kind != "gif" else "P"
    buffer = io.BytesIO()
    quality = {"quality": int(rng.integers(15, 95))} if kind in ("jpeg", "webp") else {}
    image.convert(mode).save(buffer, kind, **quality)
    ground = "dark on light" if dark_on_light else "light on dark"
    lit = "photograph" if photographed else "drawing"
    return Photo(label, buffer.getvalue(), kind, f"{lit}, {how}, {ground}, {width}x{height}, {angle:.0f} degrees")


def photos(count: int = 100, seed: int = 0, largest: int = 3000) -> Iterator[Photo]:
    """As many pictures, each digit as often as the others."""
    for i in range(count):
        yield photo(i % 10, np.random.default_rng([seed, i]), largest)


def main() -> None:
    """Write the pictures, named after their digits, and perhaps recognise them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    trained = None if arguments.checkpoint is None else load_model(arguments.checkpoint)
    right = 0
    for i, each in enumerate(photos(arguments.count, arguments.seed)):
        file = arguments.folder / f"{each.label}-{i:03}.{each.suffix}"
        file.write_bytes(each.content)
        if trained is not None:
            try:
                answer = str(predict_image(file, trained).label)
            except PictureError as error:
                answer = str(error)
            right += answer == str(each.label)
            if answer != str(each.label):
                print(f"{file}: {answer} ({each.how})")
    if trained is not None:
        print(f"{right} of {arguments.count} are right")


if __name__ == "__main__":
    main()
