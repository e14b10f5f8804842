"""Classify a person's own images of digits with a trained run.

python predict.py --run log/center photo.jpg scans/
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from arguments import Parser, number
from runs import BadRun, FinishedRun, kept_epochs, read_run

if TYPE_CHECKING:
    import engine

LARGEST = 512  # pixels of the longer side: what is larger is made smaller first
BOX, SIDE = 20, 28  # MNIST's digits lie in 20 x 20 of 28 x 28 pixels
FAINT = 25.0  # the least distance between ink and ground, of 441 between black and white
THINNEST = 0.09  # width of a stroke over the digit's longer side; what is thinner is drawn over
FIGURE = "predictions.png"
CALIBRATION = 1_000  # digits that set the threshold


class BadImage(Exception):
    """An image that cannot be classified; the message is one line for the user."""


@dataclass(frozen=True)
class Prediction:
    """What a run makes of one image."""

    digit: int
    confidence: float  # percent
    distance: float  # to the centre of that digit
    known: bool
    feature: np.ndarray  # (D,)


# ---------------------------------------------------------------- from a picture to a digit like MNIST's


def read_image(source: Path | io.BytesIO) -> np.ndarray:
    """Return an image of any mode as RGB, float32 (H, W, 3) in [0, 255], upright and not too large.

    Raises:
        BadImage: if it is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as file:
                file.draft("RGB", (LARGEST, LARGEST))
                image = ImageOps.exif_transpose(file)
                if image.mode in ("1", "P"):  # Pillow would drop pixels of these, not mix them
                    image = image.convert("L" if image.mode == "1" else "RGBA")
                image.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX, reducing_gap=2.0)
                return _rgb(image)
    except UnidentifiedImageError:
        raise BadImage("not an image, or of a format that is not known here") from None
    except Image.DecompressionBombError:
        raise BadImage("too large: more than 178 million pixels") from None
    except Exception as error:  # a decoder raises whatever the bytes make it
        lines = str(getattr(error, "strerror", None) or error).splitlines()
        raise BadImage(f"cannot be read: {lines[0] if lines else type(error).__name__}") from None


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):  # 16 bits and more
        values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)
        low, high = float(values.min()), float(values.max())
        extent = max(high - low, 0.25 * abs(high), 1e-6)  # noise on an even sheet stays faint
        return from_grey(255 * (values - low) / extent)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        pixels = np.asarray(image.convert("RGBA"), np.float32)
        color, opacity = pixels[..., :3], pixels[..., 3:] / 255
        ink = (color * opacity).sum() / max(3 * opacity.sum(), 1e-6)
        return color * opacity + (0.0 if ink > 127 else 255.0) * (1 - opacity)  # on what it stands out from
    return np.asarray(image.convert("RGB"), np.float32)


def from_grey(values: np.ndarray) -> np.ndarray:
    """Return grey levels (H, W) as RGB, float32 (H, W, 3)."""
    return np.repeat(values[..., None], 3, axis=2).astype(np.float32)


def to_digit(pixels: np.ndarray) -> np.ndarray:
    """Return the digit of a picture as MNIST has it: uint8 (28, 28), light on black, its longer side 20
    pixels, its centre of mass in the middle.

    Ink is what differs from the ground, in whichever direction; the ground is a plane of colour fitted
    to the picture's border, so that a shadow across it does no harm.

    Args:
        pixels: RGB in [0, 255], (H, W, 3).

    Raises:
        BadImage: if nothing stands out from the ground.
    """
    from scipy import ndimage

    contrast = _contrast(pixels - _ground(pixels))
    threshold = _otsu(contrast)
    mask = _without_specks(contrast > threshold)
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


