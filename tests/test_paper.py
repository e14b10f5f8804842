"""Digits on ruled paper, in boxes, beside the edge of a scan: most are read, and none is taken for another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image, ImageDraw
from scipy import ndimage

import datasets
from analysis.find_digit import see
from analysis.image_files import BadImage, from_gray
from analysis.reader import Reader
from rundir.run import read_run

INK, PAPER, BLUE = (25, 25, 40), (240, 238, 228), (140, 165, 205)
COUNT = 30
Page = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@pytest.fixture(scope="module")
def reader() -> Reader:
    """The network that comes with the code."""
    return Reader(read_run(ROOT / "models" / "shipped" / "center"), torch.device("cpu"))


def sheet(digit: np.ndarray, rng: np.random.Generator, side: int = 100, margin: int = 40, thin: int = 1) -> Image.Image:
    """Return a digit in ink somewhere on paper."""
    share = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC), float)
    share = ndimage.grey_erosion(share, size=thin)
    page = np.zeros((side + 2 * margin, side + 2 * margin))
    y, x = rng.integers(margin // 2, 3 * margin // 2, 2)
    page[y : y + side, x : x + side] = share / max(share.max(), 1)
    page = page[..., None]
    return Image.fromarray((page * INK + (1 - page) * PAPER).astype(np.uint8))


def ruled(page: Image.Image, angle: float, both: bool, color: tuple[int, ...], pitch: int, width: int) -> np.ndarray:
    """Return a page with lines below its ink."""
    lines = Image.new("L", (2 * page.width, 2 * page.height), 255)
    pen = ImageDraw.Draw(lines)
    for at in range(pitch // 2, lines.width, pitch):
        pen.line([(0, at), (lines.width, at)], fill=0, width=width)
        if both:
            pen.line([(at, 0), (at, lines.height)], fill=0, width=width)
    turned = lines.rotate(angle, Image.Resampling.BICUBIC, fillcolor=255)
    left, top = page.width // 2, page.height // 2
    share = np.asarray(turned.crop((left, top, left + page.width, top + page.height)), float)[..., None] / 255
    return np.minimum(np.asarray(page, float), share * 255 + (1 - share) * color)


def grid(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return ruled(sheet(digit, rng), rng.uniform(-4, 4), True, BLUE, int(rng.integers(16, 36)), int(rng.integers(1, 4)))


def pen_on_a_grid(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return ruled(sheet(digit, rng, thin=3), rng.uniform(-4, 4), True, BLUE, int(rng.integers(18, 36)), 1)


def ruled_in_ink(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return ruled(sheet(digit, rng), rng.uniform(-4, 4), False, INK, int(rng.integers(18, 40)), 2)


def grid_in_ink(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return ruled(sheet(digit, rng), rng.uniform(-4, 4), True, INK, int(rng.integers(20, 36)), int(rng.integers(3, 6)))


def box(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    page = sheet(digit, rng)
    corner = rng.integers(3, 18, 4)
    corners = [corner[0], corner[1], page.width - corner[2], page.height - corner[3]]
    shape = rng.choice(["rectangle", "rectangle", "ellipse"])
    getattr(ImageDraw.Draw(page), shape)(list(map(int, corners)), outline=INK, width=int(rng.integers(1, 6)))
    return np.asarray(page.rotate(rng.uniform(-5, 5), Image.Resampling.BICUBIC, fillcolor=PAPER), float)


def box_that_is_touched(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    page = sheet(digit, rng)
    ink = (np.asarray(page)[..., 0] < 120).nonzero()
    (top, left), (bottom, right) = (np.array([end(axis) for axis in ink]) for end in (np.min, np.max))
    corners = [left - rng.integers(0, 3), top - rng.integers(4, 20), right + 20, bottom + rng.integers(5, 20)]
    ImageDraw.Draw(page).rectangle(list(map(int, corners)), outline=INK, width=2)
    return np.asarray(page, float)


def cell(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pixels = np.array(sheet(digit, rng, margin=20), float)
    for side in range(4):
        np.rot90(pixels, side)[: rng.integers(2, 8)] = 0
    return pixels


def scan(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pixels = np.array(sheet(digit, rng), float)
    for side in rng.choice(4, 2, replace=False):
        depth = np.linspace(*rng.uniform(1, 14, 2), pixels.shape[1])
        np.rot90(pixels, side)[np.arange(len(pixels))[:, None] < depth] = 15
    return pixels


def holes(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    page = Image.fromarray(np.pad(np.asarray(sheet(digit, rng)), ((0, 0), (40, 0), (0, 0)), mode="edge"))
    radius, ring = rng.integers(7, 12), rng.random() < 0.5
    for y in np.linspace(30, page.height - 30, int(rng.integers(2, 4))):
        disc = [25 - radius, y - radius, 25 + radius, y + radius]
        ImageDraw.Draw(page).ellipse(disc, fill=None if ring else (50, 45, 40), outline=(50, 45, 40), width=3)
    return np.asarray(page, float)


def hard_shadow(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pixels = np.array(sheet(digit, rng), float)
    y, x = np.mgrid[: len(pixels), : len(pixels)] / len(pixels) - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    shade = 1 / (1 + np.exp(-100 * (x * np.cos(angle) + y * np.sin(angle) - rng.uniform(-0.25, 0.25))))
    return pixels * (1 - rng.uniform(0.3, 0.6) * shade)[..., None]


def pencil(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return PAPER + 0.4 * (np.asarray(sheet(digit, rng), float) - PAPER) + rng.normal(0, 4, (180, 180, 1))


def chalk(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 0.8 * (255 - np.asarray(sheet(digit, rng), float)) + (20, 40, 25) + rng.normal(0, 6, (180, 180, 1))


def up_to_the_border(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pixels = np.asarray(sheet(digit, rng), float)
    rows, columns = (np.flatnonzero((pixels < 150).any(axis=(axis, 2))) for axis in (1, 0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def some(mnist5k: datasets.Digits, shift: int = 0) -> tuple[np.ndarray, list[int]]:
    """Return test digits, three of each class."""
    at = np.concatenate([(mnist5k.test_labels == label).nonzero()[shift : shift + 3, 0] for label in range(10)])
    return mnist5k.test_images[at].numpy(), mnist5k.test_labels[at].tolist()


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        *((kind, 27) for kind in (grid, ruled_in_ink, box, cell, scan, holes, hard_shadow)),
        *((kind, 28) for kind in (pencil, chalk, up_to_the_border)),
        (pen_on_a_grid, 26),
        (grid_in_ink, 22),
        (box_that_is_touched, 19),
    ],
)
def test_what_belongs_to_the_page_is_not_read(reader: Reader, mnist5k: datasets.Digits, kind: Page, least: int) -> None:
    rng = np.random.default_rng(0)
    images, labels = some(mnist5k)
    seen = [see(kind(image, rng).clip(0, 255).astype(np.float32)) for image in images]
    found = reader.read(np.array([one.digit for one in seen]))
    known = [one.known and not look.several and not look.looks_like for one, look in zip(found, seen, strict=True)]
    right = [one.digit == label for one, label in zip(found, labels, strict=True)]
    assert np.logical_and(known, right).sum() >= least
    assert np.logical_and(known, np.logical_not(right)).sum() <= 1


def test_a_page_without_a_digit_is_called_what_it_is() -> None:
    paper = Image.new("RGB", (250, 250), PAPER)
    empty = paper.copy()
    ImageDraw.Draw(empty).rectangle([40, 50, 200, 210], outline=INK, width=4)
    frame = np.array(paper, np.float32)
    frame[:4] = frame[-4:] = frame[:, :4] = frame[:, -4:] = 0
    assert looks(np.asarray(empty)) == "a box"
    assert looks(frame) == "a frame"
    assert looks(ruled(paper, 0, True, BLUE, 30, 2)) == "a grid"
    assert looks(ruled(paper, 2, False, BLUE, 30, 2)) == "a grid"
    assert looks(ruled(paper, 0, True, INK, 15, 6)) == "a grid"  # more ink than paper


def looks(pixels: np.ndarray) -> str:
    return see(pixels.astype(np.float32)).looks_like


def test_digits_apart_are_read_in_reading_order(reader: Reader, mnist5k: datasets.Digits) -> None:
    """Four on a page in two rows; ten in a row; two in a box; and two one below the other, thirty times."""
    rng = np.random.default_rng(1)
    images, labels = some(mnist5k, shift=3)

    def side(*numbers: int) -> np.ndarray:
        return np.hstack([np.asarray(sheet(images[number], rng, 90, 30), np.float32) for number in numbers])

    def read(pixels: np.ndarray) -> list[int]:
        return [one.digit for one in reader.read(np.array(see(pixels).several))]

    assert read(np.vstack([side(4, 7), side(13, 25)])) == [labels[number] for number in (4, 7, 13, 25)]
    ten = range(0, 30, 3)
    assert read(side(*ten)) == [labels[number] for number in ten]
    boxed = side(10, 20)
    boxed[5:8, 5:-5] = boxed[-8:-5, 5:-5] = boxed[5:-5, 5:8] = boxed[5:-5, -8:-5] = 20
    assert read(boxed) == [labels[number] for number in (10, 20)]
    pairs = [(number, (number * 7 + 1) % COUNT) for number in range(COUNT)]
    found = [read(np.vstack([side(one), side(other)])) for one, other in pairs]
    assert sum(len(one) == 2 for one in found) >= 28
    assert sum(one == [labels[a], labels[b]] for one, (a, b) in zip(found, pairs, strict=True)) >= 27


def test_one_digit_is_not_taken_for_several(mnist5k: datasets.Digits) -> None:
    rng = np.random.default_rng(2)
    seen = [see(np.asarray(sheet(image, rng, 80, 20), np.float32)) for image in mnist5k.test_images[::10].numpy()]
    assert sum(bool(one.several or one.looks_like) for one in seen) <= 1


@pytest.mark.parametrize("size", [(2, 2), (1, 40), (64, 64), (101, 101), (64, 300), (300, 65)])
def test_patterns_are_seen_or_refused(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    patterns = [(x + y) % 2, x // 32 % 2, (x // 20 + y // 20) % 2, (y == x) | (y == 5), rng.random(size) < 0.5]
    patterns += [rng.random(size) < 0.002, (x < 9) | (y < 9), (x % 16 < 3) | (y % 16 < 3), (x - 30) ** 2 + y**2 < 400]
    patterns += [y * 0 + (x % 4 == 1) - (x % 4 == 3) + 1.0, x // max(1, size[1] // 2)]
    patterns += [rng.integers(0, 3, size) for _ in range(20)]
    for pattern in patterns:
        with contextlib.suppress(BadImage):
            seen = see(from_gray(100.0 * pattern))
            assert all(digit.shape == (28, 28) for digit in (seen.digit, *seen.several))
