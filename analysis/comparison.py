"""The command line of compare.py, and the runs that it needs."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.heads import HEADS, with_margin
from training.arguments import Request, parse_arguments, parse_gpu
from training.parser import Parser, argument, folder, number, one_of
from training.recipes import RECIPES
from training.settings import Settings
from utils import printable

KNOWN, NEVER_SEEN = "known", "unseen classes"  # names of images in the results
OTHERS = [name for name in HEADS if name != "softmax"]
Loss = tuple[str | None, bool]  # the head, None for the recipe's, and whether the center loss is added
LOSSES: dict[str, Loss] = {
    "softmax": ("softmax", False),
    "center": (None, True),
    **{name: (name, False) for name in OTHERS},
    **{f"{name}+center": (name, True) for name in OTHERS},
}
SPLITS = (  # the literature's five choices of known digits, see docs/comparing.md
    (2, 4, 5, 9, 8, 3),
    (3, 2, 6, 9, 4, 0),
    (5, 8, 3, 2, 4, 6),
    (3, 7, 8, 4, 0, 5),
    (6, 3, 4, 9, 8, 2),
)
HELP = {
    "losses": "losses to train with; center is center loss on the recipe's own head (default: "
    "softmax center; with --weights-cent or --variants only center)",
    "weights-cent": "train each center loss at each of these weights, and also draw lambda_sweep.png (default: the "
    "recipe's λ)",
    "seeds": "train each loss with each of these seeds (default: 1)",
    "variants": "train each loss with each of these sets of main.py flags; each set is a row of the table and is "
    'compared with the first; "" means no flags, "name: flags" names the row',
    "runs": "compare these runs, train nothing",
    "jobs": "train N runs at once (default: 1)",
    "gpu": "index of the CUDA device for training and scoring; -1 is the CPU (default: 0)",
    "use-cpu": "use the CPU even if there is a GPU",
    "out": "folder for tables and figures, with the runs under runs/ (default: log/compare)",
    "open-set": "train on the five choices of six digits that the literature uses, and score each run on the digits it "
    "never saw: known against unknown, and the unknown classes against each other",
    "unknowns": "score the runs on images of other classes: mnist, fashion-mnist, kmnist, mnist5k, or a folder with "
    "IDX images",
    "animate": "write animation.gif, the features during the first epoch and then epoch by epoch, and animation.mp4 if "
    "ffmpeg is installed; --runs must have been made with --animate or --plot",
    "report": "write report.html, one interactive page about the runs that works offline",
    "regions": "shade the region of each class up to the border of the unknown, in figures, film and report; runs need "
    "two features",
}


@dataclass
class Wanted:
    """A run that a comparison needs."""

    name: str  # of its directory
    flags: list[str]  # of main.py
    path: Path = Path()  # of its directory, set by `sweep.find`
    row: str = ""  # of the table

    @property
    def log(self) -> Path:
        """The file with the output of main.py, beside the run directory."""
        return self.path.with_name(f"{self.path.name}.out")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The values of a command line."""

    losses: Sequence[str]
    weights_cent: Sequence[float]  # as given; empty: the recipe's
    seeds: Sequence[int]
    variants: Sequence[str]
    runs: Sequence[Path]
    jobs: int
    out: Path
    open_set: bool
    unknowns: Sequence[str]
    animate: bool
    report: bool
    regions: bool
    gpu: int | str
    use_cpu: bool
    more: Sequence[str]  # flags of main.py
    data_root: Path
    notes: Sequence[str]  # for the screen

    def plan(self) -> Iterator[Wanted]:
        """Yield the runs that the comparison needs."""
        splits = enumerate(SPLITS, 1) if self.open_set else [(0, ())]
        several = len(self.losses) > 1 or len(self.weights_cent) > 1
        seen = set()
        for loss, variant, seed, (which, split) in itertools.product(
            self.losses, map(self.read, self.variants or [""]), self.seeds, splits
        ):
            head, with_center = LOSSES[loss]
            head = head or variant.recipe.head
            for weight in self.weights_cent or (variant.recipe.weight_cent,) if with_center else (0.0,):
                if (run := (head, weight, seed, split, variant.name)) in seen:  # center loss at λ = 0 is softmax
                    continue
                seen.add(run)
                name = f"{loss}-{weight:g}" if with_center and self.weights_cent else loss
                folder = [name, re.sub(r"[^A-Za-z0-9.]+", "-", variant.name).strip("-")] if self.variants else [name]
                folder += [f"split{which}"] * bool(split) + [str(seed)]
                flags = ["--head", head, "--weight-cent", str(weight), "--seed", str(seed), *variant.flags]
                flags += variant.of_margin_heads if head in with_margin() else []
                flags += ["--known-classes", *map(str, split)] if split else []
                yield Wanted("-".join(folder), flags, row=f"{name}, {variant.name}" if several else variant.name)

    def read(self, text: str) -> Variant:
        """Return a variant with all its flags."""
        name, flags = read_variant(text)
        of_margin_heads, flags = take_margin_flags([*self.more, *flags])
        return Variant(name, flags, of_margin_heads, parse_arguments(flags))


