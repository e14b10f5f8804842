"""A picture of a digit → a digit as in MNIST: found, turned light on black, scaled, centered."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.sparse import csgraph

from analysis import page_lines, paper
from analysis.image_files import BadImage

BOX, SIDE = 20, 28  # MNIST's digits lie in 20 x 20 of 28 x 28 pixels
# Raise it when a change here, in paper.py, page_lines.py or image_files.py makes other digits of images: runs are then
# calibrated again.
READING = 2
PAGE = 64  # pixels of the shorter side from which a picture may show lines and frames of a page
GAP = 0.2  # of the tallest digit's height: the vertical distance from which parts are different digits
FAINT = 25.0  # the least distance between ink and ground; black and white are 441 apart
THINNEST = 0.09  # width of a stroke over the digit's longer side; thinner strokes are thickened


@dataclass(frozen=True)
class Seen:
    """The digits found in a picture, in the form of MNIST.

    Args:
        digit: the whole drawing, uint8 (28, 28).
        several: separate digits in reading order; empty if there is only one.
        looks_like: "a grid", "a box" or "a frame" if the drawing is not a digit; else empty.
    """

    digit: np.ndarray
    several: tuple[np.ndarray, ...] = ()
    looks_like: str = ""


def see(pixels: np.ndarray) -> Seen:
    """Return the digits in a picture, in the form of MNIST: light on black, the longer side 20 pixels, the center of
    mass in the middle.

    Ink is what differs from the ground, in whichever direction. The ground is a plane of color fitted to the
    picture's border, so a soft shadow does no harm. If a sheet of paper lies on something of another color, only the
    drawing on the sheet counts. Ruled lines, frames, edges of a scan and punched holes are left out.

    Args:
        pixels: RGB in [0, 255], (H, W, 3).

    Raises:
        BadImage: if nothing stands out from the ground.
    """
    difference = pixels - _ground(pixels)
    if min(pixels.shape[:2]) >= PAGE and _uneven(difference):
        even = _evenly_lit(pixels)
        with contextlib.suppress(BadImage):  # raised for a bold drawing up to the border
            return _see(even, even - _ground(even), lit=True)
    return _see(pixels, difference)


def _see(pixels: np.ndarray, difference: np.ndarray, lit: bool = False) -> Seen:
    contrast, only_lines = _contrast(difference), False
    threshold, mask = _drawn(contrast)
    if (inside := paper.sheet(mask)) is not None:
        with contextlib.suppress(BadImage):  # raised for an even patch: it is the drawing itself
            return see(pixels[inside])
    page = min(contrast.shape) >= PAGE
    if page:
        contrast = paper.without_furniture(contrast, contrast > threshold, cut_off=lit)
        contrast, only_lines = page_lines.without_lines(contrast, contrast > _otsu(contrast))
        threshold, mask = _drawn(contrast)
    looks_like = (paper.looks_like(mask) if page else "") or ("a grid" if only_lines else "")
    if looks_like == "a box" and (inside := paper.sheet(mask, solid=False)) is not None:
        with contextlib.suppress(BadImage):  # raised for an empty box
            return see(pixels[inside])  # a digit that touches its box
    several = [] if looks_like else _apart(mask)
    digits = [_digit_of(contrast, threshold, one) for one in (mask, *several)]
    return Seen(digits[0], tuple(digits[1:]), looks_like)


def _digit_of(contrast: np.ndarray, threshold: float, mask: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    strong = float(np.quantile(contrast[mask], 0.9))
    near = ndimage.binary_dilation(mask)
    ink = np.clip((contrast - 0.3 * threshold) / (strong - 0.3 * threshold), 0, 1) * near
    ink, mask = ink[box], mask[box]

    longest = max(ink.shape)
    width = 4 * float(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1][mask].mean())
    missing = THINNEST * longest - width
    if missing >= 1:  # a thin pen on a large sheet
        size = 2 * round(missing / 2) + 1
        ink = ndimage.grey_dilation(np.pad(ink, size), size=size)
    return _centered(ink)


def _apart(mask: np.ndarray) -> list[np.ndarray]:
    """Return the separate digits of a drawing in reading order, each as a mask, or nothing if there is only one.

    Digits are about equally tall. They stand side by side without overlap, or one below the other, farther apart than
    the parts of a broken stroke. Smaller parts belong to the digit above or below them, or to none.
    """
    parts, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    boxes = [(y.start, y.stop, x.start, x.stop) for y, x in ndimage.find_objects(parts)]
    top, bottom, left, right = np.array(boxes).T
    height, width = bottom - top, right - left
    beside = np.maximum(left[:, None], left) - np.minimum(right[:, None], right)  # (n, n); negative: overlap
    below = np.maximum(top[:, None], top) - np.minimum(bottom[:, None], bottom)
    tall = height > 0.5 * height.max()
    overlap = np.where(np.outer(tall, tall), 0, 0.5 * np.where(height[:, None] < height, width[:, None], width))
    _, group = csgraph.connected_components((beside < -overlap) & (below < GAP * height.max()), directed=False)
    digits = [group == number for number in np.unique(group[tall])]
    if len(digits) < 2:
        return []
    rows: list[list[np.ndarray]] = []
    for digit in sorted(digits, key=lambda one: top[one].min()):
        if rows and (top[digit].min() + bottom[digit].max()) / 2 < max(bottom[one].max() for one in rows[-1]):
            rows[-1].append(digit)
        else:
            rows.append([digit])
    ordered = (digit for row in rows for digit in sorted(row, key=lambda one: left[one].min()))
    return [np.isin(parts, 1 + np.flatnonzero(digit)) for digit in ordered]


def _uneven(difference: np.ndarray) -> bool:
    """Return whether a corner of the picture, with a long stretch of the border, differs from the ground: it lies in a
    shadow or on the table. A sheet of paper that one side cuts off has no corner there."""
    depth = max(1, min(difference.shape[:2]) // 20)
    off = np.linalg.norm(difference[depth:-depth, depth:-depth], axis=2) > 40
    sides = [off[0, 1:], off[1:, -1], off[-1, -2::-1], off[-2::-1, 0]]
    around = np.concatenate(sides * 2)  # twice around, so that no stretch is cut
    corners = np.cumsum([len(side) for side in sides * 2]) - 1
    stretches = [one for (one,) in ndimage.find_objects(ndimage.label(around)[0])]
    long = [one for one in stretches if one.stop - one.start > 0.15 * len(around) / 2]
    return not around.all() and any(((corners >= one.start) & (corners < one.stop)).any() for one in long)


def _evenly_lit(pixels: np.ndarray) -> np.ndarray:
    """Return a picture without shadows and everything else wider than a third of it; strokes stay."""
    gray = np.asarray(Image.fromarray(pixels.mean(axis=2)).resize((48, 48), Image.Resampling.BOX))
    stands_out = gray - ndimage.median_filter(gray, 17, mode="nearest")
    size = (max(pixels.shape[:2]) // 3,) * 2 + (1,)
    if stands_out[np.abs(stands_out) > 0.5 * np.abs(stands_out).max()].sum() > 0:  # light ink
        return pixels - ndimage.grey_opening(pixels, size=size)
    return 255 * pixels / ndimage.grey_closing(pixels, size=size).clip(min=1)


def _contrast(difference: np.ndarray) -> np.ndarray:
    """Return how far each pixel (H, W, 3) differs from the ground in the direction of the ink. Most differing pixels
    share that direction; noise and the false colors of JPEG do not."""
    size = np.linalg.norm(difference, axis=2)
    if min(size.shape) > 100:
        size = ndimage.uniform_filter(size, 3)
    few = max(1, min(20, size.size // 200))  # a small digit on a large sheet has few pixels
    strong = float(np.partition(size, -few, axis=None)[-few])
    if strong < FAINT:
        raise BadImage("nothing is drawn on it")
    ink = difference[size > 0.7 * strong]  # (n, 3)
    _, axes = np.linalg.eigh(ink.T @ ink)
    along = ink @ axes[:, -1]
    return (difference @ (axes[:, -1] if along.sum() >= 0 else -axes[:, -1])).clip(min=0)


def _ground(pixels: np.ndarray) -> np.ndarray:
    """Return the plane of color (H, W, 3) fitted to the border's pixels, without those that stand out."""
    height, width, _ = pixels.shape
    rim = max(1, min(height, width) // 20)
    border = np.ones((height, width), bool)
    border[rim:-rim, rim:-rim] = False
    y, x = np.mgrid[:height, :width].astype(np.float32)
    plane = np.stack([np.ones_like(x), x / width, y / height], axis=2)  # (H, W, 3)
    points, colors = plane[border], pixels[border]
    kept = np.linalg.norm(colors - np.median(colors, axis=0), axis=1)
    chosen = kept <= max(2.5 * float(np.median(kept)), 40.0)
    for _ in range(2):
        fit, *_ = np.linalg.lstsq(points[chosen], colors[chosen], rcond=None)
        off = np.linalg.norm(colors - points @ fit, axis=1)
        chosen = off <= max(2.5 * float(np.median(off)), 15.0)
    return plane @ fit


def _otsu(values: np.ndarray) -> float:
    """Return the threshold that best separates values into two groups (Otsu 1979)."""
    counts, edges = np.histogram(values, 128)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between[:-1]))])


def _drawn(contrast: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the least contrast of ink, and the mask of the ink without specks."""
    threshold = _otsu(contrast)
    mask = paper.large(contrast > threshold)
    if not mask.any():
        raise BadImage("nothing is drawn on it")
    return threshold, mask


def _centered(ink: np.ndarray) -> np.ndarray:
    """Return ink in [0, 1] scaled to MNIST's box, with its center of mass in the middle of the image."""
    scale = BOX / max(ink.shape)
    size = [max(1, round(scale * length)) for length in ink.shape]
    filter = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    small = Image.fromarray((255 * ink).astype(np.uint8)).resize((size[1], size[0]), filter)
    digit = np.zeros((SIDE, SIDE), np.float32)
    middle = np.array(ndimage.center_of_mass(np.asarray(small, np.float32)))
    top, left = np.clip(np.round(SIDE / 2 - middle), 0, SIDE - np.array(size)).astype(int)
    digit[top : top + size[0], left : left + size[1]] = np.asarray(small)
    return np.clip(digit * (255 / max(float(np.quantile(digit[digit > 0], 0.9)), 1.0)), 0, 255).astype(np.uint8)
