"""What the benchmarks share: the machine in words, the clock, and programs that take its cores meanwhile."""

from __future__ import annotations

import contextlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from utils import processor_name

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def machine() -> str:
    """Return processor, instruction sets, threads and versions."""
    flags: list[str] = []
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    sets, threads = ", ".join(name for name in INSTRUCTIONS if name in flags), f"{torch.get_num_threads()} threads"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{processor_name()} ({sets or 'no AVX2'}), {threads}; {versions}"


def command(program: str) -> str:
    """Return this program's command line, in backticks."""
    return f"`{shlex.join(['python', f'benchmarks/{program}', *sys.argv[1:]])}`"


def clock(work: Callable[[], object]) -> float:
    """Return how long some work takes, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextlib.contextmanager
def beside(programs: int) -> Iterator[None]:
    """Run so many programs that use a core each."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for one in spinning:
            one.kill()
            one.wait()
