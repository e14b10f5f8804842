"""The command line: flags in, settings of a run out."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from recipes import RECIPES

# What a run is, beside its recipe (recipes.py): kept for good, and not to be changed by --resume.
BASICS: dict[str, Any] = dict(
    recipe="default",
    dataset="auto",
    known_classes=None,
    hold_out=0,
    model="lenet++",
    feat_dim=2,
    head="softmax",
    scale=None,
    margin=None,
    seed=1,
    deterministic=False,
    compile="auto",
)
# What a run shows of itself: kept as well, and free to change when it is resumed.
OPTIONS: dict[str, Any] = dict(
    data_root="data", eval_freq=1, print_freq=50, plot=False, plot_freq=1, animate=False, tensorboard=False
)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the flag that may have been meant."""

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line."""
        if message.startswith("unrecognized arguments:"):
            word = message.split()[2].split("=")[0]
            message += nearest(word, self._option_string_actions)
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def nearest(word: str, names: Iterable[str]) -> str:
    """Return a suggestion for a word that is close to one of the names, or nothing."""
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def one_of(names: Iterable[str]) -> dict[str, Any]:
    """Return what makes an argument one of the names: argparse's choices, with a suggestion in the error."""
    names = list(names)

    def parse(text: str) -> str:
        if text not in names:
            suggestion = nearest(text, names)
            raise argparse.ArgumentTypeError(f"{text!r}: must be one of {', '.join(names)}{suggestion}")
        return text

    return {"type": parse, "metavar": f"{{{','.join(names)}}}"}


