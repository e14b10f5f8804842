"""Draw the figures of runs again.

python -m analysis.draw log/center --epochs 1 2 10
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from analysis.film import animate
from analysis.plots import draw_epoch
from rundir.reading import kept_epochs
from utils import UserError, complain


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw the feature scatters of runs again.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directory")
    parser.add_argument("--epochs", type=int, nargs="+", metavar="N", help="which (default: all that are kept)")
    parser.add_argument("--animate", action="store_true", help="write animation.gif of all of them instead")
    parser.add_argument(
        "--regions", action="store_true", help="shade what each class is taken for, up to the border of the unknown"
    )
    parser.add_argument("--give-way", action="store_true", help="take only the time that other processes leave")
    args = parser.parse_args()
    if args.give_way and hasattr(os, "nice"):
        os.nice(19)
    for run in args.runs:
        kept = kept_epochs(run)
        missing = sorted(set(args.epochs or []) - set(kept))
        if missing or not kept:
            parser.error(f"{run}: no features of epoch {missing[0] if missing else 1} are kept here")
    jobs: list[Callable[[], object]] = [
        partial(draw_epoch, run, epoch, args.regions) for run in args.runs for epoch in args.epochs or kept_epochs(run)
    ]
    if args.animate:
        jobs = [partial(animate, [run], run / "animation.gif", regions=args.regions) for run in args.runs]
    failed = 0
    for job in jobs:  # one that fails does not keep the others from being drawn
        try:
            job()
        except (OSError, UserError) as error:
            complain(f"draw.py: error: {type(error).__name__}: {error}")
            failed = 2
    return failed


if __name__ == "__main__":
    sys.exit(main())
