"""What all rooms share: errors and exit statuses, atomic writing, lines for the screen, the machine."""

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
ROOT = Path(__file__).resolve().parent  # of the code
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what it tells each process
VERSION = "1.0"  # pyproject.toml says it too


# ---------------------------------------------------------------- the user's error, and how a command ends


class UserError(Exception):
    """Bad input. The message is one line that says what was wrong and what to do."""

    status = 2


class Stopped(UserError):
    """A command that started and could not continue: a loss that is not finite, a full disk."""

    status = 1


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, with a line that says how to go on."""


def processes() -> tuple[int, int]:
    """Return this process's rank and the number of processes: 0 and 1 unless torchrun started it."""
    if not all(name in os.environ for name in TORCHRUN):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def run_command(name: str, work: Callable[[], int]) -> int:
    """Return the exit status of a command; turn what went wrong into one line on stderr.

    0: done. 1: stopped on the way. 2: bad input. 130: interrupted.
    """
    _mend_streams()
    previous = _hear_signals()
    try:
        with sharing_cores():
            return work()
    except UserError as error:  # everybody's, where there are several processes
        line = f"{name}: {'error' if error.status == 2 else 'stopped'}: {error}"
        return error.status if processes()[0] else _end(line, error.status)
    except BrokenPipeError:  # the reader of a pipe has left
        sys.stderr.close()
        return 1
    except OSError as error:  # a full disk, for one
        return _end(f"{name}: stopped: {error.filename or 'output'}: {error.strerror or error}", 1)
    except KeyboardInterrupt as interrupt:
        if previous:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one has nothing left to end
        if previous.get(signal.SIGINT) is signal.SIG_DFL:  # of a program, which ends here
            del previous[signal.SIGINT]
        print(file=sys.stderr)  # the line that ^C is on
        return _end(f"Interrupted. {interrupt}".rstrip(), 130)
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError":
            smaller = "a smaller --batch-size or " if name == "main.py" else ""
            return _end(f"{name}: stopped: the GPU's memory is full; try {smaller}--use-cpu", 1)
        rank, count = processes()
        if count == 1:
            raise
        reason = str(error).strip().splitlines()[0]
        return _end(f"{name}: stopped: process {rank}: {reason}", 1)
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)


def _mend_streams() -> None:
    """Replace a stream that the caller has closed (``>&-``), and print ? for a letter that a console lacks."""
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _hear_signals() -> dict[signal.Signals, Any]:
    """Let the signals that end a command interrupt it as Ctrl-C does; return the previous handlers.

    SIGHUP is a closed terminal, SIGUSR1 what schedulers send before the end. One that is ignored stays so, as
    nohup wants it. A command in another thread than the main one, as in a server, hears none.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    signals = [getattr(signal, one) for one in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, one)]
    heard = [one for one in signals if signal.getsignal(one) is not signal.SIG_IGN]
    previous = {signal.SIGINT: signal.getsignal(signal.SIGINT)}
    if previous[signal.SIGINT] is signal.SIG_DFL:  # see main.py
        heard.append(signal.SIGINT)
    return previous | {one: signal.signal(one, signal.default_int_handler) for one in heard}


def _end(line: str, status: int) -> int:
    complain(line)
    return status


# ---------------------------------------------------------------- atomic writing


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Give an error of the system the name of the file: a full disk says none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Give a file to write, which takes the place of `path` when it is complete; after an error `path` is unchanged.

    The file, ``.partial-…``, is made anew: no link is followed.
    """
    unfinished = path.with_name(f".partial-{secrets.token_hex(4)}-{path.name}")
    with naming(path):
        os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with naming(path):
            yield unfinished
            with open(unfinished, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            if hasattr(os, "O_DIRECTORY"):  # the new name, too, is on the disk
                folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
                os.fsync(folder)
                os.close(folder)
    finally:
        unfinished.unlink(missing_ok=True)


# ---------------------------------------------------------------- words for the screen


def progress_bar(steps: Iterable[T], total: int, title: str, unit: str = "batch") -> Iterable[T]:
    """Return the same steps, with a bar on a terminal; only the first process shows it."""
    hidden = not sys.stderr.isatty() or processes()[0] > 0
    return tqdm(steps, desc=title, total=total, unit=unit, leave=False, disable=hidden)


def say(line: str) -> None:
    """Print a line above any progress bar; only the first process prints."""
    if processes()[0] > 0:
        return
    tqdm.write(printable(line), file=sys.stdout)
    sys.stdout.flush()


def complain(line: str) -> None:
    """Print a line on stderr."""
    print(printable(line), file=sys.stderr)


def printable(text: str) -> str:
    """Return a line that is safe on a terminal: control characters are escaped, as in ``\\x1b``. Names of files and
    settings may come from a stranger."""
    shown = (c if c.isprintable() or c == "\t" else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return "".join(shown)


def hours(seconds: float) -> str:
    """Return h:mm:ss."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


# ---------------------------------------------------------------- the machine


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # how OpenMP's threads wait, set by the user
LOOK = 0.2  # seconds between two looks at how long the threads were kept waiting
BUSY, QUIET = 0.1, 0.02  # of a look, for each thread: others have the cores, or they are free
CALM = 2.0  # seconds for which they must be free


@contextlib.contextmanager
def sharing_cores() -> Iterator[None]:
    """Let torch's threads wait briefly for each other while other programs use the cores, and long otherwise.

    In GNU's OpenMP, which torch's wheels for Linux bring, a thread that has done its part spins 300,000 turns before
    it sleeps. That is best on free cores; on others it takes the core from the thread that it waits for, and two runs
    at once take many times as long as one. The library spins 100 turns where a process has more threads than cores,
    so further threads are started when ours are kept waiting for a core. They sleep, and no result depends on them.

    Does nothing where the user has set how threads wait, and where the system does not tell how long they were kept
    waiting: on macOS (LLVM's OpenMP) and Windows (Intel's), whose threads give up the core as they spin.
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
    """Hold sleeping threads while this process's own are kept waiting for cores."""
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
    """Return the seconds for which threads of this process could have run and had no core."""
    total = 0
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            total += int(Path("/proc/self/task", task, "schedstat").read_text().split()[1])
    return total / 1e9


def _hold_threads(torch: Any, threads: int) -> Callable[[], None]:
    """Start threads of OpenMP, more than there are cores with those that compute; return what ends them."""
    ended = threading.Event()

    def hold() -> None:
        torch.ones(threads << 16)  # large enough for all threads: the library now has as many for this one
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


def command_line(*words: object) -> str:
    """Return a command as a person can type it here: with the interpreter that runs, from where it was started."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    elif shutil.which("python") == str(python):
        python = Path("python")
    return shlex.join([str(python), *map(str, words)])
