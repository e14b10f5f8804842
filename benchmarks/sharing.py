"""Seconds an epoch beside other programs: as `main.py` waits, and with each setting of OpenMP.

    python benchmarks/sharing.py > benchmarks/results/sharing.md

Trains on the 5,000 digits by turns: alone, two such runs at once, beside programs that use a core each. Flags of
main.py, such as ``--precision fp32``, go behind ``--``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.tables import plus_minus
from benchmarks.timing import beside, command, machine
from rundir.log import read_epochs
from training.parser import number
from utils import ROOT

SETTINGS = {  # the first is main.py's own; a count of 300,000 turns is the library's
    "main.py": {},
    "as torch has it": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
LOADS = {"alone": 0, "two runs at once": -1, "beside 2 programs": 2, "beside 4 programs": 4}


def start(directory: str, flags: list[str], env: dict[str, str], epochs: int) -> subprocess.Popen[bytes]:
    """Start a training of so many epochs."""
    command = [sys.executable, "main.py", "-d", "mnist5k", "--use-cpu", "--save-dir", directory]
    command += ["--max-epoch", str(epochs), *flags]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | env, stdout=subprocess.DEVNULL)


def seconds(load: int, flags: list[str], env: dict[str, str], epochs: int, limit: float) -> float:
    """Return the seconds of an epoch after the first, infinity where the run takes longer than `limit`."""
    with tempfile.TemporaryDirectory() as folder, beside(max(load, 0)):
        paths = [f"{folder}/{number}" for number in range(2 if load < 0 else 1)]
        runs = [start(path, flags, env, epochs) for path in paths]
        try:
            for run in runs:
                if run.wait(timeout=limit) != 0:
                    sys.exit("a run failed")
        except subprocess.TimeoutExpired:
            return float("inf")
        finally:
            for run in runs:
                run.kill()
                run.wait()
        taken = [row.seconds for path in paths for row in read_epochs(Path(path))[1:]]
        return sum(taken) / len(taken)


def shown(taken: list[float], limit: float, epochs: int) -> str:
    """Return a cell of the table."""
    return f"> {limit / epochs:.0f}" if float("inf") in taken else plus_minus(taken, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each (default: 3)")
    parser.add_argument("--epochs", type=number(int, 2), default=2, metavar="N", help="of a run (default: 2)")
    parser.add_argument("--limit", type=float, default=120, metavar="SECONDS", help="of a run (default: 120)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS), metavar="NAME")
    parser.add_argument("flags", nargs="*", help="of main.py, after --")
    args = parser.parse_args()
    print(f"{command('sharing.py')}\n")
    print(f"{machine()}. Seconds an epoch of 4,000 images, mean ± std of {args.rounds} turns.\n")
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(args.rounds):
        for load in args.loads:
            for name in args.settings:
                one = seconds(LOADS[load], args.flags, SETTINGS[name], args.epochs, args.limit)
                taken.setdefault((name, load), []).append(one)
                print(name, load, f"{one:.1f}", file=sys.stderr)
    print(f"| | {' | '.join(args.loads)} |\n|---|{'---|' * len(args.loads)}")
    for name in args.settings:
        cells = [shown(taken[name, load], args.limit, args.epochs) for load in args.loads]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
