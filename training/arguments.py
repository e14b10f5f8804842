"""The command line of main.py: flags in, a `Request` out. `Settings` and `Plan` define most of the flags."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

import datasets
from models import heads
from training.fields import convert, declared, is_list, parse, takes_none, types
from training.parser import Parser, argument, folder, nearest, number, of_type, one_of
from training.recipes import RECIPES, resolve
from training.settings import (
    COMPUTED,
    DATA,
    MODEL,
    OPTIMIZATION,
    RUN,
    Count,
    Plan,
    Settings,
    contradiction,
    take,
)
from utils import is_under_torchrun

ALIASES = {  # other names that people type
    "dataset": ("-d",),
    "weight_cent": ("--lambda",),
    "lr_model": ("--lr", "--learning-rate"),
    "lr_cent": ("--alpha",),
    "max_epoch": ("--epochs", "--epoch"),
    "batch_size": ("--batch",),
}
CLASSES: tuple[Any, ...] = (Settings, Plan)
Index = Annotated[int, Meta(ge=-1, le=1024)]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a command line asks for: a plan, in which ``auto`` means that the run decides, and the names of the
    settings that were given by hand."""

    plan: Plan
    by_hand: frozenset[str]
    gpu: int | str  # index of a CUDA device, -1 for none; or mps, xpu
    use_cpu: bool
    save_dir: Path | None
    resume: Path | None
    overwrite: bool
    stop_after: int | None
    notes: tuple[str, ...]  # for the screen

    @property
    def device_flags(self) -> tuple[str, ...]:
        """The flags that choose this device again; none for the default, the first GPU if there is one."""
        if self.use_cpu:
            return ("--use-cpu",)
        gpu = f"cuda:{self.gpu}" if isinstance(self.gpu, int) else self.gpu
        return () if self.gpu == 0 else ("--device", gpu)


def parse_arguments(argv: list[str] | None = None) -> Request:
    """Return what a command line asks for; end with one line and status 2 if it is wrong."""
    parser = build_parser()
    return check_combinations(parser, as_request(parser, parser.parse_args(argv)))


def build_parser() -> Parser:
    """Return the parser of main.py."""
    parser = Parser(
        description="Train LeNet++ on digits with softmax + center loss (Wen et al., ECCV 2016).",
        epilog="A recipe fills the defaults of model and optimization; a flag given by hand wins. "
        "training/settings.py holds every setting with its meaning.",
    )
    groups = {title: parser.add_argument_group(title) for title in (DATA, MODEL, OPTIMIZATION, RUN)}
    for cls in CLASSES:
        add_flags(groups, cls)
    workers = number(int, 0, 1024)
    groups[DATA].add_argument("-j", "--workers", "--num-workers", type=workers, help=argparse.SUPPRESS)
    others = "any other setting by its name, as in --set clip=none warmup=0.1"
    groups[OPTIMIZATION].add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=others
    )
    run = groups[RUN]
    add_device_flags(run)
    new, stop = "run directory (default: a new one under log/)", "stop after epoch N; --resume continues the run"
    run.add_argument("--save-dir", "--output", "--out", type=folder, metavar="DIR", help=new)
    run.add_argument("--stop-after", type=of_type(Count), metavar="N", help=stop)
    run.add_argument("--resume", type=folder, metavar="DIR", help="continue the run in this directory")
    run.add_argument("--overwrite", action="store_true", help="replace the run in --save-dir")
    return parser


def add_device_flags(parser: Any) -> None:
    """Add the flags that choose a device."""
    gpu = "index of a CUDA device; the CPU if there is none, or for -1 (default: 0)"
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--gpu", type=argument(parse_gpu), default=(0, None), metavar="INDEX", help=gpu)
    parser.add_argument("--use-cpu", "--cpu", action="store_true", help="use the CPU even if there is a GPU")
    device = "device in one word: cpu, cuda, cuda:INDEX; untested: mps, xpu"
    either.add_argument(
        "--device", type=argument(parse_device), dest="gpu", default=(0, None), metavar="NAME", help=device
    )


def parse_device(text: str) -> tuple[int | str, None]:
    """Return the index in cuda:INDEX, -1 for cpu, or mps or xpu; and None, since there is never a note."""
    name, _, index = text.partition(":")
    if text == "cpu":
        return -1, None
    if name == "cuda":
        return convert(index or "0", Annotated[int, Meta(ge=0, le=1024)], strict=False), None
    if text in ("mps", "xpu"):
        return text, None
    raise ValueError("must be cpu, cuda, cuda:INDEX, mps or xpu")


def add_flags(groups: dict[str, Any], cls: Any) -> None:
    """Add a flag for each setting of a class that `--help` shows."""
    for name, about, default in declared(cls):
        if not about.group:
            continue
        more: dict[str, Any] = {"metavar": about.metavar}
        if types(cls)[name] is bool:
            more = {"action": "store_true"}
        elif about.choices:
            more = one_of(about.choices)
            if "on" in about.choices:  # a switch: the flag alone means on
                more |= {"nargs": "?", "const": "on"}
        else:
            more |= {"type": argument(partial(parse, cls, name)), "nargs": "+" if is_list(cls, name) else None}
        tell = "" if default is None or "action" in more or "(default" in about.help else f" (default: {default})"
        flags = [f"--{name.replace('_', '-')}", *ALIASES.get(name, ())]
        groups[about.group].add_argument(*flags, dest=name, default=None, help=about.help + tell, **more)


