"""The command line of compare.py, and the runs that it asks for."""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from analysis.wanted import LOSSES, SPLITS, Wanted
from training.arguments import Parser, argument, number, one_of, parse_arguments, parse_gpu
from training.settings import RECIPES, Settings

OWN_SETTINGS = {"seed", "weight_cent", "head"}  # compare.py's to set


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a command line asks for."""

    losses: tuple[str, ...]
    weights_cent: tuple[float, ...]  # as given; none: those of the recipes
    seeds: tuple[int, ...]
    variants: tuple[str, ...]
    runs: tuple[Path, ...]
    jobs: int
    out: Path
    open_set: bool
    unknowns: tuple[str, ...]
    animate: bool
    report: bool
    regions: bool
    gpu: int
    use_cpu: bool
    more: tuple[str, ...]  # flags of main.py
    of_margin_heads: tuple[str, ...]  # flags of main.py that a margin head alone takes
    data_root: Path

    def plan(self) -> Iterator[Wanted]:
        """Yield the runs that the comparison is made of."""
        splits = SPLITS if self.open_set else (None,)
        variants = {variant: read_variant(variant) for variant in self.variants or ("",)}
        recipes = {variant: self._recipe(flags) for variant, (_, flags) in variants.items()}
        seen = set()
        for loss, variant, seed, (which, split) in itertools.product(
            self.losses, variants, self.seeds, enumerate(splits, 1)
        ):
            head, with_center = LOSSES[loss]
            head = head or recipes[variant].head
            row, flags_of_variant = variants[variant]
            for weight in self.weights_cent or (recipes[variant].weight_cent,) if with_center else (0.0,):
                name = f"{loss}-{weight:g}" if with_center and self.weights_cent else loss
                name += f"-{slug(row)}" if variant else ""
                name += f"-split{which}" if split else ""
                flags = ["--head", head, "--weight-cent", str(weight), "--seed", str(seed), *self.more]
                flags += flags_of_variant
                flags += self.of_margin_heads if head != "softmax" else []
                flags += ["--known-classes", *map(str, split)] if split else []
                if (head, weight, seed, split, variant) not in seen:  # center loss at λ = 0 is softmax
                    seen.add((head, weight, seed, split, variant))
                    several = len(self.losses) > 1 or len(self.weights_cent) > 1
                    yield Wanted(f"{name}-{seed}", flags, row=f"{name}, {row}" if several else row)

    def _recipe(self, flags: list[str]) -> Settings:
        """Return the recipe that a variant's flags ask for."""
        return RECIPES[parse_arguments([*self.more, *flags]).settings.recipe]


def read_variant(text: str) -> tuple[str, list[str]]:
    """Return what a table calls a variant, and its flags: ``flags`` or ``name: flags``."""
    name, colon, flags = text.partition(":")
    if colon and not name.strip().startswith("-"):
        return name.strip(), shlex.split(flags)
    return text.strip() or "as it is", shlex.split(text)


