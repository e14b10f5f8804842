"""The command line of main.py: flags in, what a person asks for out. The flags of settings are built from
`Settings`, `Execution` and `Options`."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn

import datasets
from models import heads
from training.fields import Number, declared, kind_of, parse
from training.settings import (
    COUNT,
    DATA,
    MODEL,
    OPTIMIZATION,
    RECIPES,
    RUN,
    Execution,
    Options,
    Settings,
    contradiction,
    resolve,
)

SHORT = {"dataset": ["-d"], "data_root": []}
MEANT = {  # what people type, and the flag that has it here
    "--lambda": "--weight-cent",
    "--lr": "--lr-model",
    "--learning-rate": "--lr-model",
    "--alpha": "--lr-cent",
    "--epochs": "--max-epoch",
    "--epoch": "--max-epoch",
    "--cpu": "--use-cpu",
    "--device": "--gpu or --use-cpu",
    "--gpus": "--gpu; several GPUs: torchrun --nproc-per-node=N main.py",
    "--cuda": "--gpu",
    "--num-workers": "--workers, which does nothing here",
    "--loss": "--head and --weight-cent",
    "--output": "--save-dir",
    "--out": "--save-dir",
    "--batch": "--batch-size",
    "--version": "git log -1; torch's own stands in a run's config.json",
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a command line asks for. `auto` may still stand where the run will decide; the names of what
    was given by hand are `by_hand`."""

    settings: Settings
    execution: Execution
    options: Options
    by_hand: frozenset[str]
    gpu: int
    use_cpu: bool
    save_dir: Path | None
    resume: Path | None
    overwrite: bool
    stop_after: int | None
    notes: tuple[str, ...]  # for the screen


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the flag that may have been meant."""

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line."""
        if message.startswith("ambiguous option:") and (word := message.split()[2].split("=")[0]) in MEANT:
            message = f"unrecognized arguments: {word}"
        if message.startswith("unrecognized arguments:"):
            word = message.split()[2].split("=")[0]
            meant = MEANT.get(word, "").split(" ")[0].rstrip(";,")
            known = self._option_string_actions
            if meant.startswith("--") and meant not in known:
                near = difflib.get_close_matches(meant, known, n=1, cutoff=0.8)  # compare.py has --weights-cent
                message += f"; did you mean {near[0]}?" if near else f"; main.py has {meant}"
            else:
                message += nearest(word, known)
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print for any console: what it has no letter for becomes a question mark."""
        file = file or sys.stderr
        encoding = getattr(file, "encoding", None) or "utf-8"
        file.write(message.encode(encoding, "replace").decode(encoding))


def nearest(word: str, names: Iterable[str]) -> str:
    """Return a suggestion for a word that is close to one of the names, or nothing."""
    if word in MEANT:
        return f"; did you mean {MEANT[word]}?"
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def argument(parse_text: Callable[[str], Any], names: Iterable[str] = ()) -> Callable[[str], Any]:
    """Return an argparse type whose error says what was typed, what it must be, and which name is close."""

    def parse_argument(text: str) -> Any:
        try:
            return parse_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}{nearest(text, names)}") from None

    return parse_argument


def one_of(names: Iterable[str]) -> dict[str, Any]:
    """Return what makes an argument one of the names: argparse's choices, with a suggestion in the error."""
    names = tuple(names)

    def parse_name(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return text

    return {"type": argument(parse_name, names), "metavar": f"{{{','.join(names)}}}"}


def number(kind: type, low: float, high: float = float("inf"), open_low: bool = False) -> Callable[[str], Any]:
    """Return an argparse type: a finite number in [low, high], or in (low, high]."""
    return argument(Number(kind, low, high, open_low).parse)


def parse_arguments(argv: list[str] | None = None) -> Request:
    """Return what a command line asks for; end with one line and status 2 where it cannot be asked."""
    parser = Parser(
        description="Train LeNet++ on digits with softmax + center loss (Wen et al., ECCV 2016).",
        epilog="A recipe fills the defaults of model and optimization; a flag given by hand wins. training/settings.py holds every setting with its meaning.",
    )  # fmt: skip
    groups = {title: parser.add_argument_group(title) for title in (DATA, MODEL, OPTIMIZATION, RUN)}
    for cls in (Settings, Execution, Options):
        add_flags(groups, cls)
    groups[DATA].add_argument("-j", "--workers", type=number(int, 0, 1024), metavar="N", help=argparse.SUPPRESS)
    groups[OPTIMIZATION].add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="any other setting by its name, as in --set clip=none warmup=0.1")  # fmt: skip
    run = groups[RUN]
    run.add_argument("--gpu", type=argument(parse_gpu), default=(0, None), metavar="INDEX", help="CUDA device; without one, and for -1, the CPU is used (default: 0)")  # fmt: skip
    run.add_argument("--use-cpu", action="store_true", help="use the CPU even if there is a GPU")
    run.add_argument("--save-dir", type=Path, metavar="DIR", help="run directory (default: a new one under log/)")
    run.add_argument("--stop-after", type=argument(COUNT.parse), metavar="N", help="stop after epoch N of the schedule, to be continued with --resume")  # fmt: skip
    run.add_argument("--resume", type=Path, metavar="DIR", help="continue the run in this directory")
    run.add_argument("--overwrite", action="store_true", help="replace the run that --save-dir holds")
    args = parser.parse_args(argv)
    return check_combinations(parser, as_request(parser, args))


