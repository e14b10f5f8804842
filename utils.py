"""What all modules share: errors and exit statuses, atomic writing, output on the screen, the machine."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import secrets
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent  # the folder of this code
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # variables that torchrun sets
VERSION = "1.1.dev0"  # also in pyproject.toml and CITATION.cff


# ---------------------------------------------------------------- errors, and how a command ends


class UserError(Exception):
    """Bad input. The message is one line that says what was wrong and what to do."""

    status = 2


def is_under_torchrun() -> bool:
    """Return whether torchrun started this process: it sets all of its variables, others may set some of them."""
    return all(name in os.environ for name in TORCHRUN)


def processes() -> tuple[int, int]:
    """Return this process's rank and the number of processes: 0 and 1 unless torchrun started it."""
    if not is_under_torchrun():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def run_command(name: str, work: Callable[[], int]) -> int:
    """Run a command and return its exit status; an error becomes one line on stderr.

    0: done. 1: stopped on the way. 2: bad input. 130: interrupted; the message of a `KeyboardInterrupt` says how to
    continue.
    """
    mend_streams()
    previous = _hear_signals()
    try:
        with sharing_cores():
            return work()
    except UserError as error:  # raised in every process
        line = f"{name}: {'error' if error.status == 2 else 'stopped'}: {error}"
        return error.status if processes()[0] else _end(line, error.status)
    except BrokenPipeError:  # whatever reads our output has ended
        sys.stderr.close()
        return 1
    except OSError as error:  # for example, a full disk
        return _end(f"{name}: stopped: {error.filename or 'output'}: {error.strerror or error}", 1)
    except KeyboardInterrupt as interrupt:
        if processes()[0]:
            return 130
        if previous:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C has nothing left to end
        if previous.get(signal.SIGINT) is signal.SIG_DFL:  # this is a program, and it ends here
            del previous[signal.SIGINT]
        print(file=sys.stderr)  # ends the line in which the terminal shows ^C
        return _end(f"Interrupted. {interrupt}".rstrip(), 130)
    except (RuntimeError, MemoryError) as error:
        if (reason := _known(error, trains=name == "main.py")) is None:
            raise
        return _end(f"{name}: stopped: {reason}", 1)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _known(error: RuntimeError | MemoryError, trains: bool) -> str | None:
    """Return in one line why a machine or torch failed, and what to do, or None for a mistake in this code."""
    reason = str(error).strip().partition("\n")[0]
    if type(error).__name__ == "OutOfMemoryError":
        return f"the GPU's memory is full; try {'a smaller --batch-size or ' * trains}--use-cpu"
    rank, count = processes()
    who = f"process {rank}: " * (count > 1)
    if reason.startswith(("CUDA error", "HIP error", "cuDNN error")) and "device-side assert" not in reason:
        return f"{who}the GPU failed: {reason}; use another or --use-cpu"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in reason or "std::bad_alloc" in reason:
        return f"the memory is full{'; try a smaller --batch-size' * trains}"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"torch.compile: {reason}; leave out --compile"
    return who + reason if who else None  # another process may have failed


def mend_streams() -> None:
    """Replace closed streams (``<&-``, ``>&-``), and print ? for a character that the console does not have."""
    sys.stdin = sys.stdin or open(os.devnull)
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _hear_signals() -> dict[signal.Signals, Any]:
    """Let the signals that end a command interrupt it as Ctrl-C does; return the previous handlers.

    A terminal that closes sends SIGHUP; schedulers send SIGUSR1 before they end a job. An ignored signal stays
    ignored: nohup needs that. Outside the main thread, as in a server, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
    heard = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {signal.SIGINT: signal.getsignal(signal.SIGINT)}
    if previous[signal.SIGINT] is signal.SIG_DFL:  # see main.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return previous | {number: signal.signal(number, _interrupt_once) for number in heard}


def _interrupt_once(number: int, _: object) -> None:
    """Interrupt as Ctrl-C does, and ignore the signal from then on: when a process is killed, the kernel may send its
    children one signal for each of its threads (`analysis.sweep`)."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end(line: str, status: int) -> int:
    complain(line)
    return status


