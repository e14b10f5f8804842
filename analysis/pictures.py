"""A picture of a digit → a digit like MNIST's: found, made light on black, scaled, centered."""

from __future__ import annotations

import io
import itertools
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils import UserError

LARGEST = 512  # pixels of the longer side: what is larger is made smaller first
PIXELS, SIDES = 50_000_000, 20_000  # a photograph has no more in all, and on a side
BOX, SIDE = 20, 28  # MNIST's digits lie in 20 x 20 of 28 x 28 pixels
SHEET_SIDE = 0.3  # of a picture's side: the least that a sheet of paper on a table takes
FAINT = 25.0  # the least distance between ink and ground, of 441 between black and white
THINNEST = 0.09  # width of a stroke over the digit's longer side; what is thinner is drawn over


class BadImage(UserError):
    """An image that cannot be classified."""


def read_image(source: Path | io.BytesIO) -> np.ndarray:
    """Return an image of any mode as RGB, float32 (H, W, 3) in [0, 255], upright and not too large.

    Raises:
        BadImage: if it is none.
    """
    if isinstance(source, Path) and source.exists() and not source.is_file():
        raise BadImage("not a regular file" if not source.is_dir() else "a folder without images")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as file:
                if file.width * file.height > PIXELS or max(file.size) > SIDES:
                    raise BadImage(
                        f"too large: {file.width} by {file.height} pixels; at most {PIXELS:,}, {SIDES:,} a side"
                    )
                file.draft("RGB", (LARGEST, LARGEST))
                image = ImageOps.exif_transpose(file)
                if image.mode.startswith("I;"):  # 16 bits: Pillow cannot make these smaller
                    image = image.convert("I")
                if image.mode in ("1", "P"):  # Pillow would drop pixels of these, not mix them
                    image = image.convert("L" if image.mode == "1" else "RGBA")
                image.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX, reducing_gap=2.0)
                return _rgb(image)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not an image, or of a format that is not known here") from None
    except Image.DecompressionBombError:
        raise BadImage(f"too large: more than {PIXELS:,} pixels") from None
    except Exception as error:  # a decoder raises whatever the bytes make it
        lines = str(getattr(error, "strerror", None) or error).splitlines()
        raise BadImage(f"cannot be read: {lines[0] if lines else type(error).__name__}") from None


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):  # 16 bits and more
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
        low, high = float(values.min()), float(values.max())
        extent = max(high - low, 0.25 * abs(high), 1e-6)  # noise on an even sheet stays faint
        return from_gray(255 * (values - low) / extent)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        pixels = np.asarray(image.convert("RGBA"), np.float32)
        color, opacity = pixels[..., :3], pixels[..., 3:] / 255
        ink = (color * opacity).sum() / max(3 * opacity.sum(), 1e-6)
        return color * opacity + (0.0 if ink > 127 else 255.0) * (1 - opacity)  # on what it stands out from
    return np.asarray(image.convert("RGB"), np.float32)


def from_gray(values: np.ndarray) -> np.ndarray:
    """Return gray levels (H, W) as RGB, float32 (H, W, 3)."""
    return np.repeat(values[..., None], 3, axis=2).astype(np.float32)


@dataclass(frozen=True)
class Seen:
    """The digit of a picture as MNIST has it, uint8 (28, 28), and whether there may be several in the picture."""

    digit: np.ndarray
    several: bool = False


def to_digit(pixels: np.ndarray) -> np.ndarray:
    """Return the digit of a picture as MNIST has it: uint8 (28, 28). See `see`."""
    return see(pixels).digit


def see(pixels: np.ndarray) -> Seen:
    """Return what a picture shows, as MNIST has it: light on black, the longer side 20 pixels, the center of
    mass in the middle.

    Ink is what differs from the ground, in whichever direction; the ground is a plane of color fitted
    to the picture's border, so that a shadow across it does no harm. Of a sheet of paper that lies on
    something of another color, what is drawn on the sheet.

    Args:
        pixels: RGB in [0, 255], (H, W, 3).

    Raises:
        BadImage: if nothing stands out from the ground.
    """
    contrast = _contrast(pixels - _ground(pixels))
    threshold = _otsu(contrast)
    mask = _without_specks(contrast > threshold)
    if (inside := _sheet(mask)) is not None:
        try:
            return see(pixels[inside])
        except BadImage:
            pass  # an even patch, and the drawing itself
    return Seen(_digit_of(contrast, threshold, mask), _several(mask))


def _digit_of(contrast: np.ndarray, threshold: float, mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    strong = float(np.quantile(contrast[mask], 0.9))
    near = ndimage.binary_dilation(mask, iterations=1)
    ink = np.clip((contrast - 0.3 * threshold) / (strong - 0.3 * threshold), 0, 1) * near
    ink, mask = ink[box], mask[box]

    longest = max(ink.shape)
    width = 4 * float(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1][mask].mean())
    missing = THINNEST * longest - width
    if missing >= 1:  # a pen's line on a large sheet
        size = 2 * round(missing / 2) + 1
        ink = ndimage.grey_dilation(np.pad(ink, size), size=size)
    return _centered(ink)


