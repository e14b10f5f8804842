"""What a user of the command line waits for, and the memory that it takes.

    python benchmarks/command.py > benchmarks/results/command_cpu.txt

Starts `main.py` as a user does, on full MNIST and on the CPU: `--help`, up to the first batch, and once for
an epoch with figures; then the figures alone. Seconds from the prompt; what is done more than once (--rounds)
has mean ± standard deviation.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.timing import command
from rundir.log import read_epochs
from rundir.run import read_config
from utils import HERE, plus_minus, usable_cores

GIB = 2**30


# A small process between us and what is measured: on Linux a child's peak memory starts at its parent's.
LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call([sys.executable, *sys.argv[1:]], stdout=sys.stderr)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def run(*command: str) -> tuple[float, float]:
    """Return the seconds that a command takes, and the peak memory of its largest process in GiB."""
    launch = [sys.executable, "-c", LAUNCHER, *command]
    done = subprocess.run(launch, capture_output=True, text=True, cwd=HERE)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")
    seconds, peak = done.stdout.split()
    return float(seconds), float(peak) * (1 if sys.platform == "darwin" else 1024) / GIB


def until_first_batch(folder: Path) -> float:
    """Return the seconds until the first batch is on the screen."""
    flags = ["-d", "mnist", "--use-cpu", "--print-freq", "1", "--save-dir", str(folder / "first"), "--overwrite"]
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "main.py", *flags], stdout=subprocess.PIPE, text=True, cwd=HERE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Batch 1/"):
                seconds = time.perf_counter() - start
                process.send_signal(signal.SIGKILL)
                return seconds
    sys.exit("main.py ended before its first batch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="times of each but the epoch (default: 5)")
    args = parser.parse_args()
    rounds = range(args.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("main.py", "--help")  # warms the disk
        print(f"main.py --help          {plus_minus([run('main.py', '--help')[0] for _ in rounds], 2)} s")
        until_first_batch(folder)
        print(f"first batch on screen   {plus_minus([until_first_batch(folder) for _ in rounds], 2)} s")
        torch_alone = run("-c", "import torch")[1]

        path = str(folder / "epoch")
        seconds, peak = run("main.py", "-d", "mnist", "--use-cpu", "--plot", "--stop-after", "1", "--save-dir", path)
        training = read_epochs(Path(path))[0].seconds
        drawing = [run("-m", "analysis.draw", path, "--epochs", "1")[0] for _ in rounds]
        share = 100 * sum(drawing) / len(drawing) / training
        print(f"one epoch with --plot   {seconds:.1f} s, {training:.1f} of it training")
        print(f"an epoch's figures      {plus_minus(drawing, 2)} s, {share:.1f} % of its training")
        print(f"peak memory of the run  {peak:.2f} GiB, {torch_alone:.2f} of it from importing torch")
        made_on = read_config(Path(path)).made_on
    print(f"\n{command('command.py')}, n = {args.rounds}; {usable_cores()} cores; made on {made_on}.")


if __name__ == "__main__":
    main()
