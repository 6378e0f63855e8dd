"""Pictures of digits: any file, size, colour and light give the digit as MNIST has it, and bad files a sentence."""

import io
import os
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kits import photos
from numpy.typing import NDArray

from parallel_lenet import (
    Adam,
    Coordinator,
    Images,
    PictureError,
    TrainedModel,
    lenet5,
    load_dataset,
    predict_image,
    read_digit,
)
from parallel_lenet.pictures import read_image
from parallel_lenet.pictures.components import components
from parallel_lenet.pictures.digit import digit
from parallel_lenet.resizing import area_means

Image = pytest.importorskip("PIL.Image")

Array = NDArray[Any]


def drawing(height: int = 200, width: int = 160) -> Array:
    """A 2 as a fraction of ink per pixel, off the centre, with lines a twelfth of its height wide."""
    mask, _ = photos.handwritten_digit(2, 100, np.random.default_rng(5))
    field = Image.new("L", (width, height))
    field.paste(mask, (width // 10, height // 5))
    return np.asarray(field) / 255


def grey(ink: Array, paper: float = 235, pen: float = 30) -> Array:
    return np.rint(paper + (pen - paper) * ink).astype(np.uint8)


def alike(one: Array, other: Array) -> float:
    """The correlation of two images."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.fixture(scope="module")
def expected() -> Array:
    """The drawing prepared, from a clean array."""
    return read_digit(grey(drawing()))


# The last step, which is exact.


def test_the_digits_of_mnist_are_as_the_preparation_makes_them() -> None:
    _, test = load_dataset()
    for image in test.inputs:
        prepared = digit(image)
        assert prepared is not None
        assert np.abs(prepared.astype(int) - image).max() <= 2  # The darkest pixel of some is 254.


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)), st.integers(1, 40))
def test_a_digit_lies_in_its_box_with_its_mass_in_the_middle(ink: Array, side: int) -> None:
    result = digit(ink, (side, side))
    if result is None:
        assert ink.sum() < 255 * ink.size / 255
        return
    assert result.shape == (side, side)
    assert result.max() == 255
    rows, columns = (np.flatnonzero(result.any(axis=axis)) for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 <= max(1, round(20 * side / 28 + 1e-9))
    mass = result.astype(float) / result.sum()
    for axis, places in enumerate((rows, columns)):
        centre = float((mass.sum(axis=1 - axis) * np.arange(side)).sum())
        assert abs(centre - side // 2) <= 0.5 + 1e-9 or places[0] == 0 or places[-1] == side - 1


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9)))
def test_scaling_is_the_mean_of_an_area(ink: Array) -> None:
    ink[0, 0] = ink[-1, -1] = 255  # So that the box is all of it.
    result = digit(ink)
    assert result is not None
    longer = max(ink.shape)
    height, width = ((40 * side + longer) // (2 * longer) for side in ink.shape)
    # Each pixel cut into as many as the result has, then means of as many as there were.
    fine = np.kron(ink.astype(int), np.ones((height, width), int))
    means = fine.reshape(height, ink.shape[0], width, ink.shape[1]).mean(axis=(1, 3))
    scaled = np.floor(means + 0.5)
    scaled = np.floor(scaled * 255 / scaled.max() + 0.5)
    rows, columns = (np.flatnonzero(result.any(axis=axis)) for axis in (1, 0))
    kept = result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inner = scaled[scaled.any(axis=1)][:, scaled.any(axis=0)] if kept.shape != scaled.shape else scaled
    np.testing.assert_allclose(kept, inner, atol=1)


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_components_are_what_a_flood_reaches(mask: Array) -> None:
    found = components(mask)
    assert ((found.labels > 0) == mask).all()
    seen = np.zeros_like(found.labels)
    for number in range(1, found.labels.max(initial=0) + 1):
        start = tuple(np.argwhere((seen == 0) & mask)[0])
        flood = {start}
        edge = [start]
        while edge:
            y, x = edge.pop()
            near = [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            new = {p for p in near if 0 <= p[0] < mask.shape[0] and 0 <= p[1] < mask.shape[1] and mask[p]} - flood
            flood |= new
            edge += new
        piece = found.labels[start]
        assert flood == {tuple(place) for place in np.argwhere(found.labels == piece)}
        assert found.sizes[piece - 1] == len(flood)
        corners = np.array(sorted(flood))
        assert found.boxes[piece - 1].tolist() == [*corners.min(axis=0), *(corners.max(axis=0) + 1)]
        for place in flood:
            seen[place] = number


# Light, paper, sizes.


@pytest.mark.parametrize(
    "change",
    [
        lambda a: 255 - a,
        lambda a: grey(drawing(), 120, 90),
        lambda a: grey(drawing(), 60, 200),
        lambda a: np.repeat(a[..., np.newaxis], 3, axis=2),
        lambda a: a.astype(np.uint16) * 257,
        lambda a: a / 255,
        lambda a: (a / 127.5 - 1).astype(np.float32),
        lambda a: a.repeat(3, axis=0).repeat(3, axis=1),
        lambda a: np.pad(a, ((300, 20), (10, 200)), constant_values=235),
        lambda a: np.rint(a * np.linspace(1, 0.35, a.shape[1])).astype(np.uint8),
        lambda a: np.rint(a * np.where(np.arange(a.shape[0]) > 90, 0.6, 1)[:, np.newaxis]).astype(np.uint8),
        lambda a: (a + np.random.default_rng(0).normal(0, 8, a.shape)).clip(0, 255).astype(np.uint8),
        lambda a: speckled(a),
        lambda a: framed(a),
        lambda a: np.stack([a, np.full_like(a, 235), np.full_like(a, 235)], axis=2),  # Cyan on white.
        lambda a: np.stack([a, 255 - a, np.full_like(a, 99)], axis=2),  # As bright as its paper.
    ],
)
def test_paper_light_and_unit_make_no_difference(expected: Array, change: Callable[[Array], Array]) -> None:
    assert alike(read_digit(change(grey(drawing()))), expected) > 0.97


def speckled(image: Array) -> Array:
    """With specks as dark as the ink."""
    image = image.copy()
    for y, x in np.random.default_rng(1).integers(0, 150, (25, 2)):
        image[y : y + 2, x : x + 2] = 30
    return image


def framed(image: Array) -> Array:
    """On a dark table."""
    return np.pad(image, 12, constant_values=40)


def test_a_digit_that_is_prepared_already_stays_as_it_is(tmp_path: Path) -> None:
    _, test = load_dataset()
    for i, image in enumerate(test.inputs[:20]):
        file = tmp_path / f"{i}.png"
        Image.fromarray(image).convert(["L", "RGB", "RGBA"][i % 3]).save(file)
        assert (read_digit(file) == image).all()
        assert (read_digit(255 - image) == image).all()


def test_the_field_may_have_another_size(expected: Array) -> None:
    large = read_digit(grey(drawing()), (56, 56))
    assert np.ptp(np.flatnonzero(large.any(axis=1))) + 1 == 40
    smaller = [area_means(np.roll(large, (y, x), (0, 1)).astype(float), 28, 28) for y in (0, 1) for x in (0, 1)]
    assert max(alike(each, expected) for each in smaller) > 0.97
    assert read_digit(grey(drawing()), (20, 32)).shape == (20, 32)


# Files.


def saved(path: Path, mode: str, image: Array, **options: Any) -> Path:
    picture = Image.fromarray(image)
    if mode in ("LA", "RGBA"):
        picture = Image.new(mode, picture.size)
        picture.putalpha(Image.fromarray(255 - image))  # Black, as opaque as it is inked.
    elif mode == "P transparent":
        picture = picture.quantize(8)
        options["transparency"] = int(np.asarray(picture)[0, 0])
    elif mode == "I;16":
        picture = Image.fromarray(image.astype(np.uint16) * 257)
    elif mode == "F":
        picture = Image.fromarray(image.astype(np.float32))
    else:
        picture = picture.convert(mode)
    picture.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("suffix", "modes"),
    [
        ("png", ["L", "LA", "RGB", "RGBA", "P", "P transparent", "1", "I;16"]),
        ("jpg", ["L", "RGB", "CMYK"]),
        ("gif", ["L", "P", "P transparent"]),
        ("bmp", ["L", "RGB", "1", "P"]),
        ("webp", ["RGB", "RGBA"]),
        ("tiff", ["L", "RGB", "RGBA", "I;16", "F", "1", "CMYK"]),
        ("ppm", ["L", "RGB"]),
    ],
)
def test_every_format_gives_the_same_digit(tmp_path: Path, suffix: str, modes: list[str], expected: Array) -> None:
    for mode in modes:
        file = saved(tmp_path / f"{mode.replace(';', '')}.{suffix}", mode, grey(drawing(), 255, 0))
        assert alike(read_digit(file), expected) > 0.97, mode
        assert alike(read_digit(str(file)), expected) > 0.97, mode


def test_light_ink_on_nothing_is_light_on_dark(tmp_path: Path, expected: Array) -> None:
    white = np.full((200, 160, 4), 255, np.uint8)
    white[..., 3] = 255 * drawing()
    Image.fromarray(white).save(tmp_path / "white.png")
    assert alike(read_digit(tmp_path / "white.png"), expected) > 0.97


def test_a_photograph_on_its_side_is_turned_upright(tmp_path: Path, expected: Array) -> None:
    for orientation, turned in {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90,
                                2: Image.Transpose.FLIP_LEFT_RIGHT}.items():  # fmt: skip
        picture = Image.fromarray(grey(drawing())).transpose(turned)
        exif = picture.getexif()
        exif[0x0112] = orientation
        for suffix in ("jpg", "tiff", "png"):
            file = tmp_path / f"{orientation}.{suffix}"
            picture.save(file, exif=exif)
            assert alike(read_digit(file), expected) > 0.97, file.name


def test_the_first_of_several_images_counts(tmp_path: Path, expected: Array) -> None:
    pages = [Image.fromarray(grey(ink)) for ink in (drawing(), drawing()[::-1], drawing()[:, ::-1])]
    for suffix in ("gif", "tiff", "webp", "png"):
        pages[0].save(tmp_path / f"several.{suffix}", save_all=True, append_images=pages[1:])
        assert alike(read_digit(tmp_path / f"several.{suffix}"), expected) > 0.97


def png(width: int, height: int) -> bytes:
    """The beginning of a PNG file of that size, with hardly any pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 99))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def encoded(image: Array, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


BAD: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", "is empty"),
    "text.png": (b"not an image at all\n" * 50, "is not an image of a known format"),
    "page.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image of a known format"),
    "program.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is not an image of a known"),
    "huge.png": (png(60_000, 50_000), "is too large"),
    "large.png": (png(10_000, 9_500), "it has 10,000 x 9,500 pixels, and at most 50,000,000 are read"),
    "tall.png": (png(2, 200_000), "it has 2 x 200,000 pixels, and sides of at most 100,000 pixels are read"),
    "nan.tif": (encoded(np.full((30, 30), np.nan, np.float32), "tiff"), "must hold finite numbers"),
    "cut.png": (encoded(grey(drawing()), "png")[:-300], "cut.png"),
    "cut.jpg": (encoded(grey(drawing()), "jpeg")[:-300], "is damaged: "),
    "cut.gif": (encoded(grey(drawing()), "gif")[:-300], "cut.gif"),
    "head.webp": (encoded(grey(drawing()), "webp")[:40], "head.webp"),
    "one.png": (encoded(np.zeros((1, 1), np.uint8), "png"), "no digit found"),
    "line.png": (encoded(np.zeros((1, 3000), np.uint8), "png"), "no digit found"),
    "white.png": (encoded(np.full((90, 70), 255, np.uint8), "png"), "no digit found"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_answered_with_a_sentence(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureError) as caught:
        read_digit(tmp_path / name)
    assert message in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_a_file_is_answered_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="it is a folder"):
        read_digit(tmp_path)
    with pytest.raises(PictureError, match="No such file"):
        read_digit(tmp_path / "none.png")
    with pytest.raises(PictureError, match="null"):
        read_digit("a\0b")
    with pytest.raises(TypeError, match="a binary stream or an array, got 3"):
        read_digit(3)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        answered = threading.Event()

        def ask() -> None:
            with pytest.raises(PictureError, match="not a regular file"):
                read_digit(tmp_path / "pipe.png")
            answered.set()

        threading.Thread(target=ask, daemon=True).start()
        assert answered.wait(30)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 5)), np.zeros(5), np.zeros((2, 2, 5)), np.zeros((3, 3), complex), np.full((9, 9), np.nan),
        np.zeros((9, 9)), np.full((9, 9), 7), np.array([["a"]]), np.full((9, 9, 2), 0.5), np.ones((1, 1), bool),
    ],
)  # fmt: skip
def test_a_bad_array_is_answered_with_a_sentence(array: Array) -> None:
    with pytest.raises(PictureError):
        read_digit(array)


