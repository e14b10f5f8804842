"""Classify a person's own images of digits with a trained run.

python predict.py --run log/center photo.jpg scans/
"""

# ruff: noqa: E402  (--help and a bad flag answer before torch is imported)
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from training.arguments import Parser, argument, number, parse_gpu

FIGURE = "predictions.png"


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the arguments."""
    parser = Parser(description="Classify images of digits with a trained run.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, or - for stdin: any size, color or gray, dark on light or light on dark, one digit each")  # fmt: skip
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run directory of main.py")
    parser.add_argument("--reject", type=number(float, 0, 50), default=1.0, metavar="PERCENT", help="share of true digits that may be called unknown (default: 1)")  # fmt: skip
    parser.add_argument("--plot", action="store_true", help=f"draw where the images fall among the features, {FIGURE}")
    parser.add_argument("--gpu", type=argument(parse_gpu), default=(0, None), metavar="INDEX", help="CUDA device; -1 is the CPU (default: 0)")  # fmt: skip
    parser.add_argument("--use-cpu", action="store_true", help="use the CPU even if there is a GPU")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    ARGUMENTS = parse(sys.argv[1:])

import contextlib
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image

from analysis import plots
from analysis.pictures import BadImage, from_gray, read_image, to_digit
from rundir.loading import held_out_of, load_network
from rundir.reading import Run, read_run
from training.hardware import choose_device
from training.trainer import Evaluation
from utils import printable, run_command

CALIBRATION = 1_000  # digits that set the threshold


@dataclass(frozen=True)
class Prediction:
    """What a run makes of one image."""

    digit: int
    confidence: float  # percent
    distance: float  # to the center of that digit
    known: bool
    feature: np.ndarray  # (D,)


class Reader:
    """A finished run, ready to read digits.

    An image is unknown if its feature lies farther from the center of the predicted digit than all
    but `reject` percent of the digits that the run kept out of its training (main.py --hold-out), each
    taken through `to_digit` like a person's own image. A run that has kept none is calibrated on
    digits it was trained on, which lie closer: more of what it has not seen is then unknown.
    """

    def __init__(self, run: Run, device: torch.device, reject: float = 1.0) -> None:
        self.device = device
        self.network = load_network(run, device)
        self.classes = np.array(run.record.classes)
        self.centers = run.arrays["centers"]
        data, held, _ = held_out_of(run)
        self.held_out = len(held) > 0
        images = (held if self.held_out else data.train_images).numpy()
        chosen = np.random.default_rng(0).permutation(len(images))[:CALIBRATION]
        digits = []
        for image in images[chosen]:
            with contextlib.suppress(BadImage):
                digits.append(to_digit(from_gray(image)))
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

    def _evaluate(self, digits: np.ndarray) -> tuple[Evaluation, np.ndarray]:
        """Return what the network makes of digits, and how far they lie from the predicted centers."""
        labels = torch.zeros(len(digits), dtype=torch.int64, device=self.device)
        found = self.network.evaluate(torch.from_numpy(digits).to(self.device), labels)
        own = self.centers[found.predictions.cpu().numpy()]
        return found, np.linalg.norm(found.features.cpu().numpy() - own, axis=1)


def plot(run: Run, predictions: dict[str, Prediction], path: Path) -> None:
    """Draw where images fall among the features of the run's test set."""
    from matplotlib.figure import Figure

    read = plots.read_epoch(run.path, run.record.epochs)
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


def main(argv: list[str]) -> int:
    """Run a command line; return the exit status: 2 if an image could not be read."""
    return run_command("predict.py", partial(predict, parse(argv)))


def predict(args: argparse.Namespace) -> int:
    """Print a line for each image; return the exit status."""
    device, _ = choose_device(args.gpu[0], args.use_cpu)
    run = read_run(args.run)
    reader = Reader(run, device, args.reject)
    which = "training digits held out" if reader.held_out else "digits of its training (held out: none, see --hold-out)"
    print(f"{args.run}: unknown is what lies over {reader.threshold:.2f} from its center, as {args.reject:g} % do of {reader.calibrated_on} {which}")  # fmt: skip
    status = 0
    predictions: dict[str, Prediction] = {}
    for name, source in sources(args.images):
        shown = printable(name)
        try:
            prediction = reader.read(to_digit(read_image(source))[None])[0]
        except BadImage as error:
            print(f"predict.py: {shown}: {printable(str(error))}", file=sys.stderr)
            status = 2
            continue
        predictions[shown] = prediction
        digit = str(prediction.digit) if prediction.known else f"unknown, nearest to {prediction.digit}"
        print(
            f"{shown}: {digit} ({prediction.confidence:.1f} %, {prediction.distance:.2f} from its center)", flush=True
        )
    if args.plot and predictions:
        plot(run, predictions, Path(FIGURE))
        print(f"Wrote {FIGURE}")
    return status


if __name__ == "__main__":
    sys.exit(run_command("predict.py", partial(predict, ARGUMENTS)))