@dataclass(frozen=True)
class Variant:
    """What a row of the table is trained with, besides its loss."""

    name: str
    flags: list[str]  # of main.py
    of_margin_heads: list[str]  # further flags, which only margin heads take
    request: Request  # of `flags`

    @property
    def recipe(self) -> Settings:
        return RECIPES[self.request.plan.settings.recipe]


def read_variant(text: str) -> tuple[str, list[str]]:
    """Return the name and the flags of a variant, from ``flags`` or ``name: flags``."""
    name, colon, flags = text.partition(":")
    if not colon or name.strip().startswith("-"):
        name, flags = text, text
    return printable(name.strip()) or "no flags", shlex.split(flags)


def name_of(source: str) -> str:
    """Return the name of a source of unknown images in tables and figures; a folder has its own name."""
    path = Path(os.path.abspath(source))
    return printable((path.parent if path.name == "raw" else path).name)


# ---------------------------------------------------------------- the command line


def parse_comparison(argv: list[str]) -> Comparison:
    """Return the values of a command line; the words after a bare ``--`` are flags of main.py."""
    split = argv.index("--") if "--" in argv else len(argv)
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv[:split])
    more = argv[split + 1 :]
    if unknown:
        refuse_unknown(parser, unknown, args.variants)
    check_own_flags(parser, args, more)
    gpu, note = args.gpu
    more += ["--gpu", str(gpu)] if gpu else []
    more += ["--use-cpu"] if args.use_cpu else []
    given = parse_arguments(take_margin_flags(more)[1])
    asked: dict[str, Any] = vars(args) | {
        "losses": args.losses or (["center"] if args.weights_cent or args.variants else ["softmax", "center"]),
        "seeds": args.seeds or [1],
        "gpu": given.gpu,
        "use_cpu": given.use_cpu,
        "more": [*more, "--animate"] if args.animate else [*more, "--plot"] if args.report else more,
        "data_root": Path(given.plan.data_root),
        "notes": [*([note] if note else []), *given.notes],
    }
    comparison = Comparison(**asked)
    if not args.runs:
        check_plan(parser, comparison)
    return comparison


def build_parser() -> Parser:
    """Return the parser of the words before the bare ``--``."""
    parser = Parser(
        description="Train runs that differ in their loss, or take finished ones, and compare them.",
        epilog="All words after a bare -- go to main.py, as in compare.py --seeds 1 2 -- --max-epoch 2 --use-cpu",
    )
    group = parser.add_argument_group("which runs")

    def add(flag: str, **how: Any) -> None:
        group.add_argument(f"--{flag}", help=HELP[flag], **how)

    add("losses", nargs="+", default=[], **one_of(LOSSES))
    add("weights-cent", nargs="+", default=[], type=number(float, 0, 1e6), metavar="λ")
    add("seeds", nargs="+", default=[], type=number(int, 0, 2**31 - 1), metavar="N")
    add("variants", nargs="+", default=[], metavar="FLAGS")
    add("runs", nargs="+", default=[], type=folder, metavar="DIR")
    add("jobs", type=number(int, 1, 1024), default=1, metavar="N")
    add("gpu", type=argument(parse_gpu), default=(0, None), metavar="INDEX")
    add("use-cpu", action="store_true")
    group = parser.add_argument_group("what is made")
    add("out", type=folder, default=Path("log/compare"), metavar="DIR")
    add("open-set", action="store_true")
    add("unknowns", nargs="+", default=[], metavar="NAME_OR_DIR")
    for flag in ("animate", "report", "regions"):
        add(flag, action="store_true")
    return parser