@pytest.mark.parametrize("seed", range(12))
def test_an_empty_page_has_no_digit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(60, 400)), int(rng.integers(60, 400)))
    paper = rng.uniform(40, 240) * photos.light(rng, size) + rng.normal(0, rng.uniform(0, 8), size[::-1])
    paper += rng.uniform(0, 4) * photos.smooth(rng, size, 40)
    with pytest.raises(PictureError, match="no digit found"):
        read_digit(paper.clip(0, 255).astype(np.uint8))


@settings(max_examples=25)
@given(st.data())
def test_a_damaged_file_gives_a_digit_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    kind = data.draw(st.sampled_from(["png", "jpeg", "gif", "bmp", "webp", "tiff", "ppm"]))
    content = bytearray(encoded(grey(drawing(60, 50)), kind))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)))):
        content[place] = value
    file = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        result = read_digit(file)
    except PictureError:
        return
    assert result.shape == (28, 28)


# Networks.


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    """A network that knows the bundled digits."""
    train, _ = load_dataset()
    with Coordinator(lenet5(), Adam(0.002), batch_size=64, engine="serial") as coordinator:
        coordinator.fit(train, epochs=4)
    return TrainedModel(coordinator.model, coordinator.parameters, {})


@pytest.mark.slow
def test_drawings_and_photographs_are_recognised(trained: TrainedModel, tmp_path: Path) -> None:
    """A part of the hundred that the README counts, none larger than 500 pixels."""
    right = 0
    for i, photo in enumerate(photos.photos(40, 0, largest=500)):
        file = tmp_path / f"{i}.{photo.suffix}"
        file.write_bytes(photo.content)
        right += predict_image(file, trained).label == photo.label
    assert right >= 35