def add_flags(groups: dict[str, Any], cls: type[Any]) -> None:
    """Add a flag for each setting of a class that `--help` names."""
    for name, about, default in declared(cls):
        if not about.group:
            continue
        kind, many, _ = kind_of(cls, name)
        more: dict[str, Any] = {"metavar": about.metavar}
        if kind is bool:
            more = {"action": "store_true"}
        elif about.choices:
            more = one_of(about.choices)
            if "on" in about.choices:  # a switch; `auto` decides where it is not given
                more |= {"nargs": "?", "const": "on"}
        elif about.number is not None:
            more |= {"type": argument(about.number.parse), "nargs": "+" if many else None}
        tell = "" if default is None or kind is bool or "(default" in about.help else f" (default: {default})"
        flags = [*SHORT.get(name, ()), f"--{name.replace('_', '-')}"]
        groups[about.group].add_argument(*flags, dest=name, default=None, help=about.help + tell, **more)


def parse_gpu(text: str) -> tuple[int, str | None]:
    """Return the index of a GPU, -1 for none, and a note where several were named."""
    first, *others = text.split(",")
    index = int(Number(int, -1, 1024).parse(first))
    for other in others:
        Number(int, 0, 1024).parse(other)
    note = f"Note: of --gpu {text} GPU {index} is taken; several train together with torchrun --nproc-per-node={len(others) + 1} main.py …"  # fmt: skip
    return index, note if others else None


def as_request(parser: Parser, args: argparse.Namespace) -> Request:
    """Return the request that parsed arguments make."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    given |= {name: tuple(value) for name, value in given.items() if name in ("known_classes", "stepsize")}
    by_name: dict[str, type[Any]] = {f.name: cls for cls in (Settings, Execution) for f in fields(cls)}
    for word in args.set:
        name, equals, text = word.partition("=")
        name = name.replace("-", "_")
        if not equals or name not in by_name:
            parser.error(
                f"argument --set: {word!r}: must be NAME=VALUE with the name of a setting{nearest(name, by_name)}"
            )
        try:
            given[name] = parse(by_name[name], name, text)
        except ValueError as error:
            parser.error(f"argument --set: {word!r}: {error}")
    if "dataset" in given:
        try:
            given["dataset"] = datasets.named(given["dataset"])
        except ValueError as error:
            text = given["dataset"]
            parser.error(f"argument -d/--dataset: {text!r}: {error}{nearest(text, datasets.NAMES)}")
    if given.get("model") == "cnn":
        given["model"] = "lenet++"
    if given.get("known_classes"):
        given["known_classes"] = tuple(sorted(given["known_classes"]))
    if given.get("animate") or given.get("regions"):
        given["plot"] = True
    if "stepsize" in given and not args.resume:
        given.setdefault("schedule", "step")
        given.setdefault("gamma", RECIPES[given.get("recipe", "default")].gamma or 0.5)
    gpu, note = args.gpu
    notes = [note] if note else []
    if args.workers is not None:
        notes.append("Note: --workers does nothing: the images lie on the device, there is nothing left for workers to do")  # fmt: skip
    parts = {cls: {f.name: given[f.name] for f in fields(cls) if f.name in given} for cls in (Settings, Execution, Options)}  # fmt: skip
    return Request(
        settings=replace(Settings(), **parts[Settings]),
        execution=replace(Execution(), **parts[Execution]),
        options=replace(Options(), **parts[Options]),
        by_hand=frozenset(name for part in parts.values() for name in part),
        gpu=gpu,
        use_cpu=args.use_cpu or gpu == -1,
        save_dir=args.save_dir,
        resume=args.resume,
        overwrite=args.overwrite,
        stop_after=args.stop_after,
        notes=tuple(notes),
    )


def check_combinations(parser: Parser, request: Request) -> Request:
    """Return the request; end with a message for flags that do not fit together."""
    settings, by_hand = request.settings, request.by_hand
    if request.options.animate and settings.max_epoch == 1:
        parser.error("--animate: a film needs at least two epochs")
    if request.options.regions and settings.feat_dim != 2 and not request.resume:
        parser.error("--regions: the regions of a plane can be drawn: needs --feat-dim 2")
    if request.resume:
        if request.save_dir and request.resume != request.save_dir:
            parser.error("--resume continues in its own directory: leave --save-dir out")
        if request.overwrite:
            parser.error("--resume and --overwrite exclude each other")
        return request  # the rest follows from the run that is resumed
    resolved = resolve(settings, by_hand, settings.dataset)
    row = heads.HEADS[resolved.head]
    if any(name in by_hand and getattr(row, name) is None for name in ("scale", "margin")):
        parser.error(f"--scale and --margin belong to --head {' or '.join(heads.with_margin())}")
    if "gamma" in by_hand and "stepsize" not in by_hand and RECIPES[settings.recipe].schedule != "step":
        parser.error("--gamma needs --stepsize with this recipe, whose schedule has no steps")
    if (wrong := contradiction(resolved)) is not None:
        parser.error(wrong)
    name = "mnist" if settings.dataset == "auto" else settings.dataset
    if settings.known_classes and name in datasets.SOURCES:  # a folder has to be read first
        try:
            datasets.check_known(settings.known_classes, datasets.SOURCES[name].classes, name)
        except datasets.DataError as error:
            parser.error(str(error))
    return request