def _contrast(difference: np.ndarray) -> np.ndarray:
    """Return how far each pixel (H, W, 3) is from the ground in the direction of the ink, which most of the
    pixels that differ have in common, and noise and JPEG's false colours have not."""
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
    """Return the plane of colour (H, W, 3) through the pixels of the border, but for those that stand out."""
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
    """Return ink in [0, 1] scaled into MNIST's box, its centre of mass in the middle of the image."""
    from scipy import ndimage

    scale = BOX / max(ink.shape)
    size = [max(1, round(scale * length)) for length in ink.shape]
    small = Image.fromarray((255 * ink).astype(np.uint8)).resize((size[1], size[0]), Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)  # fmt: skip
    digit = np.zeros((SIDE, SIDE), np.float32)
    middle = np.array(ndimage.center_of_mass(np.asarray(small, np.float32)))
    top, left = np.clip(np.round(SIDE / 2 - middle), 0, SIDE - np.array(size)).astype(int)
    digit[top : top + size[0], left : left + size[1]] = np.asarray(small)
    return np.clip(digit * (255 / max(float(np.quantile(digit[digit > 0], 0.9)), 1.0)), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- from a digit to an answer


class Reader:
    """A finished run, ready to read digits.

    An image is unknown if its feature lies farther from the centre of the predicted digit than all
    but `reject` percent of the digits that the run kept out of its training (main.py --hold-out), each
    taken through `to_digit` like a person's own image. A run that has kept none is calibrated on
    digits it was trained on, which lie closer: more of what it has not seen is then unknown.
    """

    def __init__(self, run: FinishedRun, reject: float = 1.0) -> None:
        import openset
        from hardware import choose_device

        self.device, _ = choose_device(0, use_cpu=False)
        self.network = openset.load_network(run.path, self.device)
        self.classes = np.array(run.config["dataset"]["classes"])
        self.centers = run.arrays["centers"]
        data, held, _ = openset.held_out_of(run)
        self.held_out = len(held) > 0
        images = (held if self.held_out else data.train_images).numpy()
        chosen = np.random.default_rng(0).permutation(len(images))[:CALIBRATION]
        digits = []
        for image in images[chosen]:
            with contextlib.suppress(BadImage):
                digits.append(to_digit(from_grey(image)))
        self.calibrated_on = len(digits)
        _, distances = self._evaluate(np.array(digits))
        self.threshold = float(np.quantile(distances, 1 - reject / 100))

    def read(self, digits: np.ndarray) -> list[Prediction]:
        """Return what each of the digits is, uint8 (N, 28, 28) as `to_digit` returns them."""
        found, distances = self._evaluate(digits)
        return [
            Prediction(int(self.classes[label]), 100 * float(score), float(distance), bool(distance <= self.threshold), feature)
            for label, score, distance, feature in zip(
                found.predictions.cpu(), found.scores, distances, found.features.cpu().numpy(), strict=True
            )
        ]  # fmt: skip

    def _evaluate(self, digits: np.ndarray) -> tuple[engine.Evaluation, np.ndarray]:
        """Return what the network makes of digits, and how far they lie from the predicted centres."""
        import torch

        labels = torch.zeros(len(digits), dtype=torch.int64, device=self.device)
        found = self.network.evaluate(torch.from_numpy(digits).to(self.device), labels)
        own = self.centers[found.predictions.cpu().numpy()]
        return found, np.linalg.norm(found.features.cpu().numpy() - own, axis=1)


def plot(run: FinishedRun, predictions: dict[str, Prediction], path: Path) -> None:
    """Draw where images fall among the features of the run's test set."""
    from matplotlib.figure import Figure

    import plots

    read = plots.read_epoch(run.path, kept_epochs(run.path)[-1])
    features = np.array([prediction.feature for prediction in predictions.values()])
    (_, points), _ = plots.to_two_dimensions(run.arrays["train_features"], features)
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    ax = figure.add_subplot()
    plots.draw_part(ax, read, "test")
    below: Counter[int] = Counter()
    for (name, prediction), (x, y) in zip(predictions.items(), points, strict=True):
        ax.scatter(x, y, s=160, marker="*", c="white", edgecolors="black", linewidths=1.2, zorder=5)
        text = f"{Path(name).name}: {prediction.digit if prediction.known else 'unknown'}"
        offset = (9 if x < 0 else -9, 6 - 11 * below[prediction.digit])  # towards the middle, one below the other
        below[prediction.digit] += 1
        ax.annotate(text, (x, y), xytext=offset, textcoords="offset points", fontsize=8, zorder=6, parse_math=False,
                    ha="left" if x < 0 else "right",
                    bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1})  # fmt: skip
    ax.scatter([], [], s=160, marker="*", c="white", edgecolors="black", linewidths=1.2, label="your image")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    plots.save(figure, path, dpi=150)


# ---------------------------------------------------------------- the command


def sources(names: list[str]) -> Iterator[tuple[str, Path | io.BytesIO]]:
    """Yield the images that arguments stand for: files, the images in a folder, or ``-`` for stdin."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    for name in names:
        inside: list[Path] = []
        with contextlib.suppress(OSError):  # is told of when it is opened
            inside = sorted(file for file in Path(name).iterdir() if file.suffix.lower() in suffixes)
        if name == "-":
            yield "stdin", io.BytesIO(sys.stdin.buffer.read())
        elif inside:
            yield from ((str(file), file) for file in inside)
        else:
            yield name, Path(name)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 2 if an image could not be read."""
    parser = Parser(description="Classify images of digits with a trained run.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, or - for stdin: any size, colour or grey, dark on light or light on dark, one digit each")  # fmt: skip
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run directory of main.py")
    parser.add_argument("--reject", type=number(float, 0, 50), default=1.0, metavar="PERCENT", help="share of true digits that may be called unknown (default: 1)")  # fmt: skip
    parser.add_argument("--plot", action="store_true", help=f"draw where the images fall among the features, {FIGURE}")
    args = parser.parse_intermixed_args(argv)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a console without the name's letters
    try:
        return predict(args)
    except BrokenPipeError:  # the reader of a pipe has left
        sys.stderr.close()
        return 1
    except OSError as error:
        print(f"predict.py: stopped: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def predict(args: argparse.Namespace) -> int:
    """Print a line for each image; return the exit status."""
    from datasets import DataError
    from utils import RunError

    try:
        run = read_run(args.run)
        reader = Reader(run, args.reject)
    except (BadRun, DataError, RunError) as error:
        print(f"predict.py: error: {error}", file=sys.stderr)
        return 2
    which = "training digits held out" if reader.held_out else "digits of its training (held out: none, see --hold-out)"
    print(f"{args.run}: unknown is what lies over {reader.threshold:.2f} from its centre, as {args.reject:g} % do of {reader.calibrated_on} {which}")  # fmt: skip
    status = 0
    predictions: dict[str, Prediction] = {}
    for name, source in sources(args.images):
        try:
            prediction = reader.read(to_digit(read_image(source))[None])[0]
        except BadImage as error:
            print(f"predict.py: {name}: {error}", file=sys.stderr)
            status = 2
            continue
        predictions[name] = prediction
        digit = str(prediction.digit) if prediction.known else f"unknown, nearest to {prediction.digit}"
        print(f"{name}: {digit} ({prediction.confidence:.1f} %, {prediction.distance:.2f} from its centre)", flush=True)
    if args.plot and predictions:
        plot(run, predictions, Path(FIGURE))
        print(f"Wrote {FIGURE}")
    return status


if __name__ == "__main__":
    sys.exit(main())
