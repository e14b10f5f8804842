"""Draw the figures of runs again.

python -m analysis.draw log/center --epochs 1 2 10
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from analysis.film import animate
from analysis.plots import draw_epoch
from rundir.directory import refuse_links
from rundir.features import kept_features
from training.parser import Parser
from utils import UserError, complain, run_command


def film(directory: Path, regions: bool = False) -> None:
    """Write animation.gif with all epochs whose features a run keeps."""
    animate([directory], directory / "animation.gif", regions=regions)


def main(argv: list[str]) -> int:
    """Run a command line; return the exit status."""
    return run_command("analysis.draw", partial(draw, argv))


def draw(argv: list[str]) -> int:
    """Draw what the command line asks for; return the exit status. After a figure that fails, the others follow."""
    parser = Parser(prog="analysis.draw", description="Draw the feature scatters of runs again.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directory")
    parser.add_argument("--epochs", type=int, nargs="+", metavar="N", help="epochs to draw (default: all kept)")
    parser.add_argument("--animate", action="store_true", help="write animation.gif with all epochs instead")
    shade = "shade the region of each class up to the border of the unknown"
    parser.add_argument("--regions", action="store_true", help=shade)
    args = parser.parse_args(argv)
    jobs: list[Callable[[], object]] = []
    for run in args.runs:
        if not run.is_dir():
            raise UserError(f"{run}: no such folder")
        refuse_links(run)
        kept = kept_features(run)
        missing = sorted(set(args.epochs or []) - set(kept))
        if missing or not kept:
            raise UserError(f"{run}: no features of epoch {missing[0] if missing else 1} are kept here")
        one_by_one = [partial(draw_epoch, run, epoch, args.regions) for epoch in args.epochs or kept]
        jobs += [partial(film, run, args.regions)] if args.animate else one_by_one
    status = 0
    for job in jobs:
        try:
            job()
        except (OSError, UserError) as error:
            complain(f"analysis.draw: error: {error}")
            status = 2
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