def number(kind: type, low: float, high: float = math.inf, open_low: bool = False) -> Callable[[str], Any]:
    """Return an argparse type: a finite number in [low, high], or in (low, high]."""
    bounds = f"{'above' if open_low else 'at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")

    def parse(text: str) -> Any:
        try:
            value = kind(text)
            right = low <= value <= high and abs(value) < math.inf and not (open_low and value == low)
        except ValueError:
            right = False
        if not right:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r}: must be {what} {bounds}")
        return value

    return parse


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments; those given by hand for a run also as `settings` and `options`."""
    parser = Parser(
        description="Train LeNet++ on digits with softmax + center loss (Wen et al., ECCV 2016).",
        epilog="A recipe fills the defaults of model and optimization; a flag given by hand wins. See recipes.py.",
    )
    default = RECIPES["default"]
    positive = number(int, 1, 10**6)
    data = parser.add_argument_group("data")
    data.add_argument("-d", "--dataset", **one_of(("auto", "mnist", "fashion-mnist", "kmnist", "mnist5k")), help="auto: MNIST if it is there or can be downloaded, otherwise mnist5k (default: auto)")  # fmt: skip
    data.add_argument("--data-root", metavar="DIR", help="holds MNIST/raw/…, as torchvision lays it out (default: data)")  # fmt: skip
    data.add_argument("--known-classes", type=number(int, 0, 9), nargs="+", metavar="DIGIT", help="train and test on these digits alone (default: all)")  # fmt: skip
    data.add_argument("--hold-out", type=number(int, 0, 10**6), metavar="N", help="keep N training images out of training, for predict.py to set its threshold on (default: 0)")  # fmt: skip
    data.add_argument("-j", "--workers", type=number(int, 0, 1024), metavar="N", help=argparse.SUPPRESS)

    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", **one_of(("lenet++", "cnn")), help="cnn is another name of lenet++ (default: lenet++)"
    )
    model.add_argument("--feat-dim", type=number(int, 1, 4096), metavar="D", help="feature dimension (default: 2)")
    model.add_argument("--head", **one_of(("softmax", "arcface", "cosface")), help="features to logits (default: softmax)")  # fmt: skip
    model.add_argument("--scale", type=number(float, 0, 1e6, open_low=True), metavar="S", help="scale s of a margin head (default: 30)")  # fmt: skip
    model.add_argument("--margin", type=number(float, 0, 10), metavar="M", help="margin m: radians for arcface (default: 0.2), cosine for cosface (default: 0.1)")  # fmt: skip

    optimization = parser.add_argument_group("optimization (defaults are the default recipe's)")
    optimization.add_argument("--recipe", **one_of(RECIPES), help="default: ours; reference: the widely copied repository's settings; paper: the authors' Caffe example's (default: default)")  # fmt: skip
    optimization.add_argument("--batch-size", type=positive, metavar="B", help=f"images (default: {default['batch_size']}; 64 on mnist5k)")  # fmt: skip
    optimization.add_argument("--lr-model", type=number(float, 0, 1e6, open_low=True), metavar="LR", help=f"learning rate of network and head, at its peak (default: {default['lr_model']})")  # fmt: skip
    optimization.add_argument("--lr-cent", type=number(float, 0, 1e6), metavar="LR", help=f"learning rate of the centres, the paper's α (default: {default['lr_cent']})")  # fmt: skip
    optimization.add_argument("--weight-cent", type=number(float, 0, 1e6), metavar="WEIGHT", help=f"λ, weight of the centre loss, 0 is softmax alone (default: {default['weight_cent']}; 0 with a margin head)")  # fmt: skip
    optimization.add_argument("--center-update", **one_of(("gradient", "paper")), help="how centres learn: the loss's gradient, or eq. 4 (default: paper)")  # fmt: skip
    optimization.add_argument("--max-epoch", type=positive, metavar="N", help=f"epochs (default: {default['max_epoch']}; 20 on mnist5k)")  # fmt: skip
    optimization.add_argument("--stepsize", type=positive, nargs="+", metavar="N", help="multiply the learning rate by gamma every N epochs (iterations with --recipe paper), or at each of several N (default: one cycle instead of steps)")  # fmt: skip
    optimization.add_argument("--gamma", type=number(float, 0, 1, open_low=True), metavar="G", help="that factor (default: 0.5)")  # fmt: skip
    optimization.add_argument("--precision", **one_of(("auto", "fp32", "tf32", "bf16")), help="of the convolutions; auto: bf16 where the hardware computes it natively (default: auto)")  # fmt: skip
    optimization.add_argument("--compile", **one_of(("auto", "on", "off")), help="torch.compile the network; auto: where that has been seen to pay, nowhere so far (default: auto)")  # fmt: skip

    run = parser.add_argument_group("run")
    run.add_argument("--gpu", type=number(int, 0, 1024), default=0, metavar="INDEX", help="CUDA device; without one the CPU is used (default: 0)")  # fmt: skip
    run.add_argument("--use-cpu", action="store_true", help="use the CPU even if there is a GPU")
    run.add_argument("--seed", type=number(int, 0, 2**31 - 1), metavar="N", help="of initialization and order (default: 1)")  # fmt: skip
    run.add_argument("--deterministic", action="store_true", default=None, help="the same seed gives the same bits on CUDA too, at some cost; on the CPU it always does")  # fmt: skip
    run.add_argument("--eval-freq", type=positive, metavar="N", help="evaluate every N epochs and after the last (default: 1)")  # fmt: skip
    run.add_argument("--print-freq", type=positive, metavar="N", help="log every N batches (default: 50)")
    run.add_argument("--save-dir", type=Path, metavar="DIR", help="run directory (default: a new one under log/)")
    run.add_argument(
        "--plot", action="store_true", default=None, help="draw the features of training and test set after each epoch"
    )
    run.add_argument("--plot-freq", type=positive, metavar="N", help="with --plot: every N epochs and after the last (default: 1)")  # fmt: skip
    run.add_argument(
        "--animate",
        action="store_true",
        default=None,
        help="--plot, and at the end a film of the epochs, animation.gif",
    )
    run.add_argument("--stop-after", type=positive, metavar="N", help="stop after epoch N of the schedule, to be continued with --resume")  # fmt: skip
    run.add_argument("--resume", type=Path, metavar="DIR", help="continue the run in this directory")
    run.add_argument("--overwrite", action="store_true", help="replace the run that --save-dir holds")
    run.add_argument("--tensorboard", action="store_true", default=None, help="write TensorBoard events too (needs the package tensorboard)")  # fmt: skip
    args = parser.parse_args(argv)
    if args.model == "cnn":
        args.model = "lenet++"
    if args.known_classes:
        args.known_classes.sort()
    args.plot = args.plot or args.animate
    given = {key: value for key, value in vars(args).items() if value is not None}
    args.settings = {key: value for key, value in given.items() if key in BASICS or key in default}
    args.options = {key: value for key, value in given.items() if key in OPTIONS}
    check_combinations(parser, args)
    return args


def check_combinations(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a message for flags that do not fit together; add what one implies for another."""
    known = args.known_classes
    if known is not None and (len(known) < 2 or len(set(known)) < len(known)):
        parser.error(f"--known-classes: name at least two different digits; got {' '.join(map(str, known))}")
    if args.animate and args.max_epoch == 1:
        parser.error("--animate: a film needs at least two epochs")
    if args.stepsize is not None and sorted(set(args.stepsize)) != args.stepsize:
        parser.error("--stepsize: several values must rise")
    if args.resume:
        if args.save_dir and args.resume != args.save_dir:
            parser.error("--resume continues in its own directory: leave --save-dir out")
        if args.overwrite:
            parser.error("--resume and --overwrite exclude each other")
        return  # the rest follows from the run that is resumed
    recipe = RECIPES[args.recipe or "default"]
    if args.head in (None, "softmax") and (args.scale is not None or args.margin is not None):
        parser.error("--scale and --margin belong to --head arcface or cosface")
    if args.stepsize is not None:
        args.settings["schedule"] = "step"
        args.settings.setdefault("gamma", recipe["gamma"] or 0.5)
    elif args.gamma is not None and recipe["schedule"] != "step":
        parser.error("--gamma needs --stepsize with this recipe, whose schedule has no steps")