def _several(mask: np.ndarray) -> bool:
    """Return whether parts of a drawing stand side by side, each as tall as a digit beside the other."""
    from scipy import ndimage

    parts, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    boxes = ndimage.find_objects(parts)
    tallest = max(rows.stop - rows.start for rows, _ in boxes)
    tall = sorted((box[1] for box in boxes if box[0].stop - box[0].start > 0.6 * tallest), key=lambda one: one.start)
    return any(left.stop <= right.start for left, right in itertools.pairwise(tall))


def _sheet(mask: np.ndarray) -> tuple[slice, slice] | None:
    """Return a rectangle well inside what stands out from the ground, where that is a sheet of paper with
    something on it: large, four-cornered, and not even."""
    from scipy import ndimage

    parts, _ = ndimage.label(mask)
    areas = np.bincount(parts.ravel())[1:]
    whole = ndimage.binary_fill_holes(parts == 1 + int(areas.argmax()))
    least = SHEET_SIDE * np.array(mask.shape)
    if whole.sum() < least.prod() or whole.sum() < 0.85 * _smallest_box(whole):
        return None
    if whole.sum() - areas.max() < 4:  # nothing is drawn on it
        return None
    rows, columns = (np.flatnonzero(whole.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    while not whole[top:bottom, left:right].all():  # a sheet that lies askew: away with the side that shows most table
        edges = [whole[top, left:right], whole[bottom - 1, left:right], whole[top:bottom, left], whole[top:bottom, right - 1]]  # fmt: skip
        worst = int(np.argmin([edge.mean() for edge in edges]))
        top, bottom, left, right = top + (worst == 0), bottom - (worst == 1), left + (worst == 2), right - (worst == 3)
        if bottom - top < least[0] or right - left < least[1]:
            return None
    rim = 1 + min(bottom - top, right - left) // 40  # the paper's blurred edge
    return np.s_[top + rim : bottom - rim, left + rim : right - rim]


def _smallest_box(mask: np.ndarray) -> float:
    """Return the area of the smallest rectangle around a mask, at whichever angle."""
    y, x = np.nonzero(mask ^ np.pad(mask, 1)[:-2, 1:-1] | mask ^ np.pad(mask, 1)[2:, 1:-1])  # its edge
    angles = np.linspace(0, np.pi / 2, 46)[:, None]
    along, across = x * np.cos(angles) + y * np.sin(angles), y * np.cos(angles) - x * np.sin(angles)
    return float(((np.ptp(along, axis=1) + 1) * (np.ptp(across, axis=1) + 1)).min())


def _contrast(difference: np.ndarray) -> np.ndarray:
    """Return how far each pixel (H, W, 3) is from the ground in the direction of the ink, which most of the
    pixels that differ have in common, and noise and JPEG's false colors have not."""
    from scipy import ndimage

    size = np.linalg.norm(difference, axis=2)
    if min(size.shape) > 100:
        size = ndimage.uniform_filter(size, 3)
    few = max(1, min(20, size.size // 200))  # a small digit on a large sheet is few pixels
    strong = float(np.partition(size, -few, axis=None)[-few])
    if strong < FAINT:
        raise BadImage("nothing is drawn on it")
    ink = difference[size > 0.7 * strong]  # (n, 3)
    _, axes = np.linalg.eigh(ink.T @ ink)
    along = ink @ axes[:, -1]
    return (difference @ (axes[:, -1] if along.sum() >= 0 else -axes[:, -1])).clip(min=0)


def _ground(pixels: np.ndarray) -> np.ndarray:
    """Return the plane of color (H, W, 3) through the pixels of the border, but for those that stand out."""
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
    """Return the threshold that parts values best into two groups (Otsu 1979)."""
    counts, edges = np.histogram(values, 128)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between[:-1]))])


def _without_specks(mask: np.ndarray) -> np.ndarray:
    """Return the mask without the parts that are small beside the largest."""
    from scipy import ndimage

    parts, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count == 0:
        raise BadImage("nothing is drawn on it")
    areas = np.bincount(parts.ravel())[1:]
    return np.isin(parts, 1 + np.flatnonzero(areas >= 0.05 * areas.max()))


def _centered(ink: np.ndarray) -> np.ndarray:
    """Return ink in [0, 1] scaled into MNIST's box, its center of mass in the middle of the image."""
    from scipy import ndimage

    scale = BOX / max(ink.shape)
    size = [max(1, round(scale * length)) for length in ink.shape]
    small = Image.fromarray((255 * ink).astype(np.uint8)).resize((size[1], size[0]), Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)  # fmt: skip
    digit = np.zeros((SIDE, SIDE), np.float32)
    middle = np.array(ndimage.center_of_mass(np.asarray(small, np.float32)))
    top, left = np.clip(np.round(SIDE / 2 - middle), 0, SIDE - np.array(size)).astype(int)
    digit[top : top + size[0], left : left + size[1]] = np.asarray(small)
    return np.clip(digit * (255 / max(float(np.quantile(digit[digit > 0], 0.9)), 1.0)), 0, 255).astype(np.uint8)
