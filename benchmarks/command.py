"""What a user of the command line waits for, and the memory that it takes.

    python benchmarks/command.py > benchmarks/results/command_cpu.txt

Starts `main.py` as a user does, on full MNIST and on the CPU: `--help`, up to the first batch, and once for
an epoch with figures; then the figures alone. Seconds from the prompt; what is done more than once (--rounds)
has mean ± standard deviation.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.tables import plus_minus
from benchmarks.timing import clock, command, machine
from rundir.log import read_epochs
from utils import ROOT

# A small process between us and what is measured: on Linux a child's peak memory starts at its parent's.
LAUNCHER = """
import resource, subprocess, sys
status = subprocess.call([sys.executable, *sys.argv[1:]], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def run(*words: str) -> None:
    """Run a command of the project to its end."""
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True, cwd=ROOT)


def peak(*words: str) -> float:
    """Return the peak memory of a command's largest process in GiB."""
    launch = [sys.executable, "-c", LAUNCHER, *words]
    done = subprocess.run(launch, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout) * (1 if sys.platform == "darwin" else 1024) / 2**30


def until_first_batch(folder: str) -> None:
    """Run main.py until its first batch is on the screen."""
    flags = ["-d", "mnist", "--use-cpu", "--print-freq", "1", "--save-dir", f"{folder}/first", "--overwrite"]
    with subprocess.Popen([sys.executable, "main.py", *flags], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        if not any(line.startswith("Batch 1/") for line in process.stdout):
            sys.exit("main.py ended before its first batch")
        process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="times of each but the epoch (default: 5)")
    rounds = range(parser.parse_args().rounds)
    with tempfile.TemporaryDirectory() as folder:
        run("main.py", "--help")  # warms the disk
        until_first_batch(folder)
        print(f"main.py --help          {plus_minus([clock(lambda: run('main.py', '--help')) for _ in rounds], 2)} s")
        print(f"first batch on screen   {plus_minus([clock(lambda: until_first_batch(folder)) for _ in rounds], 2)} s")
        flags = ("-d", "mnist", "--use-cpu", "--plot", "--stop-after", "1", "--save-dir", f"{folder}/epoch")
        memory: list[float] = []
        seconds = clock(lambda: memory.append(peak("main.py", *flags)))
        training = read_epochs(Path(folder) / "epoch")[0].seconds
        drawing = [clock(lambda: run("-m", "analysis.draw", f"{folder}/epoch", "--epochs", "1")) for _ in rounds]
        print(f"one epoch with --plot   {seconds:.1f} s, {training:.1f} of it training")
        print(f"an epoch's figures      {plus_minus(drawing, 2)} s")
        print(
            f"peak memory of the run  {memory[0]:.2f} GiB, {peak('-c', 'import torch'):.2f} of it from importing torch"
        )
    print(f"\n{command('command.py')}, n = {len(rounds)}; {machine()}")


if __name__ == "__main__":
    main()
