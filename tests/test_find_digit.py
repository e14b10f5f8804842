"""Pictures of any kind, brought into the form of MNIST or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import read_image
from PIL import Image, ImageDraw

import datasets
from analysis.find_digit import see
from analysis.image_files import BadImage, from_gray


def picture(digit: np.ndarray, side: int, ink: tuple[int, ...], ground: tuple[int, ...]) -> Image.Image:
    """Return a digit (28, 28) drawn in one color on another."""
    big = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC), float)[..., None] / 255
    return Image.fromarray((big * ink + (1 - big) * np.array(ground)).astype(np.uint8))


def likeness(found: np.ndarray, digit: np.ndarray) -> float:
    """Return the correlation of two digits, the best over shifts by at most one pixel."""
    moved = (np.roll(found, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1))
    return max(float(np.corrcoef(one.ravel(), digit.ravel())[0, 1]) for one in moved)


@pytest.mark.parametrize(
    ("ink", "ground"),
    [
        ((0, 0, 0), (255, 255, 255)),
        ((255, 255, 255), (0, 0, 0)),
        ((250, 220, 90), (30, 60, 160)),
        ((200, 30, 30), (20, 120, 40)),
    ],
)
@pytest.mark.parametrize("side", [28, 100, 700])
def test_a_picture_becomes_the_digit_that_was_drawn(
    mnist5k: datasets.Digits, tmp_path: Path, ink: tuple[int, ...], ground: tuple[int, ...], side: int
) -> None:
    for number in range(0, 1000, 100):
        digit = mnist5k.test_images[number].numpy()
        picture(digit, side, ink, ground).save(tmp_path / "picture.png")
        found = see(read_image(tmp_path / "picture.png")).digit
        assert found.shape == (28, 28)
        assert found.dtype == np.uint8
        assert likeness(found, digit) > 0.9


def test_position_and_margin_do_not_matter(mnist5k: datasets.Digits, tmp_path: Path) -> None:
    drawn = picture(mnist5k.test_images[0].numpy(), 112, (0, 0, 0), (255, 255, 255))
    found = []
    for place in ((0, 0), (150, 60)):
        sheet = Image.new("RGB", (300, 300), (255, 255, 255))
        sheet.paste(drawn, place)
        sheet.save(tmp_path / "sheet.png")
        found.append(see(read_image(tmp_path / "sheet.png")).digit)
    assert np.abs(np.subtract(*found, dtype=int)).mean() < 1


def test_a_pen_stroke_is_as_strong_as_mnists(tmp_path: Path) -> None:
    sheet = Image.new("L", (400, 500), 240)
    ImageDraw.Draw(sheet).line([(200, 40), (200, 460)], fill=30, width=3)
    sheet.save(tmp_path / "one.jpg")
    found = see(read_image(tmp_path / "one.jpg")).digit
    assert found.max() == 255
    assert 1 <= (found[14] > 128).sum() <= 4  # pixels across the stroke


def test_gray_palette_transparent_and_deep_images_are_the_same_digit(tmp_path: Path) -> None:
    base = Image.new("L", (90, 90), 255)
    ImageDraw.Draw(base).ellipse([25, 10, 65, 80], outline=0, width=9)
    clear = Image.new("RGBA", base.size, (255, 255, 255, 0))  # white on nothing
    clear.paste((255, 255, 255, 255), mask=Image.fromarray(255 - np.asarray(base)))
    turned = base.rotate(90, expand=True)
    exif = turned.getexif()
    exif[0x0112] = 6  # the reader must turn it
    deep = Image.fromarray(np.asarray(base).astype(np.uint16) * 200)
    images = {"gray.png": base, "palette.gif": base.convert("P"), "clear.png": clear, "deep.png": deep}
    for name, image in images.items():
        image.save(tmp_path / name)
    turned.save(tmp_path / "turned.png", exif=exif)
    wanted = see(read_image(tmp_path / "gray.png")).digit
    for name in (*images, "turned.png"):
        found = see(read_image(tmp_path / name)).digit
        assert np.abs(found.astype(int) - wanted).mean() < 3, name


def test_a_shadow_and_specks_are_not_the_digit(mnist5k: datasets.Digits, tmp_path: Path) -> None:
    digit = mnist5k.test_images[0].numpy()
    drawn = np.asarray(picture(digit, 200, (20, 20, 20), (230, 225, 210)), float)
    shadow = np.linspace(1, 0.55, 200)[None, :, None]
    pixels = (drawn * shadow).astype(np.uint8)
    pixels[4:7, 190:193] = 0
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", quality=80)
    found = see(read_image(tmp_path / "photo.jpg")).digit
    assert likeness(found, digit) > 0.9


@pytest.mark.parametrize("share", [0.07, 0.15, 0.5])
def test_a_small_digit_on_a_large_sheet_is_found(mnist5k: datasets.Digits, tmp_path: Path, share: float) -> None:
    for number in (0, 100, 700):
        digit = mnist5k.test_images[number].numpy()
        sheet = Image.new("RGB", (700, 700), (240, 240, 235))
        sheet.paste(picture(digit, round(700 * share), (20, 20, 90), (240, 240, 235)), (300, 200))
        sheet.save(tmp_path / "sheet.png")
        assert likeness(see(read_image(tmp_path / "sheet.png")).digit, digit) > 0.85


@pytest.mark.parametrize("mode", ["1", "P", "L"])
def test_a_thin_line_survives_a_large_scan(tmp_path: Path, mode: str) -> None:
    sheet = Image.new("L", (2500, 2500), 255)
    ImageDraw.Draw(sheet).ellipse([900, 400, 1600, 2100], outline=0, width=9)
    sheet.convert(mode).save(tmp_path / "scan.png")
    found = see(read_image(tmp_path / "scan.png")).digit
    middle = found[14] > 100
    assert middle.any()
    assert not middle[12:16].any()  # a ring


def test_bad_images_are_refused_in_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (50, 50), (90, 90, 90)).save(tmp_path / "blank.png")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.effect_noise((300, 300), 90).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    for name, reason in (
        ("blank.png", "nothing is drawn"),
        ("text.png", "not an image"),
        ("empty.png", "not an image"),
        ("half.png", "cannot be read"),
    ):
        with pytest.raises(BadImage, match=reason) as refused:
            see(read_image(tmp_path / name))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("turned", [0, 7])
def test_a_sheet_of_paper_on_a_darker_table(mnist5k: datasets.Digits, tmp_path: Path, turned: int) -> None:
    for number in range(0, 1000, 100):
        digit = mnist5k.test_images[number].numpy()
        sheet = Image.new("RGB", (420, 560), (240, 238, 230))
        sheet.paste(picture(digit, 260, (20, 20, 40), (240, 238, 230)), (80, 150))
        table = Image.new("RGB", (800, 900), (90, 60, 40))
        paper = sheet.convert("RGBA").rotate(turned, expand=True, resample=Image.Resampling.BICUBIC)
        table.paste(paper, (150, 120), paper)
        table.save(tmp_path / "photo.jpg", quality=85)
        turned_digit = np.asarray(Image.fromarray(digit).rotate(turned, resample=Image.Resampling.BICUBIC))
        assert likeness(see(read_image(tmp_path / "photo.jpg")).digit, turned_digit) > 0.8, number


def test_a_bold_digit_is_not_a_sheet_of_paper() -> None:
    for shape, corners in (("rectangle", [30, 5, 70, 95]), ("ellipse", [10, 5, 90, 95])):
        sheet = Image.new("L", (100, 100), 255)
        getattr(ImageDraw.Draw(sheet), shape)(corners, fill=0)
        if shape == "ellipse":
            ImageDraw.Draw(sheet).ellipse([44, 40, 56, 60], fill=255)
        found = see(from_gray(np.asarray(sheet, np.float32))).digit
        assert (found > 128).sum() > 100
    for corners, radius, width in (
        ([70, 35, 150, 205], 40, 26),
        ([60, 30, 160, 200], 50, 34),
        ([70, 35, 150, 195], 25, 28),
    ):
        sheet = Image.new("L", (220, 240), 255)
        ImageDraw.Draw(sheet).rounded_rectangle(corners, radius, outline=0, width=width)
        found = see(from_gray(np.asarray(sheet, np.float32))).digit
        assert found[14, 14] == 0
        assert (found[14] > 128).sum() >= 4


def test_several_digits(mnist5k: datasets.Digits) -> None:
    images = 255 - mnist5k.test_images.numpy().astype(np.float32)
    several = see(from_gray(np.hstack([images[100], images[300]]))).several
    assert len(several) == 2
    assert likeness(several[0], 255 - images[100]) > 0.9
    assert np.mean([bool(see(from_gray(image)).several) for image in images[::10]]) <= 0.01
