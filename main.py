"""Train LeNet++ on digits with softmax + center loss (Wen et al., ECCV 2016).

python main.py --gpu 0 --plot
"""

from __future__ import annotations

import argparse
import itertools
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes import RECIPES, resolve

if TYPE_CHECKING:
    import torch

    from datasets import Batches, Digits
    from engine import Trainer
    from utils import LossMeter, RunLog

# Settings that are no recipe's; those of a recipe are in recipes.py.
BASICS: dict[str, Any] = dict(
    recipe="default", dataset="auto", known_classes=None, model="lenet++", feat_dim=2, head="softmax", scale=None, margin=None,
    seed=1, precision="auto",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args, by_hand = parse_arguments(argv)

    # Torch is imported here, behind the parsing, so that --help and a bad flag answer at once.
    from datasets import DataError
    from engine import Diverged
    from utils import RunError

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        train(args, by_hand)
    except (RunError, DataError, ValueError) as error:
        print(f"main.py: error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"main.py: stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\nInterrupted. {interrupt}", file=sys.stderr)
        return 130
    return 0


def train(args: argparse.Namespace, by_hand: dict[str, Any]) -> None:
    """Parse → build → loop over epochs."""
    import datasets
    import utils
    from engine import length_of_run

    start = time.monotonic()
    device, device_line = utils.choose_device(args.gpu, args.use_cpu)
    checkpoint = utils.load_checkpoint(args.resume / "checkpoint.pt") if args.resume else None
    if checkpoint is None:
        utils.check_save_dir(args.save_dir, args.overwrite)
        settings = BASICS | by_hand
    else:
        settings = checkpoint["settings"]
        check_against_checkpoint(args.resume, settings, by_hand)
    events = utils.open_tensorboard() if args.tensorboard else None

    notices: list[str] = []
    data = datasets.load(settings["dataset"], args.data_root, notices.append)
    if checkpoint is None:
        settings = complete(settings, by_hand, data.name, device)
    if settings["known_classes"]:
        data = data.only(settings["known_classes"])
    data = data.to(device)

    utils.seed_everything(settings["seed"])
    batches = datasets.Batches(
        data.train_images, data.train_labels, settings["batch_size"], settings["seed"], settings["shift"]
    )
    epochs, iterations = length_of_run(settings, len(batches))
    if checkpoint is not None and checkpoint["epoch"] >= epochs:
        print(f"{args.resume}: already finished, after epoch {epochs}")
        return
    trainer = build(settings, batches, len(data.classes), device)

    if checkpoint is None:
        path = utils.make_run_directory(args.save_dir, run_name(settings))
        log = utils.RunLog(path, data.name)
        utils.write_config(path, settings, dataset=describe(data), device=str(device), device_line=device_line)
        greet(log, path, settings, data, device_line, notices)
        first, best = 1, -1.0
    else:
        path = args.resume
        if checkpoint["checksums"] != data.checksums:
            raise utils.RunError(f"{path}: was trained on other data than there is in {args.data_root}")
        trainer.load_state_dict(checkpoint)
        log = utils.RunLog(path, data.name, checkpoint["sizes"])
        first, best = checkpoint["epoch"] + 1, checkpoint["best"]
    drawer = utils.Drawer(path, log)
    if events is not None:
        events = events(str(path))

    last = min(epochs, args.stop_after or epochs)
    try:
        for epoch in range(first, last + 1):
            log(f"==> Epoch {epoch}/{epochs}")
            count = min(len(batches), iterations - (epoch - 1) * len(batches))
            epoch_start = time.monotonic()
            meter = run_epoch(trainer, batches, epoch, count, log, settings["weight_cent"], args.print_freq)
            seconds = time.monotonic() - epoch_start

            test_loss = accuracy = None
            plot = args.plot and (epoch % args.plot_freq == 0 or epoch == last)
            if plot or epoch == last or epoch % args.eval_freq == 0:
                log("==> Test")
                test = trainer.evaluate(data.test_images, data.test_labels)
                test_loss, accuracy = test.loss, test.accuracy
                log(f"Accuracy (%): {accuracy:.2f}\t Error rate (%): {100 - accuracy:.2f}")
            log.row(
                "epochs",
                (epoch, f"{meter.mean_loss:.6g}", blank(test_loss, ".6g"), blank(accuracy, ".4f"), f"{seconds:.2f}"),
            )
            if events is not None:
                utils.write_scalars(events, epoch, meter, test_loss, accuracy)
            if plot or epoch == last:
                train_set = trainer.evaluate(data.train_images, data.train_labels)
                utils.save_features(path, epoch, trainer.center_loss.centers, train=train_set, test=test)
            if plot:
                drawer.draw(epoch)

            state = trainer.state_dict() | {
                "format": 1, "settings": settings, "checksums": data.checksums, "epoch": epoch,
                "best": max(best, -1.0 if accuracy is None else accuracy), "sizes": log.sizes(),
            }  # fmt: skip
            utils.save_checkpoint(path / "checkpoint.pt", state)
            if accuracy is not None and accuracy > best:
                utils.save_checkpoint(path / "best.pt", state)
                best = accuracy
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Continue with: python main.py --resume {path}") from None
    finally:
        drawer.finish()
    if events is not None:
        utils.write_figures(events, path)
    log(f"Finished. Total elapsed time (h:m:s): {utils.hours(time.monotonic() - start)}")
    if last < epochs:
        log(f"Stopped after epoch {last} of {epochs}. Continue with: python main.py --resume {path}")


def run_epoch(
    trainer: Trainer,
    batches: Batches,
    epoch: int,
    count: int,
    log: RunLog,
    weight_cent: float,
    print_freq: int,
) -> LossMeter:
    """Train on the first `count` batches of an epoch; return its LossMeter."""
    from engine import Diverged
    from utils import LossMeter, progress_bar

    meter = LossMeter(log, epoch, count, weight_cent, print_freq)
    steps = trainer.train_epoch(itertools.islice(batches.epoch(epoch), count))
    for lr, losses in progress_bar(steps, count, f"Epoch {epoch}"):
        if not meter.add(lr, losses):
            raise Diverged(
                f"the loss is not finite at batch {meter.count} of epoch {epoch}. Try a smaller --lr-model, "
                "a smaller --weight-cent or --precision fp32; the last epoch's checkpoint is kept"
            )
    return meter


def build(settings: dict[str, Any], batches: Batches, num_classes: int, device: torch.device) -> Trainer:
    """Build network, head, losses, optimizers and schedules on the device."""
    import torch

    import models
    from center_loss import CenterLoss
    from engine import Trainer, build_head, build_optimizers, initial_centers
    from utils import autocast

    model = models.create(
        settings["model"],
        feat_dim=settings["feat_dim"],
        init=settings["init"],
        feature_prelu=settings["feature_prelu"],
        overlapping_pool=settings["overlapping_pool"],
    ).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = build_head(settings, num_classes).to(device)
    center_loss = CenterLoss(
        num_classes,
        settings["feat_dim"],
        update=settings["center_update"],
        weight=settings["weight_cent"],
        init=initial_centers(settings["center_init"], head.weight),
    ).to(device)
    return Trainer(
        model,
        head,
        center_loss,
        *build_optimizers(model, head, center_loss, settings, batches),
        precision=autocast(settings["precision"], device),
        pixel_mean=settings["pixel_mean"],
        pixel_std=settings["pixel_std"],
        clip=settings["clip"],
    )


def complete(settings: dict[str, Any], by_hand: dict[str, Any], dataset: str, device: torch.device) -> dict[str, Any]:
    """Return the settings with everything that was left open decided."""
    from utils import choose_precision

    if settings["head"] != "softmax":
        by_hand = {"weight_cent": 0.0} | by_hand  # a margin head alone, unless λ is asked for
    settings = settings | resolve(settings["recipe"], dataset, by_hand) | {"dataset": dataset}
    settings["asked_precision"] = settings["precision"]
    settings["precision"], settings["precision_why"] = choose_precision(settings["precision"], device)
    return settings


def check_against_checkpoint(path: Path, settings: dict[str, Any], by_hand: dict[str, Any]) -> None:
    """Raise RunError if a flag given by hand contradicts the run that is to be continued."""
    from utils import RunError

    saved = settings | {"precision": settings["asked_precision"]}
    wrong = [key for key, value in by_hand.items() if saved.get(key) != value]
    if wrong:
        flags = ", ".join(f"--{key.replace('_', '-')} {by_hand[key]} (there: {saved.get(key)})" for key in wrong)
        raise RunError(f"--resume {path}: the run was made with other settings: {flags}; leave these flags out")


def run_name(settings: dict[str, Any]) -> str:
    """Return what a run's directory is called: its losses."""
    center = ["center"] if settings["weight_cent"] > 0 else []
    head = [] if settings["head"] == "softmax" and center else [settings["head"]]
    return "+".join(head + center)


def greet(log: Any, path: Path, settings: dict[str, Any], data: Digits, device_line: str, notices: list[str]) -> None:
    """Log what is about to be trained."""
    log(device_line)
    log(f"Creating dataset: {data.name}")
    for notice in notices:
        log(notice)
    classes = "" if len(data.classes) == 10 else f" of the classes {', '.join(map(str, data.classes))}"
    log(f"{len(data.train_labels)} training and {len(data.test_labels)} test images{classes}")
    log(f"Creating model: {settings['model']} ({settings['feat_dim']}-D features, {settings['head']} head)")
    log(
        f"Recipe: {settings['recipe']}, seed {settings['seed']}. Precision: {settings['precision']}, {settings['precision_why']}"
    )
    log(f"Loss = XentLoss + {settings['weight_cent']:g} * CenterLoss (centres: {settings['center_update']} update)")
    log(f"Run directory: {path}")


def describe(data: Digits) -> dict[str, Any]:
    """Return what config.json says of the data."""
    return {
        "name": data.name,
        "classes": list(data.classes),
        "train": len(data.train_labels),
        "test": len(data.test_labels),
        "md5": data.checksums,
    }


def blank(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


# ---------------------------------------------------------------- the command line


def number(kind: type, low: float, high: float = math.inf, open_low: bool = False) -> Callable[[str], Any]:
    """Return an argparse type: a finite number in [low, high], or in (low, high]."""
    bounds = f"{'above' if open_low else 'at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < low or value > high or (open_low and value == low):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r}: must be {what} {bounds}")
        return value

    return parse


def parse_arguments(argv: list[str] | None = None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return all arguments, and those settings of a run that were given by hand."""
    parser = argparse.ArgumentParser(
        description="Train LeNet++ on digits with softmax + center loss (Wen et al., ECCV 2016).",
        epilog="A recipe fills the defaults of model and optimization; a flag given by hand wins. See recipes.py.",
    )
    default = RECIPES["default"]
    positive = number(int, 1, 10**9)
    data = parser.add_argument_group("data")
    data.add_argument("-d", "--dataset", choices=("auto", "mnist", "fashion-mnist", "kmnist", "mnist5k"), help="auto: MNIST if it is there or can be downloaded, otherwise mnist5k (default: auto)")  # fmt: skip
    data.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="holds MNIST/raw/…, as torchvision lays it out (default: data)")  # fmt: skip
    data.add_argument("--known-classes", type=number(int, 0, 9), nargs="+", metavar="DIGIT", help="train and test on these digits alone (default: all)")  # fmt: skip
    data.add_argument("-j", "--workers", type=int, metavar="N", help=argparse.SUPPRESS)

    model = parser.add_argument_group("model")
    model.add_argument("--model", choices=("lenet++", "cnn"), help="cnn is another name of lenet++ (default: lenet++)")
    model.add_argument("--feat-dim", type=number(int, 1, 4096), metavar="D", help="feature dimension (default: 2)")
    model.add_argument("--head", choices=("softmax", "arcface", "cosface"), help="features to logits (default: softmax)")  # fmt: skip
    model.add_argument("--scale", type=number(float, 0, 1e6, open_low=True), metavar="S", help="scale s of a margin head (default: 30)")  # fmt: skip
    model.add_argument("--margin", type=number(float, 0, 10), metavar="M", help="margin m: radians for arcface (default: 0.2), cosine for cosface (default: 0.1)")  # fmt: skip

    optimization = parser.add_argument_group("optimization (defaults are the default recipe's)")
    optimization.add_argument("--recipe", choices=tuple(RECIPES), help="default: ours; reference: the widely copied repository's settings; paper: the authors' Caffe example's (default: default)")  # fmt: skip
    optimization.add_argument("--batch-size", type=positive, metavar="B", help=f"images (default: {default['batch_size']}; 64 on mnist5k)")  # fmt: skip
    optimization.add_argument("--lr-model", type=number(float, 0, 1e6, open_low=True), metavar="LR", help=f"learning rate of network and head, at its peak (default: {default['lr_model']})")  # fmt: skip
    optimization.add_argument("--lr-cent", type=number(float, 0, 1e6), metavar="LR", help=f"learning rate of the centres, the paper's α (default: {default['lr_cent']})")  # fmt: skip
    optimization.add_argument("--weight-cent", type=number(float, 0, 1e6), metavar="λ", help=f"weight of the centre loss, 0 is softmax alone (default: {default['weight_cent']}; 0 with a margin head)")  # fmt: skip
    optimization.add_argument("--center-update", choices=("gradient", "paper"), help="how centres learn: the loss's gradient, or eq. 4 (default: paper)")  # fmt: skip
    optimization.add_argument("--max-epoch", type=positive, metavar="N", help=f"epochs (default: {default['max_epoch']}; 20 on mnist5k)")  # fmt: skip
    optimization.add_argument("--stepsize", type=positive, nargs="+", metavar="N", help="multiply the learning rate by gamma every N epochs (iterations with --recipe paper), or at each of several N (default: one cycle instead of steps)")  # fmt: skip
    optimization.add_argument("--gamma", type=number(float, 0, 1, open_low=True), metavar="G", help="that factor (default: 0.5)")  # fmt: skip
    optimization.add_argument("--precision", choices=("auto", "fp32", "bf16"), help="of the convolutions; auto: bf16 where the hardware computes it natively (default: auto)")  # fmt: skip

    run = parser.add_argument_group("run")
    run.add_argument("--gpu", type=number(int, 0, 1024), default=0, metavar="INDEX", help="CUDA device; without one the CPU is used (default: 0)")  # fmt: skip
    run.add_argument("--use-cpu", action="store_true", help="use the CPU even if there is a GPU")
    run.add_argument("--seed", type=number(int, 0, 2**31 - 1), metavar="N", help="of initialization and order (default: 1)")  # fmt: skip
    run.add_argument("--eval-freq", type=positive, default=1, metavar="N", help="evaluate every N epochs and after the last (default: 1)")  # fmt: skip
    run.add_argument("--print-freq", type=positive, default=50, metavar="N", help="log every N batches (default: 50)")
    run.add_argument("--save-dir", type=Path, metavar="DIR", help="run directory (default: a new one under log/)")
    run.add_argument("--plot", action="store_true", help="draw the features of training and test set after each epoch")
    run.add_argument("--plot-freq", type=positive, default=1, metavar="N", help="with --plot: every N epochs and after the last (default: 1)")  # fmt: skip
    run.add_argument("--stop-after", type=positive, metavar="N", help="stop after epoch N of the schedule, to be continued with --resume")  # fmt: skip
    run.add_argument("--resume", type=Path, metavar="DIR", help="continue the run in this directory")
    run.add_argument("--overwrite", action="store_true", help="replace the run that --save-dir holds")
    run.add_argument("--tensorboard", action="store_true", help="write TensorBoard events too (needs the package tensorboard)")  # fmt: skip
    args = parser.parse_args(argv)

    of_a_run = BASICS.keys() | default.keys()
    if args.model == "cnn":
        args.model = "lenet++"
    if args.known_classes:
        args.known_classes.sort()
    by_hand = {key: value for key, value in vars(args).items() if key in of_a_run and value is not None}
    check_combinations(parser, args, by_hand)
    if args.workers is not None:
        print("Note: --workers does nothing: the images lie on the device, there is nothing left for workers to do")
    return args, by_hand


def check_combinations(parser: argparse.ArgumentParser, args: argparse.Namespace, by_hand: dict[str, Any]) -> None:
    """End with a message for flags that do not fit together; decide what one implies for another."""
    known = args.known_classes
    if known is not None and (len(known) < 2 or len(set(known)) < len(known)):
        parser.error(f"--known-classes: name at least two different digits; got {' '.join(map(str, known))}")
    if args.resume and args.save_dir and args.resume != args.save_dir:
        parser.error("--resume continues in its own directory: leave --save-dir out")
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    recipe = RECIPES[args.recipe or "default"]
    head = args.head or "softmax"
    if head == "softmax" and not args.resume and (args.scale is not None or args.margin is not None):
        parser.error("--scale and --margin belong to --head arcface or cosface")
    if args.stepsize is not None:
        if sorted(set(args.stepsize)) != args.stepsize:
            parser.error("--stepsize: several values must rise")
        by_hand["schedule"] = "step"
        by_hand.setdefault("gamma", recipe["gamma"] or 0.5)
    elif args.gamma is not None and recipe["schedule"] != "step" and not args.resume:
        parser.error("--gamma needs --stepsize with this recipe, whose schedule has no steps")


if __name__ == "__main__":
    sys.exit(main())