# ---------------------------------------------------------------- atomic writing


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Add the file's name to an OSError: when the disk is full it has none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Yield a new file to write, ``.partial-…``; it replaces `path` at the end. After an error `path` is unchanged."""
    unfinished = path.with_name(f".partial-{secrets.token_hex(4)}-{path.name}")
    with naming(path):
        os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with naming(path):
            yield unfinished
            with open(unfinished, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            if hasattr(os, "O_DIRECTORY"):  # put the new name on the disk, too
                folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
                with contextlib.suppress(OSError):  # not every file system can
                    os.fsync(folder)
                os.close(folder)
    finally:
        unfinished.unlink(missing_ok=True)


# ---------------------------------------------------------------- output on the screen


def progress_bar(steps: Iterable[T], total: int, title: str, unit: str = "batch") -> Iterable[T]:
    """Return the same steps, and show a bar on a terminal; only the first process shows it."""
    hidden = not sys.stderr.isatty() or processes()[0] > 0
    return tqdm(steps, desc=title, total=total, unit=unit, leave=False, disable=hidden)


def say(line: str) -> None:
    """Print a line above any progress bar; only the first process prints."""
    if processes()[0] > 0:
        return
    tqdm.write(printable(line), file=sys.stdout)
    sys.stdout.flush()


def complain(line: str) -> None:
    """Print a line on stderr, above any progress bar."""
    tqdm.write(printable(line), file=sys.stderr)


def printable(text: str) -> str:
    """Return a text that is safe on a terminal, control characters escaped: names may come from a stranger."""
    shown = (c if c.isprintable() or c == "\t" else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return "".join(shown)


def hours(seconds: float) -> str:
    """Return h:mm:ss."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


# ---------------------------------------------------------------- the machine


def processor_name() -> str:
    """Return the processor's name as the operating system reports it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # variables that say how OpenMP's threads wait
LOOK = 0.2  # seconds between two measurements
BUSY = 0.1  # share of its time that a thread waits for a core: above, others use the cores
QUIET = 0.02  # below, they are free
CALM = 2.0  # seconds for which the cores must be free


@contextlib.contextmanager
def sharing_cores() -> Iterator[None]:
    """Let torch's threads wait briefly for each other while other programs use the cores, and long otherwise.

    Torch's wheels for Linux contain GNU's OpenMP. There a thread that has finished its part spins 300,000 turns before
    it sleeps. That is best on free cores. On busy cores it takes the core from the very thread that it waits for, and
    two runs at once take many times as long as one. The library spins only 100 turns in a process that has more
    threads than cores. So this starts more threads when ours wait for a core. They sleep, and no result depends on
    them.

    Does nothing if the user has set how threads wait, or if the system does not measure how long threads wait: macOS
    (LLVM's OpenMP) and Windows (Intel's) do not, and their threads give up the core as they spin.
    """
    if any(name in os.environ for name in WAITING) or not os.path.exists("/proc/self/schedstat"):
        yield
        return
    ended = threading.Event()
    watch = threading.Thread(target=_watch_cores, args=(ended,), name="sharing_cores", daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _watch_cores(ended: threading.Event) -> None:
    """Keep sleeping threads as long as the threads that compute have to wait for cores."""
    calm, release = 0.0, None
    before, kept_before = time.monotonic(), _kept_waiting()
    while not ended.wait(LOOK):
        torch: Any = sys.modules.get("torch")
        loaded = torch is not None and not getattr(torch.__spec__, "_initializing", False)
        threads = torch.get_num_threads() if loaded else 1
        now, kept = time.monotonic(), _kept_waiting()
        share = (kept - kept_before) / (now - before) / threads
        calm = calm + now - before if share < QUIET else 0.0
        if release is None and threads > 1 and share > BUSY:
            release = _hold_threads(torch, threads)
        elif release is not None and calm > CALM:
            release()
            release = None
        before, kept_before = now, kept
    if release is not None:
        release()


def _kept_waiting() -> float:
    """Return for how many seconds, summed over its threads, this process could have run but had no core."""
    total = 0
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # the thread has just ended
            total += int(Path("/proc/self/task", task, "schedstat").read_text().split()[1])
    return total / 1e9


def _hold_threads(torch: Any, threads: int) -> Callable[[], None]:
    """Start so many OpenMP threads that the process has more threads than cores; return a function that ends them."""
    ended = threading.Event()

    def hold() -> None:
        torch.ones(threads << 16)  # large enough to be shared: the library starts a team of threads for this one
        ended.wait()

    more = max(1, -(-(usable_cores() + 1 - threads) // (threads - 1)))
    holders = [threading.Thread(target=hold, name="sharing_cores", daemon=True) for _ in range(more)]
    for holder in holders:
        holder.start()

    def release() -> None:
        ended.set()
        for holder in holders:
            holder.join()

    return release


def command_line(script: str, *words: object) -> str:
    """Return a command that a person can type in the current folder, with the interpreter that runs now; `script` is
    one of this project's."""
    python, path = (
        path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        for path in (Path(sys.executable), ROOT / script)
    )
    if shutil.which("python") == str(python):
        python = Path("python")
    return shlex.join(map(str, [python, path, *words]))
