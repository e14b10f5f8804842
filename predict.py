"""Classify a person's own images of digits with a trained run.

python predict.py photo.jpg scans/
python predict.py --run log/center --plot photo.jpg
"""

# ruff: noqa: E402  (--help and a bad flag answer before torch is imported)
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from training.arguments import Parser, argument, number, parse_gpu
from utils import HERE

FIGURE = "predictions.png"
SURE = 90.0  # percent
SHIPPED = HERE / "models" / "shipped"


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the arguments."""
    parser = Parser(description="Classify images of digits with a trained run.")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="files, folders, or - for stdin: any size, color or gray, dark on light or light on dark, one digit each")  # fmt: skip
    parser.add_argument("--run", type=Path, action="append", metavar="DIR", help="run directory of main.py; with --page several, once each (default: networks that come with this code)")  # fmt: skip
    parser.add_argument("--reject", type=number(float, 0, 50), default=1.0, metavar="PERCENT", help="share of true digits that may be called unknown (default: 1)")  # fmt: skip
    parser.add_argument("--show", action="store_true", help="print the 28×28 pixels that the network saw")
    parser.add_argument("--json", action="store_true", help="print an object a line for programs, and nothing else")
    parser.add_argument("--plot", action="store_true", help=f"draw where the images fall among the features: {FIGURE}, or the next name that is free")  # fmt: skip
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page to draw digits on, for runs with two features; one file that needs no network")  # fmt: skip
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the network as ONNX: gray images in; features, probabilities and distances out (needs the packages onnx and onnxscript)")  # fmt: skip
    parser.add_argument("--gpu", type=argument(parse_gpu), default=(0, None), metavar="INDEX", help="CUDA device; -1 is the CPU (default: 0)")  # fmt: skip
    parser.add_argument("--use-cpu", action="store_true", help="use the CPU even if there is a GPU")
    args = parser.parse_intermixed_args(argv)
    if not args.images and not args.page and not args.export:
        parser.error("name at least one image, or --page, or --export")
    if args.run and len(args.run) > 1 and not args.page:
        parser.error("--run: one run reads images; several are for --page")
    for flag, path in (("--page", args.page), ("--export", args.export)):
        if path and (not path.name or path.is_dir() or not path.parent.is_dir()):
            parser.error(f"{flag} {path}: name a file, in a folder that is there")
    args.runs = args.run or [SHIPPED / name for name in (("softmax", "center") if args.page else ("center",))]
    return args


if __name__ == "__main__":
    ARGUMENTS = parse(sys.argv[1:])

import contextlib
import io
import itertools
import json
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from analysis.pictures import BadImage, Seen, read_image, see
from rundir.reading import read_run
from utils import complain, printable, progress_bar, run_command, say

if TYPE_CHECKING:
    from analysis.reader import Prediction, Reader
    from rundir.reading import Run


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


def look_at(names: list[str]) -> tuple[dict[str, Seen], bool]:
    """Return what there is to see in each image, by its name as it can be printed, and whether all could be read."""
    seen: dict[str, Seen] = {}
    found = list(sources(names))
    for name, source in progress_bar(found, len(found), "Images", unit="image"):
        try:
            seen[printable(name)] = see(read_image(source))
        except BadImage as error:
            complain(f"predict.py: {name}: {error}")
    return seen, len(seen) == len({printable(name) for name, _ in found})


def predict(args: argparse.Namespace) -> int:
    """Print a line for each image; return the exit status: 2 if an image could not be read."""
    runs = [read_run(path) for path in args.runs]
    seen, all_read = look_at(args.images)  # before torch is imported: a wrong name is told of at once
    if not seen and not args.page and not args.export:
        return 2
    from analysis.reader import Reader
    from training.hardware import choose_device

    gpu, note = args.gpu
    if note:
        complain(note.split(";")[0])
    device, line = choose_device(gpu, args.use_cpu or gpu < 0)
    if gpu >= 0 and "does not run here" in line:
        complain(f"predict.py: {line}")
    readers = [Reader(run, device, args.reject) for run in runs]
    if args.page:
        write_page(args.page, runs, readers, quiet=args.json)
    if args.export:
        write_onnx(args.export, runs[-1], readers[-1], quiet=args.json)
    if seen:
        tell(args, runs[-1], readers[-1], seen)
    return 0 if all_read else 2


def write_page(path: Path, runs: list[Run], readers: list[Reader], quiet: bool) -> None:
    """Write the page to draw on."""
    from analysis import page

    page.write_page(path, runs, readers, page.examples())
    if not quiet:
        say(f"Wrote {path}")


def write_onnx(path: Path, run: Run, reader: Reader, quiet: bool) -> None:
    """Write the network for other programs."""
    from analysis.export import export

    export(path, run, reader)
    if not quiet:
        say(f"Wrote {path}")


def tell(args: argparse.Namespace, run: Run, reader: Reader, seen: dict[str, Seen]) -> None:
    """Print what each image is taken for, and draw it if asked to."""
    predictions = dict(zip(seen, reader.read(np.array([one.digit for one in seen.values()])), strict=True))
    if not args.json:
        which = "training digits held out" if reader.calibration.held_out else "digits of its training (held out: none, see --hold-out)"  # fmt: skip
        say(f"{run.path}: unknown is what lies over {reader.threshold:.2f} from its center, as {args.reject:g} % do of {len(reader.calibration.distances)} {which}")  # fmt: skip
    for name, prediction in predictions.items():
        say(
            as_json(name, prediction, seen[name])
            if args.json
            else f"{name}: {in_words(prediction, seen[name].several)}"
        )
        if args.show and not args.json:
            print(as_text(seen[name].digit))
    if args.plot:
        draw(run, predictions, seen, reader, quiet=args.json)


def draw(run: Run, predictions: dict[str, Prediction], seen: dict[str, Seen], reader: Reader, quiet: bool) -> None:
    """Draw the figure under the first name that is free."""
    from analysis import predictions as figure

    names = (FIGURE if n == 1 else FIGURE.replace(".", f"-{n}.") for n in itertools.count(1))
    file = next(Path(name) for name in names if not Path(name).exists() and not Path(name).is_symlink())
    listed = [
        (name, one.digit, predictions[name], in_words(predictions[name], one.several)) for name, one in seen.items()
    ]
    figure.draw(run, listed, reader.threshold, file)
    if not quiet:
        say(f"Wrote {file}")


# ---------------------------------------------------------------- in words


def in_words(prediction: Prediction, several: bool) -> str:
    """Return what an image is taken for, how surely, and what else it may be."""
    digit = str(prediction.digit) if prediction.known else f"unknown, nearest to {prediction.digit}"
    if several and (not prediction.known or prediction.confidence < SURE):
        digit = "several digits? One to an image"
    elif prediction.between:
        digit += f", or {prediction.second}: it lies between the two"
    other = ""
    if prediction.second_confidence >= 0.05:
        other = f", {prediction.second}: {prediction.second_confidence:.1f} %"
    return f"{digit} ({prediction.confidence:.1f} %{other}, {prediction.distance:.2f} from its center)"


def as_json(name: str, prediction: Prediction, seen: Seen) -> str:
    """Return the same as an object; distances in units of the features, confidences in percent."""
    return json.dumps(
        {
            "image": name,
            "digit": prediction.digit,
            "known": prediction.known,
            "confidence": round(prediction.confidence, 4),
            "distance": round(prediction.distance, 4),
            "second": prediction.second,
            "second_confidence": round(prediction.second_confidence, 4),
            "between": prediction.between,
            "several": seen.several,
            "feature": [round(float(value), 4) for value in prediction.feature],
        }
    )


def as_text(digit: np.ndarray) -> str:
    """Return a digit (28, 28) as 14 lines of 28 signs, two rows of pixels a line."""
    rows = digit.reshape(14, 2, 28).mean(axis=1)
    return "\n".join("    " + "".join(" .:-=+*#%@"[int(value) * 10 // 256] for value in row).rstrip() for row in rows)


def main(argv: list[str]) -> int:
    """Run a command line; return the exit status."""
    return run_command("predict.py", partial(predict, parse(argv)))


if __name__ == "__main__":
    sys.exit(run_command("predict.py", partial(predict, ARGUMENTS)))
