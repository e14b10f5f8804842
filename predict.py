"""Classify a person's own images of digits with a trained run.

python predict.py photo.jpg scans/
python predict.py --run log/center --plot photo.jpg
"""

# ruff: noqa: E402  (--help and a bad flag answer before torch is imported)
from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the loading of modules without a traceback

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -P leaves it out

from training.arguments import parse_gpu
from training.parser import Parser, argument, folder, number
from utils import ROOT

FIGURE = "predictions.png"
SHIPPED = ROOT / "models" / "shipped"


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the values of a command line."""
    parser = Parser(description="Classify images of digits with a trained run.")
    add = parser.add_argument
    kinds = "any size, color or gray, dark on light or light on dark; separate digits on one image are read one by one"
    add("images", nargs="*", metavar="IMAGE", help=f"files, folders, patterns, or - for stdin: {kinds}")
    default = "the network that comes with this code; for --page also the one without center loss"
    which = f"run directory; with --page, repeat the flag for several (default: {default})"
    add("--run", type=folder, action="append", metavar="DIR", help=which)
    share = "percentage of real digits that may be called unknown (default: 1)"
    add("--reject", type=number(float, 0, 50), default=1.0, metavar="PERCENT", help=share)
    add("--show", action="store_true", help="print what the network saw, as 14 lines of 28 characters")
    add("--json", action="store_true", help="print one JSON object per image, and nothing else")
    figure = f"draw the images among the features of the test set, in {FIGURE} or the next free name"
    add("--plot", action="store_true", help=figure)
    page = "write a page to draw digits on: one file that works offline; runs need two features"
    add("--page", type=Path, metavar="FILE", help=page)
    onnx = "gray images in; features, probabilities and distances out (needs the packages onnx and onnxscript)"
    add("--export", type=Path, metavar="FILE", help=f"write the network as ONNX: {onnx}")
    gpu = "index of the CUDA device; -1 is the CPU (default: 0)"
    add("--gpu", type=argument(parse_gpu), default=(0, None), metavar="INDEX", help=gpu)
    add("--use-cpu", action="store_true", help="use the CPU even if there is a GPU")
    args, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        parser.error(parser.unknown(unknown[0]))
    if not args.images and not args.page and not args.export:
        parser.error("name at least one image, or --page, or --export")
    if args.run and len(args.run) > 1 and not args.page:
        parser.error("--run: give one run; only --page takes several")
    for flag, path in (("--page", args.page), ("--export", args.export)):
        if path and (not path.name or os.path.isdir(path) or not os.path.isdir(path.parent)):
            parser.error(f"{flag} {path}: name a file in an existing folder")
    args.runs = args.run or [SHIPPED / name for name in (("softmax", "center") if args.page else ("center",))]
    return args


if __name__ == "__main__":
    ARGUMENTS = parse(sys.argv[1:])

import itertools
import json
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.find_digit import Seen, see
from analysis.image_files import BadImage, read_pages, sources
from rundir.run import read_run
from utils import complain, printable, progress_bar, run_command, say

if TYPE_CHECKING:
    from analysis.predictions import Listed
    from analysis.reader import Prediction, Reader
    from rundir.run import Run


@dataclass(frozen=True)
class Picture:
    """An image, or one page of it, and what was found in it."""

    name: str  # printable
    page: int | None
    seen: Seen

    def title(self, digit: int = 0) -> str:
        """Return the name with its page and, for one of several digits, its number."""
        page = f", page {self.page}" if self.page else ""
        return f"{self.name}{page}" + (f" ({digit} of {len(self.seen.several)})" if digit else "")


def look_at(names: list[str]) -> tuple[list[Picture], bool]:
    """Return what was found in each image, and whether all images could be read."""
    pictures: list[Picture] = []
    all_read = True
    found: dict[str, Path | BytesIO] = {}
    for name, source in sources(names):
        found.setdefault(printable(name), source)
    for name, source in progress_bar(found.items(), len(found), "Images", unit="image"):
        page = None
        try:
            for page, pixels in read_pages(source):
                try:
                    pictures.append(Picture(name, page, see(pixels)))
                except BadImage as error:
                    all_read = False
                    _refuse(name, page, error)
        except BadImage as error:
            all_read = False
            _refuse(name, None if page is None else page + 1, error)
    return pictures, all_read


def _refuse(name: str, page: int | None, error: BadImage) -> None:
    complain(f"predict.py: {name}{f', page {page}' if page else ''}: {error}")


def predict(args: argparse.Namespace) -> int:
    """Do what the command line asks for; return the exit status: 2 if an image could not be read."""
    runs = [read_run(path) for path in args.runs]
    pictures, all_read = look_at(args.images)  # before torch is imported: a wrong name is reported at once
    if not pictures and not args.page and not args.export:
        return 2
    from analysis.reader import Reader
    from training.hardware import choose_device

    gpu, note = args.gpu
    if note:
        complain(note.split(";")[0])
    device, line = choose_device(gpu, args.use_cpu or gpu < 0)
    if "does not run here" in line:
        complain(f"predict.py: {line}")
    readers = [Reader(run, device, args.reject) for run in runs]
    if args.page:
        from analysis.page import write_page

        write_page(args.page, runs, readers)
    if args.export:
        from analysis.export import export

        export(args.export, runs[-1], readers[-1])
    for path in filter(None, [args.page, args.export] if not args.json else []):
        say(f"Wrote {path}")
    if pictures:
        tell(args, runs[-1], readers[-1], pictures)
    return 0 if all_read else 2


def tell(args: argparse.Namespace, run: Run, reader: Reader, pictures: list[Picture]) -> None:
    """Print the prediction for each image, and draw the figure if --plot asks for it."""
    digits = [digit for one in pictures for digit in (one.seen.digit, *one.seen.several)]
    found = iter(reader.read(np.array(digits)))
    answers = [list(itertools.islice(found, 1 + len(one.seen.several))) for one in pictures]
    if not args.json:
        calibration = reader.calibration
        which = "held-out training digits are"
        if not calibration.held_out:
            which = "digits that it was trained on are (it has none held out, see --hold-out)"
        share = f"{args.reject:g} % of {len(calibration.distances)} {which}"
        say(f"{run.path}: unknown means farther than {reader.threshold:.2f} from the center of its class; {share}")
    listed: list[Listed] = []
    for picture, (whole, *several) in zip(pictures, answers, strict=True):
        seen, title = picture.seen, picture.title()
        if args.json:
            say(as_json(picture, whole, several))
        elif several:
            say(f"{title}: {len(several)} digits: {', '.join(_name(one) for one in several)}")
        rows = [(title, seen.digit, whole, in_words(whole, seen.looks_like))]
        if several:
            each = enumerate(zip(seen.several, several, strict=True), 1)
            rows = [(picture.title(number), digit, one, in_words(one)) for number, (digit, one) in each]
        for name, digit, _, words in rows if not args.json else []:
            say(f"{name}: {words}")
            if args.show:
                print(as_text(digit))
        listed += rows
    if args.plot:
        draw(run, listed, reader, quiet=args.json)


def draw(run: Run, listed: list[Listed], reader: Reader, quiet: bool) -> None:
    """Draw the figure under the first free name."""
    from analysis import predictions as figure

    names = (FIGURE if n == 1 else FIGURE.replace(".", f"-{n}.") for n in itertools.count(1))
    file = next(Path(name) for name in names if not Path(name).exists() and not Path(name).is_symlink())
    figure.draw(run, listed, reader.threshold, file)
    if not quiet:
        say(f"Wrote {file}")


# ---------------------------------------------------------------- in words


def _name(prediction: Prediction) -> str:
    return str(prediction.digit) if prediction.known else f"unknown, most like {prediction.digit}"


def in_words(prediction: Prediction, looks_like: str = "") -> str:
    """Return the prediction for a digit in words: the class, the confidence, and the second best."""
    if looks_like:
        return f"unknown: looks like {looks_like}"
    other = ""
    if prediction.second_confidence >= 0.05:
        other = f", {prediction.second}: {prediction.second_confidence:.1f} %"
    between = f", or {prediction.second}: it lies between the two" if prediction.between else ""
    surely = f"{prediction.confidence:.1f} %{other}, {prediction.distance:.2f} from its center"
    return f"{_name(prediction)}{between} ({surely})"


def as_json(picture: Picture, whole: Prediction, several: list[Prediction]) -> str:
    """Return the predictions for an image as JSON; distances in units of the features, confidences in percent."""
    seen = picture.seen
    said: dict[str, Any] = {"image": picture.name, "page": picture.page, **_as_object(whole)}
    said["known"] = whole.known and not several and not seen.looks_like
    said |= {"looks_like": seen.looks_like or None, "several": [_as_object(one) for one in several]}
    return json.dumps(said)


def _as_object(prediction: Prediction) -> dict[str, Any]:
    rounded = {key: round(getattr(prediction, key), 4) for key in ("confidence", "distance", "second_confidence")}
    return asdict(prediction) | rounded | {"feature": [round(float(value), 4) for value in prediction.feature]}


def as_text(digit: np.ndarray) -> str:
    """Return a digit (28, 28) as 14 lines of 28 characters, two rows of pixels each."""
    rows = digit.reshape(14, 2, 28).mean(axis=1)
    return "\n".join("    " + "".join(" .:-=+*#%@"[int(value) * 10 // 256] for value in row).rstrip() for row in rows)


def main(argv: list[str]) -> int:
    """Run a command line; return the exit status."""
    return run_command("predict.py", partial(predict, parse(argv)))


if __name__ == "__main__":
    sys.exit(run_command("predict.py", partial(predict, ARGUMENTS)))