@pytest.mark.slow
def test_a_digit_that_was_cut_out_closely_is_recognised(trained: TrainedModel) -> None:
    _, test = load_dataset()
    known = trained.predict(test.inputs[:60])
    right = 0
    for i, image in enumerate(test.inputs[:60]):
        large = np.asarray(Image.fromarray(image).resize((196, 196), Image.Resampling.BICUBIC))
        rows, columns = (np.flatnonzero((large > 60).any(axis=axis)) for axis in (1, 0))
        cut = np.pad(large[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], i % 3)
        right += predict_image(cut if i % 2 else 255 - cut, trained).label == known[i]
    assert right >= 55


def test_a_prediction_is_that_of_the_prepared_image(trained: TrainedModel) -> None:
    picture = grey(drawing())
    answer = predict_image(picture, trained)
    probabilities = trained.predict_proba(read_digit(picture)[np.newaxis])[0]
    assert (answer.probabilities == probabilities).all()
    assert answer.label == 2 == probabilities.argmax()
    assert answer.probability == probabilities.max()
    assert (answer.seen == read_digit(picture)).all()
    assert answer.top(3) == sorted(enumerate(probabilities.tolist()), key=lambda pair: -pair[1])[:3]
    assert len(answer.top(99)) == 10


def test_a_network_of_another_unit_gets_its_pixels() -> None:
    picture = grey(drawing())
    for images in (Images(pixel_max=1), Images(8, pixel_max=16), Images(pixel_min=-1, pixel_max=1),
                   Images((32, 20), mean=0, std=1, pixel_max=None)):  # fmt: skip
        image = read_image(picture, images)
        images.check(image)
        scaled = image[0, 0] - image.min()
        assert alike(scaled / scaled.max(), read_digit(picture, images.height_and_width)) > 0.999


def test_a_network_for_colours_gets_the_whole_picture(tmp_path: Path) -> None:
    colours = np.zeros((40, 60, 3), np.uint8)
    colours[:20, :, 0] = 200
    colours[20:, 30:, 2] = 100
    Image.fromarray(colours).save(tmp_path / "colours.png")
    image = read_image(tmp_path / "colours.png", Images((4, 6), channels=3))
    expected = colours.reshape(4, 10, 6, 10, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert (image[0] == expected).all()
    assert read_image(grey(drawing()), Images((4, 6), channels=3)).shape == (1, 3, 4, 6)
    with pytest.raises(PictureError, match="takes 5"):
        read_image(colours, Images(channels=5))