def slug(text: str) -> str:
    """Return a text as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def name_of(source: str) -> str:
    """Return what a table calls a source of unknown images: a folder by its name."""
    path = Path(source)
    return (path.parent if path.name == "raw" else path).name


def parse_comparison(argv: list[str]) -> Comparison:
    """Return what a command line asks for; what follows a bare ``--`` are flags of main.py."""
    split = argv.index("--") if "--" in argv else len(argv)
    parser = build_parser()
    args = parser.parse_args(argv[:split])
    more = argv[split + 1 :]
    if args.runs and (args.losses or args.weights_cent or args.seeds or args.variants or more):
        parser.error("--runs compares runs that are there: leave --losses, --weights-cent, --seeds, --variants and -- out")  # fmt: skip
    names = [name_of(source) for source in args.unknowns]
    if len(set(names)) < len(names):
        parser.error(f"--unknowns: two of them would be called {max(names, key=names.count)}; rename a folder")
    if args.runs and args.open_set:
        parser.error("--runs of --known-classes are scored on the digits they never saw without --open-set")
    gpu, _ = args.gpu
    if gpu != 0:
        more = [*more, "--gpu", str(gpu)]
    if args.use_cpu:
        more = [*more, "--use-cpu"]
    losses = args.losses or (["center"] if args.weights_cent or args.variants else ["softmax", "center"])
    of_margin_heads, more = take_margin_flags(more)
    check_margin_flags(parser, losses, of_margin_heads)
    more = check_flags_of_main(parser, args, more)
    given = parse_arguments(more)
    comparison = Comparison(
        losses=tuple(losses),
        weights_cent=tuple(args.weights_cent or ()),
        seeds=tuple(args.seeds or [1]),
        variants=tuple(args.variants or ()),
        runs=tuple(args.runs or ()),
        jobs=args.jobs,
        out=args.out,
        open_set=args.open_set,
        unknowns=tuple(args.unknowns),
        animate=args.animate,
        report=args.report,
        regions=args.regions,
        gpu=given.gpu,
        use_cpu=args.use_cpu or given.use_cpu,
        more=tuple(more),
        of_margin_heads=tuple(of_margin_heads),
        data_root=Path(given.options.data_root),
    )
    for wanted in [] if args.runs else comparison.plan():
        parse_arguments(wanted.flags)  # ends here for what a variant's flags do not agree with, of its loss
    return comparison


def build_parser() -> Parser:
    """Return the parser of what stands before the bare ``--``."""
    parser = Parser(
        description="Train runs that differ in their loss, or take finished ones, and compare them.",
        epilog="Everything after a bare -- is handed to main.py: compare.py --seeds 1 2 -- --max-epoch 2 --use-cpu",
    )
    which = parser.add_argument_group("which runs")
    which.add_argument(
        "--losses",
        nargs="+",
        **one_of(LOSSES),
        help="center is center loss with the recipe's own head (default: softmax center)",
    )
    which.add_argument("--weights-cent", nargs="+", type=number(float, 0, 1e6), metavar="λ", help="each loss with center loss at each of these weights; draws lambda_sweep.png too (default: the recipe's λ)")  # fmt: skip
    which.add_argument("--seeds", nargs="+", type=number(int, 0, 2**31 - 1), metavar="N", help="each of them with each seed (default: 1)")  # fmt: skip
    which.add_argument("--variants", nargs="+", metavar="FLAGS", help="each of them with each of these flags of main.py, a row each, the first what the others are held against; \"\" for none, \"name: flags\" to name it")  # fmt: skip
    which.add_argument("--runs", nargs="+", type=Path, metavar="DIR", help="compare these runs, train nothing")
    which.add_argument("--jobs", type=number(int, 1, 1024), default=1, metavar="N", help="train so many at once (default: 1)")  # fmt: skip
    which.add_argument("--gpu", type=argument(parse_gpu), default=(0, None), metavar="INDEX", help="CUDA device, to train and to score on; -1 is the CPU (default: 0)")  # fmt: skip
    which.add_argument("--use-cpu", action="store_true", help="use the CPU even if there is a GPU")
    what = parser.add_argument_group("what is made")
    what.add_argument("--out", type=Path, default=Path("log/compare"), metavar="DIR", help="where it is written, the runs under runs/ (default: log/compare)")  # fmt: skip
    what.add_argument("--open-set", action="store_true", help="train on the literature's five choices of six digits, and score each run on the digits it never saw")  # fmt: skip
    what.add_argument("--unknowns", nargs="+", default=[], metavar="NAME_OR_DIR", help="score runs on these images: mnist, fashion-mnist, kmnist, or a folder with IDX images")  # fmt: skip
    what.add_argument("--animate", action="store_true", help="write animation.gif, the runs' features epoch by epoch, and animation.mp4 where ffmpeg is there; from runs made with --plot")  # fmt: skip
    what.add_argument("--report", action="store_true", help="write report.html, all about the runs in one interactive page that needs no network")  # fmt: skip
    what.add_argument("--regions", action="store_true", help="in figures, film and report shade what each class is taken for, up to the border of the unknown; two features")  # fmt: skip
    return parser


def check_margin_flags(parser: Parser, losses: list[str], of_margin_heads: list[str]) -> None:
    """End with a message where --scale and --margin have no head, or one that refuses them."""
    heads = sorted({LOSSES[loss][0] or "softmax" for loss in losses} - {"softmax"})
    if of_margin_heads and not heads:
        parser.error("--scale and --margin need a loss with a margin head: --losses arcface, for one")
    for head in heads:
        parse_arguments(["--head", head, *of_margin_heads])


def check_flags_of_main(parser: Parser, args: argparse.Namespace, more: list[str]) -> list[str]:
    """Return the flags of main.py; end with a message for one that it refuses, or that is ours to set."""
    try:
        variants = [read_variant(variant) for variant in args.variants or [""]]
    except ValueError as error:  # shlex's
        parser.error(f"--variants: {str(error).lower()}")
    names = [name for name, _ in variants]
    if len(set(names)) < len(names):
        parser.error(f"--variants: two of them are called {max(names, key=names.count)!r}; name them apart")
    for _, flags in variants:
        given = parse_arguments([*more, *flags])  # ends here for a flag that main.py would refuse
        if args.regions and given.settings.feat_dim != 2:
            parser.error("--regions: the regions of a plane can be drawn: needs --feat-dim 2")
        own = sorted(OWN_SETTINGS & given.by_hand)
        own += [name for name in ("save_dir", "resume", "overwrite", "stop_after") if getattr(given, name)]
        own += ["known_classes"] if args.open_set and given.settings.known_classes else []
        if own:
            parser.error(
                f"--{own[0].replace('_', '-')} is set by compare.py (--losses, --weights-cent, --seeds, --out)"
            )
    return [*more, "--plot"] if args.animate or args.report else more  # keeps the features of every epoch


def take_margin_flags(more: list[str]) -> tuple[list[str], list[str]]:
    """Return --scale and --margin with their values, which softmax does not take, and the other flags."""
    parser = Parser(add_help=False, allow_abbrev=False)
    for flag in ("--scale", "--margin"):
        parser.add_argument(flag)
    found, others = parser.parse_known_args(more)
    return [word for key, value in vars(found).items() if value is not None for word in (f"--{key}", value)], others