def parse_gpu(text: str) -> tuple[int, str | None]:
    """Return the index of a GPU, -1 for none, and a note if several were named."""
    first, *others = (convert(word, Index, strict=False) for word in text.split(","))
    note = (
        f"Note: --gpu {text}: only GPU {first} is used; "
        f"for several GPUs use torchrun --nproc-per-node={len(others) + 1} main.py …"
    )
    return first, note if others and not is_under_torchrun() else None


def as_request(parser: Parser, args: argparse.Namespace) -> Request:
    """Return the request for parsed arguments."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    for name in ("known_classes", "stepsize"):  # each word is a tuple of its own
        if name in given:
            given[name] = tuple(itertools.chain.from_iterable(given[name]))
    read_set(parser, args.set, given)
    if "dataset" in given:
        try:
            given["dataset"] = datasets.named(given["dataset"])
        except ValueError as error:
            text = given["dataset"]
            parser.error(f"argument -d/--dataset: {text!r}: {error}{nearest(text, datasets.NAMES)}")
    complete(given, resumed=args.resume is not None)
    names = frozenset(name for cls in CLASSES for name, _, _ in declared(cls) if name in given)
    values: Any = argparse.Namespace(**given)
    gpu, note = args.gpu
    idle = "Note: --workers does nothing: the images are in the device's memory, so no workers are needed"
    return Request(
        plan=replace(take(Plan(), values, names), settings=take(Settings(), values, names)),
        by_hand=names,
        gpu=gpu,
        use_cpu=args.use_cpu or gpu == -1,
        save_dir=args.save_dir,
        resume=args.resume,
        overwrite=args.overwrite,
        stop_after=args.stop_after,
        notes=tuple(filter(None, [note, idle if args.workers is not None else None])),
    )


def read_set(parser: Parser, words: list[str], given: dict[str, Any]) -> None:
    """Add the values of ``--set NAME=VALUE`` to those of other flags."""
    classes: dict[str, Any] = {name: Settings for name, _, _ in declared(Settings)}
    classes |= dict.fromkeys(COMPUTED, Plan)
    flags = set(given)
    for word in words:
        name, equals, text = word.partition("=")
        name = name.replace("-", "_")
        if not equals or name not in classes:
            close = nearest(name, classes) or "; training/settings.py holds them all"
            parser.error(f"argument --set: {word!r}: must be NAME=VALUE with the name of a setting{close}")
        if name in flags:
            parser.error(f"argument --set: {word!r}: --{name.replace('_', '-')} sets it too, leave one of them out")
        try:
            none = text.lower() == "none" and takes_none(classes[name], name)
            given[name] = None if none else parse(classes[name], name, text)
        except ValueError as error:
            parser.error(f"argument --set: {word!r}: {error}")


def complete(given: dict[str, Any], resumed: bool) -> None:
    """Add the settings that follow from the given ones."""
    if given.get("model") == "cnn":
        given["model"] = "lenet++"
    if given.get("known_classes"):
        given["known_classes"] = tuple(sorted(given["known_classes"]))
    if given.get("animate") or given.get("regions"):
        given["plot"] = True
    if given.get("stepsize") and not resumed:
        given.setdefault("schedule", "step")
        given.setdefault("gamma", RECIPES[given.get("recipe", "default")].gamma or 0.5)


def check_combinations(parser: Parser, request: Request) -> Request:
    """Return the request; end with a message for flags that do not fit together."""
    plan, settings, by_hand = request.plan, request.plan.settings, request.by_hand
    if plan.regions and settings.feat_dim != 2 and not request.resume:
        parser.error("--regions needs --feat-dim 2: regions are drawn in a plane")
    if request.resume:
        if request.save_dir and request.resume != request.save_dir:
            parser.error("--resume continues in its own directory: leave --save-dir out")
        if request.overwrite:
            parser.error("--resume and --overwrite exclude each other")
        return request  # the resumed run decides the rest
    resolved = resolve(settings, by_hand, settings.dataset)
    wrong = contradiction(resolved)
    row = heads.HEADS[resolved.head]
    if any(name in by_hand and getattr(row, name) is None for name in ("scale", "margin")):
        wrong = f"--scale and --margin belong to --head {' or '.join(heads.with_margin())}"
    elif resolved.head in heads.with_margin() and "head_bias" in by_hand and settings.head_bias:
        wrong = "--set head_bias=true needs --head softmax: a margin head has no bias"
    elif resolved.head in heads.with_margin() and "head_init" in by_hand and settings.head_init == "torch":
        wrong = "--set head_init=torch needs --head softmax: a margin head has xavier or spread"
    elif "gamma" in by_hand and "stepsize" not in by_hand and RECIPES[settings.recipe].schedule != "step":
        wrong = "--gamma needs --stepsize with this recipe, whose schedule has no steps"
    elif settings.stepsize and resolved.schedule != "step":
        wrong = "--stepsize and --set schedule=one-cycle exclude each other"
    elif "warmup" in by_hand and settings.warmup and resolved.schedule == "step":
        wrong = "--set warmup needs the one-cycle schedule; the learning rate has steps here"
    elif {"max_epoch", "max_iterations"} <= by_hand and None not in (settings.max_epoch, settings.max_iterations):
        wrong = "--max-epoch and --set max_iterations exclude each other: a run has one length"
    if wrong is not None:
        parser.error(wrong)
    name = "mnist" if settings.dataset == "auto" else settings.dataset
    if settings.known_classes and name in datasets.SOURCES:  # a folder is checked when it is read
        try:
            datasets.check_known(settings.known_classes, datasets.SOURCES[name].classes, name)
        except datasets.DataError as error:
            parser.error(str(error))
    return request