def refuse_unknown(parser: Parser, unknown: list[str], variants: list[str]) -> None:
    """End with a message about a flag that compare.py does not have; it may be a flag of main.py."""
    complaint = io.StringIO()
    with contextlib.redirect_stderr(complaint), contextlib.suppress(SystemExit):
        refuse_ours(parser, parse_arguments(unknown))
    if "is set by compare.py" in complaint.getvalue():
        parser.exit(2, complaint.getvalue())
    if "unrecognized arguments" not in complaint.getvalue():
        flags = shlex.join(unknown)
        name = f"; as a variant it needs a name: 'name: {flags}'" * bool(variants)
        parser.error(f"{unknown[0]} is a flag of main.py; those go behind a bare --: compare.py … -- {flags}{name}")
    parser.error(parser.unknown(unknown[0]))


def refuse_ours(parser: Parser, given: Request, open_set: bool = False) -> None:
    """End with a message about a flag of main.py that compare.py sets itself."""
    ours = sorted({"seed", "weight_cent", "head"} & given.by_hand)
    ours += [name for name in ("save_dir", "resume", "overwrite", "stop_after") if getattr(given, name)]
    ours += ["known_classes"] if open_set and given.plan.settings.known_classes else []
    if ours:
        flag = ours[0].replace("_", "-")
        parser.error(f"--{flag} is set by compare.py (--losses, --weights-cent, --seeds, --out)")


def check_own_flags(parser: Parser, args: argparse.Namespace, more: list[str]) -> None:
    """End with a message about flags that do not fit together."""
    if args.runs and (args.losses or args.weights_cent or args.seeds or args.variants or more):
        parser.error("--runs compares existing runs: leave out --losses, --weights-cent, --seeds, --variants and --")
    if args.runs and args.open_set:
        parser.error("--open-set trains new runs: leave it out; --runs are scored on the digits they never saw anyway")
    if args.weights_cent and args.losses and not any(LOSSES[loss][1] for loss in args.losses):
        parser.error("--weights-cent needs a loss with center loss, such as --losses center")
    names = [name_of(source) for source in args.unknowns]
    if len(set(names)) < len(names):
        parser.error(f"--unknowns: two of them would be called {max(names, key=names.count)}; rename a folder")
    if taken := {KNOWN, NEVER_SEEN} & {*names}:
        parser.error(f"--unknowns: {taken.pop()!r} has another meaning in the results; rename the folder")
    try:
        names = [read_variant(variant)[0] for variant in args.variants]
    except ValueError as error:  # from shlex
        parser.error(f"--variants: {str(error).lower()}")
    if len(set(names)) < len(names):
        parser.error(f"--variants: two of them are called {max(names, key=names.count)!r}; give them different names")


def check_plan(parser: Parser, comparison: Comparison) -> None:
    """End with a message about flags that main.py refuses or compare.py sets itself, or that suit no run."""
    for variant in map(comparison.read, comparison.variants or [""]):
        refuse_ours(parser, variant.request, comparison.open_set)
        if comparison.regions and variant.request.plan.settings.feat_dim != 2:
            parser.error("--regions needs --feat-dim 2: regions are drawn in a plane")
        heads = {LOSSES[loss][0] or variant.recipe.head for loss in comparison.losses}
        if variant.of_margin_heads and not heads & {*with_margin()}:
            parser.error("--scale and --margin need a loss with a margin head, such as --losses arcface")
    for wanted in comparison.plan():
        parse_arguments(wanted.flags)


def take_margin_flags(more: list[str]) -> tuple[list[str], list[str]]:
    """Split flags in two: --scale and --margin with their values, which only margin heads take; and all others."""
    parser = Parser(add_help=False, allow_abbrev=False)
    for flag in ("--scale", "--margin"):
        parser.add_argument(flag)
    found, others = parser.parse_known_args(more)
    return [word for key, value in vars(found).items() if value is not None for word in (f"--{key}", value)], others
