"""The name of a file or folder → the pixels of each image in it."""

from __future__ import annotations

import contextlib
import glob
import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils import UserError, complain

LARGEST = 512  # pixels of the longer side; larger images are scaled down first
PIXELS, SIDES = 50_000_000, 20_000  # limits of an image and of its longer side, above any photograph
PAGED = ("TIFF", "GIF", "PNG", "WEBP")  # not a phone's JPEG (MPO), whose second image is the same
HEIC = {".heic", ".heif", ".hif"}
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # videos have others
DEPTH = 3  # levels of folders that are searched, as in train/7/image.png
OWN = re.compile(r"predictions(-\d+)?\.png")  # figures of predict.py


class BadImage(UserError):
    """An image that cannot be classified."""


# ---------------------------------------------------------------- names


def sources(names: list[str]) -> Iterator[tuple[str, Path | io.BytesIO]]:
    """Yield a name and a source for each image that the arguments name: files, folders, patterns, ``-`` for stdin."""
    for name in names:
        if name == "-":
            yield "stdin", io.BytesIO(sys.stdin.buffer.read())
        elif os.path.isdir(name):
            found = list(_inside(Path(name), DEPTH))
            yield from ((str(file), file) for file in found or [Path(name)])
        elif not os.path.lexists(name) and (matches := sorted(glob.glob(name, recursive=True))):
            yield from sources(matches)
        else:
            yield name, Path(name)


def _inside(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the images in a folder, or in its subfolders if it has none; report the skipped files on stderr."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    there: list[Path] = []
    try:
        there = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    except OSError as error:
        complain(f"predict.py: {folder}: cannot be read: {error.strerror}")
    if any(file.suffix.lower() in HEIC for file in there) and heic_is_known():
        suffixes |= HEIC
    folders = dict.fromkeys(one for one in there if os.path.isdir(one) and not one.is_symlink())  # in order
    files = [one for one in there if one not in folders]
    own = {file for file in files if OWN.fullmatch(file.name)}
    images = [file for file in files if file.suffix.lower() in suffixes and file not in own]
    other = set(files) - set(images)
    kinds = sorted({file.name if file in own else file.suffix.lower().strip(".") or file.name for file in other})
    if skipped := len(other):
        kinds = [f"{kind} (needs pip install pillow-heif)" if f".{kind}" in HEIC else kind for kind in kinds]
        complain(f"predict.py: {folder}: {skipped} file{'s' * (skipped > 1)} skipped: {', '.join(kinds)}")
    if images and folders:
        complain(f"predict.py: {folder}: {len(folders)} folder{'s' * (len(folders) > 1)} in it skipped")
    yield from images
    if not images and depth > 1:
        for one in folders:
            yield from _inside(one, depth - 1)


# ---------------------------------------------------------------- pixels


def read_pages(source: Path | io.BytesIO) -> Generator[tuple[int | None, np.ndarray], None, None]:
    """Yield each page of a TIFF and each frame of an animation, with its number from 1; a single image has no number.
    Pixels are RGB, float32 (H, W, 3) in [0, 255], upright, the longer side at most 512.

    Raises:
        BadImage: at the first page that cannot be read.
    """
    if isinstance(source, Path):
        _check_name(source)
    with _in_one_line():
        file = _open(source)
    with file:
        count = 1
        if file.format in PAGED:
            with contextlib.suppress(Exception):  # damaged after the first page
                count = getattr(file, "n_frames", 1)
        for number in range(count):
            with _in_one_line():
                file.seek(number)
                pixels = _page(file)
            yield (number + 1 if count > 1 else None), pixels


def _check_name(path: Path) -> None:
    if os.path.isdir(path):
        raise BadImage("a folder without images")
    if os.path.exists(path):
        if not path.is_file():
            raise BadImage("not a regular file")
    elif re.match(r"\w{2,}:/", str(path)):
        raise BadImage("a URL: download it first, or pipe it into predict.py -")
    elif glob.has_magic(str(path)):
        raise BadImage("no file matches this pattern")


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """Turn any error of a decoder into a BadImage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not an image, or in an unknown format") from None
    except Image.DecompressionBombError:
        raise BadImage(f"too large: more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
    except Exception as error:
        lines = str(getattr(error, "strerror", None) or error).splitlines()
        raise BadImage(f"cannot be read: {lines[0] if lines else type(error).__name__}") from None


def _open(source: Path | io.BytesIO) -> Image.Image:
    try:
        return Image.open(source)
    except UnidentifiedImageError:
        if isinstance(source, io.BytesIO):
            start = source.getvalue()[:12]
        else:
            with source.open("rb") as file:
                start = file.read(12)
        if start[4:8] != b"ftyp" or start[8:12] not in HEIC_BRANDS:
            raise
        if not heic_is_known():
            raise BadImage("HEIC: pip install pillow-heif to read it, or save it as JPEG") from None
        return Image.open(source)


def heic_is_known() -> bool:
    """Register HEIC, the format of iPhone pictures, with Pillow; return whether pillow-heif is installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def _page(file: Image.Image) -> np.ndarray:
    size = f"{file.width} by {file.height}"
    file.draft("RGB", (LARGEST, LARGEST))  # a JPEG becomes smaller while it is decoded
    if file.width * file.height > PIXELS or max(file.size) > SIDES:
        raise BadImage(f"too large: {size} pixels; at most {PIXELS:,}, {SIDES:,} a side")
    image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I;"):  # 16 bits: Pillow cannot make these smaller
        image = image.convert("I")
    if image.mode in ("1", "P"):  # Pillow would drop pixels of these instead of averaging them
        image = image.convert("L" if image.mode == "1" else "RGBA")
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX, reducing_gap=2.0)
    return _rgb(image)


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):  # 16 bits and more
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
        low, high = float(values.min()), float(values.max())
        extent = max(high - low, 0.25 * abs(high), 1e-6)  # so that noise on an empty sheet stays faint
        return from_gray(255 * (values - low) / extent)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        pixels = np.asarray(image.convert("RGBA"), np.float32)
        color, opacity = pixels[..., :3], pixels[..., 3:] / 255
        ink = (color * opacity).sum() / max(3 * opacity.sum(), 1e-6)
        return color * opacity + (0.0 if ink > 127 else 255.0) * (1 - opacity)  # black behind light ink, else white
    return np.asarray(image.convert("RGB"), np.float32)


def from_gray(values: np.ndarray) -> np.ndarray:
    """Return gray levels (H, W) as RGB, float32 (H, W, 3)."""
    return np.repeat(values[..., None], 3, axis=2).astype(np.float32)
