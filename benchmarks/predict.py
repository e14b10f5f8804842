"""How well predict.py reads digits that do not look like MNIST's, and knows letters for unknown.

    python benchmarks/predict.py > benchmarks/results/predict.txt

Takes 500 test digits, 50 of each class, changes them in several ways, and runs each through what
predict.py does with a file: read, found, centered, classified.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from analysis import openset
from analysis.epochs import loss_name
from analysis.find_digit import see
from analysis.image_files import BadImage, from_gray, read_pages
from analysis.reader import Prediction, Reader
from benchmarks.timing import command, machine
from datasets import Digits
from rundir.network import data_of, data_root
from rundir.run import read_run

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def rescaled(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return it 20 to 400 pixels wide."""
    side = int(np.exp(rng.uniform(np.log(20), np.log(400))))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def inverted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return it dark on light."""
    return Image.fromarray(255 - np.asarray(image))


def colored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return it in one color on a ground of another, at least 120 away (black and white are 441 apart)."""
    ink = ground = np.zeros(3)
    while np.linalg.norm(ink - ground) < 120:
        ink, ground = rng.uniform(0, 255, (2, 3))
    share = np.asarray(image.convert("L"), float)[..., None] / 255
    return Image.fromarray((share * ink + (1 - share) * ground).astype(np.uint8))


def everything(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return it rescaled, every second one inverted, then on a colored ground."""
    image = rescaled(image, rng)
    return colored(inverted(image, rng) if rng.random() < 0.5 else image, rng)


def shaded(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return all that on a sheet with margins, a shadow across it and noise: a poor photograph."""
    image = rescaled(image, rng)
    width = int(image.width * rng.uniform(1.2, 2.5))
    sheet = Image.new("L", (width, width))
    sheet.paste(image, tuple(int(v) for v in rng.integers(0, width - image.width + 1, 2)))
    pixels = np.asarray(colored(sheet, rng), float)
    y, x = np.mgrid[:width, :width] / width
    shadow = 1 - 0.4 * (x * rng.random() + y * rng.random())[..., None]
    return Image.fromarray((pixels * shadow + rng.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8))


CHANGES: dict[str, Change] = {
    "as they are": lambda image, rng: image,
    "inverted": inverted,
    "rescaled, 20 to 400 pixels": rescaled,
    "colored ink and ground": colored,
    "rescaled, half of them inverted, colored": everything,
    "the same with margins, shadow and noise": shaded,
}


def through_a_file(image: Image.Image) -> np.ndarray:
    """Return the pixels of an image that was saved as a JPEG, as predict.py reads them."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=85)
    return next(read_pages(file))[1]


def read(reader: Reader, pictures: list[np.ndarray]) -> list[Prediction | None]:
    """Return what the run makes of each picture, None for one that is refused."""
    digits: dict[int, np.ndarray] = {}
    for number, picture in enumerate(pictures):
        with contextlib.suppress(BadImage):
            digits[number] = see(picture).digit
    found = dict(zip(digits, reader.read(np.array(list(digits.values()))), strict=True))
    return [found.get(number) for number in range(len(pictures))]


def read_digits(reader: Reader, data: Digits) -> None:
    """Print how many of 500 test digits are read right, changed in each way."""
    share = 500 // len(data.classes)
    chosen = torch.cat([(data.test_labels == label).nonzero()[:share, 0] for label in range(len(data.classes))])
    print(f"{len(chosen)} test digits, {share} of each class, all saved as JPEG")
    print(f"{'':45}{'right':>8}{'unknown':>10}{'right, not called unknown':>28}")
    for name, change in CHANGES.items():
        rng = np.random.default_rng(0)
        changed = [change(Image.fromarray(data.test_images[index].numpy()), rng) for index in chosen.tolist()]
        found = read(reader, [through_a_file(image) for image in changed])
        labels = [data.classes[label] for label in data.test_labels[chosen].tolist()]
        right = [one is not None and one.digit == label for one, label in zip(found, labels, strict=True)]
        known = [one is not None and one.known for one in found]
        both = [one and other for one, other in zip(right, known, strict=True)]
        percent = [100 * share for share in (np.mean(right), 1 - np.mean(known), np.mean(both))]
        print(f"{name:45}{percent[0]:7.1f}%{percent[1]:9.1f}%{percent[2]:27.1f}%")


def read_letters(reader: Reader, letters: np.ndarray, name: str) -> None:
    """Print how many images of letters, uint8 (N, 28, 28), are called unknown."""
    found = [one for one in read(reader, [from_gray(letter) for letter in letters]) if one is not None]
    unknown = 100 * np.mean([not one.known for one in found])
    refused = f"{len(letters) - len(found)} empty ones refused"
    print(f"\n{name}: {unknown:.1f} % of {len(found)} called unknown; {refused}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("models/shipped/center"),
        metavar="DIR",
        help="run directory (default: the network that comes with the code)",
    )
    parser.add_argument("--letters", default="data/notMNIST", metavar="NAME_OR_DIR", help="images of unknown classes")
    args = parser.parse_args()
    run = read_run(args.run)
    reader = Reader(run, torch.device("cpu"))
    data = data_of(run)
    print(command("predict.py"))
    settings = run.settings
    print(f"Run: {loss_name(settings)}, {settings.recipe} recipe, {run.epochs} epochs, seed {settings.seed},")
    print(f"{len(data.train_labels)} training images, test accuracy {run.accuracy:.2f} %")
    print(machine())
    calibration = reader.calibration
    print(
        f"Unknown: over {reader.threshold:.2f} from the center, as 1 % of {len(calibration.distances)} training", end=""
    )
    print(f" digits are, held out: {calibration.held_out}\n")

    read_digits(reader, data)
    read_letters(reader, openset.load_unknown(args.letters, data_root(run.plan))[0].numpy(), args.letters)


if __name__ == "__main__":
    main()
